"""One reader per file format: `describe` reads what a file states about itself, `read_chunks` its samples in chunks.

`read_snapshot_index` reads the times of recordings that consist of short snapshots. Reading a file never runs code from
it: no pickle, no MATLAB objects.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.records import Float32
from pipeline.errors import RecordingError

CHUNK_ROWS = 65_536
SNAPSHOT, TIME_OF_DAY = "snapshot", "time_of_day_s"
# Columns about time, which are not channels.
_NOT_CHANNELS = {SNAPSHOT, TIME_OF_DAY, "time", "time_s", "timestamp", "t", "session", "index", "speed_rpm"}
_CWRU_NAMES = {"DE": "drive_end", "FE": "fan_end", "BA": "base"}
# Arrow's message about a bad cell: it counts columns from 0, and rows as lines of the file from 1.
_BAD_CELL = re.compile(r"In CSV column #(?P<column>\d+): Row #(?P<row>\d+): .* invalid value (?P<cell>.*)", re.DOTALL)
_MIN_MAT_SAMPLES = 16  # shorter MATLAB arrays are parameters, not signals
Int64 = NDArray[np.int64]
_DAY_NS = 86_400_000_000_000
_NEIGHBOURS = 2  # snapshots on each side that are used to detect a jump of the clock
_UNREADABLE = (
    OSError, pa.ArrowException, ValueError, KeyError, TypeError, NotImplementedError, MemoryError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file states about itself."""

    channels: tuple[str, ...]
    samples: int  # per channel
    rate_hz: float | None
    metadata: dict[str, Any]
    snapshots: bool = False  # whether it is a series of records that are not contiguous
    left_out: tuple[str, ...] = ()  # columns without numbers


def describe(path: Path) -> Contents:
    """Channels, length, rate and metadata of a file.

    Raises:
        RecordingError: the file is unreadable or has an unknown format.
    """
    return guarded(path, lambda: _of(path)[0](path))


def read_chunks(path: Path, channels: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Float32]:
    """Samples of some channels as (C, n) arrays, in order; n is about `rows`, if the format allows it."""
    chunks = guarded(path, lambda: _of(path)[1](path, channels, rows))
    while True:
        chunk = guarded(path, lambda: next(chunks, None))
        if chunk is None:
            return
        yield chunk


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Calls `read` and turns errors of the libraries into a RecordingError that names the file."""
    try:
        return read()
    except RecordingError:
        raise
    except FileNotFoundError as error:
        msg = f"expected a recording, found no such file: {path}"
        raise RecordingError(msg, hint="check the path") from error
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"expected a readable {path.suffix.lstrip('.') or 'recording'} file, found {path}: {reason}"
        old = isinstance(error, NotImplementedError)
        hint = "save it in MATLAB's -v7 format" if old else "check that the file is complete and has the right suffix"
        raise RecordingError(msg, hint=hint) from error


def _parquet(path: Path) -> Contents:
    file = pq.ParquetFile(path)
    schema, rows = file.schema_arrow, file.metadata.num_rows
    channels = tuple(field.name for field in schema if _is_numeric(field.type) and field.name not in _NOT_CHANNELS)
    metadata = json.loads((schema.metadata or {}).get(b"recording_metadata", b"{}"))
    if not isinstance(metadata, dict):
        msg = f"expected recording_metadata to be a JSON object, found in {path}: {type(metadata).__name__}"
        raise RecordingError(msg, hint="write it again with its metadata")
    rate = metadata.get("sample_rate_hz")
    return Contents(channels, rows, None if rate is None else float(rate), metadata, SNAPSHOT in schema.names)


def _parquet_chunks(path: Path, channels: Sequence[str], rows: int) -> Iterator[Float32]:
    for batch in pq.ParquetFile(path).iter_batches(rows, columns=list(channels), use_threads=False):
        yield _stack([batch.column(name).to_numpy(zero_copy_only=False) for name in channels])


def _csv_options(path: Path) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions, pa_csv.ConvertOptions]:
    """Separator, header and decimal sign, guessed from the first two lines."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in (file.readline(), file.readline())]
    separator = max(";\t,", key=lines[0].count)
    decimal = "," if separator == ";" and "," in lines[1] else "."
    first = [field.strip().strip('"') for field in lines[0].split(separator)]
    headless = bool(lines[0]) and all(_is_number(field.replace(decimal, ".")) for field in first)
    names = [f"ch{i + 1}" for i in range(len(first))] if headless else None
    return (
        pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 20),
        pa_csv.ParseOptions(delimiter=separator),
        pa_csv.ConvertOptions(decimal_point=decimal),
    )


def _csv(path: Path) -> Contents:
    """A column is a channel if its first block contains a number. A later word in it is then an error."""
    read, parse, convert = _csv_options(path)
    with pa_csv.open_csv(path, read, parse, convert) as reader:
        schema = reader.schema
    names = [name for name in schema.names if name not in _NOT_CHANNELS]
    texts = [name for name in names if not _is_numeric(schema.field(name).type)]
    if texts:
        convert.include_columns, convert.column_types = texts, dict.fromkeys(texts, pa.string())
        with pa_csv.open_csv(path, read, parse, convert) as reader:
            first = next(iter(reader), None)  # none if there is nothing but the header
        if first is not None:
            texts = [name for name in texts if not _holds_number(first[name].to_pylist(), convert.decimal_point)]
    channels = tuple(name for name in names if name not in texts)
    rows = 0
    if channels:  # counted as text: a cell that is not a number matters only when its channel is read
        convert.include_columns, convert.column_types = [channels[0]], {channels[0]: pa.string()}
        with pa_csv.open_csv(path, read, parse, convert) as reader:
            rows = sum(batch.num_rows for batch in reader)
    return Contents(channels, rows, None, {}, left_out=tuple(texts))


def _csv_chunks(path: Path, channels: Sequence[str], rows: int) -> Iterator[Float32]:
    """Chunks of the block size of the reader; `rows` is ignored."""
    read, parse, convert = _csv_options(path)
    convert.include_columns = list(channels)
    convert.column_types = dict.fromkeys(channels, pa.float64())  # the first lines may look like integers
    try:
        with pa_csv.open_csv(path, read, parse, convert) as reader:
            for batch in reader:
                yield _stack([column.to_numpy(zero_copy_only=False) for column in batch.columns])
    except pa.ArrowInvalid as error:
        found = _BAD_CELL.search(str(error))
        if found is None:
            raise
        with pa_csv.open_csv(path, read, parse) as reader:
            name = reader.schema.names[int(found["column"])]
        msg = f"expected numbers in column {name} of {path}, found in row {found['row']}: {found['cell']}"
        hint = "correct that cell or leave it empty, or take other channels with --channels"
        raise RecordingError(msg, hint=hint) from error


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _holds_number(cells: Sequence[str], decimal: str) -> bool:
    texts = (cell.replace(decimal, ".") for cell in cells)
    return any(_is_number(text) and math.isfinite(float(text)) for text in texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wav_data(path: Path) -> tuple[float, NDArray[Any]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of other programs, no matter to us
        try:
            rate, data = wavfile.read(path, mmap=True)
        except ValueError:  # 24 bit cannot be mapped
            rate, data = wavfile.read(path)
    return float(rate), data.reshape(len(data), -1)


def _wav(path: Path) -> Contents:
    rate, data = _wav_data(path)
    return Contents(tuple(f"ch{i + 1}" for i in range(data.shape[1])), len(data), rate, {})


def _wav_chunks(path: Path, channels: Sequence[str], rows: int) -> Iterator[Float32]:
    """Integer codes become fractions of full scale."""
    _, data = _wav_data(path)
    columns = [int(name.removeprefix("ch")) - 1 for name in channels]
    offset, scale = 0.0, 1.0
    if data.dtype.kind in "iu":
        info = np.iinfo(data.dtype)
        offset, scale = (128.0, 1 / 128) if info.min == 0 else (0.0, -1.0 / info.min)
    for row in range(0, len(data), rows):
        chunk = data[row : row + rows, columns].T.astype(np.float64)
        yield np.ascontiguousarray((chunk - offset) * scale, dtype=np.float32)


def _mat_data(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Signals by channel name, and the speed if there is one named like CWRU's X105RPM."""
    from scipy.io import loadmat

    arrays: dict[str, NDArray[Any]] = {}
    metadata: dict[str, Any] = {}
    for name, value in loadmat(path).items():
        if name.startswith("__") or not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            continue
        if value.size == 1 and name.upper().endswith("RPM"):
            metadata.setdefault("rpm", float(value.ravel()[0]))
        elif value.ndim <= 2 and value.size == max(value.shape) >= _MIN_MAT_SAMPLES:
            arrays[name] = value.ravel()
    longest = max((len(array) for array in arrays.values()), default=0)
    together = {name: array for name, array in arrays.items() if len(array) == longest}
    if len(together) < len(arrays):  # arrays of other lengths have other sampling times
        metadata["skipped_variables"] = ", ".join(sorted(set(arrays) - set(together)))
    short = {name: _mat_channel(name) for name in together}
    unique = len(set(short.values())) == len(short)
    return {short[name] if unique else name: array for name, array in together.items()}, metadata


def _mat_channel(name: str) -> str:
    """`X105_DE_time` -> `drive_end`: the names of CWRU without the file number."""
    match = re.fullmatch(r"X\d+_(\w+?)_time", name)
    return name if match is None else _CWRU_NAMES.get(match[1], match[1])


def _mat(path: Path) -> Contents:
    arrays, metadata = _mat_data(path)
    length = len(next(iter(arrays.values()))) if arrays else 0
    return Contents(tuple(arrays), length, None, metadata)


def _mat_chunks(path: Path, channels: Sequence[str], rows: int) -> Iterator[Float32]:
    arrays, _ = _mat_data(path)
    length = len(arrays[channels[0]])
    for row in range(0, length, rows):
        yield _stack([arrays[name][row : row + rows] for name in channels])


def _stack(columns: list[NDArray[Any]]) -> Float32:
    return np.stack([column.astype(np.float32, copy=False) for column in columns])


_Describe = Callable[[Path], Contents]
_Chunks = Callable[[Path, Sequence[str], int], Iterator[Float32]]
FORMATS: dict[str, tuple[_Describe, _Chunks]] = {
    ".parquet": (_parquet, _parquet_chunks),
    ".csv": (_csv, _csv_chunks),
    ".wav": (_wav, _wav_chunks),
    ".mat": (_mat, _mat_chunks),
}


def _of(path: Path) -> tuple[_Describe, _Chunks]:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        msg = f"expected a recording ({', '.join(sorted(FORMATS))}), found: {path}"
        raise RecordingError(msg, hint="convert it to Parquet with one column per channel")
    return found


# -- snapshots -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class SnapshotIndex:
    """The first row and the time of each of the S snapshots of a file."""

    first_rows: Int64  # (S + 1,); the last entry is the number of rows
    times_ns: Int64  # (S,) since the first snapshot, strictly increasing


def read_snapshot_index(path: Path, metadata: Mapping[str, Any], rate_hz: float) -> SnapshotIndex:
    """Reads the columns with the number and the time of day of the snapshots.

    Raises:
        RecordingError: the file is unreadable.
    """
    found: SnapshotIndex = guarded(path, lambda: _read(path, metadata, rate_hz))
    return found


def _read(path: Path, metadata: Mapping[str, Any], rate_hz: float) -> SnapshotIndex:
    file = pq.ParquetFile(path)
    names = [name for name in (SNAPSHOT, TIME_OF_DAY) if name in file.schema_arrow.names]
    starts: list[Int64] = []
    numbers: list[Int64] = []
    clocks: list[NDArray[np.float64]] = []
    row, last = 0, None
    for batch in file.iter_batches(CHUNK_ROWS, columns=names, use_threads=False):
        number = batch.column(SNAPSHOT).to_numpy(zero_copy_only=False).astype(np.int64)
        changed = np.flatnonzero(np.diff(number, prepend=number[0] - 1 if last is None else last))
        starts.append(changed + row)
        numbers.append(number[changed])
        if TIME_OF_DAY in names:
            clocks.append(batch.column(TIME_OF_DAY).to_numpy(zero_copy_only=False)[changed])
        row, last = row + len(number), number[-1]
    if not starts:
        return SnapshotIndex(np.zeros(1, np.int64), np.zeros(0, np.int64))
    first_rows = np.append(np.concatenate(starts), row)
    clock_s = np.concatenate(clocks) if clocks else None
    period_s = metadata.get("snapshot_period_s")
    times_ns = snapshot_times(
        np.concatenate(numbers), np.diff(first_rows) / rate_hz, clock_s, None if period_s is None else float(period_s)
    )
    return SnapshotIndex(first_rows, times_ns)


def snapshot_times(
    numbers: Int64, lengths_s: NDArray[np.float64], clock_s: NDArray[np.float64] | None, period_s: float | None
) -> Int64:
    """The time of each snapshot, in ns since the first one, strictly increasing; all arrays (S,).

    The clock decides, also over midnight and over pauses. A snapshot whose clock is more than half a period off its
    neighbours gets number x period instead: the clock jumped. Without a clock the time is number x period; without a
    period the snapshots follow each other.
    """
    if clock_s is not None and np.all(np.isfinite(clock_s)):
        clock = np.round(clock_s * 1e9).astype(np.int64)
        clock += _DAY_NS * np.cumsum(np.diff(clock, prepend=clock[0]) < -_DAY_NS // 2)
        if period_s is None:
            step = np.diff(clock)
            period_s = float(np.median(step)) / 1e9 if len(step) else 1.0
        period_ns = round(period_s * 1e9)
        offset = clock - numbers * period_ns
        around = np.lib.stride_tricks.sliding_window_view(
            np.pad(offset, _NEIGHBOURS, mode="reflect" if len(offset) > _NEIGHBOURS else "edge"), 2 * _NEIGHBOURS + 1
        )
        usual = np.median(around, axis=-1).astype(np.int64)
        times = np.where(np.abs(offset - usual) > period_ns // 2, usual + numbers * period_ns, clock)
    elif period_s is not None:
        times = numbers * round(period_s * 1e9)
    else:
        times = np.round(np.cumsum(lengths_s) * 1e9).astype(np.int64) - np.round(lengths_s * 1e9).astype(np.int64)
    times = times - times[0]
    lengths_ns = np.maximum(1, np.round(lengths_s * 1e9).astype(np.int64))
    for i in range(1, len(times)):  # rare: snapshot numbers that decrease, or snapshots that overlap
        times[i] = max(times[i], times[i - 1] + lengths_ns[i - 1])
    return times
