"""The journal: what is decided but not yet in Parquet, and the manifest of the Parquet parts.

`Journal.commit` is the commit point of the pipeline. It writes everything that one turn of a driver changed in one
transaction or not at all, and only then are messages acknowledged. Pending rows are kept as Arrow record batches, one
entry per commit, kind and set of columns, so making a part of them means: concatenate, sort, write.

The other writers are the steps of the archive: a roll (`finish_roll`, `update_parts`), an append (`begin_append`,
`finish_append`), a swap (`plan_swap`, `finish_swap`) and the adoption of parts whose journal is lost. Where files and
manifest cannot change together, the journal first notes what is planned. `interrupted_append` and `planned_swap` return
such a note at the next start.

The number of the next part advances in `_list_parts` only. A roll or an append that dies before its last transaction
finds the same number again, so it writes the same file names again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from pipeline.core.forecast import Forecast
from pipeline.core.records import AlarmChange, FeatureRow, Prediction, StreamKey
from pipeline.edges.faults import fault_point
from pipeline.edges.store import schema
from pipeline.edges.store.database import (
    BEGUN_NAME,
    JOURNAL_NAME,
    LOSS_NAME,
    DirectoryLock,
    JournalBehind,
    JournalView,
    Lost,
    Seals,
    begin_epoch,
    check_witness,
    close_without_checkpoint,
    create_or_open,
    damaged,
    open_read_only,
    open_to_write,
    read_counters,
    read_meta,
    read_open_alarms,
    read_part_number,
    read_schema,
    read_states,
    read_swap,
    read_view,
    storage_error,
    view_journal,
)
from pipeline.edges.store.parts import adopt, list_parts, stage, sync_directory
from pipeline.edges.store.schema import ARCHIVE_NAME, UNREADABLE, FeatureSchema, Part, Quarantined, Rows, Swap
from pipeline.edges.store.witness import WITNESS_NAME, UnreadableWitness, Witness, read_witness
from pipeline.errors import ArchiveError, SchemaError

SLOW_S = 0.5  # a COMMIT that takes longer marks the disk as slow; writing a part then takes many times as long

# Counters that the archive's own transactions add to.
DUPLICATE_ROWS = "archive_duplicate_rows"  # rows that were dropped because their key was already in the archive
PRUNED_ROWS = "archive_pruned_rows"
COMPACTED_PARTS = "archive_compacted_parts"

# Counters of what `accept` went on without.
JOURNALS_ACCEPTED = "journal_losses"
LOST_COMMITS = "journal_lost_commits"
LOST_MESSAGES = "journal_lost_messages"


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Everything that one turn of a driver decided."""

    states: Mapping[StreamKey, bytes] = field(default_factory=dict)  # of the streams that changed
    features: Sequence[FeatureRow] = ()
    predictions: Sequence[Prediction] = ()
    classes: tuple[str, ...] = ()  # what the probabilities of `predictions` stand for, in order
    forecasts: Sequence[Forecast] = ()
    alarms: Sequence[AlarmChange] = ()  # untold until a later commit has them in `told`
    told: Sequence[AlarmChange] = ()  # changes of earlier commits that the broker has confirmed
    quarantined: Sequence[Quarantined] = ()
    counters: Mapping[str, int] = field(default_factory=dict)  # name -> increment


class Journal:
    """The journal of one data directory, held by one process at a time. Several threads may use it."""

    def __init__(self, directory: Path) -> None:
        """Opens or creates DIR/journal.db.

        Raises:
            DirectoryHeld: another process holds the directory.
            ArchiveError: the directory cannot be written, or the journal is damaged or has another version.
        """
        self.directory = directory
        self.path = directory / JOURNAL_NAME
        self.slow = False  # whether the last COMMIT took longer than SLOW_S; a stop then skips what can wait
        self._closed = False
        self._is_witnessed = True  # False: the disk refused the witness of the last commit
        self._begun: Witness | None = None
        self._unwitnessed: Commit | None = None  # committed, and not confirmed to its caller
        self._turn = threading.RLock()
        self._lock = DirectoryLock(directory)
        try:
            self._db = create_or_open(self.path)
            with self._reading() as db:
                self._schema = read_schema(db)
                self._seals = Seals(db)
            self._witness = self._open_witness()
            self._begun = self._open_begun()
            self._record_set_aside()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database and releases the directory. On a slow disk it leaves the log for the next start."""
        with self._turn:
            if self.slow and not self._closed:
                close_without_checkpoint(self._db, self.path)
            self._db.close()
            self._witness.close()
            if self._begun is not None:
                self._begun.close()
            self._closed = True
            self._lock.release()

    def bind(self, feature_schema: FeatureSchema) -> None:
        """Says which feature table the rows belong to.

        Raises:
            SchemaError: the journal was written with another feature table.
        """
        known = self._schema
        if known == feature_schema:  # no transaction: a start on a slow disk waits for each one
            return
        if known is not None and known.name != feature_schema.name:
            raise schema.schema_error(feature_schema.name, known.name, str(self.path))
        if known is not None and known.features != feature_schema.features:
            differ = sorted(set(known.features) ^ set(feature_schema.features)) or ["their order"]
            found = f"{known.name} with other features ({differ[0]})"
            raise schema.schema_error(feature_schema.name, found, str(self.path))
        with self._transaction() as db:
            _write_meta(db, "feature_schema", json.dumps(asdict(feature_schema)))
        self._schema = feature_schema

    # The commit point

    def commit(self, commit: Commit) -> None:
        """Writes all of it in one transaction. On an error nothing is written, and the same commit can be tried again.

        Raises:
            ArchiveError: the disk is full, read-only or broken.
            SchemaError: a row belongs to another feature table, or has another shape.
        """
        if commit is self._unwitnessed:  # it is committed; only its witness was refused
            with self._turn:
                self._testify()
            self._unwitnessed = None
            return
        batches = list(self._batches(commit))
        fault_point("commit_begin")
        before = self._seals.mark
        try:
            self._write(commit, batches)
        except ArchiveError:
            if self._seals.mark is not before:
                self._unwitnessed = commit
            raise
        fault_point("commit_done")

    def _write(self, commit: Commit, batches: Sequence[Rows]) -> None:
        with self._transaction() as db:
            for batch in batches:
                _add_pending(db, batch)
            db.executemany(
                "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT (machine, point) DO UPDATE SET state = excluded.state",
                [(key.machine, key.point, state) for key, state in commit.states.items()],
            )
            for change in commit.alarms:
                _set_open_alarm(db, change)
            _remove_untold(db, commit.told)
            _add_untold(db, commit.alarms)
            _add_counters(db, commit.counters)
            fault_point("commit_before_end")

    def _batches(self, commit: Commit) -> Iterator[Rows]:
        if commit.features:
            if self._schema is None:
                msg = "expected a journal that knows its feature table, found none"
                raise SchemaError(msg, hint="open the Archive, or call bind, before committing feature rows")
            for channels, table in schema.feature_tables(commit.features, self._schema):
                yield Rows("features", channels, table)
        if commit.predictions:
            yield Rows("predictions", commit.classes, schema.prediction_table(commit.predictions, commit.classes))
        if commit.forecasts:
            yield Rows("forecast", (), schema.forecast_table(commit.forecasts))
        if commit.alarms:
            yield Rows("alarms", (), schema.alarm_table(commit.alarms))
        if commit.quarantined:
            yield Rows("quarantine", (), schema.quarantine_table(commit.quarantined))

    # What the journal knows

    def states(self) -> dict[StreamKey, bytes]:
        """The newest state of every stream."""
        with self._reading() as db:
            return read_states(db)

    def states_of(self, keys: Iterable[StreamKey]) -> dict[StreamKey, bytes]:
        """The committed states of some streams. Opens the database to read, so no transaction is waited for."""
        try:
            with contextlib.closing(open_read_only(self.path)) as db:
                db.execute("BEGIN")
                query = "SELECT state FROM states WHERE machine = ? AND point = ?"
                rows = ((key, db.execute(query, (key.machine, key.point)).fetchone()) for key in keys)
                return {key: row[0] for key, row in rows if row is not None}
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from error

    def note_rests(self, states: Mapping[StreamKey, bytes], now_ns: int) -> None:
        """Notes since when these streams have been silent: since now, unless their state is the one noted before."""
        rows = []
        for key, state in states.items():
            note = (key.machine, key.point, zlib.crc32(state), now_ns)
            rows.append((*note, _rest_sum(*note)))
        with self._transaction() as db:
            db.execute(_RESTS)
            db.executemany(
                "INSERT INTO rests VALUES (?, ?, ?, ?, ?) ON CONFLICT (machine, point) DO UPDATE SET state_crc = "
                "excluded.state_crc, since_ns = excluded.since_ns, crc = excluded.crc "
                "WHERE state_crc != excluded.state_crc",
                rows,
            )

    def forget(self, keys: Iterable[StreamKey], before_ns: int) -> list[StreamKey]:
        """Removes those of these streams that have been silent since before a time. Rows are not touched.

        A note that is damaged, or whose stream has spoken since, removes nothing.
        """
        with self._transaction() as db:
            db.execute(_RESTS)
            query = "SELECT machine, point, state_crc, since_ns, crc FROM rests WHERE since_ns < ?"
            old = {StreamKey(*note[:2]): note for note in db.execute(query, (before_ns,))}
            gone = []
            for key in sorted(old.keys() & set(keys)):
                *note, crc = old[key]
                row = db.execute("SELECT state FROM states WHERE machine = ? AND point = ?", tuple(key)).fetchone()
                if row is not None and zlib.crc32(row[0]) == note[2] and _rest_sum(*note) == crc:
                    gone.append(key)
            for table in ("states", "rests"):
                db.executemany(f"DELETE FROM {table} WHERE machine = ? AND point = ?", [tuple(key) for key in gone])
            return gone

    def counters(self) -> dict[str, int]:
        """Cumulative counters, since the data directory was created."""
        with self._reading() as db:
            return read_counters(db)

    def open_alarms(self) -> dict[str, AlarmChange]:
        """Alarm id -> its newest change, for every alarm that is neither cleared nor revoked."""
        with self._reading() as db:
            return {change.id: change for change in read_open_alarms(db)}

    def untold_alarms(self) -> list[AlarmChange]:
        """Committed changes that the broker has not confirmed, in the order of their commits.

        The journal keeps them apart from the rows, because a roll may move those into Parquet before anyone was told.
        A start tells them again, so neither a crash nor an absent broker can keep a change from its listeners.
        """
        with self._reading() as db:
            rows = db.execute(f"SELECT value FROM meta WHERE key LIKE '{_UNTOLD}%' ORDER BY key")
            return [_change_of(*json.loads(value)) for (value,) in rows]

    def inputs_done(self) -> dict[str, str]:
        """Finished inputs of backfills: id -> note."""
        with self._reading() as db:
            return dict(db.execute("SELECT id, note FROM inputs ORDER BY id"))

    def client_id(self) -> str | None:
        """The MQTT client id under which a broker last had a session for this service; None if there was none."""
        with self._reading() as db:
            return read_meta(db, "client_id")

    def note_client_id(self, client_id: str) -> None:
        """Notes that a broker has a session under this client id."""
        with self._transaction() as db:
            _write_meta(db, "client_id", client_id)

    def pending_rows(self) -> int:
        """How many rows are not yet in a part."""
        with self._reading() as db:
            return int(db.execute("SELECT total(rows) FROM pending").fetchone()[0])

    def view(self, kinds: Sequence[str]) -> JournalView:
        """Manifest, columns, counters and the pending rows of `kinds`, all of one moment."""
        with self._reading() as db:
            return read_view(db, kinds)

    # The manifest of parts, for the archive

    def finish_roll(self, view: JournalView, parts: Sequence[Part], duplicate_rows: int) -> None:
        """Lists the parts that were made of the pending rows of `view`, and removes these rows from the journal."""
        with self._transaction() as db:
            entries = [(entry,) for pending in view.pending.values() for entry in pending.ids]
            db.executemany("DELETE FROM pending WHERE id = ?", entries)
            _list_parts(db, parts, view.part_number)
            _add_duplicates(db, duplicate_rows)
            fault_point("roll_in_transaction")

    def update_parts(self, parts: Sequence[Part]) -> None:
        """Corrects what the manifest says about parts that were written again under their own names."""
        with self._transaction() as db:
            _write_parts(db, parts)

    def begin_append(self, rows: Sequence[Rows]) -> JournalView:
        """Adds the columns of these rows, and notes that parts of the next number are about to be placed."""
        with self._transaction() as db:
            for each in rows:
                _add_extras(db, each.kind, each.extras)
            _write_meta(db, _APPEND, str(read_part_number(db)))
        return self.view(())

    def finish_append(
        self, view: JournalView, parts: Sequence[Part], duplicate_rows: int, inputs: Mapping[str, str]
    ) -> None:
        """Lists the parts, marks the inputs (id -> note) as finished, and removes the note of `begin_append`."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?)", list(inputs.items()))
            _list_parts(db, parts, view.part_number)
            _add_duplicates(db, duplicate_rows)
            _remove_meta(db, _APPEND)
            fault_point("append_in_transaction")

    def interrupted_append(self) -> int | None:
        """The number of the parts that an append has perhaps placed and never listed."""
        with self._reading() as db:
            number = read_meta(db, _APPEND)
            return None if number is None else int(number)

    def cancel_append(self) -> None:
        """Removes the note of `begin_append`, once the parts of its number are gone."""
        with self._transaction() as db:
            _remove_meta(db, _APPEND)

    def plan_swap(self, swap: Swap) -> None:
        """Notes a swap, before the directory changes."""
        with self._transaction() as db:
            _write_meta(db, _SWAP, json.dumps(asdict(swap)))

    def planned_swap(self) -> Swap | None:
        """The swap that was planned and not yet finished or cancelled."""
        with self._reading() as db:
            return read_swap(db)

    def finish_swap(self, swap: Swap) -> None:
        """Makes the manifest say what the directory now holds, and removes the note of `plan_swap`."""
        with self._transaction() as db:
            gone = [(swap.kind, swap.date, number) for number in swap.gone]
            of_part = "FROM parts WHERE kind = ? AND date = ? AND number = ?"
            rows = sum(int(db.execute(f"SELECT total(rows) {of_part}", part).fetchone()[0]) for part in gone)
            db.executemany(f"DELETE {of_part}", gone)
            if swap.new is None:
                _add_counters(db, {PRUNED_ROWS: rows})
            else:
                _list_parts(db, [swap.new], swap.new.number)
                _add_counters(db, {COMPACTED_PARTS: len(gone)})
            _remove_meta(db, _SWAP)

    def cancel_swap(self) -> None:
        """Removes the note of `plan_swap`; the directory has not changed."""
        with self._transaction() as db:
            _remove_meta(db, _SWAP)

    def adopt(self, parts: Sequence[Part]) -> None:
        """Lists parts that are in the archive already, with their columns; for a new journal."""
        with self._transaction() as db:
            for part in parts:
                _add_extras(db, part.kind, part.extras)
            _list_parts(db, parts, max((part.number for part in parts), default=0))

    # Access to the database

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise storage_error(self.path, error) from error
            except UNREADABLE as error:
                raise damaged(self.path, error) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, also if the COMMIT itself fails. It ends when the witness knows of it."""
        with self._turn:
            if not self._is_witnessed:
                self._testify()
            try:
                self._seals.begin()
                self._db.execute("BEGIN IMMEDIATE")
                changes = self._db.total_changes
                yield self._db
                changed = self._db.total_changes > changes
                if changed:
                    self._seals.write(self._db)
                began_s = time.monotonic()
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise storage_error(self.path, error) from error
            except BaseException:
                self._roll_back()
                raise
            if changed:  # without changes nothing was synced
                self.slow = time.monotonic() - began_s > SLOW_S
                self._seals.committed()
                fault_point("commit_unwitnessed")
                self._testify()

    def _testify(self) -> None:
        """Tells the witness of the last commit. On a slow disk it does not wait for the sync of the witness.

        Raises:
            ArchiveError: the disk refuses; the next transaction tries again before it begins.
        """
        self._is_witnessed = False
        try:
            self._witness.write(self._seals.mark, sync=not self.slow)
        except OSError as error:
            raise storage_error(self.path.with_name(WITNESS_NAME), error) from error
        self._is_witnessed = True
        if self._begun is not None:
            with contextlib.suppress(OSError):
                self._begun.write(self._seals.mark, sync=False)

    def _open_witness(self) -> Witness:
        """The witness of a journal that was checked against it. It may be one commit behind, or not there yet."""
        path = self.path.with_name(WITNESS_NAME)
        try:
            if not path.exists():
                return Witness.create(path, self._seals.mark)
            witness = Witness(path)
            if read_witness(path) != self._seals.mark:  # a start on a slow disk waits for each sync
                witness.write(self._seals.mark)
        except OSError as error:
            self._db.close()
            raise storage_error(path, error) from error
        return witness

    def _open_begun(self) -> Witness | None:
        """The file that names a recent commit apart from journal and witness; None if the disk refuses it.

        It is only for a start that finds neither of the two, so no commit waits for it.
        """
        path = self.path.with_name(BEGUN_NAME)
        try:
            known = read_witness(path)
        except (UnreadableWitness, OSError):
            known = None
        with contextlib.suppress(OSError):
            if known is None or known.epoch != self._seals.mark.epoch:
                return Witness.create(path, self._seals.mark)
            return Witness(path)
        return None

    def _record_set_aside(self) -> None:
        """Records in a new journal what the one before it took along when it was set aside; once."""
        path = self.path.with_name(LOSS_NAME)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            known = json.loads(text)
            reason, lost = str(known["reason"]), Lost(known["commits"], known["messages"])
        except (ValueError, KeyError, TypeError, RecursionError):
            reason, lost = "a journal was set aside", Lost()
        if JOURNALS_ACCEPTED not in self.counters():
            with self._transaction() as db:
                _record_loss(db, reason, lost, time.time_ns())
        try:
            path.unlink()
        except OSError as error:
            raise storage_error(path, error) from error

    def _roll_back(self) -> None:
        if not self._closed and self._db.in_transaction:  # SQLite ends the transaction by itself after some errors
            self._db.execute("ROLLBACK")


# In the order in which they are set aside, after the name of the database.
_FILES = ("", "-wal", "-shm", WITNESS_NAME.removeprefix(JOURNAL_NAME))


def set_aside(directory: Path, name: str) -> Path:
    """Moves an unreadable journal to `DIR/aside/NAME`, so that the next start creates a new one. Removes nothing.

    Raises:
        ArchiveError: another process holds the directory, there is no journal, or it cannot be moved.
    """
    lock, path = DirectoryLock(directory), directory / JOURNAL_NAME
    try:
        problem = _why_aside(directory)  # first: SQLite makes helper files when it reads
        # The database goes first: SQLite ignores a log without its database. The witness goes last: until then a start
        # that finds no database is refused.
        files = _there(path)
        if not files and problem is None:
            msg = f"expected a journal to set aside, found none: {path}"
            raise ArchiveError(msg)
        place = directory / "aside" / name
        place.mkdir(parents=True)
        _write_loss(directory, problem)
        for file in [*files, *([begun] if (begun := path.with_name(BEGUN_NAME)).exists() else [])]:
            file.rename(place / file.name)
        for folder in (place, directory):
            sync_directory(folder)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        lock.release()
    return place


def _why_aside(directory: Path) -> JournalBehind | None:
    """What a start would refuse; None if it would not."""
    try:
        return check_witness(directory)
    except ArchiveError as error:
        return JournalBehind(directory / JOURNAL_NAME, "a readable journal", error.message, None, Lost())


def _write_loss(directory: Path, problem: JournalBehind | None) -> None:
    """Says what goes with the journal, for the next one; before anything is moved."""
    known = {
        "reason": "a journal was set aside" if problem is None else problem.message,
        "commits": None if problem is None else problem.lost.commits,
        "messages": None if problem is None else problem.lost.messages,
    }
    stage(directory / LOSS_NAME, json.dumps(known).encode())


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept` did."""

    lost: Lost
    reason: str
    copy: Path  # of the files as they were


def accept(directory: Path, name: str, now_ns: int) -> Accepted:
    """Goes on from a journal that a start refuses because of its witness: from a shortened log, or from a backup.

    The files are first copied to `DIR/aside/NAME`. Then the journal gets a new epoch and a new witness. The loss is
    recorded in the counters `JOURNALS_ACCEPTED`, `LOST_COMMITS` and `LOST_MESSAGES`, and as a row of the kind
    quarantine with the reason `journal_loss`, which reaches the archive. A manifest that names other parts than the
    directory holds is made to follow the directory, so no later roll overwrites a part.

    Raises:
        ArchiveError: another process holds the directory, there is nothing to accept, the journal is damaged or not
            there, or the disk refuses.
    """
    lock, path = DirectoryLock(directory), directory / JOURNAL_NAME
    try:
        problem = check_witness(directory)
        if problem is None:
            msg = f"expected a journal that differs from its witness, found none to accept in: {directory}"
            raise ArchiveError(msg)
        found = view_journal(directory, ())
        if found is None:
            msg = f"expected a journal to go on from, found none in: {directory}"
            raise ArchiveError(msg, hint="begin a new one with `thrumcast state set-aside --yes`")
        parts = _parts_there(directory / ARCHIVE_NAME, found)
        copy = directory / "aside" / name
        copy.mkdir(parents=True)
        for file in _there(path):
            shutil.copy2(file, copy / file.name)
        with contextlib.closing(open_to_write(path)) as db:
            db.execute("BEGIN IMMEDIATE")
            _record_loss(db, problem.message, problem.lost, now_ns)
            if parts is not None:
                db.execute("DELETE FROM parts")
                for part in parts:
                    _add_extras(db, part.kind, part.extras)
                _list_parts(db, parts, max((part.number for part in parts), default=0))
                for key in (_APPEND, _SWAP):
                    _remove_meta(db, key)
            mark = begin_epoch(db)
            db.execute("COMMIT")
        Witness.create(path.with_name(WITNESS_NAME), mark).close()
    except sqlite3.Error as error:
        raise storage_error(path, error) from error
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        lock.release()
    return Accepted(problem.lost, problem.message, copy)


def _there(path: Path) -> list[Path]:
    return [found for end in _FILES if (found := path.with_name(path.name + end)).exists()]


def _parts_there(root: Path, view: JournalView) -> list[Part] | None:
    """The parts that the directory holds; None if the manifest says the same."""
    listed = {(part.relative, part.bytes) for part in view.parts}
    there = {(path.relative_to(root).as_posix(), path.stat().st_size) for *_, path in list_parts(root)}
    return None if view.schema is None or listed == there else adopt(root, view.schema)


def _record_loss(db: sqlite3.Connection, reason: str, lost: Lost, now_ns: int) -> None:
    counts = {JOURNALS_ACCEPTED: 1, LOST_COMMITS: lost.commits or 0, LOST_MESSAGES: lost.messages or 0}
    _add_counters(db, counts)
    text = json.dumps({"reason": reason, "commits": lost.commits, "messages": lost.messages}).encode()
    row = Quarantined(JOURNAL_NAME, now_ns, "journal_loss", text, len(text))
    _add_pending(db, Rows("quarantine", (), schema.quarantine_table([row])))


# What the methods above write. Each function works within the transaction of its caller.

# When silent streams were last heard; only where streams are forgotten. Each row has a checksum of its own.
_RESTS = (
    "CREATE TABLE IF NOT EXISTS rests (machine TEXT, point TEXT, state_crc INTEGER NOT NULL, "
    "since_ns INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (machine, point))"
)


def _rest_sum(machine: str, point: str, state_crc: int, since_ns: int) -> int:
    return zlib.crc32(repr((machine, point, state_crc, since_ns)).encode())


_APPEND = "placing"  # keys of the table `meta`
_SWAP = "swap"
_UNTOLD = "untold."  # untold.<number> -> an alarm change
_ADD_UNTOLD = (
    f"INSERT INTO meta SELECT '{_UNTOLD}' || printf('%012d', 1 + coalesce(max(CAST(substr(key, {len(_UNTOLD) + 1}) "
    f"AS INTEGER)), 0)), ? FROM meta WHERE key LIKE '{_UNTOLD}%'"
)


def _write_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _remove_meta(db: sqlite3.Connection, key: str) -> None:
    db.execute("DELETE FROM meta WHERE key = ?", (key,))


def _add_pending(db: sqlite3.Connection, rows: Rows) -> None:
    blob = schema.packed(rows.table)
    values = (rows.kind, rows.table.num_rows, zlib.crc32(blob), blob)
    db.execute("INSERT INTO pending (kind, rows, crc, batch) VALUES (?, ?, ?, ?)", values)
    _add_extras(db, rows.kind, rows.extras)


def _add_extras(db: sqlite3.Connection, kind: str, extras: Iterable[str]) -> None:
    """Adds channels or classes that have columns from now on."""
    db.executemany(
        "INSERT OR IGNORE INTO extras SELECT ?1, ?2, (SELECT count(*) FROM extras WHERE kind = ?1)",
        [(kind, name) for name in extras],
    )


def _add_counters(db: sqlite3.Connection, increments: Mapping[str, int]) -> None:
    db.executemany(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        list(increments.items()),
    )


def _add_duplicates(db: sqlite3.Connection, rows: int) -> None:
    if rows:
        _add_counters(db, {DUPLICATE_ROWS: rows})


def _list_parts(db: sqlite3.Connection, parts: Iterable[Part], used: int) -> None:
    """Lists new parts; `used` is their number, and the next part gets a larger one."""
    _write_parts(db, parts)
    number = max(read_part_number(db), used + 1)
    db.execute("UPDATE meta SET value = ? WHERE key = 'part_number'", (str(number),))


def _write_parts(db: sqlite3.Connection, parts: Iterable[Part]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (p.kind, p.date, p.number, p.rows, p.bytes, p.sha256, json.dumps(p.extras), p.first_us, p.last_us)
            for p in parts
        ],
    )


def _set_open_alarm(db: sqlite3.Connection, change: AlarmChange) -> None:
    if change.type in ("cleared", "revoked"):
        db.execute("DELETE FROM open_alarms WHERE id = ?", (change.id,))
        return
    db.execute(
        "INSERT OR REPLACE INTO open_alarms VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (change.id, *change.key, change.type, change.mode, change.p, change.at_ns, change.since_ns),
    )


def _add_untold(db: sqlite3.Connection, changes: Sequence[AlarmChange]) -> None:
    db.executemany(_ADD_UNTOLD, [(_text_of(change),) for change in changes])


def _remove_untold(db: sqlite3.Connection, changes: Sequence[AlarmChange]) -> None:
    told = [(_text_of(change),) for change in changes]
    db.executemany(f"DELETE FROM meta WHERE key LIKE '{_UNTOLD}%' AND value = ?", told)


def _text_of(change: AlarmChange) -> str:
    return json.dumps([*change.key, change.type, change.id, change.mode, change.p, change.at_ns, change.since_ns])


def _change_of(machine: str, point: str, *rest: object) -> AlarmChange:
    return AlarmChange(StreamKey(machine, point), *rest)  # type: ignore[arg-type]
