"""What metrics and health see of the running service, each kept up to date by the loop itself.

* `LoopWatch` stands between the loop and its connection. Every turn and every wait of the loop passes through it, so a
  beat here means that the loop lives: no thread beside a loop that hangs can pretend otherwise.
* `StreamGauges` keeps the newest window of each stream.
* `LabelCounts` counts the labels of the data directory.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.core.engine import Step
from pipeline.core.records import Block, Contradiction, FeatureRow, Gap, Prediction, Predictor, StreamKey
from pipeline.core.severity import velocity_rms_mm_s
from pipeline.drivers.intake import LARGEST_GAP
from pipeline.edges.labels import VERDICTS, LabelFile
from pipeline.edges.ports import Batch, Connection, LinkEvent, Message, Onlooker, Tally, Work
from pipeline.errors import ArchiveError
from pipeline.telemetry import MAX_LABELS, Telemetry

NOTIFY_EVERY_S = 5.0
LAG_S = 60.0  # behind the plant, after which health warns
HEARD_S = 60.0  # after which a stream without messages no longer counts as behind
CLOCK_S = 7 * 86_400.0  # a sender whose clock is further off says nothing about lag
TREND_S = 30.0
STATES = ("warming_up", "normal", "warning", "alarm", "unknown", "sensor_fault", "not_running")

log = logging.getLogger("thrumcast.web")


class BrokerLink(Connection, Protocol):
    """A connection that also tells whether it stands."""

    unsent: int  # results that were dropped because the broker did not take them

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and it has not been lost since."""


class Lag(NamedTuple):
    """How far the service is behind its plant."""

    seconds: float  # of the stream that is furthest behind
    key: StreamKey
    messages: int  # of all streams, estimated from the length of their blocks
    recovery_s: float | None  # until nothing is behind, at the pace of the last half minute; None: it does not shrink

    @property
    def text(self) -> str:
        """For people."""
        if self.seconds <= LAG_S:
            return f"{self.seconds:.1f} s"
        left = "not shrinking" if self.recovery_s is None else f"done in about {self.recovery_s:.0f} s"
        return f"{self.key} is {self.seconds:.0f} s behind, all streams about {self.messages} messages; {left}"


@dataclass(slots=True)
class LagWatch:
    """How old the newest sample of each stream was when it was committed, by the clock of its sender.

    What waits at the broker cannot be asked for, but the age of what arrives says how much it is. Streams that have not
    been heard for `HEARD_S` do not count, they are silent. Neither do streams whose clock is off by more than
    `CLOCK_S`: recordings that are played again, and sensors without a clock.
    """

    streams: dict[StreamKey, tuple[float, float, float]] = field(default_factory=dict)  # heard at, lag, block; all in s
    _trend: deque[tuple[float, float]] = field(default_factory=deque)  # time and worst lag of the last half minute
    _looked_s: float = 0.0  # when the worst lag was last looked for

    def committed(self, blocks: Iterable[Block], now_s: float) -> None:
        """Take blocks that are committed now."""
        for block in blocks:
            length_s = block.samples.shape[1] / block.rate_hz
            self.streams[block.key] = (now_s, now_s - block.t0_ns / 1e9 - length_s, length_s)
        if now_s - self._looked_s < 1.0:  # looks at all streams: not in every turn
            return
        self._looked_s = now_s
        if (worst := self.worst(now_s)) is not None:
            self._trend.append((now_s, worst.seconds))
            while now_s - self._trend[0][0] > TREND_S:
                self._trend.popleft()

    def worst(self, now_s: float) -> Lag | None:
        """The lag of the stream that is furthest behind; None if no stream is heard whose clock can be used."""
        heard = [
            (lag_s, key, length_s)
            for key, (at_s, lag_s, length_s) in self.streams.copy().items()
            if now_s - at_s < HEARD_S and abs(lag_s) < CLOCK_S
        ]
        if not heard:
            return None
        seconds, key, _ = max(heard)
        messages = sum(int(max(0.0, lag_s) / length_s) for lag_s, _, length_s in heard if length_s > 0)
        return Lag(seconds, key, messages, self._recovery_s(seconds))

    def _recovery_s(self, lag_s: float) -> float | None:
        trend = list(self._trend)
        if len(trend) < 2 or trend[-1][0] <= trend[0][0]:
            return None
        shrinks = (trend[0][1] - trend[-1][1]) / (trend[-1][0] - trend[0][0])  # seconds of lag per second
        return lag_s / shrinks if shrinks > 0 else None


@dataclass(slots=True)
class LoopWatch(Onlooker):
    """The loop's connection with a record of its use, and a companion that counts. Other threads read single values."""

    source: BrokerLink
    telemetry: Telemetry
    notify: Callable[[LoopWatch], None] = lambda _: None  # called by the loop itself, every few seconds at most
    notify_every_s: float = NOTIFY_EVERY_S
    beat_s: float = field(default_factory=time.monotonic)  # time.monotonic() of the loop's last sign of life
    oldest_s: float | None = None  # when the oldest unacknowledged message was taken; None: there is none
    connected: bool = False
    waiting: int = 0  # messages that have arrived and are not taken
    unsent: int = 0  # results that were dropped
    _taken: deque[tuple[int, float]] = field(default_factory=deque)  # newest arrival number and time of each take
    _stepping_s: float = 0.0  # how long the steps took that the next acknowledgement covers
    machines: frozenset[str] = frozenset()  # replaced as a whole: other threads iterate over it
    states: dict[StreamKey, str] = field(default_factory=dict)  # the last state of each stream
    streams: Counter[str] = field(default_factory=Counter)  # by their last state
    open_alarms: set[str] = field(default_factory=set)  # ids
    lag: LagWatch = field(default_factory=LagWatch)
    block_samples: dict[StreamKey, int] = field(default_factory=dict)  # of the newest message of each stream
    _notified_s: float = 0.0

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Connection.take`."""
        taken = self.source.take(limit, timeout_s)
        self._beat()
        if taken:
            self._taken.append((taken[-1].receipt.number, self.beat_s))
            self.oldest_s = self._taken[0][1]
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Connection.acknowledge`; these are on disk now."""
        self.source.acknowledge(messages)
        self._beat()
        newest_s = self.beat_s
        while self._taken and messages and self._taken[0][0] <= messages[-1].receipt.number:
            newest_s = self._taken.popleft()[1]
        self.telemetry.observe("turn_seconds", self.beat_s - newest_s + self._stepping_s)
        self._stepping_s = 0.0
        self.telemetry.set("last_commit_timestamp_seconds", time.time())
        self.oldest_s = self._taken[0][1] if self._taken else None

    def service(self, timeout_s: float = 0.0) -> None:
        """See `Connection.service`."""
        self.source.service(timeout_s)
        self._beat()

    def tally(self) -> Tally:
        """See `Connection.tally`."""
        return self.source.tally()

    @property
    def settled(self) -> bool:
        """See `Connection.settled`."""
        return self.source.settled

    def events(self) -> list[LinkEvent]:
        """See `Connection.events`."""
        events = self.source.events()
        if events:
            kinds = Counter(event.kind for event in events)
            self.telemetry.add("mqtt_connections_total", kinds["connected"])
            self.telemetry.add("mqtt_sessions_lost_total", kinds["session_lost"])
        return events

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Count what is counted by machine, mode, reason or type."""
        telemetry, now_s = self.telemetry, time.time()
        self._stepping_s = batch.feature_s + batch.inference_s
        if step.features:
            telemetry.observe("feature_seconds", batch.feature_s)
            telemetry.observe("inference_seconds", batch.inference_s)
        self.lag.committed(batch.blocks, now_s)
        samples: Counter[str] = Counter()
        for block in batch.blocks:
            samples[block.key.machine] += block.samples.shape[1]
            self.block_samples[block.key] = max(1, block.samples.shape[1])
        if not samples.keys() <= self.machines:
            self.machines = self.machines | samples.keys()
        for machine, n in samples.items():
            telemetry.add("samples_received_total", n, machine)
            telemetry.set("last_message_timestamp_seconds", now_s, machine)
        for machine, n in Counter(row.key.machine for row in step.features).items():
            telemetry.add("windows_total", n, machine)
        for mode, n in Counter(p.mode or "none" for p in step.predictions).items():
            telemetry.add("predictions_total", n, mode)
        changed = Counter[str]()
        for key, state in {p.key: p.state for p in step.predictions}.items():
            before, self.states[key] = self.states.get(key), state
            if before != state:
                changed[state] += 1
                if before is not None:
                    changed[before] -= 1
        self.streams.update(changed)
        for state in changed:
            telemetry.set("streams", self.streams[state], state)
        for change, n in Counter(alarm.type for alarm in step.alarms).items():
            telemetry.add("alarm_changes_total", n, change)
        for alarm in step.alarms:
            gone = alarm.type in ("cleared", "revoked")
            (self.open_alarms.discard if gone else self.open_alarms.add)(alarm.id)
        telemetry.set("alarms_active", len(self.open_alarms))
        for reason, n in Counter(refusal.reason for refusal in batch.refused).items():
            telemetry.add("quarantine_reasons_total", n, reason)
        for found in (trouble for trouble in step.troubles if isinstance(trouble, Contradiction)):
            telemetry.add("contradictions_total", 1, *found.key, found.kind)
        for block in batch.blocks:
            if block.unit_sent is not None:
                telemetry.add("contradictions_total", 1, *block.key, "unit_unknown")
        for gap in (trouble for trouble in step.troubles if isinstance(trouble, Gap)):
            telemetry.add("gaps_total")
            telemetry.add("gap_samples_total", gap.last - gap.first)
            size = self.block_samples.get(gap.key, LARGEST_GAP)
            telemetry.add("messages_missing_total", max(1, round(min(gap.last - gap.first, LARGEST_GAP) / size)))
        for row in step.features:
            telemetry.observe("end_to_end_seconds", now_s - row.end_ns / 1e9)
        return None

    def _beat(self) -> None:
        self.beat_s = time.monotonic()
        self.connected, self.unsent = self.source.connected, self.source.unsent
        self.waiting = self.source.tally().untaken
        if self.beat_s - self._notified_s >= self.notify_every_s:
            self._notified_s = self.beat_s
            self.notify(self)


@dataclass(slots=True)
class StreamGauges(Onlooker):
    """Keeps the newest window of each of the first 500 streams; more would be too many series for a scrape.

    The gauges are worked out at a scrape, not at every window.
    """

    predictor: Callable[[], Predictor | None]  # the one that serves now
    rows: dict[StreamKey, FeatureRow] = field(default_factory=dict)
    predictions: dict[StreamKey, Prediction] = field(default_factory=dict)

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Keep the newest windows."""
        for row in step.features:
            if row.key in self.rows or len(self.rows) < MAX_LABELS:
                self.rows[row.key] = row
        for prediction in step.predictions:
            if prediction.key in self.rows:
                self.predictions[prediction.key] = prediction
        return None

    def show(self, telemetry: Telemetry) -> None:
        """Set the gauges; at a scrape, on another thread than the loop's."""
        rows, predictions = dict(self.rows), dict(self.predictions)
        model = self.predictor()
        velocities = {key: velocity_rms_mm_s(row) for key, row in rows.items()}
        telemetry.set_series(
            "velocity_rms_meters_per_second",
            {tuple(key): mm_s / 1000 for key, mm_s in velocities.items() if mm_s is not None},
        )
        telemetry.set_series(
            "machine_state",
            {(*key, state): float(p.state == state) for key, p in predictions.items() for state in STATES},
        )
        telemetry.set_series(
            "failure_probability_ratio",
            {
                (*key, mode): float(value)
                for key, p in predictions.items()
                if p.mode is not None and model is not None and p.model == model.version
                for mode, value in zip(model.classes, p.probabilities, strict=True)
            },
        )


@dataclass(slots=True)
class LabelCounts:
    """Counts the labels of a data directory by verdict, again whenever their file has changed."""

    data_dir: Path
    _seen: tuple[int, int] | None = None

    def show(self, telemetry: Telemetry) -> None:
        """Set the counters; at a scrape."""
        labels = LabelFile(self.data_dir)
        try:
            stat = labels.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            events = labels.events() if seen != self._seen else None
        except FileNotFoundError:
            seen, events = (0, 0), []
        except (OSError, ArchiveError) as error:
            log.error("labels_unreadable err=%s", error)
            return
        if events is not None:
            counts = Counter(event.verdict for event in events if event.op == "add")
            telemetry.set_series("labels_total", {(verdict,): counts[verdict] for verdict in VERDICTS})
        self._seen = seen
