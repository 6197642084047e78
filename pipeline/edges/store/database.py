"""What stands in a journal, for its owner and for readers in other processes.

A reader opens the database read-only and takes everything in one read transaction: the manifest and the rows that are
still pending belong together, so a roll in progress can neither hide a row nor show it twice.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.core.records import AlarmChange, StreamKey
from pipeline.edges.archive_intent import META_KEY, as_is
from pipeline.edges.archive_tables import unpacked
from pipeline.edges.store.schema import KINDS, UNREADABLE, FeatureSchema, Part, arrow_schema, canonical, gathered
from pipeline.errors import ArchiveError

JOURNAL_VERSION = 3
# Can be read, and are brought up to date when the owner opens them. 1: pending entries had no checksum; 2: no seal.
OLDER = ("1", "2")
JOURNAL_NAME = "journal.db"

# Names, counters and lists: what no checksum of its own covers. Read from the tables, not from their indexes.
_SEALED = {
    "meta": "SELECT key, value FROM meta NOT INDEXED WHERE key NOT LIKE 'seal.%' ORDER BY key",
    "states": "SELECT machine, point, length(state) FROM states NOT INDEXED ORDER BY machine, point",
    "pending": "SELECT id, kind, rows, crc FROM pending NOT INDEXED ORDER BY id",
    "extras": "SELECT kind, name, position FROM extras NOT INDEXED ORDER BY kind, name",
    "parts": "SELECT * FROM parts NOT INDEXED ORDER BY kind, date, number",
    "open_alarms": "SELECT * FROM open_alarms NOT INDEXED ORDER BY id",
    "counters": "SELECT * FROM counters NOT INDEXED ORDER BY name",
    "inputs": "SELECT * FROM inputs NOT INDEXED ORDER BY id",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows that are decided but not yet in a Parquet part, and the journal entries that hold them."""

    kind: str
    ids: tuple[int, ...]
    tables: tuple[pa.Table, ...]

    def table(self, schema: pa.Schema) -> pa.Table:
        """All rows, with the columns of `schema`."""
        return gathered(self.tables, schema)


@dataclass(frozen=True, slots=True)
class JournalView:
    """One consistent look at a journal."""

    schema: FeatureSchema | None
    extras: dict[str, tuple[str, ...]]
    parts: tuple[Part, ...]
    pending: dict[str, Pending]
    part_number: int
    counters: dict[str, int] = field(default_factory=dict)

    def arrow_schema(self, kind: str) -> pa.Schema:
        """The columns that every part of a kind has, or will have after the next roll."""
        return arrow_schema(kind, self.extras.get(kind, ()), self.schema)


def view_journal(directory: Path, kinds: Sequence[str] = KINDS) -> JournalView | None:
    """Looks into the journal of a data directory without locking it; None where there is no journal.

    Raises:
        ArchiveError: it cannot be read, or is of another version.
    """
    path = directory / JOURNAL_NAME
    if not path.exists():
        return None
    try:
        with contextlib.closing(open_read_only(path)) as db:
            db.execute("BEGIN")
            if not has_tables(db):
                return None
            check_version(db, path)
            check_seals(db, path)
            return JournalView(
                schema=read_schema(db),
                extras={kind: read_extras(db, kind) for kind in KINDS},
                parts=as_is(read_parts(db), read_meta(db, META_KEY), directory / "archive"),
                pending={kind: read_pending(db, kind) for kind in kinds},
                part_number=int(read_meta(db, "part_number") or 1),
                counters=read_counters(db),
            )
    except (sqlite3.Error, *UNREADABLE) as error:
        raise damaged(path, error) from error


def open_read_only(path: Path) -> sqlite3.Connection:
    """The database for reading; nothing is written, not even on a medium where nothing can be."""
    uri = path.resolve().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise
        # A journal at rest on a read-only medium: SQLite cannot make its shared-memory file there, and needs none.
        db = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return db


def has_tables(db: sqlite3.Connection) -> bool:
    """Whether anything was ever written into this database."""
    return db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Refuses the journal of a version that is not known here, or another program's database."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = read_meta(db, "journal_version") if "meta" in tables else None
    if found not in (str(JOURNAL_VERSION), *OLDER):
        msg = f"expected journal version {JOURNAL_VERSION}, found in {path}: {found or 'none, not a journal'}"
        if found is None:
            raise ArchiveError(msg, hint=f"this is no data directory of thrumcast; {path.name} is somebody else's")
        raise ArchiveError(msg, hint="use a new data directory, or the version of thrumcast that wrote this one")


def seal(db: sqlite3.Connection, table: str) -> str:
    """Checksum of what stands in a table."""
    return str(zlib.crc32(repr(db.execute(_SEALED[table]).fetchall()).encode()))


def check_seals(db: sqlite3.Connection, path: Path) -> None:
    """Refuses a journal in which a name, a number or a row is not the one that was written."""
    if read_meta(db, "journal_version") in OLDER:
        return
    for table in _SEALED:
        if read_meta(db, f"seal.{table}") != seal(db, table):
            msg = f"its table {table} has another checksum than the one written with it"
            raise damaged(path, ValueError(msg))


def note_changes(db: sqlite3.Connection) -> None:
    """From now on this connection knows which tables a transaction has changed; nothing of it is on disk."""
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("CREATE TEMP TABLE changed (name TEXT)")
    for table in _SEALED:
        for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            when = f"WHEN {row}.key NOT LIKE 'seal.%'" if table == "meta" else ""
            db.execute(
                f"CREATE TEMP TRIGGER {table}_{verb} AFTER {verb} ON main.{table} {when} "
                f"BEGIN INSERT INTO changed SELECT '{table}' WHERE '{table}' NOT IN (SELECT name FROM changed); END"
            )


def seal_changes(db: sqlite3.Connection) -> None:
    """As the last thing in a transaction: a long list that nobody has touched costs nothing."""
    write_seals(db, [name for (name,) in db.execute("SELECT name FROM temp.changed")])
    db.execute("DELETE FROM temp.changed")


def write_seals(db: sqlite3.Connection, tables: Iterable[str] = tuple(_SEALED)) -> None:
    """Anew, for what stands in these tables now."""
    db.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(f"seal.{table}", seal(db, table)) for table in tables]
    )


def read_meta(db: sqlite3.Connection, key: str) -> str | None:
    """One value of the table of facts about the journal itself."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def read_schema(db: sqlite3.Connection) -> FeatureSchema | None:
    """The feature table that this data directory speaks."""
    text = read_meta(db, "feature_schema")
    if text is None:
        return None
    known = json.loads(text)
    return FeatureSchema(known.pop("name"), **{key: tuple(value) for key, value in known.items()})


def read_extras(db: sqlite3.Connection, kind: str) -> tuple[str, ...]:
    """Every channel or class ever seen, in canonical order."""
    rows = db.execute("SELECT name FROM extras WHERE kind = ? ORDER BY position", (kind,))
    return canonical(kind, [name for (name,) in rows])


def read_parts(db: sqlite3.Connection) -> tuple[Part, ...]:
    """The manifest, in the order of writing."""
    rows = db.execute(
        "SELECT kind, date, number, rows, bytes, sha256, extras, first_us, last_us FROM parts "
        "ORDER BY number, kind, date"
    )
    return tuple(
        Part(kind, date, number, count, size, sha256, tuple(json.loads(extras)), first_us, last_us)
        for kind, date, number, count, size, sha256, extras, first_us, last_us in rows
    )


def read_pending(db: sqlite3.Connection, kind: str) -> Pending:
    """Rows not yet in Parquet, as they were committed."""
    crc = "NULL" if read_meta(db, "journal_version") == "1" else "crc"
    rows = db.execute(f"SELECT id, {crc}, batch FROM pending WHERE kind = ? ORDER BY id", (kind,)).fetchall()
    for number, crc, blob in rows:
        if crc is not None and zlib.crc32(blob) != crc:  # Arrow would take a flipped bit of a number for another number
            msg = f"entry {number} of the pending {kind} has another checksum than the one written with it"
            raise sqlite3.DatabaseError(msg)
    tables = tuple(unpacked(blob) for _, _, blob in rows)
    return Pending(kind, tuple(number for number, _, _ in rows), tables)


def read_counters(db: sqlite3.Connection) -> dict[str, int]:
    """Cumulative counters, since the data directory began."""
    return dict(db.execute("SELECT name, value FROM counters ORDER BY name"))


def read_open_alarms(db: sqlite3.Connection) -> Iterator[AlarmChange]:
    """The newest change of every alarm that is not cleared."""
    rows = db.execute(
        "SELECT machine, point, type, id, mode, p, at_ns, since_ns FROM open_alarms ORDER BY since_ns, id"
    )
    for machine, point, *rest in rows:
        yield AlarmChange(StreamKey(machine, point), *rest)


def damaged(path: Path, error: Exception) -> ArchiveError:
    """The database file is not what SQLite or Arrow can read."""
    msg = f"expected a readable journal, found {path} damaged: {error}"
    hint = (
        f"restore {path.name} from a backup, or begin a new one with `thrumcast state set-aside --yes`, which keeps "
        "this one; finished Parquet parts stay readable, rows not yet in them and stream states are lost"
    )
    return ArchiveError(msg, hint=hint)


def view_states(directory: Path) -> dict[StreamKey, bytes]:
    """The newest state of every stream, without locking the directory; empty where there is no journal.

    Raises:
        ArchiveError: the journal cannot be read, or is of another version.
    """
    path = directory / JOURNAL_NAME
    if not path.exists():
        return {}
    try:
        with contextlib.closing(open_read_only(path)) as db:
            if not has_tables(db):
                return {}
            check_version(db, path)
            check_seals(db, path)
            rows = db.execute("SELECT machine, point, state FROM states ORDER BY machine, point")
            return {StreamKey(machine, point): state for machine, point, state in rows}
    except sqlite3.Error as error:
        raise damaged(path, error) from error
