"""History: minimum, maximum and mean of every feature per minute, 10 minutes and 2 hours, one file per finished day.

A long trend would read millions of rows. `read_points` reads the buckets of finished days from `DIR/history` instead,
and rows from the archive and the journal for the rest. Every row is in exactly one bucket or is read itself, so the
extremes of any range are those of its rows.

The files are a cache. A day's file names the parts that it was made from, by their checksums in the manifest. If those
are no longer the parts of the day, or the file is damaged, its rows are read and `build` makes the file again. A file
appears by rename, so a writer that dies leaves nothing that is read.

Format: MAGIC, then blocks, then a JSON index, its length and CRC-32 (`<II`), and MAGIC again. A block holds one stream
at one level: `<u4` CRC-32 of the places and of each column; the places, `<i8` starts in microseconds and `<u4` rows;
then per column `<f4` minima, maxima and means and `<u4` counts of finite values.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.records import Float32, StreamKey
from pipeline.edges.store.database import JournalView, storage_error, view_journal
from pipeline.edges.store.parts import give_back
from pipeline.edges.store.read import Layout, Selection, check_directory, lay_out, read_found, read_rows
from pipeline.edges.store.schema import ARCHIVE_NAME, Part, conform

HISTORY_NAME = "history"
LEVELS_S = (60, 600, 7200)
RUN_COLUMN = {"features": "session", "predictions": "model"}  # whose changes are kept, per kind
MOST_RUNS = 200  # per stream and day
BATCH_ROWS = 200_000  # of whole machines that are reduced at once; bounds the memory of a build
BATCH_COLUMNS = 24  # that are read at once
MAGIC = b"THRHIST1"
_TAIL = struct.Struct("<II8s")

Int64 = NDArray[np.int64]


class Damaged(Exception):
    """A file of the history cannot be used."""


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of one stream and column, or buckets of rows, sorted by time; a row is a bucket of its own."""

    at_us: Int64
    rows: Int64
    low: Float32
    high: Float32
    mean: Float32
    count: Int64  # finite values
    runs: tuple[tuple[int, str], ...]  # when the session or model changed, and to what; the first may be no change

    @classmethod
    def of_rows(cls, at_us: Int64, values: Float32, runs: tuple[tuple[int, str], ...] = ()) -> Points:
        """Each row as it is."""
        return cls(at_us, np.ones_like(at_us), values, values, values, np.isfinite(values).astype(np.int64), runs)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All of it but the runs."""
        return self.at_us, self.rows, self.low, self.high, self.mean, self.count


def level_of(width_s: float) -> int | None:
    """The widest level that is not wider than a bucket of a picture; None: it needs the rows."""
    return max((level for level in LEVELS_S if level <= width_s), default=None)


def read_points(
    data_dir: Path, key: StreamKey, column: str | None, start_us: int, end_us: int, level_s: int | None
) -> Points:
    """The points of a stream with a start in [start_us, end_us).

    Args:
        data_dir: A data directory.
        key: The stream.
        column: A column of the features, such as `x.rms`; None: the runs of the predictions.
        start_us: Microseconds since 1970; a multiple of the level, if there is one.
        end_us: The same.
        level_s: Buckets of finished days, in seconds, one of `LEVELS_S`; None: only rows.

    Raises:
        ArchiveError: the column is unknown, or the archive cannot be read.
    """
    kind = "predictions" if column is None else "features"
    selection = Selection({key.machine}, _time(start_us), _time(end_us))
    last_day = (_time(end_us) + timedelta(days=1)).date().isoformat()  # a window's day is that of its end

    def look() -> tuple[Layout, list[Points]]:
        check_directory(data_dir)
        view = view_journal(data_dir, (kind,))
        if view is None:
            return lay_out(data_dir, kind, None, selection), []
        found, left = [], []
        for day, parts in days_of(view, kind).items():
            if day > last_day or not selection.may_hold(day):
                continue
            points = None if level_s is None else _kept(data_dir, kind, day, parts, key, column, level_s)
            if points is None:
                left += parts
            else:
                found.append(_within(points, start_us, end_us))
        return lay_out(data_dir, kind, replace(view, parts=tuple(left)), selection), found

    def read(found: tuple[Layout, list[Points]]) -> Points:
        layout, points = found
        run, wanted = RUN_COLUMN[kind], [] if column is None else [column]
        table = read_rows(layout, kind, ["point", "start", run, *wanted], selection)
        table = table.filter(pa.array(table.column("point").to_numpy(zero_copy_only=False) == key.point))
        at_us = _micros(table.column("start"))
        values = np.full(len(at_us), np.nan, np.float32)
        if column is not None:
            values = table.column(column).to_numpy(zero_copy_only=False).astype(np.float32)
        return _joined([*points, Points.of_rows(at_us, values, _runs(at_us, table.column(run)))])

    return read_found(data_dir, look, read)


@dataclass(frozen=True, slots=True)
class Built:
    """A file that was made."""

    kind: str
    date: str
    rows: int
    bytes: int


def build(
    data_dir: Path, before: date, *, again: bool = False, go_on: Callable[[], None] = lambda: None
) -> Iterator[Built]:
    """Makes the files of the days before `before` that lack one, newest first; and removes those of days that are gone.

    Another process that builds at the same time makes this one do nothing.

    Args:
        data_dir: A data directory.
        before: Only days before this one, which get no more rows but late ones.
        again: Make all files again.
        go_on: Is called between batches of rows and may raise to end the build.

    Raises:
        ArchiveError: the archive cannot be read, or the disk refuses a file.
    """
    with contextlib.ExitStack() as stack:
        folder = data_dir / HISTORY_NAME
        try:
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
        except OSError as error:
            raise storage_error(folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        view = view_journal(data_dir, ())
        if view is None:
            return
        for kind in RUN_COLUMN:
            days = days_of(view, kind)
            _remove_others(folder / kind, days)
            for day, parts in sorted(days.items(), reverse=True):
                path = path_of(data_dir, kind, day)
                if day >= before.isoformat() or (not again and _is_of(path, parts)):
                    continue
                built = _build_day(data_dir, kind, day, view, parts, go_on)
                if built is not None:
                    yield built


def path_of(data_dir: Path, kind: str, day: str) -> Path:
    """The file of a day."""
    return data_dir / HISTORY_NAME / kind / f"{day}.history"


def days_of(view: JournalView, kind: str) -> dict[str, list[Part]]:
    """The parts of a kind by day."""
    found: dict[str, list[Part]] = {}
    for part in view.parts:
        if part.kind == kind:
            found.setdefault(part.date, []).append(part)
    return found


# -- points ----------------------------------------------------------------------------------------------------------


def _within(points: Points, start_us: int, end_us: int) -> Points:
    first, last = np.searchsorted(points.at_us, [start_us, end_us])
    at_us, rows, low, high, mean, count = (array[first:last] for array in points.arrays())
    return Points(at_us, rows, low, high, mean, count, tuple(run for run in points.runs if run[0] < end_us))


def _joined(several: Sequence[Points]) -> Points:
    joined = [np.concatenate(arrays) for arrays in zip(*(points.arrays() for points in several), strict=True)]
    order = np.argsort(joined[0], kind="stable")
    runs = sorted(run for points in several for run in points.runs)
    changes = [run for i, run in enumerate(runs) if not i or runs[i - 1][1] != run[1]]
    at_us, rows, low, high, mean, count = (array[order] for array in joined)
    return Points(at_us, rows, low, high, mean, count, tuple(changes))


def _runs(at_us: Int64, values: pa.ChunkedArray) -> tuple[tuple[int, str], ...]:
    """Where a column changes, and the first row. The rows are sorted by time."""
    if not len(at_us):
        return ()
    codes = values.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    places = np.concatenate([[0], np.nonzero(codes[1:] != codes[:-1])[0] + 1])[:MOST_RUNS]
    return tuple((int(at_us[i]), str(values[i].as_py())) for i in places)


def _micros(column: pa.ChunkedArray) -> Int64:
    found: Int64 = column.cast(pa.int64()).to_numpy()
    return found


def _time(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


# -- reading a file --------------------------------------------------------------------------------------------------


class _Stream(msgspec.Struct):
    machine: str
    point: str
    columns: int  # place in the index's column lists
    blocks: list[tuple[int, int]]  # per level: place in the file, and buckets
    runs: list[tuple[int, str]]


class _Index(msgspec.Struct):
    parts: str
    columns: list[list[str]]
    streams: list[_Stream]


def _fingerprint(parts: Sequence[Part]) -> str:
    return hashlib.sha256("".join(sorted(part.sha256 for part in parts)).encode()).hexdigest()


def _read_index(file: IO[bytes]) -> _Index:
    try:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL.size))
        size, checksum, magic = _TAIL.unpack(file.read(_TAIL.size))
        if magic != MAGIC or size > end:
            raise Damaged
        file.seek(end - _TAIL.size - size)
        content = file.read(size)
        if zlib.crc32(content) != checksum:
            raise Damaged
        return msgspec.json.decode(content, type=_Index)
    except (struct.error, msgspec.DecodeError, OSError) as error:
        raise Damaged from error


def _is_of(path: Path, parts: Sequence[Part]) -> bool:
    try:
        with path.open("rb") as file:
            return _read_index(file).parts == _fingerprint(parts)
    except (OSError, Damaged):
        return False


def _kept(
    data_dir: Path, kind: str, day: str, parts: Sequence[Part], key: StreamKey, column: str | None, level_s: int
) -> Points | None:
    """What the file of a day says; None: there is none of these parts. A damaged file is removed and made again."""
    path = path_of(data_dir, kind, day)
    try:
        with path.open("rb") as file:
            index = _read_index(file)
            if index.parts != _fingerprint(parts):
                return None
            for stream in index.streams:
                if (stream.machine, stream.point) == key:
                    return _read_block(file, index, stream, column, LEVELS_S.index(level_s))
            return _NOTHING
    except (Damaged, ValueError):  # the latter where a block ends too early
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError:
        pass
    return None


def _read_block(file: IO[bytes], index: _Index, stream: _Stream, column: str | None, level: int) -> Points:
    place, n = stream.blocks[level]
    columns = index.columns[stream.columns]
    file.seek(place)
    checksums = np.frombuffer(file.read(4 * (1 + len(columns))), "<u4")
    content = file.read(12 * n)
    if len(checksums) != 1 + len(columns) or zlib.crc32(content) != checksums[0]:
        raise Damaged
    at_us, rows = np.frombuffer(content, "<i8", n), np.frombuffer(content, "<u4", n, 8 * n).astype(np.int64)
    low, high, mean = (np.full(n, np.nan, np.float32) for _ in range(3))
    count = np.zeros(n, np.int64)
    if column in columns:
        i = columns.index(column)
        file.seek(16 * n * i, os.SEEK_CUR)
        content = file.read(16 * n)
        if zlib.crc32(content) != checksums[1 + i]:
            raise Damaged
        low, high, mean = np.frombuffer(content, "<f4", 3 * n).reshape(3, n)
        count = np.frombuffer(content, "<u4", n, 12 * n).astype(np.int64)
    return Points(at_us, rows, low, high, mean, count, tuple(stream.runs))


_NONE = np.empty(0, np.float32)
_NOTHING = Points(np.empty(0, np.int64), np.empty(0, np.int64), _NONE, _NONE, _NONE, np.empty(0, np.int64), ())


# -- making a file ---------------------------------------------------------------------------------------------------


def _remove_others(folder: Path, days: dict[str, list[Part]]) -> None:
    """Removes what a writer that died has left, and files of days that the archive has no longer."""
    for path in folder.glob("*"):
        if path.suffix != ".history" or path.stem not in days:
            with contextlib.suppress(OSError):
                path.unlink()


def _build_day(
    data_dir: Path, kind: str, day: str, view: JournalView, parts: Sequence[Part], go_on: Callable[[], None]
) -> Built | None:
    """None: a part was replaced meanwhile; the next build makes the file."""
    path = path_of(data_dir, kind, day)
    staged = path.with_suffix(".tmp")
    index = _Index(_fingerprint(parts), [], [])
    paths = [data_dir / ARCHIVE_NAME / part.relative for part in parts]
    try:
        path.parent.mkdir(exist_ok=True)
        with staged.open("wb") as file:
            file.write(MAGIC)
            for machines in _batches(paths):
                go_on()
                _write_batch(file, index, kind, view.arrow_schema(kind), paths, machines, go_on)
            content = msgspec.json.encode(index)
            file.write(content + _TAIL.pack(len(content), zlib.crc32(content), MAGIC))
            size = file.tell()
        staged.replace(path)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        raise storage_error(path, error) from error
    finally:
        give_back()
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
    return Built(kind, day, sum(part.rows for part in parts), size)


def _batches(paths: Sequence[Path]) -> Iterator[list[str]]:
    """The machines of a day, in groups of about `BATCH_ROWS` rows."""
    rows: dict[str, int] = {}
    for path in paths:
        for pair in pq.read_table(path, columns=["machine"], partitioning=None, use_threads=False)[
            "machine"
        ].value_counts():
            rows[pair["values"].as_py()] = rows.get(pair["values"].as_py(), 0) + pair["counts"].as_py()
    batch: list[str] = []
    waiting = 0
    for machine in sorted(rows):
        if batch and waiting + rows[machine] > BATCH_ROWS:
            yield batch
            batch, waiting = [], 0
        batch.append(machine)
        waiting += rows[machine]
    if batch:
        yield batch


def _write_batch(
    file: IO[bytes],
    index: _Index,
    kind: str,
    schema: pa.Schema,
    paths: Sequence[Path],
    machines: list[str],
    go_on: Callable[[], None],
) -> None:
    import pyarrow.compute as pc

    names = [n for n in schema.names if kind == "features" and "." in n]
    keys = ["machine", "point", "start", RUN_COLUMN[kind]]

    def read(columns: list[str]) -> pa.Table:
        wanted = pa.schema([schema.field(n) for n in columns])
        where = pc.field("machine").isin(pa.array(machines, pa.string()))
        tables = []
        for path in paths:
            have = set(pq.read_schema(path).names)
            some = [n for n in columns if n in have]
            table = pq.read_table(path, columns=some, filters=where, partitioning=None, use_threads=False)
            tables.append(conform(table, wanted))
        return pa.concat_tables(tables)

    table = read(keys)
    order = pc.sort_indices(table, sort_keys=[(n, "ascending") for n in keys[:3]]).to_numpy()
    table = table.take(pa.array(order))
    at_us = _micros(table["start"])
    streams = [table[n].combine_chunks().dictionary_encode().indices.to_numpy() for n in keys[:2]]
    changes = np.nonzero((streams[0][1:] != streams[0][:-1]) | (streams[1][1:] != streams[1][:-1]))[0] + 1
    first = np.concatenate([[0], changes, [len(at_us)]])  # of each stream's rows
    stream = np.repeat(np.arange(len(first) - 1), np.diff(first))
    levels = [_Level.of(stream, at_us, np.ones(len(at_us), np.int64), LEVELS_S[0])]
    for level_s in LEVELS_S[1:]:
        levels.append(_Level.of(levels[-1].stream, levels[-1].at_us, levels[-1].rows, level_s))
    # Per level an array (columns, 4, buckets).
    reduced = [np.empty((len(names), 4, len(level.at_us)), "<f4") for level in levels]
    for some in range(0, len(names), BATCH_COLUMNS):
        go_on()
        ours = names[some : some + BATCH_COLUMNS]
        values = read(ours)
        for name in ours:
            one = values[name].to_numpy(zero_copy_only=False).astype(np.float32)[order]
            one[~np.isfinite(one)] = np.nan
            parts = (one, one, one, np.isfinite(one).astype(np.int64))
            for level, into in zip(levels, reduced, strict=True):
                parts = level.reduce(*parts)
                into[names.index(name), :3] = parts[:3]
                into[names.index(name), 3] = parts[3].astype("<u4").view("<f4")
        del values
    for s in range(len(first) - 1):
        spans = [slice(*np.searchsorted(level.stream, [s, s + 1])) for level in levels]
        counts = reduced[-1][:, 3, spans[-1]].view("<u4")
        have = np.nonzero(counts.any(axis=1))[0] if names else np.empty(0, np.int64)
        listed = [names[i] for i in have]
        if listed not in index.columns:
            index.columns.append(listed)
        blocks = []
        for level, into, span in zip(levels, reduced, spans, strict=True):
            places = level.at_us[span].astype("<i8").tobytes() + level.rows[span].astype("<u4").tobytes()
            columns = [np.ascontiguousarray(into[i, :, span]).tobytes() for i in have]
            checksums = np.array([zlib.crc32(block) for block in (places, *columns)], "<u4")
            blocks.append((file.tell(), len(level.at_us[span])))
            file.write(b"".join([checksums.tobytes(), places, *columns]))
        rows = slice(first[s], first[s + 1])
        machine, point = table["machine"][first[s]].as_py(), table["point"][first[s]].as_py()
        runs = list(_runs(at_us[rows], table[RUN_COLUMN[kind]].slice(first[s], first[s + 1] - first[s])))
        index.streams.append(_Stream(machine, point, index.columns.index(listed), blocks, runs))


@dataclass(frozen=True, slots=True)
class _Level:
    """Buckets of one width over rows, or over the buckets of a finer level, sorted by stream and time."""

    stream: Int64
    at_us: Int64
    rows: Int64
    first: Int64  # the first row of each bucket

    @classmethod
    def of(cls, stream: Int64, at_us: Int64, rows: Int64, level_s: int) -> _Level:
        place = at_us // (level_s * 1_000_000)
        change = (place[1:] != place[:-1]) | (stream[1:] != stream[:-1])
        first = np.concatenate([[0], np.nonzero(change)[0] + 1])
        return cls(stream[first], place[first] * level_s * 1_000_000, np.add.reduceat(rows, first), first)

    def reduce(self, low: Any, high: Any, mean: Any, count: Int64) -> tuple[Any, Any, Any, Int64]:
        """Minimum, maximum, mean and count of each bucket; NaN where there is no finite value."""
        n = np.add.reduceat(count, self.first)
        total = np.add.reduceat(np.where(count > 0, mean.astype(np.float64), 0.0) * count, self.first)
        with np.errstate(invalid="ignore", divide="ignore"):
            average = np.where(n > 0, total / n, np.nan).astype(np.float32)
        return np.fmin.reduceat(low, self.first), np.fmax.reduceat(high, self.first), average, n
