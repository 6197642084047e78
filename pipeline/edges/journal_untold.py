"""Alarm changes that are committed and of which the broker has not yet confirmed that it has them.

They stand here, written in the transaction that decides them, whatever becomes of their rows: a roll may move those
into Parquet long before anybody was told. A start tells them again, so that no crash, and no broker that was away,
keeps one from whoever listens.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from pipeline.core.records import AlarmChange, StreamKey

_KEYS = "untold."  # in the table of facts: `untold.<number>` -> the change
_NEXT = (
    f"INSERT INTO meta SELECT '{_KEYS}' || printf('%012d', 1 + coalesce(max(CAST(substr(key, {len(_KEYS) + 1}) "
    f"AS INTEGER)), 0)), ? FROM meta WHERE key LIKE '{_KEYS}%'"
)


def remember(db: sqlite3.Connection, changes: Sequence[AlarmChange]) -> None:
    """Nobody has been told of these; within the caller's transaction."""
    db.executemany(_NEXT, [(_text(change),) for change in changes])


def forget(db: sqlite3.Connection, changes: Sequence[AlarmChange]) -> None:
    """The broker has these; within the caller's transaction."""
    told = [(_text(change),) for change in changes]
    db.executemany(f"DELETE FROM meta WHERE key LIKE '{_KEYS}%' AND value = ?", told)


def remembered(db: sqlite3.Connection) -> list[AlarmChange]:
    """In the order in which they were committed."""
    rows = db.execute(f"SELECT value FROM meta WHERE key LIKE '{_KEYS}%' ORDER BY key")
    return [_change(*json.loads(value)) for (value,) in rows]


def _text(change: AlarmChange) -> str:
    return json.dumps([*change.key, change.type, change.id, change.mode, change.p, change.at_ns, change.since_ns])


def _change(machine: str, point: str, *rest: object) -> AlarmChange:
    return AlarmChange(StreamKey(machine, point), *rest)  # type: ignore[arg-type]
