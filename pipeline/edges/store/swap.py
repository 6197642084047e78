"""Exchanging the files of one day in one step, so that no reader ever sees rows twice or misses some.

    1  .staging/swap-<kind>-<date>/: a hard link to every file that stays, and the new part, fsync
    2  the journal says what will be
    3  that directory and date=<date>/ change places (renameat2 RENAME_EXCHANGE): one step for every reader that lists
    4  ONE journal transaction: the manifest follows, the note of step 2 goes
    5  what was exchanged is removed

A reader that listed the day before step 3 and opens a file after it gets FileNotFoundError, never wrong rows; ours look
again, others have to. Where the file system cannot exchange, 3 is two renames: between them the day is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sqlite3
from pathlib import Path

from pipeline.edges.faults import fault_point
from pipeline.edges.store import database as read
from pipeline.edges.store import parts as files
from pipeline.edges.store.database import META_KEY, Swap, storage_error
from pipeline.edges.store.journal import Journal, add_counters, write_parts
from pipeline.edges.store.schema import Part, part_path

PRUNED_ROWS = "archive_pruned_rows"  # journal counters
COMPACTED_PARTS = "archive_compacted_parts"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def swap(journal: Journal, root: Path, decided: Swap, content: bytes | None) -> None:
    """Makes a swap from beginning to end; the caller sees to it that no roll runs meanwhile.

    Raises:
        ArchiveError: the disk is full, read-only or broken. What is decided by then is finished by `settle`.
    """
    live = root / decided.kind / f"date={decided.date}"
    try:
        if decided.new is not None and content is not None:
            _prepare(live, _fresh(root, decided), decided, content)
        fault_point("swap_prepared")
        with journal.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (META_KEY, decided.text()))
        fault_point("swap_decided")
        if decided.new is not None:
            _exchange(_fresh(root, decided), live, _old(root, decided))
            fault_point("swap_exchanged")
    except OSError as error:
        raise storage_error(live, error) from error
    settle(journal, root)


def settle(journal: Journal, root: Path) -> None:
    """Finishes what an interrupted swap began, or forgets it if nothing had changed yet.

    Raises:
        ArchiveError: the disk is full, read-only or broken.
    """
    with journal.transaction() as db:
        intent = read.read_meta(db, META_KEY)
    if intent is None:
        return
    decided = Swap.read(intent)
    live = root / decided.kind / f"date={decided.date}"
    fresh, old = _fresh(root, decided), _old(root, decided)
    try:
        if decided.new is not None and not live.exists():  # died between two renames
            (fresh if fresh.exists() else old).rename(live)
            files.sync_directory(live.parent)
        if decided.new is None and live.exists():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            live.rename(old)
            files.sync_directory(live.parent)
        fault_point("swap_before_transaction")
        made = decided.is_made(root)
        with journal.transaction() as db:
            if made:
                _record(db, decided)
            db.execute("DELETE FROM meta WHERE key = ?", (META_KEY,))
        fault_point("swap_done")
        for left in (fresh, old):
            if left.exists():
                shutil.rmtree(left)
    except OSError as error:
        raise storage_error(live, error) from error


def _record(db: sqlite3.Connection, decided: Swap) -> None:
    """The manifest as the directory is now; within the caller's transaction."""
    numbers = [(decided.kind, decided.date, number) for number in decided.gone]
    gone = "SELECT total(rows) FROM parts WHERE kind = ? AND date = ? AND number = ?"
    rows = sum(int(db.execute(gone, key).fetchone()[0]) for key in numbers)
    db.executemany("DELETE FROM parts WHERE kind = ? AND date = ? AND number = ?", numbers)
    if decided.new is None:
        add_counters(db, {PRUNED_ROWS: rows})
        return
    write_parts(db, [decided.new])
    number = max(int(read.read_meta(db, "part_number") or 1), decided.new.number + 1)
    db.execute("UPDATE meta SET value = ? WHERE key = 'part_number'", (str(number),))
    add_counters(db, {COMPACTED_PARTS: len(numbers)})


def _prepare(live: Path, fresh: Path, decided: Swap, content: bytes) -> None:
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    gone = {Path(part_path(decided.kind, decided.date, number)).name for number in decided.gone}
    for path in live.iterdir():
        if path.name not in gone:
            os.link(path, fresh / path.name)
    new: Part | None = decided.new
    assert new is not None
    files.stage(fresh / Path(new.relative).name, content)
    files.sync_directory(fresh)
    files.sync_directory(fresh.parent)


def _fresh(root: Path, decided: Swap) -> Path:
    return root / files.STAGING_NAME / f"swap-{decided.kind}-{decided.date}"


def _old(root: Path, decided: Swap) -> Path:
    return root / files.STAGING_NAME / f"old-{decided.kind}-{decided.date}"


def _exchange(fresh: Path, live: Path, old: Path) -> None:
    """Lets two directories change places."""
    if not _rename_exchange(fresh, live):
        shutil.rmtree(old, ignore_errors=True)
        live.rename(old)
        fresh.rename(live)
    files.sync_directory(live.parent)
    files.sync_directory(fresh.parent)


def _rename_exchange(one: Path, other: Path) -> bool:
    """In one step, if this system and file system can; else False and nothing has changed."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one))
