"""Rows of the archive for other programs: one CSV or Parquet file, written piece by piece.

A piece is what one machine has on one day, so the memory does not grow with the archive. Within a piece rows are sorted
by point and time; machines follow each other within a day. The file appears when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.edges.store.read import Selection, read_kind, read_layout
from pipeline.edges.store.schema import DATE_COLUMN
from pipeline.errors import ThrumcastError

KINDS = ("features", "predictions", "forecast", "alarms", "quarantine")
FORMATS = ("csv", "parquet")
_DAY = timedelta(days=1)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path to write to. The file moves to `path` when all is written; after an error nothing is left.

    Raises:
        ThrumcastError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        msg = f"expected to write {path}, found: {error.strerror or error}"
        raise ThrumcastError(msg, hint="its folder must exist, be writable and have room") from error
    finally:
        partial.unlink(missing_ok=True)


def export_rows(
    data_dir: Path,
    kind: str,
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    selection: Selection | None = None,
    points: Collection[str] | None = None,
    on_piece: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write rows to a file whose suffix is a format; returns how many.

    Args:
        data_dir: A data directory.
        kind: One of KINDS.
        path: Of the file.
        columns: Which columns, in this order; all of them if None.
        selection: Which machines and times.
        points: Only these points.
        on_piece: Called with the number of rows of each piece.

    Raises:
        ArchiveError: there is no such directory, a column is unknown, or a file cannot be read.
        ThrumcastError: the file cannot be written.
    """
    rows = 0
    with appearing(path) as partial:
        writer: pa_csv.CSVWriter | pq.ParquetWriter | None = None
        for piece in _pieces(data_dir, kind, columns, selection or Selection(), points):
            if writer is None:
                writer = (
                    pq.ParquetWriter(partial, piece.schema, compression="zstd")
                    if path.suffix == ".parquet"
                    else pa_csv.CSVWriter(partial, _flat(piece).schema)
                )
            writer.write_table(piece if path.suffix == ".parquet" else _flat(piece))
            rows += piece.num_rows
            on_piece(piece.num_rows)
        if writer is not None:
            writer.close()
    return rows


def _pieces(
    data_dir: Path, kind: str, columns: Sequence[str] | None, chosen: Selection, points: Collection[str] | None
) -> Iterator[pa.Table]:
    """At least one table, which is empty if there are no rows."""
    wanted = None if columns is None else list(dict.fromkeys([*columns, *(["point"] if points else [])]))
    none = read_kind(data_dir, kind, wanted, replace(chosen, end=datetime(1900, 1, 1, tzinfo=UTC)))
    yield none if columns is None else none.select(list(columns))
    for day, machine in _places(data_dir, kind, chosen):
        first, last = datetime.combine(day, time(), UTC), datetime.combine(day + _DAY, time(), UTC)
        start = first if chosen.start is None else max(first, chosen.start)
        end = last if chosen.end is None else min(last, chosen.end)
        found = read_kind(data_dir, kind, wanted, Selection([machine] if machine else None, start, end))
        if points:
            found = found.filter(pc.field("point").isin(pa.array(sorted(points), pa.string())))
        if found.num_rows:
            yield found if columns is None else found.select(list(columns))


def _places(data_dir: Path, kind: str, chosen: Selection) -> list[tuple[date, str | None]]:
    """The days and machines of the selected rows; a kind without machines has days alone."""
    stamp = "at" if DATE_COLUMN[kind] == "at" else "start"
    names = read_layout(data_dir, kind, chosen, lambda layout: layout.schema.names)
    columns = [stamp, "machine"] if "machine" in names else [stamp]
    table = read_kind(data_dir, kind, columns, chosen)
    days = pc.cast(pc.floor_temporal(table[stamp], unit="day"), pa.date32())
    machines = table["machine"] if len(columns) > 1 else pa.nulls(table.num_rows, pa.string())
    found = pa.table({"day": days, "machine": machines}).group_by(["day", "machine"]).aggregate([])
    return sorted(zip(found["day"].to_pylist(), found["machine"].to_pylist(), strict=True), key=str)


def _flat(table: pa.Table) -> pa.Table:
    """Without what CSV cannot hold: lists become text, bytes their hexadecimal digits, times ISO 8601."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
        if pa.types.is_timestamp(kind):
            column = pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = pa.array([None if one is None else one.hex() for one in column.to_pylist()], pa.string())
        elif pa.types.is_nested(kind):
            column = pa.array([None if one is None else str(one) for one in column.to_pylist()], pa.string())
        columns[name] = column
    return pa.table(columns)
