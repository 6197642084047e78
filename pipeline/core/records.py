"""The nouns of thrumcast.

A *stream* is one measurement point of one machine. It has one or more channels, which are sampled together.

    bytes -> Block -> Window -> FeatureRow -> Prediction -> AlarmChange

What goes wrong on the way is data too: `Gap`, `Late`, `Duplicate`, `Contradiction`, `Rejected`.

Nothing here is ever changed in place; `msgspec.structs.replace` makes a copy with other values. Records that are made
for every window are `msgspec.Struct`s, because a frozen dataclass takes twenty times as long to make. `gc=False` spares
the garbage collector: no record can be part of a cycle.

Letters in shapes, the same everywhere: B batch, C channels, n samples, F features, L layers, H hidden units, K classes.
Times are integers: nanoseconds since 1970 UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Fact = str | int | float | bool

ID_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_id(text: str) -> bool:
    """Whether `text` may name a machine or a point. "." and ".." may not, although no id ever becomes a path."""
    return ID_PATTERN.fullmatch(text) is not None and text.strip(".") != ""


class StreamKey(NamedTuple):
    """Which measurement point of which machine."""

    machine: str
    point: str

    def __str__(self) -> str:
        return f"{self.machine}/{self.point}"


@dataclass(frozen=True, slots=True)
class BearingOrders:
    """Defect frequencies of a rolling bearing, as multiples of the shaft speed (orders).

    `bsf` is the *spin* frequency of an element. A damaged element strikes both races, so its line is at 2 x bsf.
    """

    ftf: float
    bpfo: float
    bpfi: float
    bsf: float


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One message: consecutive samples of all channels of a stream."""

    key: StreamKey
    session: int  # changes when the sender restarts its count
    index: int  # number of the first sample since the session began
    t0_ns: int  # time of the first sample
    rate_hz: float  # per channel
    channels: tuple[str, ...]
    unit: str  # g, m/s2, mm/s, V, 1 or unknown
    samples: Float32  # (C, n)
    speed_rpm: float | None = None  # shaft speed over the block
    orders: BearingOrders | None = None  # of the bearing at this point, if the sender knows it
    truth: str | None = None  # the true failure mode, if it is known: archived, never given to a model
    about: dict[str, Fact] | None = None  # other facts about the machine, for machines.jsonl; once a session is enough
    unit_sent: str | None = None  # what the sender calls a unit that is unknown
    speed_source: str | None = None  # of `pipeline.core.speed.UNCERTAINTY`; None = the stream's

    @property
    def end(self) -> int:
        """Number of the first sample after this block."""
        return self.index + self.samples.shape[1]


class Window(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples [number*hop, number*hop + length) of a session.

    The number follows from the data alone. So every driver gives a window the same address (machine, point, session,
    number), and writing a window twice is harmless.
    """

    key: StreamKey
    session: int
    number: int
    start_ns: int
    end_ns: int
    rate_hz: float
    channels: tuple[str, ...]
    unit: str
    samples: Float32 | None  # (C, length); None if any sample is missing
    coverage: float  # received samples / expected samples
    speed_rpm: float | None  # mean over the window
    orders: BearingOrders | None
    truth: str | None
    speed_trace: tuple[tuple[int, float], ...] | None = None  # (first sample, rpm) of each piece, if the speed changes
    speed_range_rpm: tuple[float, float] | None = None  # the range in which to estimate an unknown speed
    gear_teeth: tuple[int, ...] = ()  # of the gears on this shaft
    speed_source: str = "measured"  # of `pipeline.core.speed.UNCERTAINTY`


class FeatureRow(msgspec.Struct, frozen=True, eq=False, gc=False):
    """All features of all channels of one window: a row of the feature archive."""

    key: StreamKey
    session: int
    window: int
    start_ns: int
    end_ns: int
    rate_hz: float
    speed_rpm: float | None
    coverage: float
    quality: int  # bits of pipeline.core.quality.Quality
    truth: str | None
    channels: tuple[str, ...]
    values: Float32  # (C, F) in the order of the feature table; NaN = cannot be computed
    schema: str  # names the feature table and its settings, see pipeline.core.features.table
    speed_source: str = "measured"  # of speed_rpm; not archived, nor is the next
    speed_found_rpm: float | None = None  # of the shaft's harmonics; None = none stand, or nobody looked


class Prediction(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the network says about one window, and the state of the stream that follows from it."""

    key: StreamKey
    session: int
    window: int
    start_ns: int
    end_ns: int
    mode: str | None  # the most probable class; None if the network did not see the window
    p: float  # its probability; NaN if the network did not see the window
    probabilities: Float32  # (K,) in the order of the model's classes
    state: str  # warming_up, normal, warning, alarm, unknown, sensor_fault or not_running
    state_age: int  # windows since the hidden state was reset
    model: str
    feature_schema: str


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """A step in the life of an alarm."""

    key: StreamKey
    type: str  # raised, acked, cleared or revoked
    id: str  # the same for all changes of one alarm
    mode: str
    p: float
    at_ns: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples [first, last) of a session never came."""

    key: StreamKey
    session: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Late:
    """A block came after its place had been given up as a gap."""

    key: StreamKey
    session: int
    index: int
    late_by_samples: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A block brought no sample that had not come before."""

    key: StreamKey
    session: int
    index: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A sender's index, time, rate, unit or channels contradict each other. What came is used; people must be told.

    `kind` is counter_restarted, index_contradicts_t0, form_changed, clock_stepped, rate_drift or two_senders: see
    `order`.
    """

    key: StreamKey
    kind: str
    detail: str  # expected and found


@dataclass(frozen=True, slots=True)
class Rejected:
    """A block contradicts its own session and cannot be used. It goes into quarantine."""

    block: Block
    reason: str  # a word: session or two_senders
    detail: str  # expected and found

    @property
    def key(self) -> StreamKey:
        """The stream that the block names."""
        return self.block.key


Trouble = Gap | Late | Duplicate | Contradiction | Rejected


class Predictor(Protocol):
    """The network as the pipeline sees it. It takes a batch of streams and remembers nothing.

    The hidden state is an argument and a result.
    """

    @property
    def version(self) -> str:
        """The model version; every prediction carries it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The K failure modes, in the order of the probabilities."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The F column names in the order that `step` expects, for instance `x.kurtosis`."""

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(L, H) of one stream's hidden state. A new sequence begins with zeros."""

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of each of B streams: features x (B, F), NaN = missing, and h (B, L, H) -> p (B, K) and new h."""
