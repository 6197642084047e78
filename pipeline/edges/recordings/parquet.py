"""Parquet: recordings of thrumcast with their metadata, and tables of others with or without a time column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.records import Float32
from pipeline.edges.recordings import clock, columns
from pipeline.edges.recordings.contents import Contents, Options, Timing, stacked
from pipeline.edges.recordings.snapshots import SNAPSHOT, TIME_OF_DAY
from pipeline.edges.recordings.text import by_unit
from pipeline.errors import RecordingError

# Columns about time and place, which are not channels.
NOT_CHANNELS = {SNAPSHOT, TIME_OF_DAY, "time", "time_s", "timestamp", "t", "session", "index", "speed_rpm"}
_HEAD_ROWS = 4096


def describe(path: Path, options: Options) -> list[Contents]:
    """Channels are the columns of numbers. With `recording_metadata` only names decide what is time."""
    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        own = b"recording_metadata" in (schema.metadata or {})
        metadata = json.loads((schema.metadata or {}).get(b"recording_metadata", b"{}"))
        if not isinstance(metadata, dict):
            msg = f"expected recording_metadata to be a JSON object, found in {path}: {type(metadata).__name__}"
            raise RecordingError(msg, hint="write it again with its metadata")
        rate = metadata.get("sample_rate_hz")
        rate = None if rate is None else float(rate)
        numeric = [field.name for field in schema if is_numeric(field.type)]
        moments = [field.name for field in schema if pa.types.is_timestamp(field.type)]
        if SNAPSHOT in schema.names or "readings_version" in metadata:
            channels = tuple(name for name in numeric if name not in NOT_CHANNELS)
            return [Contents(channels, rows, rate, metadata, SNAPSHOT in schema.names, rate_from="metadata")]
        time = _time(file, [*numeric, *moments], own)
        about = {*time.chosen, *time.others, *moments}
        channels = tuple(name for name in numeric if name not in about and name not in NOT_CHANNELS)
        notes: list[str] = []
        if not own:
            head = next(file.iter_batches(_HEAD_ROWS, columns=list(channels), use_threads=False), None)
            first = {} if head is None else {name: head[name].to_numpy(zero_copy_only=False) for name in channels}
            kept, speed_rpm, notes = columns.set_apart(channels, first) if first else (channels, None, [])
            channels = tuple(kept)
            metadata = metadata if speed_rpm is None else {"rpm": speed_rpm} | metadata
        left_out = () if own else tuple(name for name in schema.names if name not in {*numeric, *about})
        if len(set(schema.names)) < len(schema.names):
            msg = f"expected columns of different names in {path}, found twice: "
            msg += next(name for name in schema.names if schema.names.count(name) > 1)
            raise RecordingError(msg, hint="rename one of them")
        timing = _timing(path, file, time, rate, options)
    rate_from = "metadata" if rate is not None else ""
    if about:
        notes.append(f"{', '.join(sorted(about))} is time, not a channel")
    if timing is not None and timing.rate_hz is not None:
        rate_from = rate_from or f"the time column {timing.column}"
        rate = timing.rate_hz if rate is None else rate
    if timing is not None and timing.start_ns is not None:
        known = metadata.get("start_time_ns")
        if isinstance(known, int) and abs(known - timing.start_ns) > 10**9:
            a, b = (np.datetime64(one, "ns").astype("datetime64[s]") for one in (timing.start_ns, known))
            msg = f"expected the start of the time column {timing.column} of {path}, {a}, found in its metadata: {b}"
            raise RecordingError(msg, hint="correct start_time_ns, or --uneven ignore")
        metadata = metadata | {"start_time_ns": timing.start_ns}
    whole = Contents(
        channels, rows, rate, metadata, left_out=left_out, timing=timing, rate_from=rate_from, notes=tuple(notes)
    )
    if "units" in metadata:
        return [whole]
    return by_unit(whole, {name: clock.split_unit(name)[1] or columns.unit_in(name) for name in channels})


def _time(file: pq.ParquetFile, names: Sequence[str], own: bool) -> clock.TimeColumns:
    """The time columns, by the first rows."""
    batch = next(file.iter_batches(_HEAD_ROWS, columns=list(names), use_threads=False), None)
    if batch is None or not names:
        return clock.TimeColumns()
    head: dict[str, Any] = {}
    for name in names:
        column = batch.column(batch.schema.get_field_index(name))
        if pa.types.is_timestamp(column.type):
            head[name] = ["2000-01-01 00:00:00"] * 4
        else:
            head[name] = column.to_numpy(zero_copy_only=False)
    return clock.find_time(head, trusted=own)


def _timing(
    path: Path, file: pq.ParquetFile, time: clock.TimeColumns, rate: float | None, options: Options
) -> Timing | None:
    if not time.chosen:
        return None
    name = time.chosen[0]
    column = file.read(columns=[name], use_threads=False)[name].combine_chunks()
    dated = pa.types.is_timestamp(column.type)
    if dated:
        if column.null_count:
            msg = f"expected a time in every row of column {name} of {path}, found {column.null_count} rows without"
            raise RecordingError(msg, hint="correct these rows, or --uneven ignore with --rate")
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    stated, by = (rate, "sample_rate_hz") if rate is not None else (options.rate_hz, "--rate")
    return clock.judge(
        path, name, column.to_numpy(zero_copy_only=False), text=dated, dated=dated, stated_hz=stated, stated_by=by,
        uneven=options.uneven,
    )  # fmt: skip


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column holds numbers."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def chunks(path: Path, part: str, channels: Sequence[str], rows: int, options: Options) -> Iterator[Float32]:
    """Chunks of `rows` samples."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows, columns=list(channels), use_threads=False):
            yield stacked([batch.column(name).to_numpy(zero_copy_only=False) for name in channels])
