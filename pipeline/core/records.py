"""The nouns of thrumcast.

A *stream* is one measurement point of one machine: one or more channels sampled together.
Bytes become a `Block`; blocks, put in order, are cut into `Window`s; a window becomes a
`FeatureRow`, a feature row a `Prediction`, and a run of predictions may become an `AlarmChange`.
What went wrong on the way is data too: `Gap`, `Late`, `Duplicate`, `Rejected`.

What is made anew for every window is a `msgspec.Struct`: a frozen dataclass takes twenty times as long to make.
The garbage collector need not look at them: none can be part of a cycle.

Letters in shapes, the same everywhere: B batch, C channels, n samples, F features, L layers,
H hidden units, K classes. Times are integers, nanoseconds since 1970 UTC.
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
    """Whether `text` may name a machine or a point. Ids never become paths; "." and ".." are refused all the same."""
    return ID_PATTERN.fullmatch(text) is not None and text.strip(".") != ""


class StreamKey(NamedTuple):
    """Which measurement point of which machine."""

    machine: str
    point: str

    def __str__(self) -> str:
        return f"{self.machine}/{self.point}"


@dataclass(frozen=True, slots=True)
class BearingOrders:
    """Defect frequencies of a rolling bearing as multiples of the shaft speed (orders).

    `bsf` is the *spin* frequency; a damaged element strikes both races, so its line stands at 2 x bsf.
    """

    ftf: float
    bpfo: float
    bpfi: float
    bsf: float


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What one message carries: consecutive samples of all channels of a stream."""

    key: StreamKey
    session: int  # changes when the sender restarts its count
    index: int  # number of the first sample since the session began
    t0_ns: int  # time of the first sample
    rate_hz: float  # per channel
    channels: tuple[str, ...]
    unit: str  # g, m/s2, mm/s, V or 1
    samples: Float32  # (C, n)
    speed_rpm: float | None = None  # shaft speed over the block
    orders: BearingOrders | None = None  # of the bearing at this point, when it comes with the data
    truth: str | None = None  # the true failure mode: archived, never shown to a model
    about: dict[str, Fact] | None = None  # other facts of the machine, for machines.jsonl; once a session is enough

    @property
    def end(self) -> int:
        """Number of the first sample after this block."""
        return self.index + self.samples.shape[1]


class Window(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples [number*hop, number*hop + length) of a session.

    Its number follows from data alone, so every driver gives the same window the same address
    (machine, point, session, number) and writing it twice is harmless.
    """

    key: StreamKey
    session: int
    number: int
    start_ns: int
    end_ns: int
    rate_hz: float
    channels: tuple[str, ...]
    unit: str
    samples: Float32 | None  # (C, length); None where the window is not whole
    coverage: float  # received / expected samples
    speed_rpm: float | None  # mean
    orders: BearingOrders | None
    truth: str | None
    speed_trace: tuple[tuple[int, float], ...] | None = None  # (from sample, rpm), where the speed changes within
    speed_range_rpm: tuple[float, float] | None = None  # in which to look for a speed that nobody states
    gear_teeth: tuple[int, ...] = ()  # of the gears on this shaft


class FeatureRow(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One row of the feature archive: all features of all channels of one window."""

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
    values: Float32  # (C, F), columns in the order of the feature table; NaN = cannot be computed
    schema: str  # which feature table, see pipeline.core.features.table


class Prediction(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the network says of one window, and what the alarm logic makes of it."""

    key: StreamKey
    session: int
    window: int
    start_ns: int
    end_ns: int
    mode: str | None  # the most probable class; None where the network was not stepped
    p: float  # its probability; NaN where the network was not stepped
    probabilities: Float32  # (K,) in the order of the model's classes
    state: str  # warming_up, normal, warning, alarm, unknown, sensor_fault or not_running
    state_age: int  # windows since the hidden state was reset
    model: str
    feature_schema: str


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """An alarm that was raised, updated or cleared."""

    key: StreamKey
    type: str  # raised, updated, cleared
    id: str  # the same for all changes of one alarm
    mode: str
    p: float
    at_ns: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples [first, last) of a session that never came."""

    key: StreamKey
    session: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Late:
    """A block whose place was given up before it came."""

    key: StreamKey
    session: int
    index: int
    late_by_samples: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A block all of whose samples had come before."""

    key: StreamKey
    session: int
    index: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A block that contradicts its own session (another rate, channels or unit); belongs in quarantine."""

    block: Block
    reason: str

    @property
    def key(self) -> StreamKey:
        """The stream that it would have belonged to."""
        return self.block.key


Trouble = Gap | Late | Duplicate | Rejected


class Predictor(Protocol):
    """The network as the pipeline sees it: stateless, batched over streams.

    The hidden state is an argument and a result; nothing is remembered inside.
    """

    @property
    def version(self) -> str:
        """The model version that every prediction is stamped with."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The K failure modes, in the order of the probabilities."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The F column names, e.g. `x.kurtosis`, in the order in which `step` wants them."""

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(L, H) of one stream's hidden state; a new sequence starts from zeros."""

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams: x (B, F) raw features, NaN = missing, h (B, L, H) -> probabilities (B, K), new h."""
