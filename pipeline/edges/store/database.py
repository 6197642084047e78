"""What stands in a journal, for its owner and for readers in other processes.

A reader opens the database read-only and takes everything in one read transaction: the manifest and the rows that are
still pending belong together, so a roll in progress can neither hide a row nor show it twice.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.core.records import AlarmChange, StreamKey
from pipeline.edges.store.schema import (
    KINDS,
    UNREADABLE,
    FeatureSchema,
    Part,
    arrow_schema,
    canonical,
    gathered,
    part_path,
    unpacked,
)
from pipeline.errors import ArchiveError

# A decision about the files of one day that is written down before it is carried out.
#
# Compaction and pruning change a manifest in SQLite and a directory in a file system, which no transaction spans. So the
# journal first says what will be; then the directory changes in one step; then the manifest follows. Whoever looks in
# between, another process or the next start after a crash, sees from the directory whether that step was made.


META_KEY = "swap"


@dataclass(frozen=True, slots=True)
class Swap:
    """Parts of one kind and date that make room for one new part, or for nothing."""

    kind: str
    date: str
    gone: tuple[int, ...]  # numbers
    new: Part | None

    def text(self) -> str:
        """As the journal keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Swap:
        """From the journal."""
        known = json.loads(text)
        new = known.pop("new")
        if new is not None:
            new = Part(**{**new, "extras": tuple(new["extras"])})
        return cls(known["kind"], known["date"], tuple(known["gone"]), new)

    def is_made(self, root: Path) -> bool:
        """Whether the directory has changed: the new part is there, or the day is gone."""
        if self.new is None:
            return not (root / self.kind / f"date={self.date}").exists()
        return (root / self.new.relative).exists()

    def after(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The manifest as it will be."""
        gone = {part_path(self.kind, self.date, number) for number in self.gone}
        kept = tuple(part for part in parts if part.relative not in gone)
        return kept if self.new is None else (*kept, self.new)


def as_is(parts: tuple[Part, ...], intent: str | None, root: Path) -> tuple[Part, ...]:
    """The manifest that fits the directories of this moment."""
    if intent is None:
        return parts
    swap = Swap.read(intent)
    return swap.after(parts) if swap.is_made(root) else parts


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


# The files under a journal: the lock on the data directory, the database with its tables, and what an error means.


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


class DirectoryHeld(ArchiveError):
    """Another process holds the data directory."""


class DirectoryLock:
    """An exclusive lock on a data directory, held as long as the process lives or until released."""

    def __init__(self, directory: Path) -> None:
        """Creates the directory if needed, and raises ArchiveError if another process holds it."""
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
        """Lets go; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_or_open(path: Path) -> sqlite3.Connection:
    """The database with all its tables, checked: version, and pages that can be read."""
    if path.exists() and path.stat().st_size == 0 and any((path.parent / "archive").glob("*/date=*/*.parquet")):
        raise damaged(path, ValueError("the file is empty, but the archive is not"))
    db = None
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        fresh = not has_tables(db)
        if not fresh:
            check_version(db, path)  # before anything is written into what may not be ours
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if fresh:
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                db.execute(statement)
            facts = [("journal_version", str(JOURNAL_VERSION)), ("part_number", "1")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
            write_seals(db)
            db.execute("COMMIT")
        elif read_meta(db, "journal_version") in OLDER:
            _migrate(db)
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise damaged(path, ValueError(found))
        check_seals(db, path)
        note_changes(db)
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise storage_error(path, error) from error
    except ArchiveError:
        if db is not None:
            db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    """Checksums that older versions did not have are made for what stands there now."""
    db.execute("BEGIN IMMEDIATE")
    if read_meta(db, "journal_version") == "1":
        db.execute("ALTER TABLE pending ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")
        db.create_function("crc32", 1, zlib.crc32, deterministic=True)
        db.execute("UPDATE pending SET crc = crc32(batch)")
    db.execute("UPDATE meta SET value = ? WHERE key = 'journal_version'", (str(JOURNAL_VERSION),))
    write_seals(db)
    db.execute("COMMIT")


def close_as_it_is(db: sqlite3.Connection, path: Path) -> None:
    """Closes without moving the write-ahead log into the database, which syncs twice; the next opener does that.

    SQLite moves it when the last connection closes, unless that one may only read.
    """
    with contextlib.closing(open_read_only(path)):
        db.close()


def storage_error(path: Path, error: Exception) -> ArchiveError:
    """Says in words why something could not be kept on disk."""
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
        hint = "free some space; nothing was lost, the same write is tried again"
    elif read_only:
        hint = "choose a data directory that this user may write: --data DIR or data.dir"
    else:
        hint = "check the disk and its file system (dmesg); nothing was acknowledged that is not written"
    return ArchiveError(f"expected to write {path}, found: {error}", hint=hint)
