"""The database of the journal: one SQLite file DIR/journal.db (WAL, synchronous=FULL), its lock, tables and seals.

The process that writes holds a lock on the data directory and opens the database with `create_or_open`. Readers need no
lock: `view_journal` and `view_states` open the database read-only and take everything in one read transaction. The
manifest and the pending rows belong together, so a roll in progress neither hides a row nor shows it twice.

Three checks find damage that SQLite would not notice. Pending rows carry a checksum each. Every table has a *seal* in
the table `meta`: the sum of the hashes of its rows, modulo 2^64. Triggers add the rows that a transaction writes and
subtract those that it removes, so a commit costs what it changes, however many streams there are. The table `chain`
numbers the commits and chains their seals; `pipeline.edges.store.witness` has the last number outside the database.

Everything that is written after creation is written by `pipeline.edges.store.journal`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.core.records import AlarmChange, StreamKey
from pipeline.edges.places import refuse_links
from pipeline.edges.store.schema import (
    ARCHIVE_NAME,
    KINDS,
    SNAPSHOT_NAME,
    UNREADABLE,
    FeatureSchema,
    Part,
    Swap,
    arrow_schema,
    canonical,
    gathered,
    unpacked,
)
from pipeline.edges.store.witness import (
    KEPT,
    WITNESS_NAME,
    Mark,
    UnreadableWitness,
    chained,
    first_mark,
    read_witness,
)
from pipeline.errors import ArchiveError

JOURNAL_NAME = "journal.db"
JOURNAL_VERSION = 4
BEGUN_NAME = ".journal"  # names a recent commit, apart from journal and witness: a directory that had a journal
LOSS_NAME = ".journal-loss"  # written by `set_aside`: the next start may begin a new journal, and records what was lost
OLDER_VERSION = 3  # has no chain, and a CRC-32 of the whole table as its seal; the next start turns it into version 4
RECEIVED = "messages_received"  # the counter that a mark repeats

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
_CHAIN = "CREATE TABLE chain (slot INTEGER PRIMARY KEY, number INTEGER NOT NULL, digest TEXT NOT NULL)"

# What the seal of a table covers. Blobs are left out: states and pending rows have their own checksums. `NOT INDEXED`
# reads the table itself, so damage to the table cannot hide behind an intact index.
_SEALED = {
    "meta": ("key", "value"),
    "states": ("machine", "point", "length({}state)"),
    "pending": ("id", "kind", "rows", "crc"),
    "extras": ("kind", "name", "position"),
    "parts": ("kind", "date", "number", "rows", "bytes", "sha256", "extras", "first_us", "last_us"),
    "open_alarms": ("id", "machine", "point", "type", "mode", "p", "at_ns", "since_ns"),
    "counters": ("name", "value"),
    "inputs": ("id", "note"),
}
_NOT_A_SEAL = "{}key NOT LIKE 'seal.%'"  # rows of `meta` that its seal covers
_SEAL_BITS = 64
_SMALLEST_PAGE = 512  # bytes


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


def count_streams(directory: Path) -> dict[str, int]:
    """Machine -> how many streams of it the journal knows; empty if there is no journal. Takes no lock.

    Raises:
        ArchiveError: the journal cannot be read, or has another version.
    """
    with _reading(directory) as db:
        return {} if db is None else dict(db.execute("SELECT machine, count(*) FROM states GROUP BY machine"))


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[sqlite3.Connection | None]:
    """One read transaction on a checked journal; None if there is none."""
    path = directory / JOURNAL_NAME
    if _is_empty(path):
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
            ArchiveError: the directory cannot be written, or has a link that leads outside.
        """
        path = directory / ".lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            refuse_links(directory)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
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
    """Opens the database for its owner, or creates it with all tables. A journal that is refused stays as it is.

    Everything is checked on a read-only connection first: closing a connection that may write would move a damaged log
    into the database.

    Raises:
        ArchiveError: the file is damaged, is older than its witness, belongs to another version or program, or cannot
            be written.
    """
    version = _checked(path)
    db = None
    try:
        db = open_to_write(path)
        if version != JOURNAL_VERSION:
            db.execute("BEGIN IMMEDIATE")
            if version is None:
                for statement in _TABLES:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES ('part_number', '1')")
            db.execute(_CHAIN)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('journal_version', ?)", (str(JOURNAL_VERSION),))
            begin_epoch(db)
            db.execute("COMMIT")
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise storage_error(path, error) from error
    return db


def open_to_write(path: Path) -> sqlite3.Connection:
    """Opens the database of a directory whose lock is held, without any check."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA recursive_triggers = ON")  # INSERT OR REPLACE then counts as a DELETE too
    except sqlite3.Error:
        db.close()
        raise
    return db


def begin_epoch(db: sqlite3.Connection) -> Mark:
    """Begins a new chain in the transaction of the caller, with all tables as they are now."""
    epoch = uuid.uuid4().hex
    db.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(f"seal.{t}", seal(db, t)) for t in _SEALED])
    db.execute("DELETE FROM chain")
    mark = first_mark(epoch, _messages(db))
    db.execute("INSERT INTO chain VALUES (0, 0, ?)", (mark.digest,))
    return mark


def _checked(path: Path) -> int | None:
    """The version of a journal that is intact and not behind its witness; None if there is no journal yet."""
    witness, begun = _read_witness(path), _read_begun(path)
    if _is_empty(path):
        is_cut = witness is None and path.exists()
        if is_cut and any((path.parent / ARCHIVE_NAME).glob("*/date=*/*.parquet")):
            raise damaged(path, ValueError("the file is empty, but the archive is not"))
        if witness is None and not _is_empty(path.with_name(path.name + "-wal")):
            raise damaged(path, ValueError("the file is empty, but its log is not"))
        _compare(path, witness, None)
        return None
    try:
        with contextlib.closing(open_read_only(path)) as db:
            if not _has_tables(db):
                _compare(path, witness, None)
                return None
            version = _check_version(db, path)
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise damaged(path, ValueError(found))
            _check_seals(db, path)
            if version == JOURNAL_VERSION or witness is not None:
                _compare(path, witness, db, begun)
            return version
    except sqlite3.Error as error:
        raise storage_error(path, error) from error


def _is_empty(path: Path) -> bool:
    """Whether there is no database. SQLite removes the log of one that is cut short, even on a read-only connection.

    Raises:
        ArchiveError: the file is shorter than the smallest page of SQLite.
    """
    size = path.stat().st_size if path.exists() else 0
    if path.name == JOURNAL_NAME and 0 < size < _SMALLEST_PAGE:
        raise damaged(path, ValueError(f"it has {size} bytes"))
    return size == 0


class JournalBehind(ArchiveError):
    """The journal is intact and holds less than was acknowledged, or it is not the one that belongs here."""

    def __init__(
        self, path: Path, expected: str, found: str, witness: Mark | None, lost: Lost, *, gone: bool = False
    ) -> None:
        go_on = "go on from what is left with `thrumcast state accept --yes`, which records the loss, or "
        super().__init__(
            f"expected in {path} {expected}, found: {found}",
            hint=f"put back {path.name}, its -wal and {WITNESS_NAME} as they were if you have them; else "
            f"{'' if gone else go_on}begin a new journal with `thrumcast state set-aside --yes`, which records "
            "the loss; nothing is deleted",
        )
        self.witness = witness
        self.lost = lost
        self.gone = gone  # journal and witness, both


@dataclass(frozen=True, slots=True)
class Lost:
    """How much a journal lacks, as far as its witness can say."""

    commits: int | None = None  # None: cannot be told
    messages: int | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.commits is None:
            return "how much is missing cannot be told"
        return f"{self.commits} commits with {self.messages or 0} messages from a broker are missing"


def check_witness(directory: Path) -> JournalBehind | None:
    """What a start would say about the journal's witness; None if all is well. For readers: takes no lock.

    Raises:
        ArchiveError: the journal cannot be read.
    """
    path = directory / JOURNAL_NAME
    try:
        # First: a commit after this only puts the journal further ahead.
        witness, begun = _read_witness(path), _read_begun(path)
        if not path.exists():
            _compare(path, witness, None)
            return None
        with _reading(directory) as db:
            is_older = db is not None and _version_of(db) == OLDER_VERSION
            if not (is_older and witness is None):
                _compare(path, witness, db, begun)
    except JournalBehind as error:
        return error
    return None


def _read_begun(path: Path) -> Mark | None:
    """What `BEGUN_NAME` says; None if it says nothing. It is read before the database, as the witness is."""
    with contextlib.suppress(UnreadableWitness, OSError):
        return read_witness(path.with_name(BEGUN_NAME))
    return None


def _read_witness(path: Path) -> Mark | None:
    file = path.with_name(WITNESS_NAME)
    try:
        return read_witness(file)
    except UnreadableWitness as error:
        expected = f"a commit that its witness {WITNESS_NAME} names"
        raise JournalBehind(path, expected, f"a damaged witness, {error}", None, Lost()) from error
    except OSError as error:
        msg = f"expected to read {file}, found: {error}"
        raise ArchiveError(msg, hint="check the permissions of the data directory") from error


def _compare(path: Path, witness: Mark | None, db: sqlite3.Connection | None, begun: Mark | None = None) -> None:
    """Refuses a journal that is behind its witness or does not belong to it; `db` is None if there is no journal.

    `begun` is a later commit where journal and witness were put back together from an older copy.
    """
    mark = None if db is None or _version_of(db) != JOURNAL_VERSION else read_mark(db)
    if witness is None:
        if db is None:
            _refuse_orphans(path)
        if mark is not None and mark.number > 0:  # 0: the process ended before it could write its first witness
            expected = f"a witness {WITNESS_NAME} beside it"
            raise JournalBehind(path, expected, f"none, so commits after {mark.number} may be missing", None, Lost())
        return
    expected = f"commit {witness.number}, which was acknowledged ({witness.messages} messages received)"
    if mark is None:
        what = "no journal" if db is None else f"a journal of version {OLDER_VERSION}, which is older"
        lost = Lost(witness.number, witness.messages) if db is None else Lost()
        raise JournalBehind(path, expected, f"{what}; {lost.text}", witness, lost)
    assert db is not None
    if mark.epoch != witness.epoch:
        lost = Lost()
        raise JournalBehind(path, expected, f"another journal, or one from before a loss; {lost.text}", witness, lost)
    if mark.number < witness.number:
        lost = Lost(witness.number - mark.number, max(0, witness.messages - mark.messages))
        raise JournalBehind(path, expected, f"commit {mark.number}; {lost.text}", witness, lost)
    row = db.execute("SELECT digest FROM chain WHERE number = ?", (witness.number,)).fetchone()
    if row is None or row[0] != witness.digest:
        lost = Lost()
        found = f"commit {mark.number} of another history; {lost.text}"
        raise JournalBehind(path, expected, found, witness, lost)
    if begun is not None and begun.epoch == mark.epoch and begun.number > mark.number:
        lost = Lost(begun.number - mark.number, max(0, begun.messages - mark.messages))
        expected = f"commit {begun.number}, which was acknowledged ({begun.messages} messages received)"
        raise JournalBehind(path, expected, f"commit {mark.number}, an older copy; {lost.text}", begun, lost)


def _refuse_orphans(path: Path) -> None:
    """Refuses to begin a journal where there was one: journal and witness are gone together.

    A snapshot or a mirror has no journal, and `set_aside` has noted that the next one is wanted.
    """
    directory = path.parent
    if any((directory / name).exists() for name in (LOSS_NAME, SNAPSHOT_NAME)):
        return
    try:
        begun = read_witness(directory / BEGUN_NAME)
        had = begun is not None
    except (UnreadableWitness, OSError):
        begun, had = None, True
    parts = sorted((directory / ARCHIVE_NAME).glob("*/date=*/*.parquet"))
    if not had and not parts:
        return
    lost = Lost() if begun is None else Lost(begun.number, begun.messages)
    found = [f"neither journal nor {WITNESS_NAME}, and {len(parts)} archived files with {_rows_of(parts)} rows"]
    if begun is None:
        found.append(lost.text)
    else:
        found.append(
            f"it had reached commit {lost.commits} with {lost.messages} messages; what is not archived is gone"
        )
    raise JournalBehind(path, "the journal of this archive", "; ".join(found), None, lost, gone=True)


def _rows_of(parts: Sequence[Path]) -> int:
    """Rows of those files that can be read."""
    import pyarrow.parquet as pq

    rows = 0
    for part in parts:
        with contextlib.suppress(*UNREADABLE):
            rows += pq.read_metadata(part).num_rows
    return rows


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


def _version_of(db: sqlite3.Connection) -> int:
    return int(read_meta(db, "journal_version") or 0)


def _check_version(db: sqlite3.Connection, path: Path) -> int:
    """The version; refuses the journal of another release, and the database of another program."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = read_meta(db, "journal_version") if "meta" in tables else None
    if found is None:
        msg = f"expected journal version {JOURNAL_VERSION}, found in {path}: none, not a journal"
        raise ArchiveError(msg, hint=f"this is no data directory of thrumcast: {path.name} belongs to another program")
    if found not in (str(JOURNAL_VERSION), str(OLDER_VERSION)):
        msg = f"expected journal version {JOURNAL_VERSION}, found in {path}: {found}"
        raise ArchiveError(msg, hint="use a new data directory, or the version of thrumcast that wrote this one")
    return int(found)


def seal(db: sqlite3.Connection, table: str) -> str:
    """The checksum of what a table holds now. Reads the whole table."""
    return _seal_text(sum(_row_hash(row) for row in db.execute(_select(table))))


def _select(table: str) -> str:
    columns = ", ".join(_SEALED[table]).format("")
    where = f" WHERE {_NOT_A_SEAL.format('')}" if table == "meta" else ""
    return f"SELECT {columns} FROM {table} NOT INDEXED{where}"


def _row_hash(row: Sequence[object]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(tuple(row)).encode(), digest_size=_SEAL_BITS // 8).digest())


def _seal_text(value: int) -> str:
    return f"{value % 2**_SEAL_BITS:016x}"


def _older_seal(db: sqlite3.Connection, table: str) -> str:
    """The seal of version 3: a CRC-32 over all rows in the order of their keys."""
    order = {"pending": "id", "states": "machine, point", "extras": "kind, name", "parts": "kind, date, number"}
    by = order.get(table, _SEALED[table][0])
    return str(zlib.crc32(repr(db.execute(f"{_select(table)} ORDER BY {by}").fetchall()).encode()))


def _check_seals(db: sqlite3.Connection, path: Path) -> None:
    """Refuses a journal in which a name, a number or a row differs from what was written."""
    is_older = _version_of(db) == OLDER_VERSION
    for table in _SEALED:
        if read_meta(db, f"seal.{table}") != (_older_seal if is_older else seal)(db, table):
            msg = f"its table {table} has another checksum than the one written with it"
            raise damaged(path, ValueError(msg))
    if is_older:
        return
    mark = read_mark(db)
    before = db.execute("SELECT digest FROM chain WHERE number = ?", (mark.number - 1,)).fetchone()
    if mark.number == 0:
        whole = mark.digest == first_mark(mark.epoch).digest
    else:
        whole = before is not None and mark.digest == chained(before[0], mark.number, read_seals(db).values())
    if not whole:
        raise damaged(path, ValueError("its last commit has another checksum than the one written with it"))


def read_seals(db: sqlite3.Connection) -> dict[str, str]:
    """Table -> its seal as it was written."""
    return {table: read_meta(db, f"seal.{table}") or "" for table in _SEALED}


def read_mark(db: sqlite3.Connection) -> Mark:
    """The last commit."""
    row = db.execute("SELECT number, digest FROM chain ORDER BY number DESC LIMIT 1").fetchone()
    epoch = read_meta(db, "epoch")
    if row is None or epoch is None:
        msg = "it does not say which commit was its last"
        raise sqlite3.DatabaseError(msg)
    return Mark(epoch, row[0], row[1], _messages(db))


def _messages(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM counters WHERE name = ?", (RECEIVED,)).fetchone()
    return 0 if row is None else int(row[0])


class Seals:
    """Keeps the seals of an open journal by what its transactions change. One per connection that writes."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._seals = {table: int(text, 16) for table, text in read_seals(db).items()}
        self._changes: Counter[str] = Counter()
        self.mark = read_mark(db)
        self._next = self.mark
        self._next_seals = self._seals
        db.create_function("seal_row", -1, self._note)
        for table, names in _SEALED.items():
            for verb, rows in (("INSERT", "+"), ("UPDATE", "-+"), ("DELETE", "-")):
                for sign in rows:
                    row = "NEW." if sign == "+" else "OLD."
                    columns = ", ".join(f"{row}{n}" if "{}" not in n else n.format(row) for n in names)
                    when = f"WHEN {_NOT_A_SEAL.format(row)}" if table == "meta" else ""
                    db.execute(
                        f"CREATE TEMP TRIGGER {table}_{verb}_{row[:3]} AFTER {verb} ON main.{table} {when} "
                        f"BEGIN SELECT seal_row('{table}', {sign}1, {columns}); END"
                    )

    def _note(self, table: str, sign: int, *row: object) -> None:
        self._changes[table] += sign * _row_hash(row)

    def begin(self) -> None:
        """A transaction begins: nothing has changed yet."""
        self._changes.clear()

    def write(self, db: sqlite3.Connection) -> None:
        """Seals the tables that this transaction has changed, and adds it to the chain."""
        changed = {table: (self._seals[table] + self._changes[table]) % 2**_SEAL_BITS for table in self._changes}
        db.executemany(
            "UPDATE meta SET value = ? WHERE key = ?", [(_seal_text(v), f"seal.{t}") for t, v in changed.items()]
        )
        self._next_seals = self._seals | changed
        self._next = self.mark.next(map(_seal_text, self._next_seals.values()), _messages(db))
        slot = self._next.number % KEPT
        db.execute("INSERT OR REPLACE INTO chain VALUES (?, ?, ?)", (slot, self._next.number, self._next.digest))

    def committed(self) -> Mark:
        """What `write` has written is committed."""
        self._seals, self.mark = self._next_seals, self._next
        return self.mark


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
