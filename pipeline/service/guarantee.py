"""The guarantee calculator: what a broker, a disk and a configuration can promise together.

All of it follows from one fact: a message is acknowledged only when its consequences are on disk, so the broker's
window of unacknowledged messages moves on once per commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """What is configured, and what was measured."""

    receive_maximum: int  # unacknowledged messages that we ask the broker for
    in_flight: int  # those it really sends; measured, else receive_maximum
    batch_limit: int  # messages that one commit covers at most
    commit_interval_s: float
    disk_s: float  # of one commit
    per_message_s: float  # decode, features, network; 0 where it was not measured
    max_wait_s: float  # how long a missing block is waited for, in event time
    block_s: float  # signal in one message
    rate_per_s: float  # messages that come now
    queue_messages: float  # what the broker keeps for us beyond the window; inf if it has no limit that was found
    session_expiry_s: int

    @property
    def batch(self) -> int:
        """Messages of a full commit: half of the window, so that the other half comes meanwhile."""
        return max(1, min(self.receive_maximum // 2, self.batch_limit))

    def commit_s(self, messages: float) -> float:
        """Time for one commit of so many messages."""
        return self.disk_s + messages * self.per_message_s


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What follows."""

    sustainable_per_s: float  # messages; more than that piles up at the broker
    load_ratio: float  # of the present rate to that
    outage_s: float  # how long we may be away before the broker drops messages; inf if its queue has no limit
    repeated: int  # messages that come again at most after a crash, and are recognised
    latency_s: float  # from a sample to its prediction, when nothing is missing and the load is below 1; at most
    latency_worst_s: float  # ... when a block is missing


def guarantee(site: Site) -> Guarantee:
    """The calculation.

    A window that fills a batch is committed as soon as it is full: batch / commit_s(batch). One that does not is
    committed once per interval, whatever comes: in_flight / (interval + commit_s(in_flight)).
    """
    if site.in_flight >= site.batch:
        sustainable = site.batch / site.commit_s(site.batch)
    else:
        sustainable = site.in_flight / (site.commit_interval_s + site.commit_s(site.in_flight))
    kept = site.in_flight + site.queue_messages
    queue_s = kept / site.rate_per_s if site.rate_per_s > 0 else math.inf
    # A message may come just when the largest commit begins, and be in another as large after that.
    latency_s = site.block_s + site.commit_interval_s + 2 * site.commit_s(min(site.batch, site.in_flight))
    return Guarantee(
        sustainable_per_s=sustainable,
        load_ratio=site.rate_per_s / sustainable,
        outage_s=min(queue_s, float(site.session_expiry_s)),
        repeated=min(site.in_flight, site.receive_maximum),
        latency_s=latency_s,
        latency_worst_s=latency_s + site.max_wait_s + site.block_s,
    )
