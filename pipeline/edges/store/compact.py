"""Upkeep of the archive: `compact` merges the small parts of a day, `prune` removes old days.

Each step holds rolls off for a moment. It is bounded in rows and bytes, so a running service stays responsive.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.edges.store.archive import Archive
from pipeline.edges.store.database import JournalView
from pipeline.edges.store.parts import describe_part, encode_part, give_back, sort_rows
from pipeline.edges.store.schema import Part, arrow_schema, conform
from pipeline.edges.store.swap import remove_day, replace_parts
from pipeline.errors import ArchiveError

TARGET_ROWS = 200_000  # the most rows of a merged part; they take some 100 MB of memory per channel, seconds to write
TARGET_BYTES = 128 * 2**20  # the most bytes of the parts that are merged into one
MUCH_LARGER = 4  # a part with more than this many times the median rows waits for others of its size


@dataclass(frozen=True, slots=True)
class Merge:
    """Parts of one kind and date that became one."""

    kind: str
    date: str
    parts: int  # how many were merged
    rows: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class RemovedDay:
    """One day of one kind that was removed."""

    kind: str
    date: str
    parts: int
    rows: int
    bytes: int


def mergeable(parts: tuple[Part, ...], least: int = 2) -> Iterator[list[Part]]:
    """For each kind and date with at least `least` small parts, those that fit into one part.

    If `least` is above two, parts that are much larger than the median are left out. A merged part is then merged again
    only with about as many parts of its own size. With `least` of 16 or more, each row of a day is written about twice,
    however many parts the day has.
    """
    days: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in parts:
        if part.rows <= TARGET_ROWS // 2 and part.bytes <= TARGET_BYTES // 2:
            days[part.kind, part.date].append(part)
    for _, small in sorted(days.items()):
        if least > 2:
            usual = median(part.rows for part in small)
            small = [part for part in small if part.rows <= MUCH_LARGER * usual]
        if len(small) < max(least, 2):
            continue
        chosen, rows, size = [], 0, 0
        for part in sorted(small, key=lambda part: (part.first_us, part.number)):
            rows, size = rows + part.rows, size + part.bytes
            if rows > TARGET_ROWS or size > TARGET_BYTES:
                break
            chosen.append(part)
        yield chosen


def compact(archive: Archive, *, least: int = 2, stop: Callable[[], bool] = lambda: False) -> Iterator[Merge]:
    """Merges small parts, one merge per step; rolls may run between two steps.

    Raises:
        ArchiveError: a part is missing or damaged (it is never merged), or the disk is full, read-only or broken.
    """
    while not stop():
        with archive.rolls_paused() as view:
            small = next(mergeable(view.parts, least), None)
            if small is None:
                return
            done = _merge(archive, view, small)
        give_back()
        yield done


def _merge(archive: Archive, view: JournalView, small: list[Part]) -> Merge:
    kind, day = small[0].kind, small[0].date
    extras = view.extras[kind]
    schema = arrow_schema(kind, extras, view.schema)
    tables = [conform(_whole(archive.root, part, settled=part.extras == extras), schema) for part in small]
    table = sort_rows(pa.concat_tables(tables), kind)
    content = encode_part(table)
    new = describe_part(kind, day, view.part_number, table, extras, content)
    replace_parts(archive.journal, archive.root, small, new, content)
    before = sum(part.bytes for part in small)
    return Merge(kind, day, len(small), table.num_rows, before, len(content))


def _whole(root: Path, part: Part, *, settled: bool) -> pa.Table:
    """The rows of a part, if its content is what was written; damage must not become part of an intact-looking file."""
    try:
        content = (root / part.relative).read_bytes()
        if settled and hashlib.sha256(content).hexdigest() != part.sha256:
            msg = f"expected the content that was written (sha256 {part.sha256[:12]}), found another: {part.relative}"
            raise ArchiveError(msg, hint="restore it from a backup; `thrumcast archive verify` names every such file")
        table = pq.read_table(pa.BufferReader(content), partitioning=None, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        msg = f"expected a readable part, found {part.relative}: {error}"
        raise ArchiveError(msg, hint="restore it from a backup, see `thrumcast archive verify`") from error
    return table


def older(parts: tuple[Part, ...], before: date) -> dict[tuple[str, str], list[Part]]:
    """(kind, date) -> its parts, for every day before that date."""
    days: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in parts:
        if part.date < before.isoformat():
            days[part.kind, part.date].append(part)
    return dict(sorted(days.items()))


def prune(archive: Archive, before: date, *, stop: Callable[[], bool] = lambda: False) -> Iterator[RemovedDay]:
    """Removes whole UTC days of every kind that lie before a date, one kind and day per step.

    Raises:
        ArchiveError: the disk is full, read-only or broken.
    """
    while not stop():
        with archive.rolls_paused() as view:
            day, parts = next(iter(older(view.parts, before).items()), (None, []))
            if day is None:
                return
            remove_day(archive.journal, archive.root, *day, parts)
        yield RemovedDay(*day, len(parts), sum(part.rows for part in parts), sum(part.bytes for part in parts))
