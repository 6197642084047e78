"""Intake: messages -> blocks, and an account in which every received message ends in exactly one place.

received = committed + duplicate + late + quarantined + dropped + in_flight
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.core import codec
from pipeline.core.engine import Engine, States, Step
from pipeline.core.records import Block, Duplicate, Gap, Late, StreamKey
from pipeline.core.window import LEAST_SAMPLES, MOST_WINDOWS, WindowSpec, is_too_slow, most_windows
from pipeline.drivers.serving import Timed
from pipeline.edges.labels import LabelEvent
from pipeline.edges.ports import Message
from pipeline.edges.store.schema import Quarantined
from pipeline.errors import DecodeError
from pipeline.telemetry import few

log = logging.getLogger("thrumcast.live")

MOST_BYTES = 16 * 2**20  # of payloads that one commit covers, but for its last: as blocks they take twice that or more
LARGEST_GAP = 2**40  # samples: nine months at 50 kHz; a sender that jumps further has lost its count, not samples
LONGEST_SHOWN = 100  # characters of a topic in the log

OUTCOMES = ("committed", "duplicate", "late", "quarantined")


@dataclass(frozen=True, slots=True)
class Account:
    """Where every received message is, at one moment. Each term is counted where it happens, so the sum is a check.

    `dropped` was given up undecided at a stop, and not acknowledged: the broker delivers it again. `in_flight` has
    arrived, and waits to be taken or to be committed.
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
        """Messages that are nowhere: 0, or the account is wrong."""
        decided = self.committed + self.duplicate + self.late + self.quarantined + self.dropped
        return self.received - decided - self.in_flight


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of the service over MQTT. It is acknowledged when its consequences are on disk."""

    name: str  # ack, label or reload
    token: str | None = None  # of the one who asks; it comes back with the answer
    alarm: tuple[StreamKey, str] | None = None  # stream and id of the alarm that is to be acknowledged
    label: LabelEvent | None = None  # to be added or retracted
    error: str | None = None  # why it cannot be done; then the message goes to quarantine


@dataclass(slots=True)
class Batch:
    """Some messages, the blocks in them, and those that are refused."""

    messages: list[Message]
    blocks: list[Block] = field(default_factory=list)
    origin: list[Message] = field(default_factory=list)  # the message of each block
    quarantined: list[Quarantined] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    asking: list[Message] = field(default_factory=list)  # the message of each request
    feature_s: float = 0.0  # how long the step took: all but the network, and the network
    inference_s: float = 0.0

    def settled(self) -> list[Message]:
        """Messages whose consequences are all in the journal: no request, nothing that is said of a machine."""
        telling = (message for block, message in zip(self.blocks, self.origin, strict=True) if block.about is not None)
        open_ = {id(message) for message in (*self.asking, *telling)}
        return [message for message in self.messages if id(message) not in open_]


@dataclass(frozen=True, slots=True)
class Intake:
    """Decides what is a block of a stream that is wanted."""

    key_of: Callable[[str], StreamKey | None]  # topic -> stream, None where the topic names none
    accepts: Callable[[str], bool]  # whether readings of this machine are wanted
    max_payload_bytes: int
    request_of: Callable[[Message], Request | None] = lambda message: None  # None: the message is no request
    windows_in: Callable[[Block], int] = lambda block: 0  # that it can complete; DecodeError: it asks for too much

    def read(self, messages: Sequence[Message], now_ns: int) -> Batch:
        """Decode as many as one commit may cover; whatever is not a block goes to quarantine with a reason."""
        batch = Batch([])
        windows = size = 0
        for message in messages:
            if windows >= MOST_WINDOWS or size >= MOST_BYTES:
                break
            batch.messages.append(message)
            size += len(message.payload)
            if (request := self.request_of(message)) is not None:
                batch.requests.append(request)
                batch.asking.append(message)
                if request.error is not None:
                    batch.quarantined.append(refused(message, "request", now_ns))
                continue
            try:
                block = self._block(message)
                windows += self.windows_in(block)
                batch.blocks.append(block)
                batch.origin.append(message)
            except DecodeError as error:
                batch.quarantined.append(refused(message, error.reason, now_ns))
        return batch

    def _block(self, message: Message) -> Block:
        key = self.key_of(message.topic)
        if key is None:
            reason = "topic"
            raise DecodeError(reason, f"a topic of the readings template expected, found: {message.topic}")
        if not self.accepts(key.machine):
            reason = "unknown_machine"
            raise DecodeError(reason, f"a configured machine expected, found: {key.machine}")
        limit = self.max_payload_bytes
        return codec.decode(message.payload, key, max_payload_bytes=limit, content_type=message.content_type)


def refused(message: Message, reason: str, now_ns: int) -> Quarantined:
    """A message for the quarantine."""
    return Quarantined(message.topic, now_ns, reason, message.payload, len(message.payload))


def step_all(engine: Engine, states: States, batch: Batch, now_ns: int) -> Step:
    """Step the engine over a batch; blocks that contradict their session join the quarantined.

    A block on which the engine fails would come again and again and stop the plant. So the batch is then
    stepped block by block, and the one that fails is refused like any other bad message.
    """
    began_s, inferred_s = time.perf_counter(), _inferred_s(engine)
    try:
        step = engine.step(states, batch.blocks)
    except MemoryError:
        raise
    except Exception:  # any failure is the block's: it is isolated, named and kept, never swallowed
        step = _step_one_by_one(engine, states, batch, now_ns)
    rejected = {id(block) for block in step.rejected}
    for block, message in zip(batch.blocks, batch.origin, strict=True):
        if id(block) in rejected:
            batch.quarantined.append(refused(message, "session", now_ns))
    batch.inference_s = _inferred_s(engine) - inferred_s
    batch.feature_s = time.perf_counter() - began_s - batch.inference_s
    return step


def _inferred_s(engine: Engine) -> float:
    return engine.predictor.seconds if isinstance(engine.predictor, Timed) else 0.0


def _step_one_by_one(engine: Engine, states: States, batch: Batch, now_ns: int) -> Step:
    total = Step()
    good: list[tuple[Block, Message]] = []
    for block, message in zip(batch.blocks, batch.origin, strict=True):
        try:
            step = engine.step({**states, **total.states}, [block])
        except Exception as error:
            batch.quarantined.append(refused(message, f"engine_{type(error).__name__}", now_ns))
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


def account(batch: Batch, step: Step) -> Counter[str]:
    """How the messages of a batch ended, beside how many there were."""
    counts = Counter(
        received=len(batch.messages),
        duplicate=sum(isinstance(t, Duplicate) for t in step.troubles),
        late=sum(isinstance(t, Late) for t in step.troubles),
        quarantined=len(batch.quarantined),
    )
    counts["committed"] = counts["received"] - counts["duplicate"] - counts["late"] - counts["quarantined"]
    return counts


def missing_samples(step: Step) -> Counter[str]:
    """What never came: how many gaps, and how many samples per channel they lack."""
    gaps = [trouble for trouble in step.troubles if isinstance(trouble, Gap)]
    return Counter(gaps=len(gaps), gap_samples=sum(min(gap.last - gap.first, LARGEST_GAP) for gap in gaps))


def prefixed(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """As the journal's cumulative counters."""
    return {f"messages_{name}": n for name, n in counts if n}


def log_troubles(batch: Batch, step: Step) -> None:
    """One line per turn for what was refused and what is missing."""
    reasons = Counter(q.reason for q in batch.quarantined)
    gaps = [t for t in step.troubles if isinstance(t, Gap)]
    if reasons:
        # A topic is what a stranger chose: nothing in it may look like the end of a line or like another key.
        topics = sorted({re.sub(r"[^\w/.-]", "?", q.topic)[:LONGEST_SHOWN] for q in batch.quarantined})
        counted = " ".join(f"{reason}={n}" for reason, n in reasons.items())
        log.warning("quarantined %s topics=%s", counted, few(topics, 3))
    if gaps:
        samples = sum(gap.last - gap.first for gap in gaps)
        streams = sorted({str(gap.key) for gap in gaps})[:5]
        log.warning("gaps count=%d samples=%d streams=%s", len(gaps), samples, ",".join(streams))


# What a valid block may not ask for: too slow for a window, too many windows at once, channel names without end.
#
# One such message used to hold the loop for minutes, or to widen every file of the archive. Each is refused by name, like
# any other bad message, and what comes beside it goes on.


@dataclass(slots=True)
class Channels:
    """The channel names of one data directory. Each has a column per feature in every file, for ever."""

    most: int
    known: set[str]

    def admit(self, names: Iterable[str]) -> bool:
        """Whether there is room for them; then they are known. A directory that has more already keeps those."""
        new = set(names) - self.known
        if new and len(self.known) + len(new) > self.most:
            return False
        self.known |= new
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """Looks at blocks before the engine does."""

    window_of: Callable[[StreamKey], WindowSpec]
    channels: Channels | None = None  # None: there are no columns to be made

    def __call__(self, block: Block) -> int:
        """How many windows it can complete, counted per channel.

        Raises:
            DecodeError: too_slow, too_long or too_many_channels.
        """
        spec = self.window_of(block.key)
        windows = most_windows(spec, block)
        reason = None
        if is_too_slow(spec, block.rate_hz):
            least_hz = LEAST_SAMPLES / spec.length_s
            reason, msg = "too_slow", f"a rate of at least {least_hz:g} Hz expected, found: {block.rate_hz:g} Hz"
        elif windows > MOST_WINDOWS:
            reason, msg = "too_long", f"at most {MOST_WINDOWS} windows in a message expected, found: {windows}"
        elif self.channels is not None and not self.channels.admit(block.channels):
            names = few(sorted(set(block.channels) - self.channels.known))
            log.warning("channels_full known=%d refused=%s stream=%s", len(self.channels.known), names, block.key)
            reason, msg = "too_many_channels", f"at most {self.channels.most} names expected, found new: {names}"
        if reason is not None:
            raise DecodeError(reason, msg)
        return windows
