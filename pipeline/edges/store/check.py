"""Looks through an archive: `survey` says what it holds, `verify` whether all of it is intact. Neither takes a lock."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.edges.store.database import JournalView, check_witness, view_journal
from pipeline.edges.store.parts import STAGING_NAME, file_about, list_parts
from pipeline.edges.store.read import Layout, Selection, check_directory, lay_out, read_layout
from pipeline.edges.store.schema import ARCHIVE_NAME, DATE_COLUMN, KEYS, KINDS, LATER, Part
from pipeline.edges.store.snapshot import compare
from pipeline.errors import ArchiveError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stock:
    """What the archive holds of one kind and date."""

    kind: str
    date: str
    files: int
    rows: int
    bytes: int
    machines: int
    first: datetime  # the earliest and latest time in the column that decides the date
    last: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found; an archive without problems is intact."""

    files: int
    rows: int  # in files
    pending_rows: int  # in the journal
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def survey(data_dir: Path) -> tuple[list[Stock], dict[str, int]]:
    """The stock of every kind and date, and the rows of every kind that are still in the journal.

    Raises:
        ArchiveError: there is no such directory, or a file cannot be read.
    """
    stocks: list[Stock] = []
    pending_rows = {}
    for kind in KINDS:
        found, pending_rows[kind] = read_layout(data_dir, kind, Selection(), partial(_stocks, kind))
        stocks += found
    return stocks, pending_rows


def _stocks(kind: str, layout: Layout) -> tuple[list[Stock], int]:
    by_date: dict[str, list[Path]] = defaultdict(list)
    for path in layout.paths:
        by_date[path.parent.name.removeprefix("date=")].append(path)
    return [_stock(kind, date, paths) for date, paths in sorted(by_date.items())], layout.pending.num_rows


def _stock(kind: str, date: str, paths: list[Path]) -> Stock:
    time, machine = DATE_COLUMN[kind], "topic" if kind == "quarantine" else "machine"
    table = pa.concat_tables([pq.ParquetFile(path).read(columns=[time, machine]) for path in paths])
    span = pc.min_max(table[time].cast(pa.int64()))
    return Stock(
        kind=kind,
        date=date,
        files=len(paths),
        rows=table.num_rows,
        bytes=sum(path.stat().st_size for path in paths),
        machines=pc.count_distinct(table[machine]).as_py(),
        first=_EPOCH + timedelta(microseconds=span["min"].as_py()),
        last=_EPOCH + timedelta(microseconds=span["max"].as_py()),
    )


def verify(data_dir: Path) -> Report:
    """Reads every file and checks four things: it can be read, its columns, that each key is there once, the manifest.

    A roll may be under way in another process. A part that it has not listed yet is a note, not a problem. If parts
    were merged or pruned meanwhile, everything is checked again.

    Raises:
        ArchiveError: there is no such directory, or the journal cannot be read.
    """
    check_directory(data_dir)
    behind = check_witness(data_dir)
    while True:
        view = view_journal(data_dir)
        report = _verify(data_dir, view)
        if behind is not None and behind.gone:  # the files may be a copy of an archive
            report = replace(report, notes=(behind.message, *report.notes))
        elif behind is not None:
            report = replace(report, problems=(behind.message, *report.problems))
        newer = view_journal(data_dir, ()) if report.problems else None
        if view is None or newer is None or {p.relative for p in view.parts} <= {p.relative for p in newer.parts}:
            return report


def _verify(data_dir: Path, view: JournalView | None) -> Report:
    problems: list[str] = []
    count = rows = pending_rows = 0
    root = data_dir / ARCHIVE_NAME
    for kind in KINDS:
        layout = lay_out(data_dir, kind, view, Selection())
        pending_rows += layout.pending.num_rows
        keys = [layout.pending.select(list(KEYS[kind]))]
        for path in layout.paths:
            relative = path.relative_to(root).as_posix()
            try:
                table = _load_listed(data_dir, path, view, layout.schema)
            except (OSError, ArchiveError, pa.ArrowException) as error:
                problems.append(f"{relative}: {error.message if isinstance(error, ArchiveError) else error}")
                continue
            count, rows = count + 1, rows + table.num_rows
            problems += [f"{relative}: {text}" for text in _misplaced(table, kind, path)]
            keys.append(table.select(list(KEYS[kind])))
        problems += _doubles(kind, pa.concat_tables([table.replace_schema_metadata(None) for table in keys]))
    more, notes = _unlisted(data_dir) if view is not None else (compare(data_dir), [])
    problems += more
    staging = root / STAGING_NAME
    left = sorted(path.name for path in staging.iterdir()) if staging.is_dir() else []
    notes += [f"{STAGING_NAME}/{name}: unfinished, will be removed at the next start" for name in left]
    return Report(count, rows, pending_rows, tuple(problems), tuple(notes))


def _load_listed(data_dir: Path, path: Path, view: JournalView | None, expected: pa.Schema) -> pa.Table:
    """The rows of a part, which is as the manifest says, if necessary by a newer one: a roll may have widened it."""
    kind, relative = path.parent.parent.name, path.relative_to(data_dir / ARCHIVE_NAME).as_posix()
    while True:
        part = None if view is None else next((each for each in view.parts if each.relative == relative), None)
        try:
            return _load(path, part, expected, settled=view is None or part is None or part.extras == view.extras[kind])
        except (OSError, ArchiveError, pa.ArrowException):
            newer = view_journal(data_dir, ())
            if view is None or newer is None or (newer.parts, newer.extras) == (view.parts, view.extras):
                raise
            view, expected = newer, newer.arrow_schema(kind)


def _load(path: Path, part: Part | None, expected: pa.Schema, *, settled: bool) -> pa.Table:
    """Reads a part and compares it with its entry in the manifest and with the columns that it should have.

    A part that is not `settled` lacks a newly seen column. The next roll writes it again, or has just done so.
    """
    content = path.read_bytes()
    table = pq.read_table(pa.BufferReader(content), partitioning=None)
    file_about(table.schema, path)
    if part is not None and part.rows != table.num_rows:
        msg = f"expected {part.rows} rows by the manifest, found: {table.num_rows}"
        raise ArchiveError(msg)
    for name in LATER.get(path.parent.parent.name, ()):
        if name not in table.schema.names:
            expected = expected.remove(expected.get_field_index(name))
    if settled and table.schema != expected:
        differ = sorted(set(table.schema.names) ^ set(expected.names)) or ["their order or types"]
        msg = f"expected the columns of the whole archive, found a difference: {differ[0]}"
        raise ArchiveError(msg)
    if part is not None and settled and hashlib.sha256(content).hexdigest() != part.sha256:
        msg = f"expected the content that was written (sha256 {part.sha256[:12]}), found other content"
        raise ArchiveError(msg)
    return table


def _misplaced(table: pa.Table, kind: str, path: Path) -> Iterator[str]:
    """Problems with rows whose time is outside the date in the path."""
    day = datetime.fromisoformat(path.parent.name.removeprefix("date=")).replace(tzinfo=UTC)
    span = pc.min_max(table[DATE_COLUMN[kind]])
    first, last = span["min"].as_py(), span["max"].as_py()
    if first is not None and (first < day or last >= day + timedelta(days=1)):
        yield f"expected rows of {day.date()}, found: {first} to {last}"


def _doubles(kind: str, keys: pa.Table) -> Iterator[str]:
    """Problems with keys that appear more than once."""
    if not keys.num_columns:
        return
    groups = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    double = groups.filter(pc.field("count_all") > 1)
    if double.num_rows:
        first = {name: double[name][0].as_py() for name in keys.column_names}
        yield f"{kind}: expected each key once, found {double.num_rows} keys more than once, such as {first}"


def _unlisted(data_dir: Path) -> tuple[list[str], list[str]]:
    """Problems and notes about files that are in the archive but not in the manifest.

    The files are listed before the manifest is read, so the manifest has every part that a roll finishes meanwhile.
    """
    root = data_dir / ARCHIVE_NAME
    found = [(number, path.relative_to(root).as_posix()) for _, _, number, path in list_parts(root)]
    view = view_journal(data_dir, ())
    if view is None:
        return [], []
    listed = {part.relative for part in view.parts}
    extra = [(number, relative) for number, relative in found if relative not in listed]
    left = "left by an unfinished roll, will be written again by the next one"
    return (
        [f"{relative}: not in the manifest" for number, relative in extra if number != view.part_number],
        [f"{relative}: {left}" for number, relative in extra if number == view.part_number],
    )
