"""What a kind of archive looks like: its columns, their order, units and keys.

Every part of a kind has the same columns: those that are fixed, and those that came with the data (its *extras*:
channels for features, classes for predictions). A plain reader takes the schema of the first file it meets, so the
union of all extras ever seen stands in every file; what a stream does not have is null. NaN in a feature column means
"cannot be computed", null means "this stream has no such channel".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from pipeline.errors import SchemaError

FORMAT_VERSION = 1
# What Arrow, JSON and our own unpacking make of flipped bits; of a damaged page pyarrow makes a plain OSError.
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError)

TIME = pa.timestamp("us", tz="UTC")
KINDS = ("features", "predictions", "forecast", "alarms", "quarantine")
DATE_COLUMN = {"features": "end", "predictions": "end", "forecast": "end", "alarms": "at", "quarantine": "at"}
KEYS: dict[str, tuple[str, ...]] = {
    "features": ("machine", "point", "session", "window"),
    "predictions": ("machine", "point", "session", "window", "model"),
    "forecast": ("machine", "point", "session", "window", "model", "future", "step"),
    "alarms": ("machine", "point", "id", "type", "at"),
    "quarantine": (),  # the same bad message may come twice, and was then refused twice
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
        ("mode", pa.string(), ""),  # or `end`: nothing else comes
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
    ],
}
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
    """The feature table as the archive needs it: a name, and per feature its unit and source, in table order."""

    name: str
    features: tuple[str, ...]
    units: tuple[str, ...]
    sources: tuple[str, ...] = ()
    quality_bits: tuple[str, ...] = ()  # names of the bits of `quality`, lowest first

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
    extras: tuple[str, ...]  # the channels or classes whose columns it has
    first_us: int  # of the column that decides the date
    last_us: int

    @property
    def relative(self) -> str:
        """Its path below `archive/`."""
        return part_path(self.kind, self.date, self.number)


def part_path(kind: str, date: str, number: int) -> str:
    """Where a part stands below `archive/`; follows from its number, so that a repeated roll writes the same name."""
    return f"{kind}/date={date}/part-{number:08d}.parquet"


def extra_columns(kind: str, extras: Iterable[str], schema: FeatureSchema | None) -> list[str]:
    """Column names that belong to channels or classes."""
    if kind == "features" and schema is not None:
        return [f"{channel}.{feature}" for channel in extras for feature in schema.features]
    if kind == "predictions":
        return [f"p_{name}" for name in extras]
    return []


def canonical(kind: str, extras: Iterable[str]) -> tuple[str, ...]:
    """Channels in alphabetical order; classes as they were first seen."""
    return tuple(sorted(extras)) if kind == "features" else tuple(extras)


@lru_cache(maxsize=256)
def row_schema(kind: str, extras: tuple[str, ...], schema: FeatureSchema | None) -> pa.Schema:
    """Names and types of the columns, the extras in this order; what they mean is said when a part is written."""
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
    """The same rows with exactly the columns of `schema`; what is missing is null."""
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
    """Two feature tables do not mean the same."""
    msg = f"expected the feature schema {expected}, found in {where}: {found}"
    return SchemaError(msg, hint="use a new data directory, or the version of thrumcast that wrote this one")


def _writer_version() -> str:
    try:
        return version("thrumcast")
    except PackageNotFoundError:
        return "source"
