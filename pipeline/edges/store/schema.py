"""The kinds of rows, their columns and keys, and the records that the modules of the store exchange.

Every part of a kind has the same columns: fixed ones, and columns that came with the data. The latter are the *extras*
of the kind: channels for features, classes for predictions. A plain Parquet reader takes the schema of the first file
that it opens, so every part has a column for every extra ever seen. NaN in a feature column means "cannot be computed",
null means "this stream has no such channel".

The first half of the module describes the columns. The second half turns records into Arrow tables, one function per
kind.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.forecast import Forecast
from pipeline.core.records import AlarmChange, FeatureRow, Prediction
from pipeline.errors import SchemaError

ARCHIVE_NAME = "archive"  # the folder of the parts below a data directory
SNAPSHOT_NAME = "snapshot.json"  # in a data directory that is a copy: a snapshot or a mirror
FORMAT_VERSION = 1
# What Arrow, JSON and our own unpacking raise on damaged bytes; pyarrow raises a plain OSError for a damaged page.
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError)

END = "end"  # stands in the column `mode` of a forecast: no other mode follows
QUARANTINE_BYTES = 4096  # how much of a refused payload is kept

TIME = pa.timestamp("us", tz="UTC")
KINDS = ("features", "predictions", "forecast", "alarms", "quarantine")
DATE_COLUMN = {"features": "end", "predictions": "end", "forecast": "end", "alarms": "at", "quarantine": "at"}
KEYS: dict[str, tuple[str, ...]] = {
    "features": ("machine", "point", "session", "window"),
    "predictions": ("machine", "point", "session", "window", "model"),
    "forecast": ("machine", "point", "session", "window", "model", "future", "step"),
    "alarms": ("machine", "point", "id", "type", "at"),
    "quarantine": (),  # no key: the same bad message may arrive twice, and both refusals are kept
}
ORDER: dict[str, tuple[str, ...]] = {
    "features": ("machine", "point", "start", "session", "window"),
    "predictions": ("machine", "point", "start", "session", "window", "model"),
    "forecast": ("machine", "point", "start", "session", "window", "model", "future", "step"),
    "alarms": ("machine", "point", "at"),
    "quarantine": ("at", "topic"),
}
_ADDRESS = [
    ("machine", pa.string(), ""),
    ("point", pa.string(), ""),
    ("session", pa.uint64(), ""),
    ("window", pa.int64(), ""),
    ("start", TIME, ""),
    ("end", TIME, ""),
]
_HEAD: dict[str, list[tuple[str, pa.DataType, str]]] = {
    "features": [
        *_ADDRESS,
        ("rate_hz", pa.float64(), "Hz"),
        ("speed_rpm", pa.float64(), "1/min"),
        ("coverage", pa.float64(), "1"),
        ("quality", pa.uint32(), "bit flags; 0 = good"),
        ("truth", pa.string(), ""),
        ("schema", pa.string(), ""),
    ],
    "predictions": [*_ADDRESS, ("mode", pa.string(), ""), ("p", pa.float32(), "1")],
    "forecast": [  # one row per mode of every future
        *_ADDRESS,
        ("future", pa.int32(), "rank, 0 = the most probable"),
        ("step", pa.int32(), "1 = what comes next"),
        ("mode", pa.string(), ""),  # or END
        ("p", pa.float64(), "1, given the steps before"),
        ("p_future", pa.float64(), "1, of all its steps"),
        ("model", pa.string(), ""),
    ],
    "alarms": [
        ("machine", pa.string(), ""),
        ("point", pa.string(), ""),
        ("at", TIME, ""),
        ("since", TIME, ""),
        ("type", pa.string(), ""),
        ("id", pa.string(), ""),
        ("mode", pa.string(), ""),
        ("p", pa.float64(), "1"),
    ],
    "quarantine": [
        ("topic", pa.string(), ""),
        ("at", TIME, ""),
        ("reason", pa.string(), ""),
        ("size_bytes", pa.int64(), "byte"),
        ("payload", pa.binary(), ""),
        ("detail", pa.string(), ""),
    ],
}
LATER: dict[str, tuple[str, ...]] = {"quarantine": ("detail",)}  # columns that parts of earlier versions lack
_TAIL: dict[str, list[tuple[str, pa.DataType, str]]] = {
    "predictions": [
        ("state", pa.string(), ""),
        ("state_age", pa.int64(), "windows"),
        ("model", pa.string(), ""),
        ("feature_schema", pa.string(), ""),
    ],
}


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """The feature table as the archive needs it: its name, and the unit and source of each feature, in table order."""

    name: str
    features: tuple[str, ...]
    units: tuple[str, ...]
    sources: tuple[str, ...] = ()
    quality_bits: tuple[str, ...] = ()  # the names of the bits of `quality`, lowest first

    def __post_init__(self) -> None:
        if len(self.units) != len(self.features) or len(self.sources) not in (0, len(self.features)):
            msg = (
                f"expected one unit and source per feature, found {len(self.features)} features, "
                f"{len(self.units)} units, {len(self.sources)} sources"
            )
            raise SchemaError(msg)


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of the archive, as the manifest lists it."""

    kind: str
    date: str  # UTC, YYYY-MM-DD
    number: int
    rows: int
    bytes: int
    sha256: str
    extras: tuple[str, ...]  # the channels or classes that it has columns for
    first_us: int  # the earliest and latest time in the column that decides the date
    last_us: int

    @property
    def relative(self) -> str:
        """The path below `archive/`."""
        return part_path(self.kind, self.date, self.number)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that was refused, with enough of it to find out why."""

    topic: str
    at_ns: int
    reason: str  # one of a few fixed words
    payload: bytes  # QUARANTINE_BYTES of it are kept
    size_bytes: int
    detail: str = ""  # the whole sentence: what was expected and found


class Rows(NamedTuple):
    """Rows of one kind, and the channels or classes that they have columns for."""

    kind: str
    extras: tuple[str, ...]
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Swap:
    """A decision to replace parts of one kind and date by one new part, or to remove the whole day.

    A manifest in SQLite and a directory of files cannot change in one transaction. So the journal first notes the
    decision, then the directory changes in one step, then the manifest follows. Anyone who looks in between, such as a
    reader or the next start after a crash, sees from the directory whether that step was made.
    """

    kind: str
    date: str
    gone: tuple[int, ...]  # the numbers of the parts that go
    new: Part | None  # None: the day is removed

    def is_made(self, root: Path) -> bool:
        """Whether the directory below `archive/` has changed: the new part is there, or the day is gone."""
        if self.new is None:
            return not (root / self.kind / f"date={self.date}").exists()
        return (root / self.new.relative).exists()

    def after(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The manifest as it is after the swap."""
        gone = {part_path(self.kind, self.date, number) for number in self.gone}
        kept = tuple(part for part in parts if part.relative not in gone)
        return kept if self.new is None else (*kept, self.new)


def part_path(kind: str, date: str, number: int) -> str:
    """The path of a part below `archive/`. It depends on the number only, so a repeated roll writes the same name."""
    return f"{kind}/date={date}/part-{number:08d}.parquet"


def extra_columns(kind: str, extras: Iterable[str], schema: FeatureSchema | None) -> list[str]:
    """The names of the columns that belong to channels or classes."""
    if kind == "features" and schema is not None:
        return [f"{channel}.{feature}" for channel in extras for feature in schema.features]
    if kind == "predictions":
        return [f"p_{name}" for name in extras]
    return []


def canonical(kind: str, extras: Iterable[str]) -> tuple[str, ...]:
    """Channels in alphabetical order, classes in the order in which they were first seen."""
    return tuple(sorted(extras)) if kind == "features" else tuple(extras)


@lru_cache(maxsize=256)
def row_schema(kind: str, extras: tuple[str, ...], schema: FeatureSchema | None) -> pa.Schema:
    """Names and types of the columns, with the extras in the given order; `arrow_schema` adds units and sources."""
    middle = [(name, pa.float32()) for name in extra_columns(kind, extras, schema)]
    head, tail = ([(name, of_type) for name, of_type, _ in some] for some in (_HEAD[kind], _TAIL.get(kind, [])))
    return pa.schema([*head, *middle, *tail])


def arrow_schema(kind: str, extras: Iterable[str], schema: FeatureSchema | None) -> pa.Schema:
    """The columns of a kind in their canonical order, with units and sources in the metadata of each field."""
    notes: dict[str, dict[str, str]] = {}
    if schema is not None:
        for i, feature in enumerate(schema.features):
            notes[feature] = {"unit": schema.units[i]} | ({"source": schema.sources[i]} if schema.sources else {})
    fields = [_field(name, kind_type, {"unit": unit}) for name, kind_type, unit in _HEAD[kind]]
    for name in extra_columns(kind, canonical(kind, extras), schema):
        note = {"unit": "1"} if kind == "predictions" else notes[name.rpartition(".")[2]]
        fields.append(_field(name, pa.float32(), note))
    fields += [_field(name, kind_type, {"unit": unit}) for name, kind_type, unit in _TAIL.get(kind, [])]
    if schema is not None and schema.quality_bits and kind == "features":
        place = [field.name for field in fields].index("quality")
        bits = {f"bit_{i}": name for i, name in enumerate(schema.quality_bits)}
        fields[place] = _field("quality", pa.uint32(), {"unit": "bit flags; 0 = good"} | bits)
    about = {"format": FORMAT_VERSION, "kind": kind, "writer": f"thrumcast {_writer_version()}"}
    if schema is not None:
        about["schema"] = schema.name
    return pa.schema(fields, metadata={"thrumcast": json.dumps(about)})


def _field(name: str, kind: pa.DataType, notes: Mapping[str, str]) -> pa.Field:
    return pa.field(name, kind, metadata={key: value for key, value in notes.items() if value})


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with exactly the columns of `schema`; a missing column becomes null."""
    place = {name: i for i, name in enumerate(table.column_names)}
    columns = []
    for field in schema:
        there = field.name in place
        column = table.column(place[field.name]) if there else pa.nulls(table.num_rows, field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def gathered(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of all tables with exactly the columns of `schema`."""
    return conform(pa.concat_tables(tables, promote_options="permissive"), schema) if tables else schema.empty_table()


def schema_error(expected: str, found: str, where: str) -> SchemaError:
    """The error for rows or files of another feature table."""
    msg = f"expected the feature schema {expected}, found in {where}: {found}"
    return SchemaError(msg, hint="use a new data directory, or the version of thrumcast that wrote this one")


def _writer_version() -> str:
    try:
        return version("thrumcast")
    except PackageNotFoundError:
        return "source"


def feature_tables(rows: Iterable[FeatureRow], schema: FeatureSchema) -> list[tuple[tuple[str, ...], pa.Table]]:
    """One (channels, table) for each set of channels among the rows.

    Raises:
        SchemaError: a row belongs to another feature table, or its values have another shape.
    """
    groups: dict[tuple[str, ...], list[FeatureRow]] = defaultdict(list)
    for row in rows:
        if row.schema != schema.name:
            raise schema_error(schema.name, row.schema, f"a row of {row.key}")
        groups[row.channels].append(row)
    return [(channels, _feature_table(channels, group, schema)) for channels, group in groups.items()]


def _feature_table(channels: tuple[str, ...], rows: list[FeatureRow], schema: FeatureSchema) -> pa.Table:
    shape = (len(channels), len(schema.features))
    if any(row.values.shape != shape for row in rows):
        found = next(row.values.shape for row in rows if row.values.shape != shape)
        msg = f"expected feature values of shape {shape} (channels, features of {schema.name}), found: {found}"
        raise SchemaError(msg)
    columns = [
        *_address(rows),
        pa.array([row.rate_hz for row in rows], pa.float64()),
        pa.array([row.speed_rpm for row in rows], pa.float64()),
        pa.array([row.coverage for row in rows], pa.float64()),
        pa.array([row.quality for row in rows], pa.uint32()),
        _texts([row.truth for row in rows]),
        pa.repeat(schema.name, len(rows)),
        *_columns(np.concatenate([row.values for row in rows]).reshape(len(rows), -1)),
    ]
    return pa.Table.from_arrays(columns, schema=row_schema("features", channels, schema))


def prediction_table(rows: Sequence[Prediction], classes: tuple[str, ...]) -> pa.Table:
    """Predictions as a table; NaN (no prediction) becomes null.

    Raises:
        SchemaError: a row has not one probability per class.
    """
    if any(row.probabilities.shape != (len(classes),) for row in rows):
        found = next(row.probabilities.shape for row in rows if row.probabilities.shape != (len(classes),))
        msg = f"expected one probability for each of the {len(classes)} classes {list(classes)}, found shape: {found}"
        raise SchemaError(msg, hint="hand the predictor's classes to the commit")
    probabilities = np.concatenate([row.probabilities for row in rows]).astype(np.float32, copy=False)
    columns = [
        *_address(rows),
        _texts([row.mode for row in rows]),
        pa.array([None if math.isnan(row.p) else row.p for row in rows], pa.float32()),
        *[
            pa.array(of_class, from_pandas=True)
            for of_class in np.ascontiguousarray(probabilities.reshape(len(rows), -1).T)
        ],
        _texts([row.state for row in rows]),
        pa.array([row.state_age for row in rows], pa.int64()),
        _texts([row.model for row in rows]),
        _texts([row.feature_schema for row in rows]),
    ]
    return pa.Table.from_arrays(columns, schema=row_schema("predictions", classes, None))


def forecast_table(rows: Sequence[Forecast]) -> pa.Table:
    """Forecasts as a table, one row per mode of every future; the end of a future is a row of its own."""
    steps = [
        (row, rank, step, mode, p, future.p)
        for row in rows
        for rank, future in enumerate(row.futures)
        for step, (mode, p) in enumerate(
            zip((*future.modes, *([END] if future.ends else [])), future.step_p, strict=True), 1
        )
    ]
    columns = [
        *_address([row for row, *_ in steps]),
        pa.array([rank for _, rank, *_ in steps], pa.int32()),
        pa.array([step for _, _, step, *_ in steps], pa.int32()),
        _texts([mode for *_, mode, _, _ in steps]),
        pa.array([p for *_, p, _ in steps], pa.float64()),
        pa.array([p for *_, p in steps], pa.float64()),
        _texts([row.model for row, *_ in steps]),
    ]
    return pa.Table.from_arrays(columns, schema=row_schema("forecast", (), None))


def alarm_table(rows: Sequence[AlarmChange]) -> pa.Table:
    """Alarm changes as a table."""
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
    """Refused messages as a table; a topic that is not valid text is kept with replacement characters."""
    return pa.table(
        {
            "topic": pa.array([_text(row.topic) for row in rows], pa.string()),
            "at": _times([row.at_ns for row in rows]),
            "reason": pa.array([_text(row.reason) for row in rows], pa.string()),
            "size_bytes": pa.array([row.size_bytes for row in rows], pa.int64()),
            "payload": pa.array([row.payload[:QUARANTINE_BYTES] for row in rows], pa.binary()),
            "detail": pa.array([_text(row.detail) for row in rows], pa.string()),
        }
    )


def _address(rows: Sequence[FeatureRow] | Sequence[Prediction] | Sequence[Forecast]) -> list[pa.Array]:
    return [
        _texts([row.key.machine for row in rows]),
        _texts([row.key.point for row in rows]),
        pa.array([row.session for row in rows], pa.uint64()),
        pa.array([row.window for row in rows], pa.int64()),
        _times([row.start_ns for row in rows]),
        _times([row.end_ns for row in rows]),
    ]


def _columns(values: NDArray[np.float32]) -> list[pa.Array]:
    """Values (rows, columns) as one array per column. All are slices of one array, which is much cheaper to make."""
    count = len(values)
    whole = pa.array(np.ascontiguousarray(values.T, np.float32).ravel())
    return [whole.slice(i * count, count) for i in range(values.shape[1])]


def _texts(values: list[str] | list[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _times(values_ns: list[int]) -> pa.Array:
    return pa.array(np.asarray(values_ns, np.int64) // 1000).cast(TIME)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def packed(table: pa.Table) -> bytes:
    """A table as bytes, for the journal or for another process; thirty times as fast as pickling it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(content: bytes) -> pa.Table:
    """The table of `packed`, without a copy."""
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()
