"""The witness: a journal that lacks what was acknowledged is refused by name, whatever was done to its files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from archive_plant import Plant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_rows import KEY, SCHEMA, alarm, content, feature_row, whole_commit

from pipeline import cli
from pipeline.config.sources import load
from pipeline.edges.faults import KILLED
from pipeline.edges.store import database, witness
from pipeline.edges.store.check import verify
from pipeline.edges.store.database import JournalBehind, check_witness, seal, view_journal
from pipeline.edges.store.journal import Commit, Journal, accept, set_aside
from pipeline.edges.store.read import read_features
from pipeline.edges.store.witness import WITNESS_NAME, Mark, Witness, first_mark, read_witness
from pipeline.errors import ArchiveError
from pipeline.service.checkup import look_at_data

COMMITS = 240
FILES = ("journal.db", "journal.db-wal", WITNESS_NAME)


def killed(directory: Path, commits: int, at: str = "") -> None:
    """Commits one message each, then ends without any clean-up, as kill -9 does."""
    code = """
        import os, sys
        from pathlib import Path
        from pipeline.edges.store.journal import Commit, Journal
        from pipeline.core.records import StreamKey
        journal = Journal(Path(os.environ["DATA"]))
        for i in range(int(os.environ["COMMITS"])):
            state = {StreamKey("pump-01", "de"): bytes([i % 251]) * 40}
            journal.commit(Commit(states=state, counters={"messages_received": 1}))
        os._exit(137)
    """
    env = {**os.environ, "DATA": str(directory), "COMMITS": str(commits)}
    if at:
        env["THRUMCAST_FAULT_AT"] = at
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, check=False, cwd=root)
    assert done.returncode == KILLED


@pytest.fixture(scope="module")
def dead(tmp_path_factory) -> Path:
    """A directory whose 240 commits are all in the log."""
    directory = tmp_path_factory.mktemp("dead")
    killed(directory, COMMITS)
    assert (directory / "journal.db-wal").stat().st_size > 100_000
    return directory


def copied(dead: Path, to: Path) -> Path:
    to.mkdir()
    for name in FILES:
        shutil.copy2(dead / name, to / name)
    return to


def received(directory: Path) -> int | None:
    """How many messages the next start finds; None if it is refused by name."""
    try:
        with Journal(directory) as journal:
            return journal.counters()["messages_received"]
    except ArchiveError as error:
        is_named = "journal.db" in error.message and error.hint
        return None if is_named else -1


def test_a_killed_journal_is_whole(dead, tmp_path):
    assert received(copied(dead, tmp_path / "data")) == COMMITS


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_or_a_cut_end_loses_no_message_without_a_word(dead, tmp_path_factory, name, data):
    directory = copied(dead, tmp_path_factory.mktemp("damaged") / "data")
    path = directory / name
    bytes_ = bytearray(path.read_bytes())
    place = data.draw(st.one_of(st.integers(0, min(200, len(bytes_) - 1)), st.integers(0, len(bytes_) - 1)))
    if data.draw(st.booleans()):
        bytes_[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del bytes_[place:]
    path.write_bytes(bytes_)
    before = {each: (directory / each).read_bytes() for each in FILES}
    found = received(directory)
    assert found in (None, COMMITS)
    if found is None:
        assert {each: (directory / each).read_bytes() for each in FILES} == before, "a refusal changed a file"


@pytest.mark.parametrize("end", ["emptied", "removed"])
def test_an_emptied_or_removed_log_is_refused_with_what_is_missing_and_accepted_with_the_loss_on_record(
    dead, tmp_path, capsys, end
):
    directory = copied(dead, tmp_path / "data")
    log = directory / "journal.db-wal"
    log.write_bytes(log.read_bytes()[: 32 + 40 * 4120] if end == "emptied" else b"")
    if end == "removed":
        log.unlink()
    with pytest.raises(JournalBehind, match="240 messages received") as caught:
        Journal(directory)
    assert "thrumcast state accept --yes" in str(caught.value.hint)
    if end == "removed":  # nothing is left to go on from
        assert "240 commits with 240 messages" in caught.value.message
        with pytest.raises(ArchiveError, match="found none"):
            accept(directory, "now", 1)
        set_aside(directory, "now")
        with Journal(directory) as journal:
            assert journal.counters()["journal_lost_messages"] == 240
        return
    with pytest.raises(JournalBehind):
        Journal(directory)
    assert check_witness(directory) is not None
    assert "240 messages received" in verify(directory).problems[0]
    finding = look_at_data(load(None, {"data.dir": directory}, environment={}).config)[0]
    assert (finding.check, finding.status) == ("data:journal", "fail")
    assert cli.run(["state", "accept", "--data", str(directory)]) == 2
    assert cli.run(["state", "accept", "--data", str(directory), "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    with Journal(directory) as journal:
        counters = journal.counters()
        kept = counters["messages_received"]
        assert 0 < kept < COMMITS
        assert counters["journal_losses"] == 1
        assert counters["journal_lost_messages"] == counters["journal_lost_commits"] == COMMITS - kept
        assert said["lost_messages"] == COMMITS - kept
        row = journal.view(("quarantine",)).pending["quarantine"].tables[0].to_pylist()[0]
        assert row["reason"] == "journal_loss"
        assert json.loads(row["payload"])["messages"] == COMMITS - kept
    assert (Path(said["copy"]) / "journal.db-wal").read_bytes() == log.read_bytes() if log.exists() else True
    assert check_witness(directory) is None
    assert cli.run(["state", "accept", "--data", str(directory), "--yes"]) == 1, "there is nothing more to accept"


@pytest.mark.parametrize("place", ["commit_before_end:9", "commit_unwitnessed:9", "commit_done:9"])
def test_a_kill_at_any_moment_of_a_commit_leaves_a_journal_that_starts(tmp_path, place):
    killed(tmp_path, 20, place)
    found = 8 if place.startswith("commit_before") else 9
    assert received(tmp_path) == found
    assert received(tmp_path) == found


def test_a_lost_database_is_refused(tmp_path):
    with Journal(tmp_path) as journal:
        journal.commit(Commit(counters={"received": 1}))
    (tmp_path / "journal.db").unlink()
    with pytest.raises(JournalBehind, match="found: no journal"):
        Journal(tmp_path)
    assert not (tmp_path / "journal.db").exists()
    set_aside(tmp_path, "lost")
    Journal(tmp_path).close()


def test_the_journal_of_another_directory_is_refused(tmp_path):
    for name in ("one", "two"):
        with Journal(tmp_path / name) as journal:
            journal.commit(Commit(counters={"received": 1}))
    shutil.copy2(tmp_path / "two" / "journal.db", tmp_path / "one" / "journal.db")
    with pytest.raises(JournalBehind, match="another journal"):
        Journal(tmp_path / "one")


def test_a_copy_that_went_its_own_way_is_refused(tmp_path):
    with Journal(tmp_path / "one") as journal:
        journal.commit(Commit(counters={"received": 1}))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name, value in (("one", 1), ("two", 2)):
        with Journal(tmp_path / name) as journal:
            for _ in range(value):
                journal.commit(Commit(counters={"received": value}))
    shutil.copy2(tmp_path / "two" / "journal.db", tmp_path / "one" / "journal.db")
    with pytest.raises(JournalBehind, match="another history"):
        Journal(tmp_path / "one")


def test_an_older_copy_is_refused_and_accepted_by_a_command_that_keeps_every_part(tmp_path):
    plant = Plant(tmp_path / "data")
    plant.add(feature_row(1))
    plant.archive.roll()
    plant.add(feature_row(2))
    plant.journal.close()
    shutil.copy2(plant.data / "journal.db", tmp_path / "backup.db")
    plant = Plant(plant.data)
    plant.add(feature_row(3))
    plant.archive.roll()  # part 2: windows 2 and 3
    plant.journal.close()
    shutil.copy2(tmp_path / "backup.db", plant.data / "journal.db")
    with pytest.raises(JournalBehind, match="commits with"):
        Plant(plant.data)
    done = accept(plant.data, "backup", 1)
    assert done.lost.commits
    again = Plant(plant.data)
    again.add(feature_row(4))
    parts = [part for part in again.archive.roll() if part.kind == "features"]
    again.journal.close()
    assert [part.number for part in parts] == [3]
    assert windows(plant.data) == [1, 2, 3, 4]
    assert verify(plant.data).problems == ()


def windows(data: Path) -> list[int]:
    return sorted(read_features(data).column("window").to_pylist())


def test_a_journal_without_its_witness_is_refused_unless_it_never_had_a_commit(tmp_path):
    Journal(tmp_path).close()
    (tmp_path / WITNESS_NAME).unlink()
    with Journal(tmp_path) as journal:
        journal.commit(Commit(counters={"received": 1}))
    (tmp_path / WITNESS_NAME).unlink()
    with pytest.raises(JournalBehind, match=r"expected .* a witness"):
        Journal(tmp_path)
    accept(tmp_path, "now", 1)
    Journal(tmp_path).close()


def test_a_journal_may_be_many_commits_ahead_of_its_witness_but_not_more_than_it_can_prove(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "KEPT", 16)
    with Journal(tmp_path) as journal:
        journal.commit(Commit(counters={"received": 1}))
        early = (tmp_path / WITNESS_NAME).read_bytes()
        for _ in range(14):
            journal.commit(Commit(counters={"received": 1}))
    (tmp_path / WITNESS_NAME).write_bytes(early)
    with Journal(tmp_path) as journal:
        assert journal.counters() == {"received": 15}
        for _ in range(2):
            journal.commit(Commit(counters={"received": 1}))
    (tmp_path / WITNESS_NAME).write_bytes(early)
    with pytest.raises(JournalBehind, match="another history"):
        Journal(tmp_path)


def test_a_witness_that_the_disk_refuses_stops_the_commit_and_the_same_commit_is_not_written_twice(
    tmp_path, monkeypatch
):
    write = Witness.write
    refusals = 2

    def refuse(self: Witness, mark: Mark, *, sync: bool = True) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(errno.EIO, "broken")
        write(self, mark, sync=sync)

    with Journal(tmp_path) as journal:
        monkeypatch.setattr(Witness, "write", refuse)
        commit = Commit(counters={"received": 1})
        for _ in range(2):
            with pytest.raises(ArchiveError, match=WITNESS_NAME):
                journal.commit(commit)
        journal.commit(commit)
        assert journal.counters() == {"received": 1}
        journal.commit(commit)  # the caller means it again
        assert journal.counters() == {"received": 2}


def test_nothing_is_written_while_the_witness_of_the_last_commit_is_missing(tmp_path, monkeypatch):
    with Journal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(Witness, "write", broken)
            for _ in range(2):
                with pytest.raises(ArchiveError):
                    journal.commit(Commit(counters={"received": 1}))
        assert journal.counters() == {"received": 1}


def broken(self: Witness, mark: Mark, *, sync: bool = True) -> None:
    raise OSError(errno.EIO, "broken")


def test_readers_write_no_witness_and_need_none(tmp_path):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        (tmp_path / WITNESS_NAME).unlink()
        assert view_journal(tmp_path).counters == {"received": 2, "committed": 1}
        assert check_witness(tmp_path) is not None
        assert not (tmp_path / WITNESS_NAME).exists()


def test_a_journal_of_version_3_is_taken_over_once(tmp_path):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        before = content(journal)
    make_version_3(tmp_path)
    assert view_journal(tmp_path).counters == {"received": 2, "committed": 1}
    assert check_witness(tmp_path) is None
    with Journal(tmp_path) as journal:
        assert content(journal) == before
        journal.commit(whole_commit(2))
    with Journal(tmp_path) as journal:
        assert journal.counters()["received"] == 4
    make_version_3(tmp_path, witness=True)
    with pytest.raises(JournalBehind, match="version 3"):
        Journal(tmp_path)


def make_version_3(directory: Path, *, witness: bool = False) -> None:
    with sqlite3.connect(directory / "journal.db") as db:
        db.execute("DROP TABLE chain")
        db.execute("UPDATE meta SET value = '3' WHERE key = 'journal_version'")
        db.execute("DELETE FROM meta WHERE key = 'epoch'")
        for table in database._SEALED:
            db.execute("UPDATE meta SET value = ? WHERE key = ?", (database._older_seal(db, table), f"seal.{table}"))
    db.close()
    if not witness:
        (directory / WITNESS_NAME).unlink()


steps = st.sampled_from(["rows", "alarm", "told", "cleared", "refused", "input", "roll", "nothing", "many"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(steps, min_size=1, max_size=12))
def test_seals_kept_by_changes_equal_seals_of_whole_tables(tmp_path_factory, steps):
    with Journal(tmp_path_factory.mktemp("seals")) as journal:
        journal.bind(SCHEMA)
        for number, step in enumerate(steps, 1):
            take(journal, step, number)
            found = {table: seal(journal._db, table) for table in database._SEALED}
            assert found == database.read_seals(journal._db), step
            mark = journal._seals.mark
            assert read_witness(journal.directory / WITNESS_NAME) == mark


def take(journal: Journal, step: str, number: int) -> None:
    if step == "rows":
        journal.commit(whole_commit(number))
    elif step == "many":
        journal.commit(Commit(states={KEY: b"x" * number}, counters={"messages_received": 3, "b": 1}))
    elif step == "alarm":
        journal.commit(Commit(alarms=[alarm("raised"), alarm("updated", at_ns=number)]))
    elif step == "told":
        journal.commit(Commit(told=journal.untold_alarms()))
    elif step == "cleared":
        journal.commit(Commit(alarms=[alarm("cleared", at_ns=number)]))
    elif step == "refused":
        with pytest.raises(sqlite3.IntegrityError), journal._turn:  # a transaction that is undone
            undo(journal)
    elif step == "input":
        journal.note_client_id(f"client-{number % 2}")
    elif step == "roll":
        journal.finish_roll(journal.view(("features", "alarms")), [], 1)
    else:
        journal.commit(Commit())


def undo(journal: Journal) -> None:
    journal._seals.begin()
    journal._db.execute("BEGIN IMMEDIATE")
    try:
        journal._db.execute("INSERT INTO counters VALUES ('undone', 1)")
        journal._db.execute("INSERT INTO counters VALUES ('undone', 1)")
    finally:
        journal._roll_back()


@given(place=st.integers(0, 4096 + 255), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_record_is_never_taken_for_another_commit(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("witness") / WITNESS_NAME
    mark = first_mark("e" * 32)
    file = Witness.create(path, mark)
    marks = [mark]
    for i in range(3):
        marks.append(marks[-1].next(["seal"], i))
        file.write(marks[-1])
    file.close()
    bytes_ = bytearray(path.read_bytes())
    bytes_[place] ^= 1 << bit
    path.write_bytes(bytes_)
    assert read_witness(path) in marks[-2:]


def test_a_witness_that_is_a_link_is_not_written_through(tmp_path):
    with Journal(tmp_path / "data"):
        pass
    path = tmp_path / "data" / WITNESS_NAME
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match=WITNESS_NAME):
        Journal(tmp_path / "data")


def test_the_records_are_far_apart():
    assert witness._PLACES[1] - witness._PLACES[0] >= 4096


# -- journal and witness gone together -------------------------------------------------------------------------------

GONE = ("journal.db", "journal.db-wal", "journal.db-shm", WITNESS_NAME)


def lose(directory: Path, how: str) -> None:
    for name in GONE:
        if (path := directory / name).exists():
            path.unlink() if how == "removed" else path.write_bytes(b"")


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_journal_that_is_gone_with_its_witness_before_any_roll_is_missed_with_its_messages(dead, tmp_path, how):
    directory = tmp_path / "data"
    shutil.copytree(dead, directory)
    lose(directory, how)
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    with pytest.raises(ArchiveError, match="240 messages" if how == "removed" else "damaged witness") as caught:
        Journal(directory)
    assert "state set-aside --yes" in caught.value.hint
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert after | {".lock": b""} == before | {".lock": b""}, "a refusal changed a file"
    finding = look_at_data(load(None, {"data.dir": directory}, environment={}).config)[0]
    assert (finding.check, finding.status) == ("data:journal", "fail")
    assert cli.run(["state", "set-aside", "--data", str(directory), "--yes"]) == 0
    for _ in range(2):  # recorded once
        with Journal(directory) as journal:
            counters, rows = journal.counters(), journal.view(("quarantine",)).pending["quarantine"].rows
        assert (counters["journal_losses"], rows) == (1, 1)
        assert counters["journal_lost_messages"] == (COMMITS if how == "removed" else 0)


@pytest.mark.parametrize("hidden", [False, True], ids=["removed", "removed with every hidden file"])
def test_an_archive_without_any_journal_is_refused_with_its_rows_and_goes_on_with_all_of_them(tmp_path, hidden):
    plant = Plant(tmp_path / "data")
    plant.add(feature_row(1))
    plant.archive.roll()
    plant.add(feature_row(2))
    plant.journal.close()
    lose(plant.data, "removed")
    if hidden:
        for path in plant.data.glob(".*"):
            path.unlink()
    with pytest.raises(JournalBehind, match=r"1 archived files with 1 rows") as caught:
        Plant(plant.data)
    assert "state accept" not in caught.value.hint
    notes = verify(plant.data).notes
    assert any("archived files" in note for note in notes)
    set_aside(plant.data, "gone")
    again = Plant(plant.data)
    again.add(feature_row(3))
    again.archive.roll()
    again.journal.close()
    assert windows(plant.data) == [1, 3]
    assert verify(plant.data).problems == ()


def test_a_copy_of_an_archive_may_begin_a_journal_and_a_fresh_directory_too(tmp_path):
    plant = Plant(tmp_path / "data")
    plant.add(feature_row(1))
    plant.archive.roll()
    plant.journal.close()
    lose(plant.data, "removed")
    (plant.data / "snapshot.json").write_text("{}")
    Plant(plant.data).journal.close()
    Journal(tmp_path / "fresh").close()


def test_a_spoilt_note_of_what_was_set_aside_is_no_reason_not_to_start(tmp_path):
    Journal(tmp_path).close()
    set_aside(tmp_path, "one")
    (tmp_path / database.LOSS_NAME).write_text("[" * 5000)
    with Journal(tmp_path) as journal:
        assert journal.counters()["journal_losses"] == 1
    assert not (tmp_path / database.LOSS_NAME).exists()


def test_an_older_journal_that_is_put_back_with_its_witness_is_noticed_and_accepted_with_the_loss_on_record(tmp_path):
    with Journal(tmp_path) as journal:
        for _ in range(5):
            journal.commit(Commit(counters={"messages_received": 1}))
    kept = {name: (tmp_path / name).read_bytes() for name in ("journal.db", WITNESS_NAME)}
    with Journal(tmp_path) as journal:
        for _ in range(3):
            journal.commit(Commit(counters={"messages_received": 2}))
    for name, older in kept.items():
        (tmp_path / name).write_bytes(older)
    with pytest.raises(JournalBehind, match="3 commits with 6 messages"):
        Journal(tmp_path)
    accept(tmp_path, "backup", 1)
    with Journal(tmp_path) as journal:
        assert journal.counters()["journal_lost_messages"] == 6
        journal.commit(Commit(counters={"messages_received": 1}))
    Journal(tmp_path).close()
