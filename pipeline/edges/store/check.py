"""Looking after an archive: what is there (`survey`), and whether all of it is whole (`verify`)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.edges.store import parts as files
from pipeline.edges.store.database import JournalView, view_journal
from pipeline.edges.store.read import TRIES, Selection, lay_out, look
from pipeline.edges.store.schema import DATE_COLUMN, KEYS, KINDS, Part
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
    first: datetime  # of the time that decides the date
    last: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `verify`; an archive without problems is whole."""

    files: int
    rows: int  # in files
    pending_rows: int  # in the journal
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def survey(data_dir: Path) -> tuple[list[Stock], dict[str, int]]:
    """Stock per kind and date, and the rows per kind that are still in the journal.

    Raises:
        ArchiveError: no such directory, or a file that cannot be read.
    """
    stocks, pending = [], {}
    for kind in KINDS:
        for left in reversed(range(TRIES)):  # a part may be merged away meanwhile: look again
            try:
                found, pending[kind] = _survey_kind(data_dir, kind)
                break
            except FileNotFoundError as error:
                if not left:
                    raise _unreadable(data_dir, error) from error
        stocks += found
    return stocks, pending


def _survey_kind(data_dir: Path, kind: str) -> tuple[list[Stock], int]:
    layout = look(data_dir, kind)
    by_date: dict[str, list[Path]] = defaultdict(list)
    for path in layout.paths:
        by_date[path.parent.name.removeprefix("date=")].append(path)
    return [_stock(kind, date, paths) for date, paths in sorted(by_date.items())], layout.pending.num_rows


def _unreadable(where: Path, error: Exception) -> ArchiveError:
    msg = f"expected readable Parquet files in {where}, found: {error}"
    return ArchiveError(msg, hint="`thrumcast archive verify` names the damaged file")


def _stock(kind: str, date: str, paths: list[Path]) -> Stock:
    time, machine = DATE_COLUMN[kind], "topic" if kind == "quarantine" else "machine"
    try:
        table = pa.concat_tables([pq.ParquetFile(path).read(columns=[time, machine]) for path in paths])
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(paths[0].parent, error) from error
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
    """Reads every file: readable, the columns as they should be, each key once, manifest and files agree.

    A roll may be under way in another process: what it has not listed yet is a note, no problem. What was merged or
    pruned meanwhile is looked at again.

    Raises:
        ArchiveError: no such directory, or a journal that cannot be read.
    """
    while True:
        view = _directory_view(data_dir)
        report = _verify(data_dir, view)
        newer = view_journal(data_dir, ()) if report.problems else None
        if view is None or newer is None or {p.relative for p in view.parts} <= {p.relative for p in newer.parts}:
            return report


def _verify(data_dir: Path, view: JournalView | None) -> Report:
    problems: list[str] = []
    count = rows = pending_rows = 0
    root = data_dir / files.ARCHIVE_NAME
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
    staging = root / files.STAGING_NAME
    left = sorted(path.name for path in staging.iterdir()) if staging.is_dir() else []
    notes += [f"{files.STAGING_NAME}/{name}: unfinished, removed at the next start" for name in left]
    return Report(count, rows, pending_rows, tuple(problems), tuple(notes))


def _directory_view(data_dir: Path) -> JournalView | None:
    if not data_dir.is_dir():
        look(data_dir, "features")  # says what is wrong
    return view_journal(data_dir)


def _load_listed(data_dir: Path, path: Path, view: JournalView | None, expected: pa.Schema) -> pa.Table:
    """A whole part that is as the manifest says, now if not before: a roll may have widened it meanwhile."""
    kind, relative = path.parent.parent.name, path.relative_to(data_dir / files.ARCHIVE_NAME).as_posix()
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
    """Reads a part and compares it with its entry in the manifest and the columns it should have.

    A part that is not settled lacks a newly seen column: it is about to be written again, and may have been already.
    """
    content = path.read_bytes()
    table = pq.read_table(pa.BufferReader(content), partitioning=None)
    files.file_about(table.schema, path)
    if part is not None and part.rows != table.num_rows:
        msg = f"expected {part.rows} rows by the manifest, found: {table.num_rows}"
        raise ArchiveError(msg)
    if settled and table.schema != expected:
        differ = sorted(set(table.schema.names) ^ set(expected.names)) or ["their order or types"]
        msg = f"expected the columns of the whole archive, found a difference: {differ[0]}"
        raise ArchiveError(msg)
    if part is not None and settled and hashlib.sha256(content).hexdigest() != part.sha256:
        msg = f"expected the content that was written (sha256 {part.sha256[:12]}), found: another"
        raise ArchiveError(msg)
    return table


def _misplaced(table: pa.Table, kind: str, path: Path) -> Iterator[str]:
    """Rows whose time is not of the date in the path."""
    day = datetime.fromisoformat(path.parent.name.removeprefix("date=")).replace(tzinfo=UTC)
    span = pc.min_max(table[DATE_COLUMN[kind]])
    first, last = span["min"].as_py(), span["max"].as_py()
    if first is not None and (first < day or last >= day + timedelta(days=1)):
        yield f"expected rows of {day.date()}, found: {first} to {last}"


def _doubles(kind: str, keys: pa.Table) -> Iterator[str]:
    """Keys that stand more than once."""
    if not keys.num_columns:
        return
    groups = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    double = groups.filter(pc.field("count_all") > 1)
    if double.num_rows:
        first = {name: double[name][0].as_py() for name in keys.column_names}
        yield f"{kind}: expected each key once, found {double.num_rows} keys more than once, such as {first}"


def _unlisted(data_dir: Path) -> tuple[list[str], list[str]]:
    """Problems and notes: files that stand in the archive but not in the manifest.

    The files are listed before the manifest is read, so that a part which a roll finishes meanwhile is in it.
    """
    root = data_dir / files.ARCHIVE_NAME
    found = [(number, path.relative_to(root).as_posix()) for _, _, number, path in files.list_parts(root)]
    view = view_journal(data_dir, ())
    if view is None:
        return [], []
    listed = {part.relative for part in view.parts}
    extra = [(number, relative) for number, relative in found if relative not in listed]
    left = "left by an unfinished roll, the next one writes it again"
    return (
        [f"{relative}: not in the manifest" for number, relative in extra if number != view.part_number],
        [f"{relative}: {left}" for number, relative in extra if number == view.part_number],
    )
