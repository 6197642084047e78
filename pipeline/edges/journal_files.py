"""The files under a journal: the lock on the data directory, the database with its tables, and what an error means."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import zlib
from pathlib import Path

from pipeline.edges.store import database as read
from pipeline.errors import ArchiveError

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
        raise read.damaged(path, ValueError("the file is empty, but the archive is not"))
    db = None
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        fresh = not read.has_tables(db)
        if not fresh:
            read.check_version(db, path)  # before anything is written into what may not be ours
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if fresh:
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                db.execute(statement)
            facts = [("journal_version", str(read.JOURNAL_VERSION)), ("part_number", "1")]
            db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
            read.write_seals(db)
            db.execute("COMMIT")
        elif read.read_meta(db, "journal_version") in read.OLDER:
            _migrate(db)
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise read.damaged(path, ValueError(found))
        read.check_seals(db, path)
        read.note_changes(db)
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
    if read.read_meta(db, "journal_version") == "1":
        db.execute("ALTER TABLE pending ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")
        db.create_function("crc32", 1, zlib.crc32, deterministic=True)
        db.execute("UPDATE pending SET crc = crc32(batch)")
    db.execute("UPDATE meta SET value = ? WHERE key = 'journal_version'", (str(read.JOURNAL_VERSION),))
    read.write_seals(db)
    db.execute("COMMIT")


def close_as_it_is(db: sqlite3.Connection, path: Path) -> None:
    """Closes without moving the write-ahead log into the database, which syncs twice; the next opener does that.

    SQLite moves it when the last connection closes, unless that one may only read.
    """
    with contextlib.closing(read.open_read_only(path)):
        db.close()


def storage_error(path: Path, error: Exception) -> ArchiveError:
    """Says in words why something could not be kept on disk."""
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return read.damaged(path, error)
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
