"""Intake: which messages a turn takes, what they become, and an account in which each ends in exactly one place.

    received = committed + duplicate + late + quarantined + dropped + in_flight

Messages are decoded into blocks (`Intake`), and the engine steps over these (`step_all`). What
cannot be used is refused by name, and the messages beside it go on.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from pipeline.core import codec
from pipeline.core.alarm import acknowledge
from pipeline.core.engine import Engine, States, Step
from pipeline.core.records import Block, Contradiction, Duplicate, Float32, Gap, Late, Predictor, Rejected, StreamKey
from pipeline.core.remedies import remedy
from pipeline.core.window import LEAST_SAMPLES, MOST_WINDOWS, WindowSpec, is_too_slow, most_windows
from pipeline.drivers.dates import Dates
from pipeline.drivers.quotas import Names
from pipeline.edges.ports import Batch, Message
from pipeline.errors import DecodeError
from pipeline.telemetry import few

log = logging.getLogger("thrumcast.live")

MOST_BYTES = 16 * 2**20  # of payloads in one commit, up to its last message; as blocks they take at least twice that
LARGEST_GAP = 2**40  # samples: nine months at 50 kHz; a sender that jumps further has lost count, not samples
LONGEST_SHOWN = 100  # characters of a topic in the log
MOST_TOLD = 10_000  # pairs of topic and reason that are logged in full
LOOK_UP_S = 0.25  # how long a silent broker may delay a stop

OUTCOMES = ("committed", "duplicate", "late", "quarantined")


# -- the account -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """Where every received message is at one moment. Each term is counted where it happens, so the sum is a check.

    `dropped` messages were given up undecided at a stop and not acknowledged: the broker delivers them again.
    `in_flight` messages have arrived and wait to be taken or committed.
    """

    received: int = 0
    committed: int = 0
    duplicate: int = 0
    late: int = 0
    quarantined: int = 0
    dropped: int = 0
    in_flight: int = 0

    @property
    def missing(self) -> int:
        """Messages that are in no place: 0, or the account is wrong."""
        decided = self.committed + self.duplicate + self.late + self.quarantined + self.dropped
        return self.received - decided - self.in_flight


def account(batch: Batch, step: Step) -> Counter[str]:
    """How many messages a batch has, and how they ended."""
    repeated = [trouble for trouble in step.troubles if isinstance(trouble, Duplicate | Late)]
    if len(batch.origin) != len({id(message) for message in batch.origin}):
        repeated = _of_messages(batch, repeated)
    counts = Counter(
        received=len(batch.messages),
        duplicate=sum(isinstance(t, Duplicate) for t in repeated),
        late=sum(isinstance(t, Late) for t in repeated),
        quarantined=len(batch.refused),
    )
    counts["committed"] = counts["received"] - counts["duplicate"] - counts["late"] - counts["quarantined"]
    return counts


def _of_messages(batch: Batch, repeated: Sequence[Duplicate | Late]) -> list[Duplicate | Late]:
    """One trouble per message all of whose blocks are repeated: a message may have several, and ends in one place."""
    left: dict[tuple[StreamKey, int, int], list[Duplicate | Late]] = {}
    for trouble in repeated:
        left.setdefault((trouble.key, trouble.session, trouble.index), []).append(trouble)
    refused = {id(refusal.message) for refusal in batch.refused}
    troubles: dict[int, list[Duplicate | Late | None]] = {}
    for block, message in zip(reversed(batch.blocks), reversed(batch.origin), strict=True):  # the later is the repeat
        found = left.get((block.key, block.session, block.index))
        troubles.setdefault(id(message), []).append(found.pop() if found else None)
    whole = {
        message: [one for one in found if one is not None] for message, found in troubles.items() if None not in found
    }
    return [found[-1] for message, found in whole.items() if message not in refused]


def missing_samples(step: Step) -> Counter[str]:
    """How many gaps a step found, and how many samples per channel are missing in them."""
    gaps = [trouble for trouble in step.troubles if isinstance(trouble, Gap)]
    return Counter(gaps=len(gaps), gap_samples=sum(min(gap.last - gap.first, LARGEST_GAP) for gap in gaps))


def prefixed(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Counts under the names of the journal's cumulative counters."""
    return {f"messages_{name}": n for name, n in counts if n}


@dataclass(slots=True)
class Notices:
    """Logs what was refused, what is missing and what contradicts itself.

    The first refusal of a topic for a reason, and the first contradiction of a kind in a stream, are logged in full.
    Later ones are counted.
    """

    _told: set[tuple[str, str]] = field(default_factory=set)  # topic and reason, or stream and kind

    def log(self, batch: Batch, step: Step) -> None:
        """Log one turn."""
        for message, reason, detail in batch.refused:
            if self._is_new(message.topic, reason):
                about = f"{reason} {message.topic}"
                shown = _topic(message.topic), reason, _sentence(detail), remedy(reason)
                log.warning("refusal topic=%s reason=%s detail=%s advice=%s", *shown, extra={"about": about})
        for trouble in step.troubles:
            if isinstance(trouble, Contradiction) and self._is_new(str(trouble.key), trouble.kind):
                self._contradiction(trouble.key, trouble.kind, trouble.detail)
        for block in batch.blocks:
            if block.unit_sent is not None and self._is_new(str(block.key), "unit_unknown"):
                self._contradiction(block.key, "unit_unknown", unit_error(block.unit_sent))
        _log_counts(batch, step)

    def _contradiction(self, key: StreamKey, kind: str, detail: str) -> None:
        say = log.info if kind == "rate_drift" else log.warning
        shown = kind, key, _sentence(detail), remedy(kind)
        say("contradiction kind=%s stream=%s detail=%s advice=%s", *shown, extra={"about": f"{kind} {key}"})

    def _is_new(self, of: str, word: str) -> bool:
        """Whether this is the first time. After MOST_TOLD pairs nothing is new: strangers choose topics."""
        if (of, word) in self._told or len(self._told) >= MOST_TOLD:
            return False
        self._told.add((of, word))
        return True


def unit_error(unit: str) -> str:
    """Says that a unit is not known."""
    return f"a known unit expected, found: {unit!r}; kept as `unknown`: severity is not assessable"


def _topic(topic: str) -> str:
    """Strangers choose topics: nothing in one may look like the end of a line or like another key."""
    return re.sub(r"[^\w/.-]", "?", topic)[:LONGEST_SHOWN]


def _sentence(detail: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029=]", "?", detail)


def _log_counts(batch: Batch, step: Step) -> None:
    """One line for what was refused and one for what is missing."""
    reasons = Counter(refusal.reason for refusal in batch.refused)
    gaps = [t for t in step.troubles if isinstance(t, Gap)]
    if reasons:
        topics = sorted({_topic(refusal.message.topic) for refusal in batch.refused})
        counted = " ".join(f"{reason}={n}" for reason, n in reasons.items())
        log.warning("quarantined %s topics=%s", counted, few(topics, 3))
    if gaps:
        samples = sum(gap.last - gap.first for gap in gaps)
        streams = sorted({str(gap.key) for gap in gaps})[:5]
        log.warning("gaps count=%d samples=%d streams=%s", len(gaps), samples, ",".join(streams))


# -- messages --------------------------------------------------------------------------------------------------------


def is_full(windows: int, size: int) -> bool:
    """Whether so many windows, counted per channel, or bytes of payloads are enough for one commit."""
    return windows >= MOST_WINDOWS or size >= MOST_BYTES


@dataclass(slots=True)
class Channels:
    """The channel names of one data directory. Each has a column per feature in every file, for ever."""

    most: int
    known: set[str]

    def admit(self, names: Iterable[str]) -> bool:
        """Whether there is room for these names; if so, they are known. A directory that has more keeps what it has."""
        new = set(names) - self.known
        if new and len(self.known) + len(new) > self.most:
            return False
        self.known |= new
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """What a valid block may not ask for: too few samples in a window, too many windows, too many channel names.

    Without this, one message could hold the loop for minutes, or widen every file of the archive.
    """

    window_of: Callable[[StreamKey], WindowSpec]
    channels: Channels | None = None  # None: no columns are made
    dates: Dates | None = None  # None: no files are made
    names: Names | None = None  # None: no quotas

    def __call__(self, block: Block) -> int:
        """How many windows the block can complete, counted per channel.

        Raises:
            DecodeError: too_slow, too_long, too_many_dates, too_many_channels or a quota.
        """
        new: set[str] = set() if self.channels is None else set(block.channels) - self.channels.known
        if self.names is not None and (excess := self.names.refusal(block.key, new)) is not None:
            raise DecodeError(*excess)
        spec = self.window_of(block.key)
        windows = most_windows(spec, block)
        reason = None
        if is_too_slow(spec, block.rate_hz):
            least_hz = LEAST_SAMPLES / spec.length_s
            reason, msg = "too_slow", f"a rate of at least {least_hz:g} Hz expected, found: {block.rate_hz:g} Hz"
        elif windows > MOST_WINDOWS:
            reason, msg = "too_long", f"at most {MOST_WINDOWS} windows in a message expected, found: {windows}"
        elif self.dates is not None and not self.dates.admit(block.t0_ns):
            reason, msg = "too_many_dates", f"at most {self.dates.most} dates far from today in an hour expected"
        elif self.channels is not None and not self.channels.admit(block.channels):
            names = few(sorted(new))
            log.warning("channels_full known=%d refused=%s stream=%s", len(self.channels.known), names, block.key)
            reason, msg = "too_many_channels", f"at most {self.channels.most} names expected, found new: {names}"
        if reason is not None:
            raise DecodeError(reason, msg)
        if self.names is not None:
            self.names.admit(block.key, new)
        return windows


@dataclass(frozen=True, slots=True)
class Intake:
    """Decides which message is a block of a stream that is wanted."""

    key_of: Callable[[str], StreamKey | None]  # topic -> stream, None where the topic names none
    accepts: Callable[[str], bool]  # whether readings of this machine are wanted
    max_payload_bytes: int
    admission: Admission | None = None  # None: no limits
    # The decoder of other people's messages: their blocks, none for one that only says something, None: not theirs.
    mapped: Callable[[Message, int], list[Block] | None] | None = None

    def read(self, messages: Sequence[Message], now_ns: int, *, windows: int = 0, size: int = 0) -> Batch:
        """Decode as many messages as one commit may cover; what is not a block is a stranger or refused.

        `windows` and `size` are what the commit covers already.
        """
        batch = Batch([], received_ns=now_ns)
        for message in messages:
            if is_full(windows + batch.windows, size + batch.size):
                break
            batch.messages.append(message)
            batch.size += len(message.payload)
            try:
                blocks = self._blocks(message, now_ns)
                batch.windows += sum(map(self.admission, blocks or ())) if self.admission else 0
            except DecodeError as error:
                batch.refuse(message, error.reason, str(error))
                continue
            if blocks is None:
                batch.strangers.append(message)
                continue
            batch.blocks += blocks
            batch.origin += [message] * len(blocks)
        return batch

    def _blocks(self, message: Message, now_ns: int) -> list[Block] | None:
        """The blocks of a message; None for a stranger."""
        mapped = None if self.mapped is None else self.mapped(message, now_ns)
        if mapped is not None:
            for block in mapped:
                self._check_machine(block.key)
            return mapped
        key = self.key_of(message.topic)
        return None if key is None else [self._block(message, key)]

    def _check_machine(self, key: StreamKey) -> None:
        if not self.accepts(key.machine):
            reason = "unknown_machine"
            raise DecodeError(reason, f"a configured machine expected, found: {key.machine}")

    def _block(self, message: Message, key: StreamKey) -> Block:
        self._check_machine(key)
        limit = self.max_payload_bytes
        return codec.decode(message.payload, key, max_payload_bytes=limit, content_type=message.content_type)


def refuse_strangers(batch: Batch) -> None:
    """Refuse the messages whose topic names no stream and which no companion has claimed."""
    for message in batch.strangers:
        detail = "a topic that mqtt.readings_topic describes, with ids of [A-Za-z0-9_.-]{1,64}, expected, found another"
        batch.refuse(message, "topic", detail)
    batch.strangers = []


# -- the step --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TimedPredictor:
    """A predictor and the time that it has worked."""

    inner: Predictor
    seconds: float = 0.0

    @property
    def version(self) -> str:
        """See `Predictor`, as for the other properties."""
        return self.inner.version

    @property
    def classes(self) -> tuple[str, ...]:
        """K modes."""
        return self.inner.classes

    @property
    def inputs(self) -> tuple[str, ...]:
        """F columns."""
        return self.inner.inputs

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(L, H)."""
        return self.inner.hidden_shape

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams."""
        began_s = time.perf_counter()
        try:
            return self.inner.step(x, h)
        finally:
            self.seconds += time.perf_counter() - began_s


def step_all(engine: Engine, states: States, batch: Batch) -> Step:
    """Step the engine over a batch; blocks that contradict their session are refused.

    A block on which the engine fails would come again and again and stop the plant. So the batch is then stepped block
    by block, and the block that fails is refused like any other bad message.
    """
    began_s, inferred_s = time.perf_counter(), _inferred_s(engine)
    try:
        step = engine.step(states, batch.blocks)
    except MemoryError:
        raise
    except Exception:  # any failure is the block's: it is isolated, named and kept, never swallowed
        step = _step_one_by_one(engine, states, batch)
    rejected = {id(trouble.block): trouble for trouble in step.troubles if isinstance(trouble, Rejected)}
    for block, message in zip(batch.blocks, batch.origin, strict=True):
        found = rejected.get(id(block))
        if found and not (batch.refused and batch.refused[-1].message is message):
            batch.refuse(message, found.reason, found.detail)
    batch.inference_s = _inferred_s(engine) - inferred_s
    batch.feature_s = time.perf_counter() - began_s - batch.inference_s
    return step


def _inferred_s(engine: Engine) -> float:
    return engine.predictor.seconds if isinstance(engine.predictor, TimedPredictor) else 0.0


def _step_one_by_one(engine: Engine, states: States, batch: Batch) -> Step:
    total = Step()
    good: list[tuple[Block, Message]] = []
    for block, message in zip(batch.blocks, batch.origin, strict=True):
        try:
            step = engine.step({**states, **total.states}, [block])
        except Exception as error:
            if not (batch.refused and batch.refused[-1].message is message):
                batch.refuse(message, f"engine_{type(error).__name__}", f"the engine failed on this block: {error}")
            continue
        good.append((block, message))
        total.states |= step.states
        total.features += step.features
        total.predictions += step.predictions
        total.forecasts += step.forecasts
        total.alarms += step.alarms
        total.troubles += step.troubles
    batch.blocks, batch.origin = [b for b, _ in good], [m for _, m in good]
    return total


def acknowledge_alarms(states: States, batch: Batch, step: Step, now_ns: int) -> None:
    """Add to a step which alarms people have acknowledged (`Batch.alarms_seen`).

    An alarm that is not up, or acknowledged already, changes nothing.
    """
    for key, alarm_id in batch.alarms_seen:
        state = step.states.get(key) or states.get(key)
        if state is not None:
            alarm, changes = acknowledge(state.alarm, key, alarm_id, now_ns)
            step.alarms += changes
            step.states[key] = msgspec.structs.replace(state, alarm=alarm)
