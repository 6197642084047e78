"""Reads rows back: from the listed parts and from the journal, without a lock, each row once.

`read_features`, `read_predictions`, `read_kind` and `first_row` return Arrow tables and rows of the archive. `rows_of`
and `last_rows` return feature rows as the engine made them, for a network that steps over stored rows.

A listed part may be replaced or merged away before it is opened. `retried` then takes another look.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.store.database import JournalView, view_journal
from pipeline.edges.store.parts import extras_of, file_about, list_parts, sort_rows
from pipeline.edges.store.schema import (
    ARCHIVE_NAME,
    DATE_COLUMN,
    ORDER,
    FeatureSchema,
    arrow_schema,
    canonical,
    conform,
)
from pipeline.errors import ArchiveError

if TYPE_CHECKING:
    import pyarrow.compute as pc

T = TypeVar("T")
Found = TypeVar("Found")

TRIES = 5  # how often a reader looks before a listed part counts as missing
MACHINES_PER_READ = 256  # bounds the memory of `last_rows`


def read_features(
    data_dir: Path,
    *,
    columns: Sequence[str] | None = None,
    machines: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    include_pending: bool = True,
) -> pa.Table:
    """Feature rows, sorted by machine, point, start.

    Args:
        data_dir: A data directory.
        columns: Which columns, in this order; all of them if None.
        machines: Only these machines.
        start: Only windows that start at this time or later (UTC if it has no zone).
        end: Only windows that start before this time.
        include_pending: Whether to include rows that are still in the journal.

    Raises:
        ArchiveError: there is no such directory, a column is unknown, or a file cannot be read.
    """
    return read_kind(data_dir, "features", columns, Selection(machines, start, end), include_pending)


def read_predictions(
    data_dir: Path,
    *,
    columns: Sequence[str] | None = None,
    machines: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    include_pending: bool = True,
) -> pa.Table:
    """Prediction rows, sorted by machine, point, start; arguments as for `read_features`."""
    return read_kind(data_dir, "predictions", columns, Selection(machines, start, end), include_pending)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows: those of some machines, with a time in [start, end); the time is a window's start, else `at`."""

    machines: Collection[str] | None = None
    start: datetime | None = None
    end: datetime | None = None

    def expression(self, kind: str) -> pc.Expression | None:
        """The selection as a filter, which also skips row groups by their statistics."""
        import pyarrow.compute as pc

        time = "at" if DATE_COLUMN[kind] == "at" else "start"
        parts = []
        if self.machines is not None:
            parts.append(pc.field("machine").isin(pa.array(sorted(self.machines), pa.string())))
        if self.start is not None:
            parts.append(pc.field(time) >= _stamp(self.start))
        if self.end is not None:
            parts.append(pc.field(time) < _stamp(self.end))
        if not parts:
            return None
        whole = parts[0]
        for part in parts[1:]:
            whole &= part
        return whole

    def may_hold(self, date: str) -> bool:
        """Whether a day can hold such rows. A window belongs to the day of its end, which is never before its start."""
        return self.start is None or date >= _aware(self.start).date().isoformat()


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is to read of one kind at one moment."""

    schema: pa.Schema
    paths: tuple[Path, ...]
    pending: pa.Table


def read_kind(
    data_dir: Path,
    kind: str,
    columns: Sequence[str] | None = None,
    selection: Selection | None = None,
    include_pending: bool = True,
) -> pa.Table:
    """Rows of any kind (features, predictions, forecast, alarms, quarantine), sorted as in a part."""
    chosen = selection or Selection()
    return read_layout(data_dir, kind, chosen, lambda layout: read_rows(layout, kind, columns, chosen, include_pending))


def first_row(
    data_dir: Path, kind: str, columns: Sequence[str], where: pc.Expression | None = None
) -> dict[str, object] | None:
    """The first row found that meets a condition; None if there is none.

    Row groups that cannot meet it by their statistics are not read, so the call costs little more than reading the
    footers of the parts.
    """
    return read_layout(data_dir, kind, Selection(), lambda layout: _first(layout, list(columns), where))


def read_layout(data_dir: Path, kind: str, selection: Selection, read: Callable[[Layout], T]) -> T:
    """Calls `read` with a layout, and again with a new one if a listed part is gone by then; see `read_found`."""
    return read_found(data_dir, lambda: look(data_dir, kind, selection), read)


def read_found(data_dir: Path, look: Callable[[], Found], read: Callable[[Found], T]) -> T:
    """`retried`, for reading Parquet files.

    Raises:
        ArchiveError: there is no such directory, a listed part is missing, or a file cannot be read.
    """
    try:
        return retried(look, read)
    except (OSError, pa.ArrowException) as error:  # pyarrow raises a plain OSError for a damaged page
        msg = f"expected readable Parquet files below {data_dir}, found: {error}"
        raise ArchiveError(msg, hint="`thrumcast archive verify` names the damaged file") from error


def retried(look: Callable[[], Found], use: Callable[[Found], T]) -> T:
    """`use(look())`, up to TRIES times while a listed part is gone when it is used.

    Raises:
        ArchiveError: a listed part is missing.
    """
    left = TRIES
    while True:
        left -= 1
        try:
            return use(look())
        except FileNotFoundError as error:
            if not left:
                msg = f"expected every listed part in place, found missing: {error.filename or error}"
                raise ArchiveError(msg, hint="see `thrumcast archive verify`; restore it from a backup") from error


def look(data_dir: Path, kind: str, selection: Selection | None = None) -> Layout:
    """Manifest, columns and pending rows of one moment; a plain listing of files if there is no journal.

    During a roll, rows may be in a file and in the journal at once. Only listed files are read, and the list and the
    pending rows come from one transaction, so each row is read once.

    Raises:
        ArchiveError: there is no such directory, or the journal cannot be read.
    """
    check_directory(data_dir)
    return lay_out(data_dir, kind, view_journal(data_dir, (kind,)), selection or Selection())


def check_directory(data_dir: Path) -> None:
    """Raises ArchiveError if there is no such data directory."""
    if not data_dir.is_dir():
        msg = f"expected a data directory, found none: {data_dir}"
        raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")


def lay_out(data_dir: Path, kind: str, view: JournalView | None, selection: Selection) -> Layout:
    """The layout for a view of the journal; None is a data directory without one."""
    root = data_dir / ARCHIVE_NAME
    if view is not None:
        schema = view.arrow_schema(kind)
        paths = [root / part.relative for part in view.parts if part.kind == kind and selection.may_hold(part.date)]
        return Layout(schema, tuple(paths), view.pending[kind].table(schema))
    found = [(date, path) for k, date, _, path in list_parts(root) if k == kind]
    schema = _listed_schema(kind, [path for _, path in found])
    paths = [path for date, path in found if selection.may_hold(date)]
    return Layout(schema, tuple(paths), schema.empty_table())


def _listed_schema(kind: str, paths: list[Path]) -> pa.Schema:
    """The union of the columns of files that no journal lists, with their units and sources."""
    schemas = [pq.read_schema(path) for path in paths]
    if not schemas:
        return arrow_schema(kind, (), None)
    names = {str(file_about(schema, path).get("schema")) for schema, path in zip(schemas, paths, strict=True)}
    if len(names) > 1:
        msg = f"expected one feature schema in the archive, found: {', '.join(sorted(names))}"
        raise ArchiveError(msg, hint="keep archives of different versions in different directories")
    first = next((schema for schema in schemas if extras_of(kind, schema.names)), schemas[0])
    extras = canonical(kind, dict.fromkeys(x for schema in schemas for x in extras_of(kind, schema.names)))
    channel = next(iter(extras_of(kind, first.names)), "")
    features = [name.removeprefix(f"{channel}.") for name in first.names if name.startswith(f"{channel}.")]
    units = [_note(first, f"{channel}.{feature}", b"unit") for feature in features]
    sources = [_note(first, f"{channel}.{feature}", b"source") for feature in features]
    table = FeatureSchema(names.pop(), tuple(features), tuple(units), tuple(sources))
    return arrow_schema(kind, extras, table if kind == "features" else None)


def _note(schema: pa.Schema, name: str, key: bytes) -> str:
    return (schema.field(name).metadata or {}).get(key, b"").decode()


def read_rows(
    layout: Layout, kind: str, columns: Sequence[str] | None, selection: Selection, include_pending: bool = True
) -> pa.Table:
    """The selected rows of a layout, sorted as in a part. Call it by `read_found`."""
    wanted = list(layout.schema.names if columns is None else columns)
    _check_columns(wanted, layout.schema.names)
    needed = pa.schema(
        [field for field in layout.schema if field.name in {*wanted, *ORDER[kind]}], metadata=layout.schema.metadata
    )
    where = selection.expression(kind)
    tables = []
    for path in layout.paths:
        # One open file per part: if the part is replaced now, the open file still has the old content.
        with pa.OSFile(str(path)) as source:
            have = set(pq.read_schema(source).names)
            names = [name for name in needed.names if name in have]
            source.seek(0)
            tables.append(conform(pq.read_table(source, columns=names, filters=where), needed))
    if include_pending and layout.pending.num_rows:
        pending = layout.pending if where is None else layout.pending.filter(where)
        tables.append(conform(pending, needed))
    if not tables:
        return needed.empty_table().select(wanted)
    return sort_rows(pa.concat_tables(tables), kind).select(wanted)


def _first(layout: Layout, columns: list[str], where: pc.Expression | None) -> dict[str, object] | None:
    import pyarrow.dataset as ds

    def found(table: pa.Table) -> dict[str, object]:
        row: dict[str, object] = table.slice(0, 1).to_pylist()[0]
        return row

    for path in layout.paths:
        for fragment in ds.dataset(path).get_fragments():
            for group in fragment.split_by_row_group(where):
                rows = group.to_table(columns=columns, filter=where, use_threads=False)
                if rows.num_rows:
                    return found(rows)
    pending = layout.pending if where is None else layout.pending.filter(where)
    return found(pending.select(columns)) if pending.num_rows else None


def _check_columns(wanted: Iterable[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            msg = f"expected a column of the archive, found: {name}"
            raise ArchiveError(msg, hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:20])}")


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _stamp(time: datetime) -> pa.Scalar:
    return pa.scalar(_aware(time), pa.timestamp("us", tz="UTC"))


def rows_of(table: pa.Table, features: Sequence[str]) -> dict[StreamKey, list[FeatureRow]]:
    """Feature rows per stream, in the order of the table. Times have a resolution of one microsecond.

    Args:
        table: What `read_features` returns, with all columns.
        features: The names of the features, in the order of the feature table.
    """
    channels = list(dict.fromkeys(name.rpartition(".")[0] for name in table.column_names if "." in name))
    stacked = np.full((table.num_rows, len(channels), len(features)), np.nan, np.float32)  # (N, C, F)
    there = np.zeros((table.num_rows, len(channels)), np.bool_)  # null: the stream has no such channel
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
    """The last `count` feature rows of every stream that end within `span_s` up to its time in `until_ns`.

    Streams whose times lie within the same hour are read together.
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
