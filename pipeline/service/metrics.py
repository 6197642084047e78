"""The live loop seen from outside: its heart beat, what it last did, and what it counts.

`Watched` stands between the loop and its connection. Every turn and every wait of the loop goes through it, so a beat
here means that the loop lives; no thread beside it can keep up that appearance.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.engine import Step
from pipeline.core.records import Gap, StreamKey
from pipeline.drivers.intake import Batch
from pipeline.edges.ports import LinkEvent, Message, Tally
from pipeline.telemetry import Telemetry

NOTIFY_EVERY_S = 5.0


class Source(Protocol):
    """The connection that is watched."""

    unsent: int  # results that were dropped because the broker did not take them

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and not gone since."""

    def take(self, limit: int, timeout_s: float) -> list[Message]: ...
    def acknowledge(self, messages: Sequence[Message]) -> None: ...
    def service(self, timeout_s: float = 0.0) -> None: ...
    def tally(self) -> Tally: ...
    @property
    def settled(self) -> bool: ...
    def events(self) -> list[LinkEvent]: ...


@dataclass(slots=True)
class Watched:
    """A connection that keeps note of who uses it and when. The loop's thread writes; others read single values."""

    source: Source
    telemetry: Telemetry
    notify: Callable[[Watched], None] = lambda _: None  # called by the loop itself, every few seconds at most
    notify_every_s: float = NOTIFY_EVERY_S
    beat_s: float = field(default_factory=time.monotonic)  # the loop's last sign of life
    oldest_s: float | None = None  # when the oldest message that is not acknowledged was taken
    newest_s: float = 0.0  # when the newest one was
    connected: bool = False
    waiting: int = 0  # messages that nobody has taken
    unsent: int = 0  # results that were given up
    machines: frozenset[str] = frozenset()  # replaced as a whole: others go through it meanwhile
    states: dict[StreamKey, str] = field(default_factory=dict)  # of each stream, as last judged
    open_alarms: set[str] = field(default_factory=set)  # ids
    _notified_s: float = 0.0

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Source.take`."""
        taken = self.source.take(limit, timeout_s)
        self._beat()
        if taken:
            self.newest_s = self.beat_s
            if self.oldest_s is None:
                self.oldest_s = self.beat_s
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`; what the loop has in hand is on disk now."""
        self.source.acknowledge(messages)
        self._beat()
        self.telemetry.observe("turn_seconds", self.beat_s - self.newest_s)
        self.telemetry.set("last_commit_timestamp_seconds", time.time())
        self.oldest_s = None

    def service(self, timeout_s: float = 0.0) -> None:
        """Keeps the connection alive during long work."""
        self.source.service(timeout_s)
        self._beat()

    def tally(self) -> Tally:
        """Messages received so far, and those of them that nobody has taken."""
        return self.source.tally()

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed everything that was published at QoS 1."""
        return self.source.settled

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call."""
        events = self.source.events()
        kinds = Counter(event.kind for event in events)
        self.telemetry.add("mqtt_connections_total", kinds["connected"])
        self.telemetry.add("mqtt_sessions_lost_total", kinds["session_lost"])
        return events

    def told(self, batch: Batch, step: Step) -> None:
        """After a committed turn: everything that is counted by machine, mode, reason or type."""
        telemetry, now_s = self.telemetry, time.time()
        if step.features:
            telemetry.observe("feature_seconds", batch.feature_s)
            telemetry.observe("inference_seconds", batch.inference_s)
        samples: Counter[str] = Counter()
        for block in batch.blocks:
            samples[block.key.machine] += block.samples.shape[1]
        if not samples.keys() <= self.machines:
            self.machines = self.machines | samples.keys()
        for machine, n in samples.items():
            telemetry.add("samples_received_total", n, machine)
            telemetry.set("last_message_timestamp_seconds", now_s, machine)
        for machine, n in Counter(row.key.machine for row in step.features).items():
            telemetry.add("windows_total", n, machine)
        for mode, n in Counter(p.mode or "none" for p in step.predictions).items():
            telemetry.add("predictions_total", n, mode)
        before = {*self.states.values()}
        self.states |= {p.key: p.state for p in step.predictions}
        now = Counter(self.states.values())
        for state in before | now.keys():
            telemetry.set("streams", now[state], state)
        for change, n in Counter(alarm.type for alarm in step.alarms).items():
            telemetry.add("alarm_changes_total", n, change)
        for alarm in step.alarms:
            gone = alarm.type in ("cleared", "revoked")
            (self.open_alarms.discard if gone else self.open_alarms.add)(alarm.id)
        telemetry.set("alarms_active", len(self.open_alarms))
        for reason, n in Counter(refused.reason for refused in batch.quarantined).items():
            telemetry.add("quarantine_reasons_total", n, reason)
        for gap in (trouble for trouble in step.troubles if isinstance(trouble, Gap)):
            telemetry.add("gaps_total")
            telemetry.add("gap_samples_total", gap.last - gap.first)
        for row in step.features:
            telemetry.observe("end_to_end_seconds", now_s - row.end_ns / 1e9)

    def _beat(self) -> None:
        self.beat_s = time.monotonic()
        self.connected, self.unsent = self.source.connected, self.source.unsent
        self.waiting = self.source.tally().untaken
        if self.beat_s - self._notified_s >= self.notify_every_s:
            self._notified_s = self.beat_s
            self.notify(self)
