"""The Parquet archive: pending rows of the journal become parts that any Parquet reader opens.

One roll, in this order; the number in the names follows from the journal, so that a roll that died anywhere before its
transaction writes the same names again, with the same rows (and those that came since):

    1  parts that lack a newly seen column are written again under their own name
    2  pending rows -> per kind and UTC date -> archive/.staging/<name> -> fsync
    3  rename to archive/<kind>/date=YYYY-MM-DD/part-<number>.parquet -> fsync of the directory
    4  ONE journal transaction: rows out of the journal, parts into its manifest, part number + 1

What is derived from files takes a shorter way, see `archive_append`.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.edges.faults import fault_point
from pipeline.edges.store import database as read
from pipeline.edges.store import parts as files
from pipeline.edges.store.database import JournalView, storage_error
from pipeline.edges.store.journal import Journal, add_counters, write_extras, write_inputs, write_parts
from pipeline.edges.store.parts import read_part, without_known
from pipeline.edges.store.schema import (
    DATE_COLUMN,
    KINDS,
    FeatureSchema,
    Part,
    Quarantined,
    Rows,
    arrow_schema,
    conform,
    gathered,
    part_path,
)
from pipeline.edges.store.swap import settle

# Rows that can be made again from a file go into parts at once, without a stay in the journal.
#
# What a broker delivered must be in the journal before it is acknowledged; a recording stays where it is, so its rows
# may be lost in a crash as long as the recording then counts as not done. In this order:
#
#     1  what waits in the journal is rolled: a roll that died may have left its files under the next part number
#     2  ONE journal transaction: new columns, and a note that parts of that number are being placed
#     3  parts -> staging -> fsync -> rename -> fsync of the directories, as in a roll
#     4  ONE journal transaction: parts into the manifest, inputs finished, part number + 1, note gone <- the commit point
#
# A crash between 3 and 4 leaves parts that no manifest lists. `withdraw` removes them before anything else is written.


_META_KEY = "placing"


def note(db: sqlite3.Connection) -> None:
    """Parts of the next number are being placed; within the caller's transaction."""
    db.execute("INSERT OR REPLACE INTO meta SELECT ?, value FROM meta WHERE key = 'part_number'", (_META_KEY,))


def placed(db: sqlite3.Connection) -> None:
    """They are listed; within the caller's transaction."""
    db.execute("DELETE FROM meta WHERE key = ?", (_META_KEY,))


def withdraw(journal: Journal, root: Path) -> None:
    """Removes what an interrupted append placed and never listed.

    Raises:
        ArchiveError: the disk is read-only or broken.
    """
    with journal.transaction() as db:
        noted = read.read_meta(db, _META_KEY)
    if noted is None:
        return
    files.remove_parts(root, int(noted))
    with journal.transaction() as db:
        placed(db)


# Memory that rows took on their way into a file goes back to the system; allocators would keep most of it.
#
# What still holds rows holds their memory, so this comes after the last name of them. Allocators keep pieces for each
# thread: rolls and merges read with `use_threads=False`, so that each leaves its pieces where it finds them again.


def give_back() -> None:
    """Takes milliseconds, without the interpreter's lock. Where the C library cannot, Arrow's part has to do."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


__all__ = ["Archive", "FeatureSchema", "Part", "Quarantined", "Rows"]

DUPLICATE_ROWS = "archive_duplicate_rows"  # journal counter: rows whose key was already in the archive
_DAY_US = 86_400_000_000


class _LeftOff(Exception):
    """The caller has no time for the rest of a roll."""


def _go_on() -> None:
    """There is time for all of it."""


class Archive:
    """Writes the parts of one data directory. `roll` may run on another thread than the journal's commits."""

    def __init__(self, directory: Path, journal: Journal, feature_schema: FeatureSchema) -> None:
        """Makes sure that journal, files and feature table speak the same.

        Raises:
            SchemaError: the data directory was written with another feature table.
            ArchiveError: it cannot be written, or holds a file that cannot be read.
        """
        self.root = directory / files.ARCHIVE_NAME
        self.journal = journal
        self._schema = feature_schema
        self._rolling = threading.Lock()
        self._settle()
        try:
            files.make_directory(self.root / files.STAGING_NAME)
            for left_over in (self.root / files.STAGING_NAME).iterdir():
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                else:
                    left_over.unlink()
        except OSError as error:
            raise storage_error(self.root, error) from error
        self._adopt()
        journal.bind(feature_schema)

    def _settle(self) -> None:
        """Finishes, or takes back, what was interrupted."""
        settle(self.journal, self.root)
        withdraw(self.journal, self.root)

    def _adopt(self) -> None:
        """A journal that never saw this archive takes over what stands there; done once in its life."""
        view = self.journal.view(())
        if view.schema is not None:
            return
        parts = files.adopt(self.root, self._schema)
        with self.journal.transaction() as db:
            write_parts(db, parts)
            for part in parts:
                write_extras(db, part.kind, part.extras)
            number = 1 + max((part.number for part in parts), default=0)
            db.execute("UPDATE meta SET value = ? WHERE key = 'part_number'", (str(number),))

    @contextlib.contextmanager
    def alone(self) -> Iterator[JournalView]:
        """The manifest, and no roll meanwhile; what an interrupted upkeep began is finished first."""
        with self._rolling:
            self._settle()
            view = self.journal.view(())
            # What a roll that died has placed: upkeep may take its number, and then no later roll would write over it.
            files.remove_parts(self.root, view.part_number)
            yield view

    def roll(self, leave: Callable[[], bool] = lambda: False) -> list[Part]:
        """Everything pending -> new parts; an empty list if nothing is pending.

        Asked before each step on disk, `leave` may end it there; that is as if the process had died in that place.

        Raises:
            ArchiveError: the disk is full, read-only or broken; the rows stay in the journal and the next roll tries
                again.
        """
        with self._rolling:
            parts = self._roll(leave)
        give_back()  # here, where nothing holds the rows any more
        return parts

    def append(self, rows: Sequence[Rows], inputs: Mapping[str, str]) -> list[Part]:
        """Rows that were derived from files -> new parts, and these inputs are finished: all of it or nothing.

        Raises:
            ArchiveError: the disk is full, read-only or broken; nothing has changed.
        """
        self.roll()
        with self._rolling:
            with self.journal.transaction() as db:
                for each in rows:
                    write_extras(db, each.kind, each.extras)
                note(db)
            fault_point("append_noted")
            view = self.journal.view(())
            try:
                self._widen(view)
                tables = {kind: [each.table for each in rows if each.kind == kind] for kind in KINDS}
                parts, dropped = self._write(view, tables)
            except OSError as error:
                raise storage_error(self.root, error) from error
            fault_point("append_before_transaction")
            with self.journal.transaction() as db:
                write_inputs(db, inputs)
                _record(db, view, parts, dropped)
                placed(db)
                fault_point("append_in_transaction")
            fault_point("append_done")
        give_back()
        return parts

    def _roll(self, leave: Callable[[], bool]) -> list[Part]:
        def go_on() -> None:
            if leave():
                raise _LeftOff

        fault_point("roll_begin")
        self._settle()
        view = self.journal.view(KINDS)
        try:
            self._widen(view, go_on)
            if not any(view.pending[kind].ids for kind in KINDS):
                return []
            parts, dropped = self._write(view, {kind: view.pending[kind].tables for kind in KINDS}, go_on)
            go_on()
        except _LeftOff:
            return []
        except OSError as error:
            raise storage_error(self.root, error) from error
        fault_point("roll_before_transaction")
        with self.journal.transaction() as db:
            ids = [(number,) for kind in KINDS for number in view.pending[kind].ids]
            db.executemany("DELETE FROM pending WHERE id = ?", ids)
            _record(db, view, parts, dropped)
            fault_point("roll_in_transaction")
        fault_point("roll_done")
        return parts

    def _widen(self, view: JournalView, go_on: Callable[[], None] = _go_on) -> None:
        """Writes parts again that were written before a channel or class was first seen."""
        widened = []
        for part in view.parts:
            extras = view.extras[part.kind]
            path = self.root / part.relative
            if part.extras == extras or not path.exists():  # one that was removed by hand: `verify` names it
                continue
            go_on()
            table = conform(read_part(path), arrow_schema(part.kind, extras, self._schema))
            content = files.encode_part(table)
            staged = self._stage(part.kind, part.date, part.number, content)
            fault_point("after_rewrite_staging")
            staged.replace(path)
            files.sync_directory(path.parent)
            fault_point("after_rewrite_rename")
            widened.append(files.describe_part(part.kind, part.date, part.number, table, extras, content))
        if widened:
            fault_point("rewrite_before_transaction")
            with self.journal.transaction() as db:
                write_parts(db, widened)
            fault_point("rewrite_done")

    def _write(
        self, view: JournalView, tables: Mapping[str, Sequence[pa.Table]], go_on: Callable[[], None] = _go_on
    ) -> tuple[list[Part], int]:
        """Stages and renames one file per kind and date; returns the parts and how many rows were known."""
        dropped, staged = 0, []
        for kind in KINDS:
            whole = gathered(tables[kind], arrow_schema(kind, view.extras[kind], self._schema)).combine_chunks()
            for date, rows in _by_date(whole, DATE_COLUMN[kind]):
                fresh = without_known(self.root, view, kind, date, rows)
                dropped += rows.num_rows - fresh.num_rows
                if not fresh.num_rows:
                    continue
                go_on()
                table = files.sort_rows(fresh, kind)
                content = files.encode_part(table)
                path = self._stage(kind, date, view.part_number, content)
                part = files.describe_part(kind, date, view.part_number, table, view.extras[kind], content)
                staged.append((path, part))
                fault_point("after_staging")
        for path, part in staged:
            go_on()
            target = self.root / part.relative
            files.make_directory(target.parent)
            path.replace(target)
            fault_point("after_rename")
        for directory in {(self.root / part.relative).parent for _, part in staged}:
            go_on()
            files.sync_directory(directory)
            fault_point("after_directory_fsync")
        return [part for _, part in staged], dropped

    def _stage(self, kind: str, date: str, number: int, content: bytes) -> Path:
        path = self.root / files.STAGING_NAME / part_path(kind, date, number).replace("/", "-")
        files.stage(path, content)
        return path


def _record(db: sqlite3.Connection, view: JournalView, parts: list[Part], dropped: int) -> None:
    write_parts(db, parts)
    db.execute("UPDATE meta SET value = ? WHERE key = 'part_number'", (str(view.part_number + 1),))
    if dropped:
        add_counters(db, {DUPLICATE_ROWS: dropped})


def _by_date(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Splits rows by the UTC date of a time column."""
    days = table[column].cast(pa.int64()).to_numpy() // _DAY_US
    found = np.unique(days)
    for day in found:
        date = datetime.fromtimestamp(int(day) * 86_400, UTC).date().isoformat()
        yield date, table if len(found) == 1 else table.filter(pa.array(days == day))
