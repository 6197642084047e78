"""Rows -> Arrow tables, one function per kind of archive."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.core.records import AlarmChange, FeatureRow, Forecast, Prediction
from pipeline.edges.archive_schema import TIME, FeatureSchema, extra_columns, schema_error
from pipeline.errors import SchemaError

__all__ = [
    "FeatureSchema",
    "Quarantined",
    "alarm_table",
    "feature_tables",
    "forecast_table",
    "prediction_table",
    "quarantine_table",
]

END = "end"  # in the place of a mode: nothing else comes

QUARANTINE_BYTES = 4096  # of a refused payload that are kept


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that was refused: enough of it to find out why."""

    topic: str
    at_ns: int
    reason: str  # one of a few fixed words
    payload: bytes  # its first 4 KiB are kept
    size_bytes: int


def feature_tables(rows: Iterable[FeatureRow], schema: FeatureSchema) -> list[tuple[tuple[str, ...], pa.Table]]:
    """Rows -> (channels, table) per set of channels."""
    groups: dict[tuple[str, ...], list[FeatureRow]] = defaultdict(list)
    for row in rows:
        if row.schema != schema.name:
            raise schema_error(schema.name, row.schema, f"a row of {row.key}")
        groups[row.channels].append(row)
    return [(channels, _feature_table(channels, group, schema)) for channels, group in groups.items()]


def _feature_table(channels: tuple[str, ...], rows: list[FeatureRow], schema: FeatureSchema) -> pa.Table:
    columns = _address(rows)
    columns["rate_hz"] = pa.array([row.rate_hz for row in rows], pa.float64())
    columns["speed_rpm"] = pa.array([row.speed_rpm for row in rows], pa.float64())
    columns["coverage"] = pa.array([row.coverage for row in rows], pa.float64())
    columns["quality"] = pa.array([row.quality for row in rows], pa.uint32())
    columns["truth"] = pa.array([row.truth for row in rows], pa.string())
    columns["schema"] = pa.array([row.schema for row in rows], pa.string())
    shape = (len(channels), len(schema.features))
    if any(row.values.shape != shape for row in rows):
        found = next(row.values.shape for row in rows if row.values.shape != shape)
        msg = f"expected feature values of shape {shape} (channels, features of {schema.name}), found: {found}"
        raise SchemaError(msg)
    # (B, C, F) -> (C*F, B): one contiguous row per column, which Arrow takes without a copy.
    values = np.stack([row.values for row in rows]).astype(np.float32, copy=False)
    flat = np.ascontiguousarray(values.reshape(len(rows), -1).T)
    names = extra_columns("features", channels, schema)
    columns |= {name: pa.array(flat[i]) for i, name in enumerate(names)}
    return pa.table(columns)


def prediction_table(rows: Sequence[Prediction], classes: tuple[str, ...]) -> pa.Table:
    """Rows -> table; what was not predicted (NaN) is null."""
    if any(row.probabilities.shape != (len(classes),) for row in rows):
        found = next(row.probabilities.shape for row in rows if row.probabilities.shape != (len(classes),))
        msg = f"expected one probability for each of the {len(classes)} classes {list(classes)}, found shape: {found}"
        raise SchemaError(msg, hint="hand the predictor's classes to the commit")
    columns = _address(rows)
    columns["mode"] = pa.array([row.mode for row in rows], pa.string())
    columns["p"] = pa.array([None if math.isnan(row.p) else row.p for row in rows], pa.float32())
    flat = np.ascontiguousarray(np.stack([row.probabilities for row in rows]).astype(np.float32, copy=False).T)
    names = extra_columns("predictions", classes, None)
    columns |= {name: pa.array(flat[k], from_pandas=True) for k, name in enumerate(names)}
    columns["state"] = pa.array([row.state for row in rows], pa.string())
    columns["state_age"] = pa.array([row.state_age for row in rows], pa.int64())
    columns["model"] = pa.array([row.model for row in rows], pa.string())
    columns["feature_schema"] = pa.array([row.feature_schema for row in rows], pa.string())
    return pa.table(columns)


def forecast_table(rows: Sequence[Forecast]) -> pa.Table:
    """Forecasts -> table, one row per mode of every future; the end of a future is a row of its own."""
    steps = [
        (row, rank, step, mode, p, future.p)
        for row in rows
        for rank, future in enumerate(row.futures)
        for step, (mode, p) in enumerate(
            zip((*future.modes, *([END] if future.ends else [])), future.step_p, strict=True), 1
        )
    ]
    columns = _address([row for row, *_ in steps])
    columns["future"] = pa.array([rank for _, rank, *_ in steps], pa.int32())
    columns["step"] = pa.array([step for _, _, step, *_ in steps], pa.int32())
    columns["mode"] = pa.array([mode for *_, mode, _, _ in steps], pa.string())
    columns["p"] = pa.array([p for *_, p, _ in steps], pa.float64())
    columns["p_future"] = pa.array([p for *_, p in steps], pa.float64())
    columns["model"] = pa.array([row.model for row, *_ in steps], pa.string())
    return pa.table(columns)


def alarm_table(rows: Sequence[AlarmChange]) -> pa.Table:
    """Rows -> table."""
    return pa.table(
        {
            "machine": pa.array([row.key.machine for row in rows], pa.string()),
            "point": pa.array([row.key.point for row in rows], pa.string()),
            "at": _times([row.at_ns for row in rows]),
            "since": _times([row.since_ns for row in rows]),
            "type": pa.array([row.type for row in rows], pa.string()),
            "id": pa.array([row.id for row in rows], pa.string()),
            "mode": pa.array([row.mode for row in rows], pa.string()),
            "p": pa.array([row.p for row in rows], pa.float64()),
        }
    )


def quarantine_table(rows: Sequence[Quarantined]) -> pa.Table:
    """Rows -> table; a topic that is not valid text is kept with replacement characters."""
    return pa.table(
        {
            "topic": pa.array([_text(row.topic) for row in rows], pa.string()),
            "at": _times([row.at_ns for row in rows]),
            "reason": pa.array([_text(row.reason) for row in rows], pa.string()),
            "size_bytes": pa.array([row.size_bytes for row in rows], pa.int64()),
            "payload": pa.array([row.payload[:QUARANTINE_BYTES] for row in rows], pa.binary()),
        }
    )


def _address(rows: Sequence[FeatureRow] | Sequence[Prediction] | Sequence[Forecast]) -> dict[str, pa.Array]:
    return {
        "machine": pa.array([row.key.machine for row in rows], pa.string()),
        "point": pa.array([row.key.point for row in rows], pa.string()),
        "session": pa.array([row.session for row in rows], pa.uint64()),
        "window": pa.array([row.window for row in rows], pa.int64()),
        "start": _times([row.start_ns for row in rows]),
        "end": _times([row.end_ns for row in rows]),
    }


def _times(values_ns: list[int]) -> pa.Array:
    return pa.array(np.asarray(values_ns, np.int64) // 1000).cast(TIME)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
