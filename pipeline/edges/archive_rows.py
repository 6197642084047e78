"""Feature rows as the engine made them, back from the archive: for whoever steps a network over what is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.store.read import read_features

MACHINES_PER_READ = 256  # bounds the memory


def rows_of(table: pa.Table, features: Sequence[str]) -> dict[StreamKey, list[FeatureRow]]:
    """Rows per stream, in the order of the table; times have lost what is below a microsecond.

    Args:
        table: As `read_features` returns it, all columns.
        features: Names of the feature table, in its order.
    """
    channels = list(dict.fromkeys(name.rpartition(".")[0] for name in table.column_names if "." in name))
    stacked = np.full((table.num_rows, len(channels), len(features)), np.nan, np.float32)  # (N, C, F)
    there = np.zeros((table.num_rows, len(channels)), np.bool_)  # null = the stream has no such channel
    for c, channel in enumerate(channels):
        for f, feature in enumerate(features):
            if f"{channel}.{feature}" in table.column_names:
                column = table.column(f"{channel}.{feature}")
                stacked[:, c, f] = column.to_numpy(zero_copy_only=False)
                there[:, c] |= column.is_valid().to_numpy(zero_copy_only=False)
    start_ns, end_ns = (_ns(table, name) for name in ("start", "end"))
    names = ("machine", "point", "session", "window", "rate_hz", "speed_rpm", "coverage", "quality", "truth", "schema")
    columns = [table.column(name).to_pylist() for name in names]
    rows: dict[StreamKey, list[FeatureRow]] = {}
    for i, (machine, point, session, window, rate_hz, speed_rpm, coverage, quality, truth, schema) in enumerate(
        zip(*columns, strict=True)
    ):
        key = StreamKey(machine, point)
        rows.setdefault(key, []).append(
            FeatureRow(
                key=key,
                session=session,
                window=window,
                start_ns=int(start_ns[i]),
                end_ns=int(end_ns[i]),
                rate_hz=rate_hz,
                speed_rpm=speed_rpm,
                coverage=coverage,
                quality=quality,
                truth=truth,
                channels=tuple(channel for c, channel in enumerate(channels) if there[i, c]),
                values=stacked[i, there[i]],
                schema=schema,
            )
        )
    return rows


def last_rows(
    data_dir: Path, until_ns: Mapping[StreamKey, int], span_s: float, count: int, features: Sequence[str]
) -> dict[StreamKey, list[FeatureRow]]:
    """The last `count` rows of every stream that end at its time or before, and at most `span_s` before it.

    Streams that ended within the same hour are read together.
    """
    hours: dict[int, list[StreamKey]] = {}
    for key, ns in until_ns.items():
        hours.setdefault(ns // 3_600_000_000_000, []).append(key)
    rows: dict[StreamKey, list[FeatureRow]] = {}
    for keys in hours.values():
        machines = sorted({key.machine for key in keys})
        first_ns = min(until_ns[key] for key in keys)
        last_ns = max(until_ns[key] for key in keys)
        for place in range(0, len(machines), MACHINES_PER_READ):
            some = machines[place : place + MACHINES_PER_READ]
            found = rows_of(_between(data_dir, some, first_ns - round(span_s * 1e9), last_ns), features)
            for key in keys:
                past = [row for row in found.get(key, ()) if row.end_ns <= until_ns[key]]
                if past:
                    rows[key] = past[-count:]
    return rows


def _between(data_dir: Path, machines: Collection[str], start_ns: int, end_ns: int) -> pa.Table:
    return read_features(data_dir, machines=machines, start=_time(start_ns), end=_time(end_ns))


def _time(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def _ns(table: pa.Table, column: str) -> np.ndarray:
    return table.column(column).to_numpy().astype("datetime64[ns]").astype(np.int64)
