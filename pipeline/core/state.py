"""StreamState: everything that is remembered about a stream, as a value and as versioned bytes.

Nothing else in the pipeline remembers anything. A driver that saves these bytes together with the computed rows has
saved everything. A stream that is restored from them continues to the last bit.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipeline.core.alarm import AlarmSpec, AlarmState
from pipeline.core.budget import SoundHistory, Verdict, verdict
from pipeline.core.features import FeatureSpec
from pipeline.core.features.baseline import Baseline
from pipeline.core.order import OrderSpec, OrderState
from pipeline.core.records import BearingOrders, Float32
from pipeline.core.severity import Limits
from pipeline.core.window import WindowSpec, WindowState
from pipeline.errors import ArchiveError, ConfigError

VERSION = 1  # of the bytes; other versions are refused


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """Everything that is configured about a stream. It does not change while the stream runs.

    There are no defaults here: `pipeline.config` has them all, and makes the specs.
    """

    order: OrderSpec
    window: WindowSpec
    features: FeatureSpec
    alarm: AlarmSpec
    speed_rpm: float | None  # used where the blocks give no speed
    speed_source: str | None  # of `speed.UNCERTAINTY`; None = measured in the blocks, nominal in the configuration
    orders: BearingOrders | None  # used where the blocks give none
    unit: str | None  # replaces the unit that the blocks give
    gear_teeth: tuple[int, ...]  # of the gears on this shaft
    impossible: tuple[str, ...]  # failure modes that the machine cannot have, by its nameplate
    speed_min_rpm: float | None  # an unknown speed is estimated between these two
    speed_max_rpm: float | None
    commissioning_windows: int  # how many good windows make the baseline; 0 = not known to be healthy, no baseline
    limits: Limits | None  # of the vibration severity zones
    max_gap_s: float  # a longer pause between windows resets the hidden state
    warm_up_windows: int  # a younger hidden state is reported as warming up, and raises no alarm
    false_alarms_per_year: float  # the budget of a stream that began sound, see `budget`; 0 = alarm.enter_p for ever

    @property
    def speed_range_rpm(self) -> tuple[float, float] | None:
        """The range in which to estimate an unknown speed; None = do not estimate."""
        if self.speed_min_rpm is None or self.speed_max_rpm is None:
            return None
        return self.speed_min_rpm, self.speed_max_rpm

    @property
    def budgeted(self) -> bool:
        """Whether the stream learns its own alarm threshold: it began sound, and there is a budget of false alarms."""
        return self.commissioning_windows > 0 and self.false_alarms_per_year > 0

    @property
    def fingerprint(self) -> str:
        """A hash of the settings that the remembered samples and windows depend on."""
        return hashlib.sha256(repr((self.window, self.features)).encode()).hexdigest()[:16]


class StreamState(msgspec.Struct, frozen=True, eq=False):
    """What is remembered about one stream between two blocks."""

    order: OrderState = OrderState()
    window: WindowState = WindowState()
    alarm: AlarmState = AlarmState()
    sound: SoundHistory = SoundHistory()  # what the stream scored while it was sound
    baseline: Baseline | None = None  # None = not begun, or not wanted
    hidden: Float32 | None = None  # (L, H); None = a new sequence
    state_age: int = 0  # windows since the hidden state was reset
    last_end_ns: int | None = None  # end of the last window that the network saw
    model: str | None = None  # the model version that the hidden state is from
    speed_doubts: int = 0  # windows in a row whose shaft harmonics contradict the stated speed


def budget_of(spec: StreamSpec, state: StreamState) -> Verdict:
    """Whether the stream keeps its budget of false alarms, to tell people."""
    alarm, declared = spec.alarm, spec.commissioning_windows > 0
    per_year = spec.false_alarms_per_year
    return verdict(state.sound, per_year, declared=declared, enter_p=alarm.enter_p, leave_p=alarm.leave_p)


def to_bytes(spec: StreamSpec, state: StreamState) -> bytes:
    """The state as MessagePack: version, fingerprint of the spec, checksum, content."""
    content = _ENCODER.encode(state)
    return _ENCODER.encode((VERSION, spec.fingerprint, zlib.crc32(content), content))


def from_bytes(spec: StreamSpec, data: bytes) -> StreamState:
    """The state that was saved.

    Raises:
        ArchiveError: the bytes are damaged or of another version.
        ConfigError: the state was saved under other window or feature settings.
    """
    try:
        version, fingerprint, checksum, content = _ENVELOPE.decode(data)
        if version != VERSION:
            msg = f"expected a stream state of version {VERSION}, found: {version}"
            raise ArchiveError(msg, hint="use the version of thrumcast that wrote it, or another data directory")
        if zlib.crc32(content) != checksum:
            msg = "the checksum does not match"
            raise ValueError(msg)
        state = _CONTENT.decode(content)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        msg = f"expected a readable stream state, found damaged bytes: {error}"
        raise ArchiveError(msg, hint="restore journal.db from a backup, or use another data directory") from error
    if fingerprint != spec.fingerprint:
        msg = f"expected a stream state under window and feature settings {spec.fingerprint}, found: {fingerprint}"
        raise ConfigError(msg, hint="put [window] and [features] back as they were, or use another data directory")
    return state


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, np.ascontiguousarray(value, "<f4").tobytes()
    msg = f"expected a value that can be saved, found: {type(value).__name__}"
    raise TypeError(msg)


def _array(kind: type, value: Any) -> Any:
    shape, data = value
    return np.frombuffer(data, "<f4").reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_ENVELOPE = msgspec.msgpack.Decoder(tuple[int, str, int, bytes])
_CONTENT = msgspec.msgpack.Decoder(StreamState, dec_hook=_array)
