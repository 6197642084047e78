"""The map that a payload is, whatever its encoding: its keys, and what their values may be."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np

from pipeline.core.records import BearingOrders, Block, Fact, Float32, StreamKey, is_id
from pipeline.core.speed import UNCERTAINTY
from pipeline.core.units import UNKNOWN, unit_of
from pipeline.errors import DecodeError

MAX_UNIT_CHARS: Final = 20
MAX_CHANNELS: Final = 64
RATE_HZ_RANGE: Final = (1.0, 1e6)  # slower is no vibration, faster no converter that we know of
MAX_INDEX: Final = 2**62  # leaves room to add block lengths in int64
T0_RANGE_NS: Final = (946_684_800 * 10**9, 4_102_444_800 * 10**9)  # 2000-01-01 to 2100-01-01
MAX_SPEED_RPM: Final = 1e6
MAX_FACTS: Final = 64
MAX_FACT_CHARS: Final = 500
NO_FACTS: Final = ("machine", "point", "orders")  # the topic says whose facts they are, `orders` is a key of its own
SCALE_RANGE: Final = (1e-30, 1e30)  # code * scale stays inside float32

REASONS: Final = (
    "oversize", "encoding", "content_type", "malformed", "version", "session", "index", "time", "rate", "channels",
    "unit", "dtype", "scale", "samples", "length", "speed", "orders", "truth", "about",
)  # fmt: skip


class Orders(msgspec.Struct, frozen=True, gc=False):
    """Defect frequencies of the bearing at this point, in multiples of the shaft speed."""

    ftf: float
    bpfo: float
    bpfi: float
    bsf: float


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every key of the map but `samples`; unknown keys are ignored so that senders may add their own."""

    v: int
    session: int
    index: int
    t0: int
    rate_hz: float
    channels: tuple[str, ...]
    unit: str
    dtype: str = "f4"
    scale: float | None = None
    speed_rpm: float | None = None
    orders: Orders | None = None
    truth: str | None = None
    about: dict[str, Fact] | None = None
    speed_source: str | None = None


@lru_cache(maxsize=4096)
def checked_channels(channels: tuple[str, ...]) -> int:
    """How many channels; remembered because a stream names the same ones in every block."""
    if not 1 <= len(channels) <= MAX_CHANNELS:
        raise DecodeError("channels", f"1 to {MAX_CHANNELS} channels expected, found: {len(channels)}")
    if len(set(channels)) != len(channels):
        raise DecodeError("channels", "channel names that differ expected, found one twice")
    for name in channels:
        if not is_id(name):
            raise DecodeError("channels", f"a channel name of [A-Za-z0-9_.-]{{1,64}} expected, found: {name[:80]!r}")
    return len(channels)


def scale_of(head: Head) -> np.float32 | None:
    """The factor from codes to values; None where samples are values."""
    if head.dtype == "f4":
        if head.scale not in (None, 1.0):
            raise DecodeError("scale", f"no `scale` with dtype f4 expected, found: {head.scale}")
        return None
    if head.dtype != "i2":
        raise DecodeError("dtype", f"dtype f4 or i2 expected, found: {head.dtype[:20]!r}")
    if head.scale is None or not SCALE_RANGE[0] <= head.scale <= SCALE_RANGE[1]:
        raise DecodeError(
            "scale", f"a `scale` of {SCALE_RANGE[0]:g} to {SCALE_RANGE[1]:g} with dtype i2, found: {head.scale}"
        )
    return np.float32(head.scale)


def block_of(head: Head, samples: Float32, key: StreamKey) -> Block:
    """All checks on the values of the map; each compares so that NaN fails it."""
    if head.v != 1:
        raise DecodeError("version", f"`v` 1 expected, found: {head.v}")
    if not 0 <= head.session < 2**64:
        raise DecodeError("session", f"`session` as unsigned 64-bit number expected, found: {head.session}")
    if not 0 <= head.index <= MAX_INDEX:
        raise DecodeError("index", f"`index` of 0 to 2**62 expected, found: {head.index}")
    if not T0_RANGE_NS[0] <= head.t0 < T0_RANGE_NS[1]:
        raise DecodeError("time", f"`t0` in ns since 1970, years 2000 to 2099, expected, found: {head.t0}")
    if not RATE_HZ_RANGE[0] <= head.rate_hz <= RATE_HZ_RANGE[1]:
        raise DecodeError(
            "rate", f"`rate_hz` of {RATE_HZ_RANGE[0]:g} to {RATE_HZ_RANGE[1]:g} expected, found: {head.rate_hz}"
        )
    if not 1 <= len(head.unit) <= MAX_UNIT_CHARS:
        found = f"{len(head.unit)} characters"
        raise DecodeError("unit", f"`unit` as a text of 1 to {MAX_UNIT_CHARS} characters expected, found: {found}")
    if head.speed_rpm is not None and not 0 <= head.speed_rpm <= MAX_SPEED_RPM:
        raise DecodeError("speed", f"`speed_rpm` of 0 to {MAX_SPEED_RPM:g} expected, found: {head.speed_rpm}")
    if head.speed_source is not None and head.speed_source not in UNCERTAINTY:
        expected = ", ".join(UNCERTAINTY)
        raise DecodeError("speed", f"`speed_source` of {expected} expected, found: {head.speed_source[:20]!r}")
    if head.truth is not None and not is_id(head.truth):
        raise DecodeError("truth", f"`truth` of [A-Za-z0-9_.-]{{1,64}} expected, found: {head.truth[:80]!r}")
    orders = None
    if head.orders is not None:
        orders = BearingOrders(head.orders.ftf, head.orders.bpfo, head.orders.bpfi, head.orders.bsf)
        if not all(0 < value < math.inf for value in (orders.ftf, orders.bpfo, orders.bpfi, orders.bsf)):
            raise DecodeError("orders", f"positive finite `orders` expected, found: {orders}")
    about = head.about or {}
    if len(about) > MAX_FACTS or not all(map(is_fact, about.items())):
        raise DecodeError(
            "about",
            f"at most {MAX_FACTS} facts, each an id (not {', '.join(NO_FACTS)}) and a short text or finite number, "
            f"`speed_rpm` a number of 0 to {MAX_SPEED_RPM:g}, expected",
        )
    unit, factor = unit_of(head.unit)
    if factor != 1:
        with np.errstate(over="ignore"):  # beyond float32 is infinite: a sensor fault, not a warning
            samples = samples * np.float32(factor)
    return Block(key, head.session, head.index, head.t0, head.rate_hz, head.channels, unit, samples,
                 head.speed_rpm, orders, head.truth, head.about, head.unit if unit == UNKNOWN else None,
                 head.speed_source)  # fmt: skip


def is_fact(item: tuple[str, Fact]) -> bool:
    """Whether a message may say this of its machine: a name and a value."""
    name, value = item
    if name in NO_FACTS:
        return False
    if name == "speed_rpm":  # stands in where later blocks do not say
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SPEED_RPM
    if isinstance(value, str):
        return is_id(name) and len(value) <= MAX_FACT_CHARS
    return is_id(name) and math.isfinite(value)
