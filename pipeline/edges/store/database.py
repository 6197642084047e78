"""The database of the journal: one SQLite file DIR/journal.db (WAL, synchronous=FULL), its lock, tables and seals.

The process that writes holds a lock on the data directory and opens the database with `create_or_open`. Readers need no
lock: `view_journal` and `view_states` open the database read-only and take everything in one read transaction. The
manifest and the pending rows belong together, so a roll in progress neither hides a row nor shows it twice.

Two checks find damage that SQLite would not notice. Pending rows carry a checksum each. Every table has a *seal* in the
table `meta`: a checksum over its names, counters and lists. A transaction ends by sealing the tables that it changed.

Everything that is written after creation is written by `pipeline.edges.store.journal`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.core.records import AlarmChange, StreamKey
from pipeline.edges.store.schema import (
    ARCHIVE_NAME,
    KINDS,
    UNREADABLE,
    FeatureSchema,
    Part,
    Swap,
    arrow_schema,
    canonical,
    gathered,
    unpacked,
)
from pipeline.errors import ArchiveError

JOURNAL_NAME = "journal.db"
JOURNAL_VERSION = 3

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE states (machine TEXT, point TEXT, state BLOB NOT NULL, PRIMARY KEY (machine, point))",
    "CREATE TABLE pending (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, rows INTEGER NOT NULL, "
    "crc INTEGER NOT NULL, batch BLOB NOT NULL)",
    "CREATE TABLE extras (kind TEXT, name TEXT, position INTEGER NOT NULL, PRIMARY KEY (kind, name))",
    "CREATE TABLE parts (kind TEXT, date TEXT, number INTEGER, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, "
    "sha256 TEXT NOT NULL, extras TEXT NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, "
    "PRIMARY KEY (kind, date, number))",
    "CREATE TABLE open_alarms (id TEXT PRIMARY KEY, machine TEXT, point TEXT, type TEXT, mode TEXT, p REAL, "
    "at_ns INTEGER, since_ns INTEGER)",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE inputs (id TEXT PRIMARY KEY, note TEXT NOT NULL)",
)

# What the seal of a table covers. Blobs are left out: states and pending rows have their own checksums. `NOT INDEXED`
# reads the table itself, so damage to the table cannot hide behind an intact index.
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
class PendingRows:
    """Rows of one kind that are committed but not yet in a part, and the journal entries that hold them."""

    kind: str
    ids: tuple[int, ...]
    tables: tuple[pa.Table, ...]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(int(table.num_rows) for table in self.tables)

    def table(self, schema: pa.Schema) -> pa.Table:
        """All rows, with the columns of `schema`."""
        return gathered(self.tables, schema)


@dataclass(frozen=True, slots=True)
class JournalView:
    """What a journal says at one moment."""

    schema: FeatureSchema | None
    extras: dict[str, tuple[str, ...]]  # kind -> every channel or class ever seen
    parts: tuple[Part, ...]  # the manifest
    pending: dict[str, PendingRows]  # of the kinds that were asked for
    part_number: int  # the number of the next part
    counters: dict[str, int]

    def arrow_schema(self, kind: str) -> pa.Schema:
        """The columns that every part of a kind has, or will have after the next roll."""
        return arrow_schema(kind, self.extras.get(kind, ()), self.schema)


def view_journal(directory: Path, kinds: Sequence[str] = KINDS) -> JournalView | None:
    """The journal of a data directory, with the pending rows of `kinds`; None if there is no journal.

    Takes no lock. The manifest fits the directories of this moment, also while a swap is under way.

    Raises:
        ArchiveError: the journal cannot be read, or has another version.
    """
    with _reading(directory) as db:
        if db is None:
            return None
        view, swap = read_view(db, kinds), read_swap(db)
        if swap is not None and swap.is_made(directory / ARCHIVE_NAME):
            return replace(view, parts=swap.after(view.parts))
        return view


def view_states(directory: Path) -> dict[StreamKey, bytes]:
    """The newest state of every stream; empty if there is no journal. Takes no lock.

    Raises:
        ArchiveError: the journal cannot be read, or has another version.
    """
    with _reading(directory) as db:
        return {} if db is None else read_states(db)


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[sqlite3.Connection | None]:
    """One read transaction on a checked journal; None if there is none."""
    path = directory / JOURNAL_NAME
    if not path.exists():
        yield None
        return
    try:
        with contextlib.closing(open_read_only(path)) as db:
            db.execute("BEGIN")
            if not _has_tables(db):
                yield None
                return
            _check_version(db, path)
            _check_seals(db, path)
            yield db
    except (sqlite3.Error, *UNREADABLE) as error:
        raise damaged(path, error) from error


class DirectoryHeld(ArchiveError):
    """Another process holds the data directory."""


class DirectoryLock:
    """An exclusive lock on a data directory. It lasts until it is released or the process ends."""

    def __init__(self, directory: Path) -> None:
        """Creates the directory if needed.

        Raises:
            DirectoryHeld: another process holds the directory.
            ArchiveError: the directory cannot be written.
        """
        path = directory / ".lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(directory, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            msg = f"expected a data directory that no other process holds, found {directory} held by process: {pid}"
            raise DirectoryHeld(msg, hint="stop that process, or use another data directory") from error
        except OSError as error:
            os.close(self._fd)
            raise storage_error(path, error) from error

    def release(self) -> None:
        """Releases the lock; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_or_open(path: Path) -> sqlite3.Connection:
    """Opens the database for its owner, or creates it with all tables.

    Raises:
        ArchiveError: the file is damaged, belongs to another version or program, or cannot be written.
    """
    if path.exists() and path.stat().st_size == 0 and any((path.parent / ARCHIVE_NAME).glob("*/date=*/*.parquet")):
        raise damaged(path, ValueError("the file is empty, but the archive is not"))
    db = None
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        fresh = not _has_tables(db)
        if not fresh:
            _check_version(db, path)  # before the first write: the file may belong to another program
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if fresh:
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                db.execute(statement)
            facts = [("journal_version", str(JOURNAL_VERSION)), ("part_number", "1")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
            _write_seals(db, _SEALED)
            db.execute("COMMIT")
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise damaged(path, ValueError(found))
        _check_seals(db, path)
        _note_changes(db)
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise storage_error(path, error) from error
    except ArchiveError:
        if db is not None:
            db.close()
        raise
    return db


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens the database for reading. Works on a read-only medium too, where SQLite cannot create its helper files."""
    uri = path.resolve().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise
        # SQLite cannot create its shared-memory file on a read-only medium. A database without a log needs none.
        db = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return db


def close_without_checkpoint(db: sqlite3.Connection, path: Path) -> None:
    """Closes the database and leaves its write-ahead log as it is; the next process that opens it moves the log.

    Moving the log into the database takes two syncs. SQLite does it when the last connection closes, unless that
    connection is read-only. So a read-only connection is closed last.
    """
    with contextlib.closing(open_read_only(path)):
        db.close()


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    """Refuses the journal of another version, and the database of another program."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = read_meta(db, "journal_version") if "meta" in tables else None
    if found is None:
        msg = f"expected journal version {JOURNAL_VERSION}, found in {path}: none, not a journal"
        raise ArchiveError(msg, hint=f"this is no data directory of thrumcast: {path.name} belongs to another program")
    if found != str(JOURNAL_VERSION):
        msg = f"expected journal version {JOURNAL_VERSION}, found in {path}: {found}"
        raise ArchiveError(msg, hint="use a new data directory, or the version of thrumcast that wrote this one")


def seal(db: sqlite3.Connection, table: str) -> str:
    """The checksum of what a table holds now."""
    return str(zlib.crc32(repr(db.execute(_SEALED[table]).fetchall()).encode()))


def _check_seals(db: sqlite3.Connection, path: Path) -> None:
    """Refuses a journal in which a name, a number or a row differs from what was written."""
    for table in _SEALED:
        if read_meta(db, f"seal.{table}") != seal(db, table):
            msg = f"its table {table} has another checksum than the one written with it"
            raise damaged(path, ValueError(msg))


def _note_changes(db: sqlite3.Connection) -> None:
    """Makes this connection list the tables that a transaction changes. The list lives in memory only."""
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
    """Seals the tables that this transaction has changed. A table that it has not touched costs nothing."""
    _write_seals(db, [name for (name,) in db.execute("SELECT name FROM temp.changed")])
    db.execute("DELETE FROM temp.changed")


def _write_seals(db: sqlite3.Connection, tables: Iterable[str]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(f"seal.{table}", seal(db, table)) for table in tables]
    )


def read_view(db: sqlite3.Connection, kinds: Sequence[str]) -> JournalView:
    """All of the journal but the stream states, with the pending rows of `kinds`."""
    return JournalView(
        schema=read_schema(db),
        extras={kind: _read_extras(db, kind) for kind in KINDS},
        parts=_read_parts(db),
        pending={kind: _read_pending(db, kind) for kind in kinds},
        part_number=read_part_number(db),
        counters=read_counters(db),
    )


def read_meta(db: sqlite3.Connection, key: str) -> str | None:
    """One value of the table `meta`, which holds the facts that there is only one of."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def read_part_number(db: sqlite3.Connection) -> int:
    """The number of the next part."""
    return int(read_meta(db, "part_number") or 1)


def read_swap(db: sqlite3.Connection) -> Swap | None:
    """The swap that is under way."""
    text = read_meta(db, "swap")
    if text is None:
        return None
    known = json.loads(text)
    new = known["new"]
    if new is not None:
        new = Part(**{**new, "extras": tuple(new["extras"])})
    return Swap(known["kind"], known["date"], tuple(known["gone"]), new)


def read_schema(db: sqlite3.Connection) -> FeatureSchema | None:
    """The feature table of this data directory."""
    text = read_meta(db, "feature_schema")
    if text is None:
        return None
    known = json.loads(text)
    return FeatureSchema(known.pop("name"), **{key: tuple(value) for key, value in known.items()})


def read_states(db: sqlite3.Connection) -> dict[StreamKey, bytes]:
    """The newest state of every stream."""
    rows = db.execute("SELECT machine, point, state FROM states ORDER BY machine, point")
    return {StreamKey(machine, point): state for machine, point, state in rows}


def read_counters(db: sqlite3.Connection) -> dict[str, int]:
    """Cumulative counters, since the data directory was created."""
    return dict(db.execute("SELECT name, value FROM counters ORDER BY name"))


def read_open_alarms(db: sqlite3.Connection) -> Iterator[AlarmChange]:
    """The newest change of every open alarm."""
    rows = db.execute(
        "SELECT machine, point, type, id, mode, p, at_ns, since_ns FROM open_alarms ORDER BY since_ns, id"
    )
    for machine, point, *rest in rows:
        yield AlarmChange(StreamKey(machine, point), *rest)


def _read_extras(db: sqlite3.Connection, kind: str) -> tuple[str, ...]:
    """Every channel or class ever seen, in canonical order."""
    rows = db.execute("SELECT name FROM extras WHERE kind = ? ORDER BY position", (kind,))
    return canonical(kind, [name for (name,) in rows])


def _read_parts(db: sqlite3.Connection) -> tuple[Part, ...]:
    """The manifest, in the order of writing."""
    rows = db.execute(
        "SELECT kind, date, number, rows, bytes, sha256, extras, first_us, last_us FROM parts "
        "ORDER BY number, kind, date"
    )
    return tuple(
        Part(kind, date, number, count, size, sha256, tuple(json.loads(extras)), first_us, last_us)
        for kind, date, number, count, size, sha256, extras, first_us, last_us in rows
    )


def _read_pending(db: sqlite3.Connection, kind: str) -> PendingRows:
    """Rows that are not yet in a part, as they were committed."""
    rows = db.execute("SELECT id, crc, batch FROM pending WHERE kind = ? ORDER BY id", (kind,)).fetchall()
    for number, crc, blob in rows:
        if zlib.crc32(blob) != crc:  # Arrow does not notice a flipped bit within a number
            msg = f"entry {number} of the pending {kind} has another checksum than the one written with it"
            raise sqlite3.DatabaseError(msg)
    tables = tuple(unpacked(blob) for _, _, blob in rows)
    return PendingRows(kind, tuple(number for number, _, _ in rows), tables)


def damaged(path: Path, error: Exception) -> ArchiveError:
    """The error for a database that SQLite or Arrow cannot read, or whose checksums differ."""
    msg = f"expected a readable journal, found {path} damaged: {error}"
    hint = (
        f"restore {path.name} from a backup, or begin a new one with `thrumcast state set-aside --yes`, which keeps "
        "this one; finished Parquet parts stay readable, rows not yet in them and stream states are lost"
    )
    return ArchiveError(msg, hint=hint)


def storage_error(path: Path, error: Exception) -> ArchiveError:
    """The error for a failed write, from what SQLite or the operating system said."""
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return damaged(path, error)
        full, read_only = name.startswith("SQLITE_FULL"), name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
    else:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT)
        read_only = number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
    if full:
        hint = "free some space; nothing was lost, and the same write will be tried again"
    elif read_only:
        hint = "choose a data directory that this user may write: --data DIR or data.dir"
    else:
        hint = "check the disk and its file system (dmesg); nothing was acknowledged that is not written"
    return ArchiveError(f"expected to write {path}, found: {error}", hint=hint)
