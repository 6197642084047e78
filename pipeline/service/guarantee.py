"""The guarantee calculator: what a broker, a disk and a configuration can promise together.

Everything follows from one fact: the service acknowledges a message after the commit that covers it. So the broker's
window of unacknowledged messages advances once per commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """Configured and measured values of one installation."""

    receive_maximum: int  # unacknowledged messages requested from the broker
    in_flight: int  # unacknowledged messages it sends; measured, else receive_maximum
    batch_limit: int  # most messages in one commit
    commit_interval_s: float
    disk_s: float  # disk time of one commit
    per_message_s: float  # decoding, features and network; 0 if it was not measured
    max_wait_s: float  # how long `order` waits for a missing block, in event time
    block_s: float  # length of the signal in one message
    rate_per_s: float  # messages that arrive now
    queue_messages: float  # messages the broker queues beyond the window; inf: no limit was found
    session_expiry_s: int

    @property
    def batch(self) -> int:
        """Messages of a full commit: half of the window, so that the other half can arrive during the commit."""
        return max(1, min(self.receive_maximum // 2, self.batch_limit))

    def commit_s(self, messages: float) -> float:
        """Time in s of one commit of `messages` messages."""
        return self.disk_s + messages * self.per_message_s


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What can be promised."""

    sustainable_per_s: float  # messages/s; at a higher rate the broker's queue grows
    load_ratio: float  # present rate / sustainable rate
    outage_s: float  # how long the service may be away before messages are lost; inf: no limit
    repeated: int  # most messages that the broker delivers again after a crash; all are recognised
    latency_s: float  # longest time from a sample to its commit, with no block missing and a load below 1
    latency_worst_s: float  # the same with a block missing


def guarantee(site: Site) -> Guarantee:
    """Calculates what a site can promise.

    If the window holds a full batch, a commit starts as soon as the batch is full: rate = batch / commit_s(batch).
    Otherwise one commit per interval covers the window: rate = in_flight / (interval + commit_s(in_flight)).
    """
    if site.in_flight >= site.batch:
        sustainable = site.batch / site.commit_s(site.batch)
    else:
        sustainable = site.in_flight / (site.commit_interval_s + site.commit_s(site.in_flight))
    kept = site.in_flight + site.queue_messages
    queue_s = kept / site.rate_per_s if site.rate_per_s > 0 else math.inf
    # A message may arrive just after the largest commit began, and then belong to another one as large.
    latency_s = site.block_s + site.commit_interval_s + 2 * site.commit_s(min(site.batch, site.in_flight))
    return Guarantee(
        sustainable_per_s=sustainable,
        load_ratio=site.rate_per_s / sustainable,
        outage_s=min(queue_s, float(site.session_expiry_s)),
        repeated=min(site.in_flight, site.receive_maximum),
        latency_s=latency_s,
        latency_worst_s=latency_s + site.max_wait_s + site.block_s,
    )
