"""What the page knows of the running service.

`HandOver` is the only thing that the live loop sees. It puts what a turn committed into a bounded queue and returns.
When nobody takes turns from the queue, the oldest are dropped and counted, so the page can never hold back a commit.

`Plant` takes the turns on a thread of its own. It keeps the newest window of every stream, the alarms that are up, and
for the streams that somebody looks at the last whole window with its samples. That window is cut by the functions that
the engine uses (`pipeline.core.stream.advance`), so it has the number and the samples of the archived row.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.core import stream
from pipeline.core.engine import Step
from pipeline.core.evidence import confirms, evidence, shown_mode
from pipeline.core.quality import STOPS, Quality
from pipeline.core.records import AlarmChange, Block, FeatureRow, Gap, Late, Prediction, StreamKey, Trouble, Window
from pipeline.core.severity import severity, velocity_rms_mm_s
from pipeline.core.state import StreamSpec, StreamState
from pipeline.edges.ports import Batch, Onlooker, Work

TURNS_KEPT = 64  # turns of the loop that may wait for the page
WATCH_S = 30.0  # how long a stream stays watched after somebody asked for its window
STALE_S = 60.0  # without a message, after which a stream is stale
SPARKS = 48  # buckets of the small trend on a tile
SPARK_S = 5.0  # the first width of a bucket; it doubles until SPARKS buckets are a day
DAY_S = 86_400.0
EXPLAINED = ("warning", "alarm", "unknown")  # states that a tile explains
ENDED_KEPT = 200  # alarms that have ended and are still listed


class Turn(NamedTuple):
    """What one turn of the loop committed, by reference: nothing is copied on the loop's thread."""

    rows: list[FeatureRow]
    predictions: list[Prediction]
    alarms: list[AlarmChange]
    troubles: list[Trouble]
    blocks: list[Block]  # of watched streams
    topics: list[str]  # of streams that were not heard before
    at_s: float  # time.time()


@dataclass(slots=True)
class Acknowledgement:
    """Somebody has seen an alarm. `done` is set when a commit covers it; `ok` says whether that alarm was up."""

    key: StreamKey
    id: str
    ok: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class HandOver(Onlooker):
    """The page's part in a turn: short, without the disk, bounded, lossy."""

    __slots__ = ("_asked", "_heard", "_taken", "lost", "turns", "watched")

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque(maxlen=TURNS_KEPT)
        self.lost = 0  # turns that were dropped
        self.watched: frozenset[StreamKey] = frozenset()  # replaced as a whole by the page
        self._asked: deque[Acknowledgement] = deque()
        self._taken: list[Acknowledgement] = []
        self._heard: set[StreamKey] = set()

    def acknowledge(self, seen: Acknowledgement) -> None:
        """Put an acknowledgement into the next turn; from any thread."""
        self._asked.append(seen)

    def stepped(self, batch: Batch, step: Step) -> None:
        """Acknowledge alarms as a request over MQTT does: the commit of this turn covers it."""
        while self._asked:
            seen = self._asked.popleft()
            batch.alarms_seen.append((seen.key, seen.id))
            self._taken.append(seen)

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Hand over what is committed."""
        watched = self.watched
        blocks = [block for block in batch.blocks if block.key in watched] if watched else []
        topics = []
        for block, message in zip(batch.blocks, batch.origin, strict=True):
            if block.key not in self._heard:
                self._heard.add(block.key)
                topics.append(message.topic)
        if len(self.turns) == TURNS_KEPT:
            self.lost += 1
        self.turns.append(
            Turn(step.features, step.predictions, step.alarms, step.troubles, blocks, topics, time.time())
        )
        if self._taken:
            acked = {change.id for change in step.alarms if change.type == "acked"}
            for seen in self._taken:
                seen.ok = seen.id in acked
                seen.done.set()
            self._taken = []
        return None


@dataclass(slots=True)
class Sparks:
    """The largest value per bucket. When all buckets are full they are merged in pairs, until they cover a day."""

    width_s: float = SPARK_S
    first: int = 0  # number of the first bucket since 1970, in units of width_s
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        """Add a value at a time that is not before the newest."""
        number = int(at_s // self.width_s)
        if not self.values:
            self.first = number
        while number - self.first >= SPARKS and self.width_s * SPARKS < DAY_S:
            self._widen()
            number = int(at_s // self.width_s)
        while self.first + len(self.values) <= number:
            self.values.append(float("nan"))
        if number >= self.first:
            old = self.values[number - self.first]
            self.values[number - self.first] = value if not old >= value else old
        excess = len(self.values) - SPARKS
        if excess > 0:
            del self.values[:excess]
            self.first += excess

    def _widen(self) -> None:
        merged: dict[int, float] = {}
        for i, value in enumerate(self.values):
            place = (self.first + i) // 2
            old = merged.get(place, float("nan"))
            merged[place] = value if not old >= value else old
        self.width_s *= 2
        self.first, self.values = min(merged), [merged[k] for k in range(min(merged), max(merged) + 1)]


@dataclass(slots=True)
class Known:
    """What the page keeps of one stream."""

    area: str = ""
    row: FeatureRow | None = None
    prediction: Prediction | None = None
    heard_s: float = 0.0  # time.time() of the newest window; 0: none since the start
    gaps: int = 0
    missing_samples: int = 0
    late: int = 0
    windows: int = 0
    bad: Counter[str] = field(default_factory=Counter)  # windows by remark
    sparks: Sparks = field(default_factory=Sparks)
    said: tuple[object, ...] = ()  # what the last tick said of it, to tell whether it has changed


@dataclass(slots=True)
class Watched:
    """A stream that somebody looks at: its own little stream state, and the last whole window that it gave."""

    until_s: float
    state: StreamState
    window: Window | None = None


@dataclass(slots=True)
class Plant:
    """The newest of everything. All methods may be called from any thread."""

    hand_over: HandOver
    spec_of: Callable[[StreamKey], StreamSpec]
    area_of: Callable[[str], tuple[StreamKey, str] | None]  # topic -> stream and area
    open_alarms: Callable[[], Iterable[AlarmChange]]  # as the journal has them
    streams: dict[StreamKey, Known] = field(default_factory=dict)
    alarms: dict[str, AlarmChange] = field(default_factory=dict)  # open ones: the change that raised each
    acknowledged: dict[str, int] = field(default_factory=dict)  # id -> when, ns
    reasons: dict[str, tuple[list[str], bool | None, str]] = field(default_factory=dict)  # id -> evidence at the time
    ended: deque[tuple[AlarmChange, AlarmChange]] = field(default_factory=lambda: deque(maxlen=ENDED_KEPT))
    _watched: dict[StreamKey, Watched] = field(default_factory=dict)
    _lost: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _came: threading.Condition = field(init=False)

    def __post_init__(self) -> None:
        self._came = threading.Condition(self._lock)
        self._reread_alarms()

    def take(self) -> tuple[set[StreamKey], bool]:
        """Take over every turn that waits. Returns the streams that have something new, and whether an alarm has."""
        fresh: set[StreamKey] = set()
        alarms = False
        with self._lock:
            while self.hand_over.turns:
                turn = self.hand_over.turns.popleft()
                self._take_turn(turn, fresh)
                alarms |= bool(turn.alarms)
            if self.hand_over.lost != self._lost:  # a change of an alarm may have been in a lost turn
                self._lost = self.hand_over.lost
                self._reread_alarms()
                alarms = True
            self._forget()
            if fresh:
                self._came.notify_all()
        return fresh, alarms

    def window(self, key: StreamKey, wait_s: float) -> Window | None:
        """The last whole window of a stream; watches it from now on, and waits for the first one."""
        until_s = time.monotonic() + wait_s
        with self._lock:
            watched = self._watched.get(key)
            if watched is None:
                watched = self._watched[key] = Watched(0.0, stream.initial(self.spec_of(key)))
                self.hand_over.watched = frozenset(self._watched)
            watched.until_s = time.monotonic() + WATCH_S
            while watched.window is None and (left_s := until_s - time.monotonic()) > 0:
                self._came.wait(left_s)
            return watched.window

    def known(self, key: StreamKey) -> Known | None:
        """A stream, or None; its parts are replaced as a whole."""
        return self.streams.get(key)

    def fleet(self) -> dict[StreamKey, Known]:
        """All streams at this moment."""
        with self._lock:
            return dict(self.streams)

    def document(self, key: StreamKey, now_s: float, *, whole: bool = False, sparks: bool = True) -> dict[str, Any]:
        """A stream as the fleet shows it.

        Args:
            key: Which.
            now_s: time.time().
            whole: With evidence also for a state that is nothing to worry about; evidence costs most of a document.
            sparks: With the small trend.
        """
        with self._lock:
            known = self.streams.get(key) or Known()
            up = [change for change in self.alarms.values() if change.key == key]
            alarm = up[-1] if up else None
        row, prediction = known.row, known.prediction
        found: dict[str, Any] = {
            "machine": key.machine,
            "point": key.point,
            "area": known.area,
            "state": state_of(known, now_s),
            "mode": None,
            "shown": None,
            "alarm": alarm and alarm.mode,
            "alarm_shown": alarm and self.reasons.get(alarm.id, ([], None, alarm.mode))[2],
            "p": None,
            "velocity_rms_mm_s": None,
            "zone": None,
            "zone_note": None,
            "evidence": [],
            "confirmed": None,
            "quality": [],
            "heard": known.heard_s or None,
        }
        if sparks:
            found["spark"] = [None if v != v else round(v, 3) for v in known.sparks.values]
            found["spark_s"] = known.sparks.width_s * len(known.sparks.values)
        if row is not None:
            found |= self._physics(key, row, prediction, explained=whole or found["state"] in EXPLAINED)
        if prediction is not None and prediction.mode is not None:
            mode = prediction.mode
            found |= {"mode": mode, "shown": shown_mode(mode, row), "p": round(float(prediction.p), 4)}
        if prediction is not None:
            found |= {"state_age": prediction.state_age, "model": prediction.model}
        return found

    def alarm_documents(self) -> list[dict[str, Any]]:
        """The open alarms, newest first."""
        with self._lock:
            found = []
            for change in sorted(self.alarms.values(), key=lambda c: -c.at_ns):
                known = self.streams.get(change.key)
                statements, confirmed, shown = self.reasons.get(change.id, ([], None, change.mode))
                if not statements and known is not None and known.row is not None:
                    statements, confirmed, shown = reasons(change.mode, known.row)
                found.append(
                    _alarm(change)
                    | {
                        "shown": shown,
                        "evidence": statements,
                        "confirmed": confirmed,
                        "acknowledged": self.acknowledged.get(change.id),
                        "cleared": None,
                    }
                )
            return found

    def ended_documents(self) -> list[dict[str, Any]]:
        """Alarms that have ended since the service began, newest first."""
        with self._lock:
            return [
                _alarm(raised)
                | {
                    "shown": raised.mode,
                    "evidence": self.reasons.get(raised.id, ([], None, ""))[0],
                    "confirmed": None,
                    "acknowledged": self.acknowledged.get(raised.id),
                    "cleared": end.at_ns,
                    "ended": end.type,
                }
                for raised, end in reversed(self.ended)
            ]

    def changed(self, keys: Iterable[StreamKey], now_s: float) -> list[StreamKey]:
        """Of these streams, those whose state, mode, velocity or zone is no longer what was said last."""
        found = []
        for key in keys:
            known = self.streams[key]
            velocity = None if known.row is None else velocity_rms_mm_s(known.row)
            p = None if known.prediction is None else round(float(known.prediction.p), 2)
            mode = None if known.prediction is None else known.prediction.mode
            said = (state_of(known, now_s), mode, p, velocity, known.heard_s)
            if said != known.said:
                known.said = said
                found.append(key)
        return found

    def _take_turn(self, turn: Turn, fresh: set[StreamKey]) -> None:
        for topic in turn.topics:
            if (place := self.area_of(topic)) is not None:
                self.streams.setdefault(place[0], Known()).area = place[1]
        for row in turn.rows:
            known = self.streams.setdefault(row.key, Known())
            known.row, known.heard_s = row, turn.at_s
            known.windows += 1
            if row.quality:
                known.bad.update(Quality(row.quality).words())
            velocity = velocity_rms_mm_s(row)
            if velocity is not None:
                known.sparks.add(row.end_ns / 1e9, velocity)
            fresh.add(row.key)
        for prediction in turn.predictions:
            self.streams.setdefault(prediction.key, Known()).prediction = prediction
        for trouble in turn.troubles:
            known = self.streams.setdefault(trouble.key, Known())
            if isinstance(trouble, Gap):
                known.gaps += 1
                known.missing_samples += trouble.last - trouble.first
            elif isinstance(trouble, Late):
                known.late += 1
        for change in turn.alarms:
            self._take_alarm(change)
        self._cut(turn.blocks)

    def _take_alarm(self, change: AlarmChange) -> None:
        if change.type == "acked":
            self.acknowledged[change.id] = change.at_ns
        elif change.type == "raised":
            self.alarms[change.id] = change
            known = self.streams.get(change.key)
            if known is not None and known.row is not None:
                self.reasons[change.id] = reasons(change.mode, known.row)
        elif (raised := self.alarms.pop(change.id, None)) is not None:
            if len(self.ended) == ENDED_KEPT:
                gone = self.ended[0][0].id
                self.reasons.pop(gone, None)
                self.acknowledged.pop(gone, None)
            self.ended.append((raised, change))

    def _reread_alarms(self) -> None:
        changes = list(self.open_alarms())
        self.alarms = {change.id: change for change in changes}
        self.acknowledged |= {change.id: change.at_ns for change in changes if change.type == "acked"}

    def _cut(self, blocks: list[Block]) -> None:
        of: dict[StreamKey, list[Block]] = {}
        for block in blocks:
            of.setdefault(block.key, []).append(block)
        for key, some in of.items():
            watched = self._watched.get(key)
            if watched is not None:
                watched.state, windows, _ = stream.advance(self.spec_of(key), watched.state, some)
                whole = [window for window in windows if window.samples is not None]
                if whole:
                    watched.window = whole[-1]

    def _forget(self) -> None:
        now_s = time.monotonic()
        if any(watched.until_s < now_s for watched in self._watched.values()):
            self._watched = {key: w for key, w in self._watched.items() if w.until_s >= now_s}
            self.hand_over.watched = frozenset(self._watched)

    def _physics(
        self, key: StreamKey, row: FeatureRow, prediction: Prediction | None, *, explained: bool
    ) -> Mapping[str, Any]:
        found = severity(row, self.spec_of(key).limits)
        mode = None if prediction is None else prediction.mode
        return {
            "velocity_rms_mm_s": velocity_rms_mm_s(row),
            "zone": found.zone,
            "zone_note": found.note,
            "evidence": [statement.text for statement in evidence(row)] if explained else [],
            "confirmed": confirms(mode, row) if explained and mode is not None else None,
            "quality": Quality(row.quality).words(),
        }


def state_of(known: Known, now_s: float) -> str:
    """The state that the page shows: that of the newest prediction, or what takes its place."""
    if now_s - known.heard_s > STALE_S:
        return "stale"
    if known.prediction is not None:
        return known.prediction.state
    quality = Quality(0) if known.row is None else Quality(known.row.quality)
    if quality & Quality.NOT_RUNNING:
        return "not_running"
    return "sensor_fault" if quality & STOPS else "no_model"


def reasons(mode: str, row: FeatureRow) -> tuple[list[str], bool | None, str]:
    """What physics says of a window: statements, whether they bear the mode out, and how the mode is shown."""
    return [statement.text for statement in evidence(row)], confirms(mode, row), shown_mode(mode, row)


def _alarm(change: AlarmChange) -> dict[str, Any]:
    return {
        "id": change.id,
        "machine": change.key.machine,
        "point": change.key.point,
        "mode": change.mode,
        "p": round(change.p, 4),
        "raised": (change.since_ns if change.type == "acked" else change.at_ns) // 1_000_000,
        "since": change.since_ns // 1_000_000,
    }
