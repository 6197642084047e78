"""Rows that can be made again from a file go into parts at once, without a stay in the journal.

What a broker delivered must be in the journal before it is acknowledged; a recording stays where it is, so its rows
may be lost in a crash as long as the recording then counts as not done. In this order:

    1  what waits in the journal is rolled: a roll that died may have left its files under the next part number
    2  ONE journal transaction: new columns, and a note that parts of that number are being placed
    3  parts -> staging -> fsync -> rename -> fsync of the directories, as in a roll
    4  ONE journal transaction: parts into the manifest, inputs finished, part number + 1, note gone <- the commit point

A crash between 3 and 4 leaves parts that no manifest lists. `withdraw` removes them before anything else is written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pipeline.edges.store import database as read
from pipeline.edges.store import parts as files
from pipeline.edges.store.journal import Journal

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
