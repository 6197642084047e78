"""A mapping: what one [[payloads]] table makes of a message. Pure: topic, bytes and arrival time in, readings out.

    bytes ─documents─> document ─paths─> samples, time, rate, unit, speed, machine, point ─checks of core─> Reading

A value in a table is a number, or a text: `$.path` is looked up in the document, `@8:<u8` in the bytes of a raw
message, anything else stands for itself, with `{placeholders}` of the topic filled in.

A reading is a block that may not be counted yet: most senders give neither session nor index (see `numbering`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.codec_map import MAX_INDEX, MAX_SPEED_RPM, Head, block_of, checked_channels
from pipeline.core.patterns import NotFoundError, Path, TopicPattern, described
from pipeline.core.records import Block, StreamKey, is_id
from pipeline.edges.payloads import documents
from pipeline.errors import DecodeError

Clock = Literal["counter", "time", "arrival"]
Value = str | float | None

LARGEST: Final = 1e30  # of a sample; beyond it float32 ends
UNEVEN: Final = 0.5  # of the time between two samples: how far a sample may be from where an even rate puts it
MEASURED: Final = 0.005  # how exactly times must tell a rate that is not stated
RATE_TOLERANCE: Final = 0.05  # between a stated rate and the times of the samples
_QUANTUM_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1, "iso": 10**3}
# Of a time between the years 2000 and 2100: the four ranges do not touch, so a number says itself what it counts.
_UNITS_BY_SIZE: Final = ((946_684_800, 4_102_444_800, "s"), (946_684_800e3, 4_102_444_800e3, "ms"),
                         (946_684_800e6, 4_102_444_800e6, "us"), (946_684_800e9, 4_102_444_800e9, "ns"))  # fmt: skip
_BINARY: Final = re.compile(r"@(\d{1,7}):([<>]?[iuf][1248])")
_PLACE: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSpec:
    """One [[payloads]] table; `pipeline.config.tables.PayloadTable` has the meaning and default of each key."""

    topic: str
    format: str
    samples: dict[str, str]
    packed: str
    channels: tuple[str, ...]
    dtype: str
    layout: str
    skip_bytes: int
    time: str
    time_unit: str
    time_of: str
    rate_hz: Value
    unit: str
    scale: str | float
    speed_rpm: Value
    machine: str
    point: str
    session: str
    index: str
    index_counts: str
    measurement: str
    separator: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A block, and where its count comes from.

    `counter`: session and index are the sender's. `time`: they follow from `t0_ns`. `arrival`: `t0_ns` is itself only
    when the message came.
    """

    block: Block
    clock: Clock


@dataclass(frozen=True, slots=True)
class Mapping:
    """A table that is ready to read messages.

    Raises:
        ValueError: a pattern or path is none; configuration has checked that.
    """

    spec: MappingSpec
    topic: TopicPattern = field(init=False)
    _paths: dict[str, Path] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Parses the patterns."""
        spec = self.spec
        values = (*spec.samples.values(), spec.packed, spec.time, spec.rate_hz, spec.unit, spec.scale, spec.speed_rpm,
                  spec.machine, spec.point, spec.session, spec.index)  # fmt: skip
        texts = {value for value in values if isinstance(value, str) and value.startswith("$")}
        object.__setattr__(self, "topic", TopicPattern(spec.topic))
        object.__setattr__(self, "_paths", {text: Path(text) for text in texts})

    def read(self, topic: str, payload: bytes, arrival_ns: int) -> list[Reading]:
        """The readings in a message, one per document. Sparkplug messages are parsed by `sparkplug.Nodes` first.

        Raises:
            DecodeError: what was expected, what was found and where.
        """
        found = documents.parse(
            self.spec.format, payload, separator=self.spec.separator, measurement=self.spec.measurement
        )
        return [self.reading(topic, document, arrival_ns) for document in found]

    def reading(self, topic: str, document: Any, arrival_ns: int) -> Reading:
        """The reading of one document.

        Raises:
            DecodeError: what was expected, what was found and where.
        """
        places = self.topic.match(topic)
        if places is None:
            msg = f"a topic like {self.spec.topic!r} expected, found: {topic[:80]!r}"
            raise DecodeError("topic", msg)
        try:
            return self._reading(_Source(self, places, document), arrival_ns)
        except NotFoundError as error:
            raise DecodeError("malformed", f"expected {error}") from None

    def _reading(self, source: _Source, arrival_ns: int) -> Reading:
        spec = self.spec
        channels, values = self._samples(source)
        checked_channels(channels)
        n = values.shape[1]
        t0_ns, rate_hz, clock = self._clock(source, n, arrival_ns)
        scale = source.number(spec.scale, "scale")
        if not math.isfinite(scale) or scale == 0 or abs(scale) > LARGEST:
            msg = f"a finite scale other than 0 expected, found: {scale:g}"
            raise DecodeError("scale", msg)
        with np.errstate(over="ignore", invalid="ignore"):
            samples = np.ascontiguousarray(values * scale, dtype=np.float32)
        session = index = 0
        if spec.index:
            clock = "counter"
            index = source.whole(spec.index, "index") * (n if spec.index_counts == "messages" else 1)
            session = source.whole(spec.session, "session") if spec.session else 0
            if not 0 <= index <= MAX_INDEX:
                msg = f"an index of 0 to 2**62 at {spec.index} expected, found: {index}"
                raise DecodeError("index", msg)
        head = Head(v=1, session=session, index=index, t0=t0_ns, rate_hz=rate_hz, channels=channels,
                    unit=source.text(spec.unit, "unit"), speed_rpm=self._speed(source))  # fmt: skip
        key = StreamKey(as_id(source.text(spec.machine, "topic")), as_id(source.text(spec.point, "topic")))
        return Reading(block_of(head, samples, key), clock)

    # -- samples -----------------------------------------------------------------------------------------------------

    def _samples(self, source: _Source) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Names (C) and values (C, n) before scaling."""
        spec = self.spec
        if spec.format == "raw" or spec.packed:
            return spec.channels, self._unpacked(source)
        columns = {name: numbers(source.value(text), text) for name, text in spec.samples.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or not max(lengths.values()):
            shown = ", ".join(f"{name} {n}" for name, n in list(lengths.items())[:8])
            msg = f"as many samples in every channel, and at least one, expected, found: {shown}"
            raise DecodeError("length", msg)
        return tuple(columns), np.stack(list(columns.values()))

    def _unpacked(self, source: _Source) -> NDArray[np.float64]:
        spec = self.spec
        data = source.document if spec.format == "raw" else source.value(spec.packed)
        if isinstance(data, str):
            try:
                data = base64.b64decode(re.sub(r"\s", "", data), validate=True)
            except (binascii.Error, ValueError):
                msg = f"base64 text at {spec.packed} expected, found: {described(data)}"
                raise DecodeError("samples", msg) from None
        if not isinstance(data, bytes):
            msg = f"base64 text or bytes at {spec.packed} expected, found: {described(data)}"
            raise DecodeError("samples", msg)
        dtype = np.dtype(spec.dtype if spec.dtype[0] in "<>" else f"<{spec.dtype}")
        data = data[spec.skip_bytes :]
        size = dtype.itemsize * len(spec.channels)
        if not data or len(data) % size:
            msg = (
                f"{len(spec.channels)} channels x n x {dtype.itemsize} bytes after skip_bytes = {spec.skip_bytes} "
                f"expected, found: {len(data)} bytes"
            )
            raise DecodeError("length", msg)
        flat = np.frombuffer(data, dtype).astype(np.float64)
        return (
            flat.reshape(-1, len(spec.channels)).T
            if spec.layout == "interleaved"
            else flat.reshape(len(spec.channels), -1)
        )

    def _speed(self, source: _Source) -> float | None:
        """The speed, where it is said; a sender may leave it out."""
        if self.spec.speed_rpm is None:
            return None
        try:
            speed_rpm = source.mean(self.spec.speed_rpm, "speed")
        except NotFoundError:
            return None
        if not 0 <= speed_rpm <= MAX_SPEED_RPM:
            msg = f"a speed of 0 to {MAX_SPEED_RPM:g} rpm at {self.spec.speed_rpm} expected, found: {speed_rpm:g}"
            raise DecodeError("speed", msg)
        return speed_rpm

    # -- time --------------------------------------------------------------------------------------------------------

    def _clock(self, source: _Source, n: int, arrival_ns: int) -> tuple[int, float, Clock]:
        """Time of the first sample in ns, rate, and whether the time is the sender's."""
        spec = self.spec
        stated = None if spec.rate_hz is None else source.number(spec.rate_hz, "rate")
        if stated is not None and not 0 < stated < math.inf:
            msg = f"a rate above 0 Hz at {spec.rate_hz} expected, found: {stated:g}"
            raise DecodeError("rate", msg)
        if spec.time == "arrival":
            if stated is None:
                msg = "rate_hz in [[payloads]] expected where time is the arrival, found none"
                raise DecodeError("rate", msg)
            return arrival_ns - round(n * 1e9 / stated), stated, "arrival"
        found = source.value(spec.time)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if isinstance(found, list):
            return self._from_times(found, n, stated)
        t_ns, _ = instant(found, spec.time_unit, spec.time)
        if stated is None:
            msg = f"rate_hz in [[payloads]], or a time of every sample, expected, found one time for {n} samples"
            raise DecodeError("rate", msg)
        return (t_ns if spec.time_of == "first" else t_ns - round((n - 1) * 1e9 / stated)), stated, "time"

    def _from_times(self, found: list[Any], n: int, stated: float | None) -> tuple[int, float, Clock]:
        """From a time of every sample."""
        where = self.spec.time
        if len(found) != n:
            msg = f"one time, or {n} times as there are samples, at {where} expected, found: {len(found)}"
            raise DecodeError("time", msg)
        instants = [instant(one, self.spec.time_unit, f"{where}[{at}]") for at, one in enumerate(found)]
        first_ns = instants[0][0]
        offset_ns = np.array([t - first_ns for t, _ in instants], dtype=np.float64)
        quantum_ns = max(quantum for _, quantum in instants)
        span_ns = offset_ns[-1]
        if span_ns <= 0:
            msg = f"rising times at {where} expected, found the last {span_ns / 1e9:g} s after the first"
            raise DecodeError("time", msg)
        step_ns = span_ns / (n - 1)
        if stated is not None and abs(1e9 / step_ns / stated - 1) > RATE_TOLERANCE + 2 * quantum_ns / span_ns:
            msg = f"a rate of {1e9 / step_ns:.6g} Hz as the times at {where} have expected, found: {stated:g} Hz"
            raise DecodeError("rate", msg)
        if stated is None and 2 * quantum_ns > MEASURED * span_ns:
            msg = (
                f"rate_hz in [[payloads]] expected: times in steps of {quantum_ns / 1e6:g} ms "
                f"over {span_ns / 1e6:.3g} ms "
                f"do not tell the rate within {MEASURED:.1%}"
            )
            raise DecodeError("rate", msg)
        worst_ns = float(np.abs(offset_ns - step_ns * np.arange(n)).max())
        if worst_ns > UNEVEN * step_ns + quantum_ns:
            at = int(np.abs(offset_ns - step_ns * np.arange(n)).argmax())
            msg = (
                f"evenly spaced times at {where} expected, found sample {at} {worst_ns / 1e6:.3g} ms "
                f"from its place, {worst_ns / step_ns:.2g} sample periods"
            )
            raise DecodeError("time", msg)
        return first_ns, 1e9 / step_ns if stated is None else stated, "time"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the values of a table come from for one document."""

    mapping: Mapping
    places: dict[str, str]
    document: Any

    def value(self, text: str) -> Any:
        """What a path or a place in raw bytes has; other text stands for itself."""
        if text.startswith("$"):
            return self.mapping._paths[text].find(self.document)
        binary = _BINARY.fullmatch(text)
        if binary is None:
            return _PLACE.sub(lambda match: self.places.get(match[1], match[0]), text)
        offset, dtype = int(binary[1]), np.dtype(binary[2])
        if not isinstance(self.document, bytes) or offset + dtype.itemsize > len(self.document):
            msg = f"{dtype.itemsize} bytes at {text}, found: {described(self.document)}"
            raise NotFoundError(msg)
        return np.frombuffer(self.document, dtype, 1, offset)[0].item()

    def single(self, text: str) -> Any:
        """Like `value`; a list of equal values, as line protocol and CSV have, is one value."""
        found = self.value(text)
        if isinstance(found, list) and found and all(type(one) is type(found[0]) and one == found[0] for one in found):
            return found[0]
        return found

    def number(self, value: str | float, reason: str) -> float:
        """A number, also one that is written as text."""
        found = self.single(value) if isinstance(value, str) else value
        number = as_number(found)
        if number is None:
            msg = f"a number at {value} expected, found: {described(found)}"
            raise DecodeError(reason, msg)
        return number

    def mean(self, value: str | float, reason: str) -> float:
        """A number, or the mean of a list of numbers."""
        found = self.value(value) if isinstance(value, str) else value
        return (
            float(numbers(found, str(value), reason).mean())
            if isinstance(found, list) and found
            else self.number(value, reason)
        )

    def whole(self, text: str, reason: str) -> int:
        """A whole number from 0 on."""
        found = self.single(text)
        number = int(found) if isinstance(found, str) and re.fullmatch(r"\d{1,19}", found) else found
        if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
            msg = f"a whole number of 0 to 2**64 at {text} expected, found: {described(found)}"
            raise DecodeError(reason, msg)
        return number

    def text(self, text: str, reason: str) -> str:
        """A text; a number that names a machine is a text too."""
        found = self.single(text)
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or not found.strip():
            msg = f"a text at {text} expected, found: {described(found)}"
            raise DecodeError(reason, msg)
        return found.strip()


# -- values ----------------------------------------------------------------------------------------------------------


def as_number(value: Any) -> float | None:
    """A number or a text that is one; None for anything else. NaN is a number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str) and len(value) <= 40:
        try:
            return float(value.strip().replace(",", ".") if value.count(",") == 1 and "." not in value else value)
        except ValueError:
            return None
    return None


def numbers(value: Any, where: str, reason: str = "samples") -> NDArray[np.float64]:
    """Samples as numbers (n); one number is one sample, null is NaN.

    Raises:
        DecodeError: with the place of the first that is no number.
    """
    values = value if isinstance(value, list) else [value]
    if set(map(type, values)) <= {float, int}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    found = np.empty(len(values))
    for at, one in enumerate(values):
        number = math.nan if one is None else as_number(one)
        if number is None:
            place = f"{where}, sample {at}" if isinstance(value, list) else where
            msg = f"a number at {place} expected, found: {described(one)}"
            raise DecodeError(reason, msg)
        found[at] = number
    return found


def instant(value: Any, unit: str, where: str) -> tuple[int, int]:
    """A time in ns since 1970 UTC, and how finely it was given, in ns.

    Raises:
        DecodeError: `time`.
    """
    number = as_number(value)
    if unit == "iso" or (number is None and unit == "auto"):
        return _from_iso(value, where), _QUANTUM_NS["iso"]
    if number is None or not math.isfinite(number):
        msg = f"a time in {unit} since 1970 at {where} expected, found: {described(value)}"
        raise DecodeError("time", msg)
    if unit == "auto":
        unit = next((name for low, high, name in _UNITS_BY_SIZE if low <= number < high), "")
        if not unit:
            msg = (
                f"a time between 2000 and 2100 in s, ms, us or ns since 1970 at {where} expected, "
                f'found: {described(value)}; if its clock is not set, use time = "arrival"'
            )
            raise DecodeError("time", msg)
    per_unit = _QUANTUM_NS[unit]
    if abs(number) * per_unit >= 2**63:
        msg = f"a time in {unit} since 1970 at {where} expected, found: {described(value)}"
        raise DecodeError("time", msg)
    exact = int(value) if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()) else None
    if exact is not None:
        return exact * per_unit, per_unit
    whole = math.floor(number)
    fraction_ns = max(1, round(np.spacing(abs(number)) * per_unit))
    return whole * per_unit + round((number - whole) * per_unit), fraction_ns


def _from_iso(value: Any, where: str) -> int:
    if isinstance(value, str) and len(value) <= 40:
        text = value.strip()
        fraction = re.search(r"[.,](\d{1,12})", text)
        try:
            moment = datetime.fromisoformat(text if fraction is None else text.replace(fraction[0], "", 1))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = int(moment.timestamp())
        except (ValueError, OverflowError):
            pass
        else:
            return seconds * 10**9 + (int(fraction[1][:9].ljust(9, "0")) if fraction else 0)
    msg = f"a time such as 2026-05-01T12:00:00.25Z or in s, ms, us or ns since 1970 at {where} expected"
    raise DecodeError("time", f"{msg}, found: {described(value)}")


def as_id(text: str) -> str:
    """The id of a machine or point: the text itself where it is one, else readable and different from all others.

    Colons of a hardware address become dashes. Other signs are transliterated, and a short hash keeps names apart.
    """
    if is_id(text):
        return text
    if re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5,7}", text):
        return text.replace(":", "-")
    plain = unicodedata.normalize("NFKD", text[:200]).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-.")[:50]
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest


def counted(block: Block, session: int, index: int, t0_ns: int, rate_hz: float) -> Block:
    """A block with its count."""
    return replace(block, session=session, index=index, t0_ns=t0_ns, rate_hz=rate_hz)
