"""Recordings of every format as streams of blocks.

`open_recordings` reads what a file states about itself: one recording per group of channels that share length, rate and
unit. `streams` chooses channels. Samples are read chunk by chunk each
time `blocks` is called. Sessions and times follow from the file alone, so a second reading gives windows the same keys.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from anyascii import anyascii

from pipeline.core.bearings import ORDERS, Completed, complete
from pipeline.core.records import BearingOrders, Block, Float32, StreamKey
from pipeline.core.speed import source_of
from pipeline.core.units import UNKNOWN, unit_of
from pipeline.edges.recordings import presets
from pipeline.edges.recordings.clock import split_unit
from pipeline.edges.recordings.contents import CHUNK_ROWS, Contents, Float64, Options, Timing, guarded, unique
from pipeline.edges.recordings.files import (
    Found,
    RecordingWriter,
    find_recordings,
    input_id,
    input_ids,
    search,
    write_recording,
)
from pipeline.edges.recordings.formats import describe, read_chunks
from pipeline.edges.recordings.ids import Place, place, places, readable_id
from pipeline.edges.recordings.snapshots import read_snapshot_index
from pipeline.errors import ConfigError, RecordingError, UsageError

__all__ = [
    "ChannelMap",
    "Found",
    "Options",
    "Place",
    "RecordedStream",
    "Recording",
    "RecordingWriter",
    "find_recordings",
    "input_id",
    "input_ids",
    "open_recording",
    "open_recordings",
    "parse_channels",
    "places",
    "search",
    "streams",
    "understood",
    "write_recording",
]

NOMINAL_START_NS = 946_684_800_000_000_000  # 2000-01-01T00:00:00Z, for recordings that do not state their time
_NOT_ID = re.compile(r"[^A-Za-z0-9_.-]")
_PLAIN = re.compile(r"[A-Za-z0-9_.\- ()/,@]*")  # names of metadata that become ids by putting _ for the other signs
_COUNTS = {"counts", "count", "lsb", "raw", "adc"}
_NOT_CHANNEL = re.compile(r"[^A-Za-z0-9_-]")  # no dot: it separates channel and feature in the name of a column


# -- which channels become which streams -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """Chosen channels (original name, new name), in order."""

    pairs: tuple[tuple[str, str], ...]

    def groups(self) -> list[tuple[tuple[str, str], ...]]:
        """Pairs per stream: channels with the same new name go into separate streams."""
        streams: list[list[tuple[str, str]]] = []
        for original, new in self.pairs:
            free = next((stream for stream in streams if new not in [name for _, name in stream]), None)
            if free is None:
                streams.append([(original, new)])
            else:
                free.append((original, new))
        return [tuple(stream) for stream in streams]


def parse_channels(text: str) -> ChannelMap:
    """Reads `NAME[=AS],...` of the command line.

    Raises:
        UsageError: a name is empty or repeated, or a new name cannot be part of the name of a column.
    """
    pairs: list[tuple[str, str]] = []
    for entry in text.split(","):
        original, equals, new = (part.strip() for part in entry.partition("="))
        if not original or (equals and not new):
            msg = f"expected --channels NAME[=AS],..., found: {text!r}"
            raise UsageError(msg, hint="for example --channels drive_end=x")
        name = new or channel_name(original)
        if channel_name(name) != name:
            msg = f"expected a channel name of letters, digits, '_' and '-', found: {name!r}"
            raise UsageError(msg, hint=f"for example {original}={channel_name(name)}")
        if original in [first for first, _ in pairs]:
            msg = f"expected each channel once in --channels, found twice: {original}"
            raise UsageError(msg, hint="name it once")
        pairs.append((original, name))
    return ChannelMap(tuple(pairs))


def choose(available: Sequence[str], wanted: ChannelMap | None, path: Path) -> ChannelMap:
    """The map for one recording: `wanted`, or every channel under its own name.

    Raises:
        RecordingError: the recording lacks a wanted channel.
    """
    if wanted is None:
        return ChannelMap(tuple(zip(available, _channel_names(available), strict=True)))
    for original, new in wanted.pairs:
        if original not in available:
            near = difflib.get_close_matches(original, available, 1)
            msg = f"expected a channel of {path}, found: {original}"
            hint = f"did you mean {near[0]}? " if near else ""
            example = f"--channels {(near or available)[0]}={new}"
            raise RecordingError(msg, hint=f"{hint}there are {', '.join(available)}: {example}")
    return wanted


def channel_name(text: str) -> str:
    """A valid channel name: the part before the dot in the name of a column. The unit in brackets is no part of it."""
    plain = split_unit(text)[0] if text.strip() else text
    return _NOT_CHANNEL.sub("_", anyascii(plain))[:64] or "_"


def _channel_names(available: Sequence[str]) -> list[str]:
    """Valid channel names that differ."""
    return [name if len(name) <= 64 else name[-64:] for name in unique([channel_name(name) for name in available])]


def id_text(text: str) -> str:
    """A valid machine or point id, and never `.` or `..`."""
    clean = _NOT_ID.sub("_", anyascii(text))
    return clean if clean.strip(".") else f"_{clean}"


# -- recordings and their streams ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One file: what it states about itself."""

    path: Path
    machine: str
    metadata: Mapping[str, Any]
    rate_hz: float
    unit: str  # g, m/s2, mm/s, V or 1
    channels: tuple[str, ...]  # original names
    samples: int  # per channel
    snapshots: bool  # whether it is a series of records that are not contiguous
    truth: str | None  # the fault class as the file names it
    speed_rpm: float | None
    left_out: tuple[str, ...] = ()  # columns without numbers, which are not channels
    part: str = ""  # the group of channels in a file with several
    siblings: tuple[str, ...] = ()  # the channels of all groups of the file
    scale: float = 1.0  # from the unit of the file to `unit`
    format: str = ""
    rate_from: str = ""  # where the rate stands
    start_from: str = ""  # where the start stands
    timing: Timing | None = None
    options: Options = field(default_factory=Options)
    specimen: str | None = None  # by the folder, if the metadata does not name the machine
    notes: tuple[str, ...] = ()  # what a person should know about this reading
    dialect: Mapping[str, Any] = field(default_factory=dict)  # how a text was understood

    @property
    def speed_source(self) -> str | None:
        """Where the speed is from, by `rpm_source` of the metadata; None if it does not say."""
        return source_of(self.metadata.get("rpm_source"))

    def orders(self, channel: str) -> BearingOrders | None:
        """Defect orders of the bearing at a channel, from `fault_orders_of_shaft`, which may be keyed by channel."""
        found = self.metadata.get("fault_orders_of_shaft")
        if not isinstance(found, dict):
            return None
        if any(isinstance(entry, dict) for entry in found.values()):
            found = found.get(channel)
        try:
            return _completed(found).orders if isinstance(found, dict) else None
        except ConfigError:
            return None  # `notes` names it

    def start_ns(self) -> int:
        """Time of the first sample: as the file states it, else a nominal time, the same at every reading."""
        offset = self.metadata.get("start_sample")
        skipped = int(offset) if isinstance(offset, int) and offset > 0 else 0
        known = self.metadata.get("start_time_ns")
        begin = known if isinstance(known, int) else NOMINAL_START_NS
        return begin + round(skipped / self.rate_hz * 1e9)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStream:
    """Channels of a recording under their new names: one measurement point of one machine."""

    recording: Recording
    key: StreamKey
    originals: tuple[str, ...]
    channels: tuple[str, ...]  # new names
    orders: BearingOrders | None

    def blocks(self, block_s: float = 10.0, *, session: int | None = None, t0_ns: int | None = None) -> Iterator[Block]:
        """The samples as blocks of `block_s` seconds (the last one shorter), numbered from 0.

        Args:
            block_s: length of a block; it does not change the windows.
            session: number of the session, or of the first snapshot's session (the next snapshots count up).
                Default: a number that follows from the file.
            t0_ns: time of the first sample. Default: as the file states it, or a nominal time.

        Raises:
            RecordingError: the file is unreadable, or the stream contains no number.
        """
        start_ns = self.recording.start_ns() if t0_ns is None else t0_ns
        first = default_session(self.recording, start_ns) if session is None else session
        size = max(1, round(block_s * self.recording.rate_hz))
        chunks = self._scaled(self._chunks(CHUNK_ROWS if self.recording.snapshots else max(size, CHUNK_ROWS)))
        if not self.recording.snapshots:
            yield from self._cut(chunks, first, start_ns, size)
            return
        index = read_snapshot_index(self.recording.path, self.recording.metadata, self.recording.rate_hz)
        lengths = [int(n) for n in np.diff(index.first_rows)]
        for k, record in enumerate(_split(chunks, lengths)):
            yield from self._cut(iter([record]), first + k, start_ns + int(index.times_ns[k]), size)

    def _chunks(self, rows: int) -> Iterator[Float32]:
        """Chunks of about `rows` samples. Checks first that there is a number among them."""
        path, chunks = self.recording.path, self._read(rows)
        first = next(chunks, None)
        if first is not None and np.isfinite(first).any():  # the usual case
            return itertools.chain([first], chunks)
        if not any(np.isfinite(chunk).any() for chunk in chunks):
            msg = f"expected samples in {path}, found no number in: {', '.join(self.originals)}"
            raise RecordingError(msg, hint="the sensor was disconnected, or the conversion failed")
        return self._read(rows)

    def _read(self, rows: int) -> Iterator[Float32]:
        one = self.recording
        return read_chunks(one.path, self.originals, rows, one.part, one.options)

    def _scaled(self, chunks: Iterator[Float32]) -> Iterator[Float32]:
        """The samples in the unit of the stream, and evenly in time."""
        scale = self.recording.scale
        if scale != 1.0:
            chunks = (np.multiply(chunk, scale, dtype=np.float64).astype(np.float32) for chunk in chunks)
        timing = self.recording.timing
        if timing is None or timing.times_s is None:
            return chunks
        return iter([_resampled(np.concatenate(list(chunks), axis=1), timing.times_s, self.recording.rate_hz)])

    def _cut(self, chunks: Iterator[Float32], session: int, start_ns: int, size: int) -> Iterator[Block]:
        at, rate_hz = 0, self.recording.rate_hz
        gaps = () if self.recording.timing is None else self.recording.timing.gaps
        jumps = dict(gaps)
        row = 0
        sizes = itertools.repeat(size) if not gaps else iter(_sizes(self.recording.samples, size, [g for g, _ in gaps]))
        for samples in _split(chunks, sizes):
            at += jumps.get(row, 0)
            row += samples.shape[1]
            yield Block(
                key=self.key,
                session=session,
                index=at,
                t0_ns=start_ns + round(at * 1e9 / rate_hz),
                rate_hz=rate_hz,
                channels=self.channels,
                unit=self.recording.unit,
                samples=samples,
                speed_rpm=self.recording.speed_rpm,
                orders=self.orders,
                truth=self.recording.truth,
                speed_source=self.recording.speed_source,
            )
            at += samples.shape[1]


def _sizes(samples: int, size: int, cuts: Sequence[int]) -> Iterator[int]:
    """Lengths of blocks that end at every cut."""
    row = 0
    for end in (*cuts, samples):
        while row < end:
            yield min(size, end - row)
            row += min(size, end - row)


def _resampled(samples: Float32, times_s: Float64, rate_hz: float) -> Float32:
    """Samples (C, n) at uneven times (n,) -> (C, m) at even ones, by straight lines between neighbours."""
    count = min(len(times_s), samples.shape[1])
    even = np.arange(int(times_s[count - 1] * rate_hz) + 1) / rate_hz
    lines = [np.interp(even, times_s[:count], row[:count]) for row in samples]
    return np.stack(lines).astype(np.float32)


def _split(chunks: Iterator[Float32], sizes: Iterator[int] | list[int]) -> Iterator[Float32]:
    """Chunks (C, any) -> contiguous arrays (C, size), one per size; the last one may be shorter."""
    held: list[Float32] = []
    count = 0
    for size in sizes:
        while count < size and (chunk := next(chunks, None)) is not None:
            held.append(chunk)
            count += chunk.shape[1]
        if not count:
            return
        whole = held[0] if len(held) == 1 else np.concatenate(held, axis=1)
        yield np.ascontiguousarray(whole[:, :size])
        held = [whole[:, size:]] if count > size else []
        count = max(0, count - size)


def open_recordings(path: Path, options: Options | None = None, where: Place | None = None) -> list[Recording]:
    """Opens a file: one recording per group of channels that share length, rate and unit, the longest first.

    Args:
        path: of the file.
        options: how to read it; its rate is used if the file does not state one.
        where: what file and folder say about the machine; default: by the path alone.

    Raises:
        RecordingError: the file is unreadable, or has no signal or no rate.
    """
    how = options or Options()
    if how.preset is not None:
        how = guarded(path, lambda: presets.prepared(path, how))
    name, parts = describe(path, how)
    if how.preset is not None:
        parts = presets.completed(path, parts, how.preset)
    parts = [one for one in parts if one.channels and one.samples]
    if not parts:
        msg = f"expected numeric channels with samples, found none: {path}"
        raise RecordingError(msg, hint="one column per channel, one row per sample")
    siblings = tuple(dict.fromkeys(channel for one in parts for channel in one.channels))
    found = [_recording(path, one, how, where or place(path), siblings, name) for one in parts]
    return sorted(found, key=lambda one: -one.samples)


def open_recording(path: Path, rate_hz: float | None = None) -> Recording:
    """Opens a file with one group of channels, or the longest group of it. `rate_hz` as in `Options`.

    Raises:
        RecordingError: the file is unreadable, or has no signal or no rate.
    """
    return open_recordings(path, Options(rate_hz=rate_hz))[0]


def _recording(
    path: Path, contents: Contents, how: Options, where: Place, siblings: tuple[str, ...], name: str
) -> Recording:
    """One group of channels of a file."""
    rate, rate_from, notes = contents.rate_hz, contents.rate_from, list(contents.notes)
    timing = contents.timing
    if rate is None:
        rate, rate_from = how.rate_hz, "--rate"
    elif how.rate_hz is not None and abs(rate - how.rate_hz) > 0.01 * rate:
        notes.append(f"the file says {rate:g} Hz ({rate_from}), which counts, and not --rate {how.rate_hz:g}")
    if rate is None and timing is not None:
        hint = f"{timing.column} only counts samples; give the rate in Hz: --rate 12000"
        msg = f"expected a sampling rate, found none in: {path}"
        raise RecordingError(msg, hint=hint)
    if rate is None:
        msg = f"expected a sampling rate, found none in: {path}"
        raise RecordingError(msg, hint="give it in Hz: --rate 12000")
    if not _positive(rate):
        msg = f"expected a sampling rate above 0 Hz, found in {path}: {rate}"
        raise RecordingError(msg, hint="correct sample_rate_hz in the recording's metadata, or --rate")
    samples = contents.samples
    if timing is not None:
        notes += [note for note in timing.notes if note not in notes]
        if timing.times_s is not None:
            samples = int(timing.times_s[-1] * rate) + 1
    unit, scale, words = _unit(contents.metadata, how)
    notes += words
    metadata = dict(contents.metadata)
    notes += _bearing_notes(metadata, contents.channels)
    truth, speed = metadata.get("fault_class"), metadata.get("rpm")
    named = _names_machine(metadata) and how.machine_from == "recording"
    if not named:
        metadata["original_name"] = where.name
    known = metadata.get("start_time_ns")
    start_from = "nominal"
    if isinstance(known, int):
        start_from = "the time column" if timing is not None and timing.start_ns is not None else "the file"
    return Recording(
        path=path,
        machine=machine_id(metadata, path) if named else where.machine,
        metadata=metadata,
        rate_hz=float(rate),
        unit=unit,
        channels=contents.channels,
        samples=samples,
        snapshots=contents.snapshots,
        truth=truth if isinstance(truth, str) and truth else None,
        speed_rpm=float(speed) if speed is not None and _positive(speed) else None,
        left_out=contents.left_out,
        part=contents.part,
        siblings=siblings,
        scale=scale,
        format=name,
        rate_from=rate_from,
        start_from=start_from,
        timing=timing,
        options=how,
        specimen=None if named else where.specimen,
        notes=tuple(notes),
        dialect=contents.dialect,
    )


def _unit(metadata: Mapping[str, Any], how: Options) -> tuple[str, float, list[str]]:
    """The unit of the contract, the factor to it, and what a person should know."""
    stated = metadata.get("units")
    text = how.unit if stated in (None, "") else str(stated)
    counts = metadata.get("scale")
    if text is not None and text.strip().lower() in _COUNTS and isinstance(counts, int | float):
        unit, scale = unit_of(str(metadata.get("scale_units", how.unit or "")))
        if unit != UNKNOWN:
            return unit, scale * float(counts), [f"counts x {counts:g} {metadata.get('scale_units', how.unit)}"]
    if text is None:
        return "1", 1.0, ["no unit is stated: no velocity and no zone can be computed (--unit g)"]
    unit, scale = unit_of(text)
    if unit == UNKNOWN:
        return "1", 1.0, [f"the unit {text!r} is unknown: no velocity and no zone can be computed (--unit)"]
    return unit, scale, [f"{text} is converted to {unit}: x {scale:g}"] if scale != 1.0 else []


def _names_machine(metadata: Mapping[str, Any]) -> bool:
    return any(metadata.get(name) not in (None, "") for name in ("dataset", "recording"))


def machine_id(metadata: Mapping[str, Any], path: Path) -> str:
    """`dataset-recording`, else an id by the file. Long names and letters outside ASCII get a hash at their end."""
    if not _names_machine(metadata):
        return place(path).machine
    given = [str(metadata[name]) for name in ("dataset", "recording") if metadata.get(name) not in (None, "")]
    whole = "-".join(given)
    if _PLAIN.fullmatch(whole):
        text = id_text(whole)
        return text if len(text) <= 64 else f"{text[:55]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return readable_id(whole)


def streams(recording: Recording, channel_map: ChannelMap | None = None) -> list[RecordedStream]:
    """The streams of a recording: all channels in one stream, or as the map states.

    The point of a stream is its original channel if it has only one, else `main`. A stream whose channels are at
    different bearings has no orders.

    Raises:
        RecordingError: the recording lacks a chosen channel.
    """
    found: list[RecordedStream] = []
    if channel_map is not None:
        choose(recording.siblings or recording.channels, channel_map, recording.path)
        here = tuple(pair for pair in channel_map.pairs if pair[0] in recording.channels)
        if not here:
            return []  # they are in another part of the file
        channel_map = ChannelMap(here)
    for group in choose(recording.channels, channel_map, recording.path).groups():
        originals, channels = zip(*group, strict=True)
        point = id_text(originals[0])[:64] if len(group) == 1 else "main"
        if recording.part:
            point = readable_id(
                recording.part if len(group) == len(recording.channels) else f"{recording.part}-{originals[0]}"
            )
        while any(stream.key.point == point for stream in found):
            point = f"{point[:62]}_2"
        orders = {recording.orders(name) for name in originals} - {None}
        shared = orders.pop() if len(orders) == 1 else None
        found.append(RecordedStream(recording, StreamKey(recording.machine, point), originals, channels, shared))
    return found


def default_session(recording: Recording, start_ns: int) -> int:
    """A session number that follows from the file: the start in ns.

    Recordings without a name of their own may share a file name, so a part of the hash of their content is added.
    """
    known = recording.metadata.get("recording") is not None
    return start_ns if known else start_ns + int(input_id(recording.path)[:7], 16)


def understood(recording: Recording, channel_map: ChannelMap | None = None) -> dict[str, Any]:
    """What was understood of a recording, as plain values: the answer of `backfill --dry-run`."""
    found = streams(recording, channel_map)
    start_ns, timing = recording.start_ns(), recording.timing
    return {
        "input": str(recording.path),
        "format": recording.format,
        "machine": recording.machine,
        "original_name": recording.metadata.get("original_name"),
        "specimen": recording.specimen,
        "streams": [
            {"point": one.key.point, "channels": dict(zip(one.originals, one.channels, strict=True))} for one in found
        ],
        "unit": recording.unit,
        "scale": recording.scale,
        "rate_hz": recording.rate_hz,
        "rate_from": recording.rate_from,
        "start": str(np.datetime64(start_ns, "ns").astype("datetime64[ms]")) + "Z",
        "start_from": recording.start_from,
        "samples": recording.samples,
        "length_s": round(recording.samples / recording.rate_hz, 6),
        "missing_samples": 0 if timing is None else timing.missing,
        "jitter": 0.0 if timing is None else round(timing.jitter, 6),
        "truth": recording.truth,
        "speed_rpm": recording.speed_rpm,
        "speed_source": recording.speed_source,
        "left_out": list(recording.left_out),
        "dialect": dict(recording.dialect) or None,
        "warnings": list(recording.notes),
    }


def _completed(found: Mapping[str, Any]) -> Completed:
    """The defect orders of metadata, completed.

    Raises:
        ConfigError: they do not determine a bearing.
    """
    elements = found.get("elements")
    whole = int(elements) if _positive(elements) and elements == int(elements) else None  # type: ignore[arg-type]
    return complete({name: float(found[name]) for name in ORDERS if _positive(found.get(name))}, whole)


def _bearing_notes(metadata: Mapping[str, Any], channels: Sequence[str]) -> list[str]:
    """What was derived of the bearings, what contradicts itself, and what is no bearing."""
    found = metadata.get("fault_orders_of_shaft")
    if not isinstance(found, dict):
        return []
    keyed = any(isinstance(entry, dict) for entry in found.values())
    notes = []
    for at, one in [(channel, found.get(channel)) for channel in channels] if keyed else [("", found)]:
        if not isinstance(one, dict):
            continue
        where = f"bearing at {at}" if at else "bearing"
        try:
            notes += [f"{where}: {note}" for note in _completed(one).notes]
        except ConfigError as error:
            notes.append(f"{where}: {error.message}; its defect lines are not looked for")
    return notes


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
