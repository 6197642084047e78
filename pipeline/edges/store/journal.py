"""What is decided but not yet in Parquet: stream states, pending rows, alarms, counters and the manifest of parts.

One SQLite database, DIR/journal.db (WAL, synchronous=FULL). `Journal.commit` is the commit point of the pipeline: what
one step of the engine changed is written in one transaction or not at all, and only then are messages acknowledged.
Pending rows are kept as Arrow record batches, one entry per commit, kind and set of columns, so that making a Parquet
part of them is: concatenate, sort, write.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa

from pipeline.core.forecast import Forecast
from pipeline.core.records import AlarmChange, FeatureRow, Prediction, StreamKey
from pipeline.edges.faults import fault_point
from pipeline.edges.store import database as read
from pipeline.edges.store import schema as tables
from pipeline.edges.store.database import JOURNAL_NAME, DirectoryLock, close_as_it_is, create_or_open, storage_error
from pipeline.edges.store.parts import sync_directory
from pipeline.edges.store.schema import KINDS, UNREADABLE, FeatureSchema, Part, Quarantined, schema_error
from pipeline.errors import ArchiveError, SchemaError

# Alarm changes that are committed and of which the broker has not yet confirmed that it has them.
#
# They stand here, written in the transaction that decides them, whatever becomes of their rows: a roll may move those
# into Parquet long before anybody was told. A start tells them again, so that no crash, and no broker that was away,
# keeps one from whoever listens.


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


__all__ = ["Commit", "Journal", "Quarantined"]

SLOW_S = 0.5  # of a transaction that is done: writing a part, or closing the database, would take many times as long


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Everything that one turn of a driver decided."""

    states: Mapping[StreamKey, bytes] = field(default_factory=dict)  # of the streams that changed
    features: Sequence[FeatureRow] = ()
    predictions: Sequence[Prediction] = ()
    classes: tuple[str, ...] = ()  # what the probabilities of `predictions` stand for, in order
    forecasts: Sequence[Forecast] = ()
    alarms: Sequence[AlarmChange] = ()  # untold until a later commit says that they were told
    told: Sequence[AlarmChange] = ()  # of former commits: the broker has them
    quarantined: Sequence[Quarantined] = ()
    counters: Mapping[str, int] = field(default_factory=dict)  # name -> increment


class Journal:
    """The journal of one data directory, held by one process at a time. May be used from several threads."""

    def __init__(self, directory: Path) -> None:
        """Opens or creates DIR/journal.db.

        Raises:
            ArchiveError: another process holds the directory, it cannot be written, or the journal is damaged or of
                another version.
        """
        self.directory = directory
        self.path = directory / read.JOURNAL_NAME
        self.slow = False  # the last transaction took long: whoever stops leaves what can wait
        self._closed = False
        self._turn = threading.RLock()
        self._lock = DirectoryLock(directory)
        try:
            self._db = create_or_open(self.path)
            with self._reading() as db:
                self._schema = read.read_schema(db)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the directory go. What was committed stays."""
        with self._turn:
            if self.slow and not self._closed:
                close_as_it_is(self._db, self.path)
            self._db.close()
            self._closed = True
            self._lock.release()

    def bind(self, schema: FeatureSchema) -> None:
        """Says which feature table the rows speak; a journal of another one is refused with SchemaError."""
        if self._schema is not None and self._schema.name != schema.name:
            raise schema_error(schema.name, self._schema.name, str(self.path))
        if self._schema is not None and self._schema.features != schema.features:
            differ = sorted(set(self._schema.features) ^ set(schema.features)) or ["their order"]
            raise schema_error(schema.name, f"{self._schema.name} with other features ({differ[0]})", str(self.path))
        if self._schema == schema:  # a start on a slow disk waits for every transaction
            return
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('feature_schema', ?)", (json.dumps(asdict(schema)),))
        self._schema = schema

    def commit(self, commit: Commit) -> None:
        """Writes all of it in one transaction; on an error nothing is written and the same commit can be tried again.

        Raises:
            ArchiveError: the disk is full, read-only or broken.
            SchemaError: a row speaks another feature table, or shapes do not fit.
        """
        batches = list(self._batches(commit))
        fault_point("commit_begin")
        with self._transaction() as db:
            for kind, extras, table in batches:
                _write_pending(db, kind, extras, table)
            db.executemany(
                "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT (machine, point) DO UPDATE SET state = excluded.state",
                [(key.machine, key.point, state) for key, state in commit.states.items()],
            )
            for change in commit.alarms:
                _write_alarm(db, change)
            forget(db, commit.told)
            remember(db, commit.alarms)
            add_counters(db, commit.counters)
            fault_point("commit_before_end")
        fault_point("commit_done")

    def _batches(self, commit: Commit) -> Iterator[tuple[str, tuple[str, ...], pa.Table]]:
        if commit.features:
            if self._schema is None:
                msg = "expected a journal that knows its feature table, found none"
                raise SchemaError(msg, hint="open the Archive, or call bind, before committing feature rows")
            for channels, table in tables.feature_tables(commit.features, self._schema):
                yield "features", channels, table
        if commit.predictions:
            yield "predictions", commit.classes, tables.prediction_table(commit.predictions, commit.classes)
        if commit.forecasts:
            yield "forecast", (), tables.forecast_table(commit.forecasts)
        if commit.alarms:
            yield "alarms", (), tables.alarm_table(commit.alarms)
        if commit.quarantined:
            yield "quarantine", (), tables.quarantine_table(commit.quarantined)

    def states(self) -> dict[StreamKey, bytes]:
        """The newest state of every stream."""
        with self._reading() as db:
            rows = db.execute("SELECT machine, point, state FROM states ORDER BY machine, point")
            return {StreamKey(machine, point): state for machine, point, state in rows}

    def forget(self, keys: Iterable[StreamKey]) -> None:
        """Drops the states of streams; their rows stay."""
        with self._transaction() as db:
            db.executemany("DELETE FROM states WHERE machine = ? AND point = ?", list(keys))

    def counters(self) -> dict[str, int]:
        """Cumulative counters, since the data directory began."""
        with self._reading() as db:
            return read.read_counters(db)

    def client_id(self) -> str | None:
        """Under which MQTT client id a broker last had a session for us; None if none ever had."""
        with self._reading() as db:
            return read.read_meta(db, "client_id")

    def note_client_id(self, client_id: str) -> None:
        """A broker has a session for us under this id."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('client_id', ?)", (client_id,))

    def inputs_done(self) -> dict[str, str]:
        """Finished inputs: id -> what it was."""
        with self._reading() as db:
            return dict(db.execute("SELECT id, note FROM inputs ORDER BY id"))

    def open_alarms(self) -> dict[str, AlarmChange]:
        """Alarm id -> its newest change, for every alarm that is neither cleared nor revoked."""
        with self._reading() as db:
            return {change.id: change for change in read.read_open_alarms(db)}

    def untold_alarms(self) -> list[AlarmChange]:
        """Changes of which nobody has said that they were told, in the order of their commits."""
        with self._reading() as db:
            return remembered(db)

    def pending_rows(self, kind: str | None = None) -> int:
        """How many rows of a kind (of all kinds) are not yet in a Parquet part."""
        with self._reading() as db:
            row = db.execute("SELECT total(rows) FROM pending WHERE ?1 IS NULL OR kind = ?1", (kind,)).fetchone()
            return int(row[0])

    def view(self, kinds: Sequence[str]) -> read.JournalView:
        """One consistent look at manifest, columns and pending rows."""
        with self._reading() as db:
            return read.JournalView(
                schema=self._schema,
                extras={kind: read.read_extras(db, kind) for kind in KINDS},
                parts=read.read_parts(db),
                pending={kind: read.read_pending(db, kind) for kind in kinds},
                part_number=int(read.read_meta(db, "part_number") or 1),
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise storage_error(self.path, error) from error
            except UNREADABLE as error:
                raise read.damaged(self.path, error) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, also when the COMMIT itself fails."""
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                changes = self._db.total_changes
                yield self._db
                if self._db.total_changes > changes:
                    read.seal_changes(self._db)
                began_s = time.monotonic()
                self._db.execute("COMMIT")
                if self._db.total_changes > changes:  # else nothing was synced
                    self.slow = time.monotonic() - began_s > SLOW_S
            except sqlite3.Error as error:
                self._roll_back()
                raise storage_error(self.path, error) from error
            except BaseException:
                self._roll_back()
                raise

    transaction = _transaction  # for the archive, which turns pending rows into listed parts

    def _roll_back(self) -> None:
        if not self._closed and self._db.in_transaction:  # SQLite ends the transaction by itself after some errors
            self._db.execute("ROLLBACK")


def add_counters(db: sqlite3.Connection, increments: Mapping[str, int]) -> None:
    """Adds to the cumulative counters, within the caller's transaction."""
    db.executemany(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        list(increments.items()),
    )


def write_parts(db: sqlite3.Connection, parts: Iterable[Part]) -> None:
    """Lists parts in the manifest, or corrects what it says of them."""
    db.executemany(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (p.kind, p.date, p.number, p.rows, p.bytes, p.sha256, json.dumps(p.extras), p.first_us, p.last_us)
            for p in parts
        ],
    )


def write_extras(db: sqlite3.Connection, kind: str, extras: Iterable[str]) -> None:
    """Remembers channels or classes that have columns from now on."""
    db.executemany(
        "INSERT OR IGNORE INTO extras SELECT ?1, ?2, (SELECT count(*) FROM extras WHERE kind = ?1)",
        [(kind, name) for name in extras],
    )


def write_inputs(db: sqlite3.Connection, inputs: Mapping[str, str]) -> None:
    """Remembers finished inputs: id -> what it was."""
    db.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?)", list(inputs.items()))


def _write_pending(db: sqlite3.Connection, kind: str, extras: tuple[str, ...], table: pa.Table) -> None:
    blob = tables.packed(table)
    values = (kind, table.num_rows, zlib.crc32(blob), blob)
    db.execute("INSERT INTO pending (kind, rows, crc, batch) VALUES (?, ?, ?, ?)", values)
    write_extras(db, kind, extras)


def _write_alarm(db: sqlite3.Connection, change: AlarmChange) -> None:
    if change.type in ("cleared", "revoked"):
        db.execute("DELETE FROM open_alarms WHERE id = ?", (change.id,))
        return
    db.execute(
        "INSERT OR REPLACE INTO open_alarms VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (change.id, *change.key, change.type, change.mode, change.p, change.at_ns, change.since_ns),
    )


# A journal that cannot be read, out of the way: kept as it is, so that the next start makes a new one.


def set_aside(directory: Path, name: str) -> Path:
    """Moves the journal as it is to `DIR/aside/NAME`, so that the next start makes a new one; nothing is removed.

    Raises:
        ArchiveError: another process holds the directory, there is no journal, or it cannot be moved.
    """
    lock, path = DirectoryLock(directory), directory / JOURNAL_NAME
    try:
        # The database first: a log without its database is of no consequence to SQLite.
        files = [found for end in ("", "-wal", "-shm") if (found := path.with_name(path.name + end)).exists()]
        if path not in files:
            msg = f"expected a journal to set aside, found none: {path}"
            raise ArchiveError(msg)
        place = directory / "aside" / name
        place.mkdir(parents=True)
        for file in files:
            file.rename(place / file.name)
        for folder in (place, directory):
            sync_directory(folder)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        lock.release()
    return place
