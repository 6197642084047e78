"""The times of recordings that consist of short snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.edges.recordings.contents import CHUNK_ROWS, guarded

SNAPSHOT, TIME_OF_DAY = "snapshot", "time_of_day_s"
Int64 = NDArray[np.int64]
_DAY_NS = 86_400_000_000_000
_NEIGHBOURS = 2  # snapshots on each side that are used to detect a jump of the clock


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
