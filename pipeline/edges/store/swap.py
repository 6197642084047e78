"""Exchanges the files of one day in one step, so that no reader ever sees a row twice or misses one.

    1  .staging/swap-<kind>-<date>/: a hard link to every file that stays, and the new part, fsync
    2  the journal notes the plan
    3  that directory and date=<date>/ change places (renameat2 RENAME_EXCHANGE): one step for every reader that lists
    4  ONE journal transaction: the manifest follows, the note of step 2 is removed
    5  the old files are removed

A reader that lists the day before step 3 and opens a file after it gets FileNotFoundError, never wrong rows. The
readers of `pipeline.edges.store.read` then look again; other readers have to do so themselves. On a file system that
cannot exchange directories, step 3 is two renames, and the day is missing between them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from pipeline.edges.faults import fault_point
from pipeline.edges.store.database import storage_error
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.parts import STAGING_NAME, stage, sync_directory
from pipeline.edges.store.schema import Part, Swap

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_parts(journal: Journal, root: Path, gone: list[Part], new: Part, content: bytes) -> None:
    """Replaces parts of one kind and date by one new part. The caller makes sure that no roll runs meanwhile.

    Raises:
        ArchiveError: the disk is full, read-only or broken. `settle` finishes what was planned by then.
    """
    swap = Swap(new.kind, new.date, tuple(part.number for part in gone), new)
    live, fresh = _live(root, swap), _fresh(root, swap)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        left_out = {Path(part.relative).name for part in gone}
        for path in live.iterdir():
            if path.name not in left_out:
                os.link(path, fresh / path.name)
        stage(fresh / Path(new.relative).name, content)
        sync_directory(fresh)
        sync_directory(fresh.parent)
        fault_point("swap_prepared")
        journal.plan_swap(swap)
        fault_point("swap_decided")
        _exchange(fresh, live, _old(root, swap))
        fault_point("swap_exchanged")
    except OSError as error:
        raise storage_error(live, error) from error
    settle(journal, root)


def remove_day(journal: Journal, root: Path, kind: str, date: str, parts: list[Part]) -> None:
    """Removes a day of one kind, which holds these parts. The caller makes sure that no roll runs meanwhile.

    Raises:
        ArchiveError: the disk is full, read-only or broken. `settle` finishes what was planned by then.
    """
    fault_point("swap_prepared")
    journal.plan_swap(Swap(kind, date, tuple(part.number for part in parts), None))
    fault_point("swap_decided")
    settle(journal, root)


def settle(journal: Journal, root: Path) -> None:
    """Finishes a swap that was interrupted, or cancels it if the directory has not changed yet.

    Raises:
        ArchiveError: the disk is full, read-only or broken.
    """
    swap = journal.planned_swap()
    if swap is None:
        return
    live, fresh, old = _live(root, swap), _fresh(root, swap), _old(root, swap)
    try:
        if swap.new is not None and not live.exists():  # a crash between two renames
            (fresh if fresh.exists() else old).rename(live)
            sync_directory(live.parent)
        if swap.new is None and live.exists():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            live.rename(old)
            sync_directory(live.parent)
        fault_point("swap_before_transaction")
        if swap.is_made(root):
            journal.finish_swap(swap)
        else:
            journal.cancel_swap()
        fault_point("swap_done")
        for left in (fresh, old):
            if left.exists():
                shutil.rmtree(left)
    except OSError as error:
        raise storage_error(live, error) from error


def _live(root: Path, swap: Swap) -> Path:
    return root / swap.kind / f"date={swap.date}"


def _fresh(root: Path, swap: Swap) -> Path:
    return root / STAGING_NAME / f"swap-{swap.kind}-{swap.date}"


def _old(root: Path, swap: Swap) -> Path:
    return root / STAGING_NAME / f"old-{swap.kind}-{swap.date}"


def _exchange(fresh: Path, live: Path, old: Path) -> None:
    """Makes two directories change places."""
    if not _rename_exchange(fresh, live):
        shutil.rmtree(old, ignore_errors=True)
        live.rename(old)
        fresh.rename(live)
    sync_directory(live.parent)
    sync_directory(fresh.parent)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Exchanges in one step; returns False, with nothing changed, if the system or the file system cannot."""
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
