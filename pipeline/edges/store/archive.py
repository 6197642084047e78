"""The archive: pending rows of the journal become parts that any Parquet reader opens.

A roll takes these steps, in this order. The number in the file names comes from the journal, so a roll that dies before
its transaction writes the same names again, with the same rows and those that came since.

    1  parts without a newly seen column are written again under their own names, as far as `WIDEN_BYTES` go; upkeep
       writes the rest again beside the rolls, a few parts per step, and readers unite the columns meanwhile
    2  pending rows -> per kind and UTC date -> archive/.staging/<name> -> fsync
    3  rename to archive/<kind>/date=YYYY-MM-DD/part-<number>.parquet -> fsync of the directory
    4  ONE journal transaction: rows out of the journal, parts into its manifest, part number + 1

An append writes rows that come from files. What a broker delivered must be in the journal before it is acknowledged. A
recording stays where it is, so its rows may be lost in a crash as long as the recording then counts as not done:

    1  pending rows are rolled, because a roll that died may have left files with the next part number
    2  ONE journal transaction: new columns, and a note that parts of that number are about to be placed
    3  parts -> staging -> fsync -> rename -> fsync of the directories, as in a roll
    4  ONE journal transaction: parts into the manifest, inputs finished, part number + 1, note removed

Step 4 is the commit point of an append. A crash between 3 and 4 leaves parts that no manifest lists; they are removed
before anything else is written.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.edges.faults import fault_point
from pipeline.edges.store.database import JournalView, storage_error
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.parts import (
    STAGING_NAME,
    adopt,
    describe_part,
    encode_part,
    give_back,
    make_directory,
    read_part,
    remove_parts,
    sort_rows,
    stage,
    sync_directory,
    without_known,
)
from pipeline.edges.store.schema import (
    ARCHIVE_NAME,
    DATE_COLUMN,
    KINDS,
    FeatureSchema,
    Part,
    Rows,
    arrow_schema,
    conform,
    gathered,
    part_path,
)
from pipeline.edges.store.swap import settle

# Bytes of older parts that a roll writes again, which takes half a second. Pending rows do not wait for the rest.
WIDEN_BYTES = 4 * 2**20
_DAY_US = 86_400_000_000


class _RollStopped(Exception):
    """The caller has asked the roll to stop."""


def _go_on() -> None:
    """Never stops."""


class Archive:
    """Writes the parts of one data directory. `roll` may run on another thread than the journal's commits."""

    def __init__(self, directory: Path, journal: Journal, feature_schema: FeatureSchema) -> None:
        """Settles what was interrupted, and checks that journal and parts belong to this feature table.

        Raises:
            SchemaError: the data directory was written with another feature table.
            ArchiveError: it cannot be written, or holds a file that cannot be read.
        """
        self.root = directory / ARCHIVE_NAME
        self.journal = journal
        self._schema = feature_schema
        self._rolling = threading.Lock()
        self.narrow_parts = 0  # parts that lacked a column when last looked at; `widen` writes them again
        self._settle()
        try:
            make_directory(self.root / STAGING_NAME)
            for left_over in (self.root / STAGING_NAME).iterdir():
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                else:
                    left_over.unlink()
        except OSError as error:
            raise storage_error(self.root, error) from error
        if journal.view(()).schema is None:  # a new journal takes over the parts that are there
            journal.adopt(adopt(self.root, feature_schema))
        journal.bind(feature_schema)

    def roll(self, stop: Callable[[], bool] = lambda: False) -> list[Part]:
        """Writes all pending rows into new parts; returns an empty list if nothing is pending.

        `stop` is called before each step on disk. If it returns true, the roll ends there, with the same effect as a
        crash at that point: the next roll writes the same files again.

        Raises:
            ArchiveError: the disk is full, read-only or broken; the rows stay in the journal for the next roll.
        """
        with self._rolling:
            parts = self._roll(stop)
        give_back()  # here, where no name holds the rows any more
        return parts

    def append(self, rows: Sequence[Rows], inputs: Mapping[str, str]) -> list[Part]:
        """Writes rows that come from files into new parts and marks these inputs as finished: all of it or nothing.

        Raises:
            ArchiveError: the disk is full, read-only or broken; nothing has changed.
        """
        self.roll()
        with self._rolling:
            view = self.journal.begin_append(rows)
            fault_point("append_noted")
            try:
                self._widen(view)
                tables = {kind: [each.table for each in rows if each.kind == kind] for kind in KINDS}
                parts, duplicate_rows = self._write(view, tables)
            except OSError as error:
                raise storage_error(self.root, error) from error
            fault_point("append_before_transaction")
            self.journal.finish_append(view, parts, duplicate_rows, inputs)
            fault_point("append_done")
        give_back()
        return parts

    @contextlib.contextmanager
    def rolls_paused(self) -> Iterator[JournalView]:
        """Holds rolls off and yields the manifest, after finishing what an interrupted upkeep began."""
        with self._rolling:
            self._settle()
            view = self.journal.view(())
            # A roll that died may have placed parts of the next number. Upkeep may use that number, and then no later
            # roll would write over them.
            remove_parts(self.root, view.part_number)
            yield view

    def widen(self) -> bool:
        """Writes some parts again that lack a newly seen column; False if there is none.

        Raises:
            ArchiveError: the part cannot be read, or the disk is full, read-only or broken.
        """
        with self.rolls_paused() as view:
            before = self.narrow_parts = len(self._narrow(view))
            try:
                self._widen(view, at_most=WIDEN_BYTES)
            except OSError as error:
                raise storage_error(self.root, error) from error
        give_back()
        return before > 0

    def _settle(self) -> None:
        """Finishes an interrupted swap, and removes the parts that an interrupted append placed and never listed."""
        settle(self.journal, self.root)
        number = self.journal.interrupted_append()
        if number is not None:
            remove_parts(self.root, number)
            self.journal.cancel_append()

    def _roll(self, stop: Callable[[], bool]) -> list[Part]:
        def go_on() -> None:
            if stop():
                raise _RollStopped

        fault_point("roll_begin")
        self._settle()
        view = self.journal.view(KINDS)
        try:
            self._widen(view, go_on, at_most=WIDEN_BYTES)
            if not any(view.pending[kind].ids for kind in KINDS):
                return []
            parts, duplicate_rows = self._write(view, {kind: view.pending[kind].tables for kind in KINDS}, go_on)
            go_on()
        except _RollStopped:
            return []
        except OSError as error:
            raise storage_error(self.root, error) from error
        fault_point("roll_before_transaction")
        self.journal.finish_roll(view, parts, duplicate_rows)
        fault_point("roll_done")
        return parts

    def _narrow(self, view: JournalView) -> list[Part]:
        """Parts that lack a channel or class; `verify` reports one that is missing."""
        return [p for p in view.parts if p.extras != view.extras[p.kind] and (self.root / p.relative).exists()]

    def _widen(self, view: JournalView, go_on: Callable[[], None] = _go_on, at_most: float = math.inf) -> None:
        """Writes parts again that were written before a channel or class was first seen, until `at_most` bytes are."""
        widened: list[Part] = []
        narrow = self._narrow(view)
        for part in narrow:
            extras, path = view.extras[part.kind], self.root / part.relative
            if sum(each.bytes for each in widened) >= at_most:
                break
            go_on()
            table = conform(read_part(path), arrow_schema(part.kind, extras, self._schema))
            content = encode_part(table)
            staged = self._stage(part.kind, part.date, part.number, content)
            fault_point("after_rewrite_staging")
            staged.replace(path)
            sync_directory(path.parent)
            fault_point("after_rewrite_rename")
            widened.append(describe_part(part.kind, part.date, part.number, table, extras, content))
        if widened:
            fault_point("rewrite_before_transaction")
            self.journal.update_parts(widened)
            fault_point("rewrite_done")
        self.narrow_parts = len(narrow) - len(widened)

    def _write(
        self, view: JournalView, tables: Mapping[str, Sequence[pa.Table]], go_on: Callable[[], None] = _go_on
    ) -> tuple[list[Part], int]:
        """Places one part per kind and date; returns the parts and the number of rows that the archive had already."""
        duplicate_rows, staged = 0, []
        for kind in KINDS:
            whole = gathered(tables[kind], arrow_schema(kind, view.extras[kind], self._schema)).combine_chunks()
            for date, rows in by_date(whole, DATE_COLUMN[kind]):
                fresh = without_known(self.root, view.parts, kind, date, rows)
                duplicate_rows += rows.num_rows - fresh.num_rows
                if not fresh.num_rows:
                    continue
                go_on()
                table = sort_rows(fresh, kind)
                content = encode_part(table)
                path = self._stage(kind, date, view.part_number, content)
                staged.append((path, describe_part(kind, date, view.part_number, table, view.extras[kind], content)))
                fault_point("after_staging")
        for path, part in staged:
            go_on()
            target = self.root / part.relative
            make_directory(target.parent)
            path.replace(target)
            fault_point("after_rename")
        for directory in {(self.root / part.relative).parent for _, part in staged}:
            go_on()
            sync_directory(directory)
            fault_point("after_directory_fsync")
        return [part for _, part in staged], duplicate_rows

    def _stage(self, kind: str, date: str, number: int, content: bytes) -> Path:
        path = self.root / STAGING_NAME / part_path(kind, date, number).replace("/", "-")
        stage(path, content)
        return path


def by_date(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Splits rows by the UTC date of a time column."""
    days = table[column].cast(pa.int64()).to_numpy() // _DAY_US
    found = np.unique(days)
    for day in found:
        date = datetime.fromtimestamp(int(day) * 86_400, UTC).date().isoformat()
        yield date, table if len(found) == 1 else table.filter(pa.array(days == day))
