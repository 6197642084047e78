"""Reading the archive back: whole files and what is still in the journal, without a lock, each row once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.edges.store import parts as files
from pipeline.edges.store.database import JournalView, view_journal
from pipeline.edges.store.schema import ORDER, FeatureSchema, arrow_schema, canonical, conform
from pipeline.errors import ArchiveError

if TYPE_CHECKING:
    import pyarrow.compute as pc
from collections.abc import Mapping
from datetime import timedelta

import numpy as np

from pipeline.core.records import FeatureRow, StreamKey

T = TypeVar("T")

TRIES = 5  # a listed file may be replaced or merged while it is read: look again


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
        include_pending: Whether rows that are still in the journal count.

    Raises:
        ArchiveError: no such directory, an unknown column, or a file that cannot be read.
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
    """Which rows: machines, and times [start, end) of a window's start."""

    machines: Collection[str] | None = None
    start: datetime | None = None
    end: datetime | None = None

    def expression(self, kind: str) -> pc.Expression | None:
        """As a filter that Parquet statistics can prune with."""
        import pyarrow.compute as pc

        time = "start" if kind in ("features", "predictions") else "at"
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
        """Whether a partition can hold such rows: a window starts before it ends, and its end decides the date."""
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
    """Rows of any kind of archive (features, predictions, alarms, quarantine)."""
    chosen = selection or Selection()
    return _in_one_look(data_dir, kind, chosen, lambda layout: _read(layout, kind, columns, chosen, include_pending))


def first_row(
    data_dir: Path, kind: str, columns: Sequence[str], where: pc.Expression | None = None
) -> dict[str, object] | None:
    """Some row for which a condition holds, None if there is none: reads no further than the first it meets.

    What the statistics of a row group rule out is not read at all, so asking costs little more than the parts' footers.
    """
    return _in_one_look(data_dir, kind, Selection(), lambda layout: _first(layout, list(columns), where))


def _in_one_look(data_dir: Path, kind: str, selection: Selection, read: Callable[[Layout], T]) -> T:
    """What is read of the parts that are listed together; if one is gone by then, it is looked again."""
    tries = TRIES
    while True:
        layout = look(data_dir, kind, selection)
        tries -= 1
        try:
            return read(layout)
        except FileNotFoundError as error:
            if not tries:
                msg = f"expected every listed part in place, found missing: {error.filename or error}"
                raise ArchiveError(msg, hint="see `thrumcast archive verify`; restore it from a backup") from error
        except (OSError, pa.ArrowException) as error:  # a damaged page is a plain OSError
            msg = f"expected readable Parquet files below {data_dir}, found: {error}"
            raise ArchiveError(msg, hint="`thrumcast archive verify` names the damaged file") from error


def look(data_dir: Path, kind: str, selection: Selection | None = None) -> Layout:
    """Manifest, columns and pending rows in one look; a plain listing where there is no journal.

    While a roll is under way its rows may stand in a file and in the journal at once: only files that the manifest
    lists are read, and both come from one transaction.
    """
    if not data_dir.is_dir():
        msg = f"expected a data directory, found none: {data_dir}"
        raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")
    return lay_out(data_dir, kind, view_journal(data_dir, (kind,)), selection or Selection())


def lay_out(data_dir: Path, kind: str, view: JournalView | None, selection: Selection) -> Layout:
    """As `look`, for a journal that was looked into already."""
    root = data_dir / files.ARCHIVE_NAME
    if view is not None:
        schema = view.arrow_schema(kind)
        paths = [root / part.relative for part in view.parts if part.kind == kind and selection.may_hold(part.date)]
        return Layout(schema, tuple(paths), view.pending[kind].table(schema))
    found = [(date, path) for k, date, _, path in files.list_parts(root) if k == kind]
    schema = _listed_schema(kind, [path for _, path in found])
    paths = [path for date, path in found if selection.may_hold(date)]
    return Layout(schema, tuple(paths), schema.empty_table())


def _listed_schema(kind: str, paths: list[Path]) -> pa.Schema:
    """The union of the columns of files that no journal describes; units come with the fields."""
    schemas = [pq.read_schema(path) for path in paths]
    if not schemas:
        return arrow_schema(kind, (), None)
    names = {str(files.file_about(schema, path).get("schema")) for schema, path in zip(schemas, paths, strict=True)}
    if len(names) > 1:
        msg = f"expected one feature schema in the archive, found: {', '.join(sorted(names))}"
        raise ArchiveError(msg, hint="keep archives of different versions in different directories")
    first = next((schema for schema in schemas if files.extras_of(kind, schema.names)), schemas[0])
    extras = canonical(kind, dict.fromkeys(x for schema in schemas for x in files.extras_of(kind, schema.names)))
    channel = next(iter(files.extras_of(kind, first.names)), "")
    features = [name.removeprefix(f"{channel}.") for name in first.names if name.startswith(f"{channel}.")]
    units = [_note(first, f"{channel}.{feature}", b"unit") for feature in features]
    sources = [_note(first, f"{channel}.{feature}", b"source") for feature in features]
    table = FeatureSchema(names.pop(), tuple(features), tuple(units), tuple(sources))
    return arrow_schema(kind, extras, table if kind == "features" else None)


def _note(schema: pa.Schema, name: str, key: bytes) -> str:
    return (schema.field(name).metadata or {}).get(key, b"").decode()


def _read(
    layout: Layout, kind: str, columns: Sequence[str] | None, selection: Selection, include_pending: bool
) -> pa.Table:
    wanted = list(layout.schema.names if columns is None else columns)
    _check_columns(wanted, layout.schema.names)
    needed = pa.schema(
        [field for field in layout.schema if field.name in {*wanted, *ORDER[kind]}], metadata=layout.schema.metadata
    )
    where = selection.expression(kind)
    tables = []
    for path in layout.paths:
        # One open file per part: a part that is replaced meanwhile stays whole for whoever has it open.
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
    return files.sort_rows(pa.concat_tables(tables), kind).select(wanted)


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


# Feature rows as the engine made them, back from the archive: for whoever steps a network over what is stored.


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
