"""Upkeep of the archive: many small parts of a day become few, and days that are old enough go.

Each step holds rolls off for a moment and is bounded in rows and bytes, so a running service stays responsive.
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

from pipeline.edges.store import parts as files
from pipeline.edges.store.archive import Archive, give_back
from pipeline.edges.store.database import JournalView, Swap
from pipeline.edges.store.schema import Part, arrow_schema, conform
from pipeline.edges.store.swap import swap
from pipeline.errors import ArchiveError

TARGET_ROWS = 200_000  # of a merged part: some 100 MB in memory per channel, seconds to write
TARGET_BYTES = 128 * 2**20
MUCH_LARGER = 4


@dataclass(frozen=True, slots=True)
class Compacted:
    """One merge."""

    kind: str
    date: str
    parts: int  # that were merged
    rows: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """One day of one kind that is gone."""

    kind: str
    date: str
    parts: int
    rows: int
    bytes: int


def mergeable(parts: tuple[Part, ...], least: int = 2) -> Iterator[list[Part]]:
    """Parts of one kind and date that are small, at least `least` of them, as many as fit into one.

    Above two, parts that are much larger than most stay out: what was merged is merged again only when there are as
    many of its own size. From 16 upwards that writes the rows of a day about twice, however many parts it began with.
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


def compact(archive: Archive, *, least: int = 2, stop: Callable[[], bool] = lambda: False) -> Iterator[Compacted]:
    """Merges small parts, one merge per step; between two steps rolls go on.

    Raises:
        ArchiveError: a part is missing or damaged (it is never merged), or the disk refuses.
    """
    while not stop():
        with archive.alone() as view:
            small = next(mergeable(view.parts, least), None)
            if small is None:
                return
            done = _merge(archive, view, small)
        give_back()
        yield done


def _merge(archive: Archive, view: JournalView, small: list[Part]) -> Compacted:
    kind, day = small[0].kind, small[0].date
    extras = view.extras[kind]
    schema = arrow_schema(kind, extras, view.schema)
    tables = [conform(_whole(archive.root, part, settled=part.extras == extras), schema) for part in small]
    table = files.sort_rows(pa.concat_tables(tables), kind)
    content = files.encode_part(table)
    new = files.describe_part(kind, day, view.part_number, table, extras, content)
    decided = Swap(kind, day, tuple(part.number for part in small), new)
    swap(archive.journal, archive.root, decided, content)
    before = sum(part.bytes for part in small)
    return Compacted(kind, day, len(small), table.num_rows, before, len(content))


def _whole(root: Path, part: Part, *, settled: bool) -> pa.Table:
    """A part's rows, if they are what was written; damage is not to be merged into something that looks whole."""
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


def prune(archive: Archive, before: date, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Pruned]:
    """Removes whole UTC days, of every kind, that lie before a date.

    Raises:
        ArchiveError: the disk refuses.
    """
    while not stop():
        with archive.alone() as view:
            day, parts = next(iter(older(view.parts, before).items()), (None, []))
            if day is None:
                return
            swap(archive.journal, archive.root, Swap(*day, tuple(part.number for part in parts), None), None)
        yield Pruned(*day, len(parts), sum(part.rows for part in parts), sum(part.bytes for part in parts))
