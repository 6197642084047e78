"""The files of a journal: who holds them, which version they are of, and that damage is named."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from journal_rows import KEY, SCHEMA, whole_commit

from pipeline import cli
from pipeline.core.records import StreamKey
from pipeline.edges.faults import KILLED
from pipeline.edges.store import database
from pipeline.edges.store.database import DirectoryHeld, view_journal, view_states
from pipeline.edges.store.journal import Commit, Journal, set_aside
from pipeline.edges.store.schema import Part
from pipeline.errors import ArchiveError


@pytest.fixture
def journal(tmp_path: Path):
    with Journal(tmp_path / "data") as opened:
        opened.bind(SCHEMA)
        yield opened


def test_only_the_database_and_the_journal_run_sql():
    modules = sorted((root() / "pipeline" / "edges" / "store").glob("*.py"))
    speak = [path.stem for path in modules if re.search(r"sqlite3|\.execute|_transaction\(", path.read_text())]
    assert speak == ["database", "journal"]


def test_a_second_process_is_told_who_holds_the_directory(tmp_path):
    with Journal(tmp_path):
        code = "from pathlib import Path; from pipeline.edges.store.journal import Journal; "
        code += f"Journal(Path({str(tmp_path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root())
        assert done.returncode == 1
        assert f"held by process: {os.getpid()}" in done.stderr
    with Journal(tmp_path):
        pass


def test_a_directory_is_free_again_after_its_process_was_killed(tmp_path):
    code = """
        import os
        from pathlib import Path
        from pipeline.edges.store.journal import Commit, Journal
        journal = Journal(Path(os.environ["DATA"]))
        for i in range(10):
            journal.commit(Commit(counters={"turns": 1}))
    """
    env = {**os.environ, "DATA": str(tmp_path)}
    for place, committed in (("commit_begin:3", 2), ("commit_before_end:3", 4), ("commit_done:3", 7)):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**env, "THRUMCAST_FAULT_AT": place},
            check=False,
            cwd=root(),
        )
        assert done.returncode == KILLED
        with Journal(tmp_path) as journal:
            assert journal.counters() == {"turns": committed}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE counters SET value = value + 1",
        "UPDATE states SET machine = 'pumq-01'",
        "DELETE FROM states",
        "UPDATE extras SET position = 7",
        "UPDATE pending SET kind = 'alarms' WHERE kind = 'features'",
        "INSERT INTO inputs VALUES ('x', 'y')",
        "UPDATE open_alarms SET mode = 'looseness'",
        "DELETE FROM meta WHERE key = 'feature_schema'",
        "UPDATE meta SET value = '{\"name\": \"te\u0001st\"' WHERE key = 'feature_schema'",
        "UPDATE meta SET value = 'seven' WHERE key = 'part_number'",
        "UPDATE parts SET extras = '[\"x'",
        "DELETE FROM meta WHERE key = 'seal.parts'",
    ],
)
def test_a_name_or_a_number_that_is_not_the_one_that_was_written_is_refused(tmp_path, damage):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        journal.adopt([Part("features", "2024-01-01", 1, 1, 1, "a", (), 0, 0)])
    with sqlite3.connect(tmp_path / "journal.db") as db:
        assert db.execute(damage).rowcount > 0, "nothing to damage"
    db.close()
    content = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(ArchiveError, match="another checksum"):
        view_journal(tmp_path)
    with pytest.raises(ArchiveError, match="another checksum"):
        Journal(tmp_path)
    assert (tmp_path / "journal.db").read_bytes() == content


def test_a_commit_reads_no_list_that_it_has_not_changed(tmp_path, monkeypatch):
    hashed: list[object] = []
    row_hash = database._row_hash
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        journal.commit(Commit(states={StreamKey(f"m{i}", "p"): b"x" for i in range(500)}))
        monkeypatch.setattr(database, "_row_hash", lambda row: hashed.append(tuple(row)) or row_hash(row))
        journal.commit(Commit(states={StreamKey("m7", "p"): b"yy"}, counters={"received": 1}))
    assert sorted(hashed) == [("m7", "p", 1), ("m7", "p", 2), ("received", 2), ("received", 3)]


def test_a_feature_table_that_is_known_is_not_written_again(tmp_path):
    for changes in (True, False):
        with Journal(tmp_path) as journal:
            before = journal._db.total_changes
            journal.bind(SCHEMA)
            assert (journal._db.total_changes > before) == changes


def test_a_flipped_bit_in_a_pending_entry_is_named(tmp_path):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
    with sqlite3.connect(tmp_path / "journal.db") as db:
        (blob,) = db.execute("SELECT batch FROM pending WHERE kind = 'features'").fetchone()
        damaged = blob[:-40] + bytes([blob[-40] ^ 1]) + blob[-39:]
        db.execute("UPDATE pending SET batch = ? WHERE kind = 'features'", (damaged,))
    db.close()
    with Journal(tmp_path) as journal, pytest.raises(ArchiveError, match="another checksum"):
        journal.view(("features",))


@pytest.mark.parametrize("version", ["2", "99"])
def test_another_journal_version_is_refused_and_left_alone(tmp_path, version):
    with Journal(tmp_path) as journal:
        journal.commit(Commit(counters={"received": 1}))
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'journal_version'", (version,))
    db.close()
    content = (tmp_path / "journal.db").read_bytes()
    for open_it in (Journal, view_journal, view_states):
        with pytest.raises(ArchiveError, match=rf"expected journal version 4, found.*: {version}") as caught:
            open_it(tmp_path)
        assert "version of thrumcast that wrote this one" in caught.value.hint
    assert (tmp_path / "journal.db").read_bytes() == content


@pytest.mark.parametrize("damage", ["text", "middle", "empty", "foreign"])
def test_a_damaged_journal_is_named_and_never_started_over(tmp_path, damage):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        for i in range(20):
            journal.commit(whole_commit(i))
    path = tmp_path / "journal.db"
    content = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"not a database at all" * 500)
    elif damage == "middle":
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 8192) + content[-4096:])
    elif damage == "empty":
        part = tmp_path / "archive" / "features" / "date=2024-01-01" / "part-00000001.parquet"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"something")
        path.write_bytes(b"")
    else:
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (a)")
        db.close()
    now = path.read_bytes()
    with pytest.raises(ArchiveError, match=r"journal\.db") as caught:
        Journal(tmp_path)
    assert caught.value.hint is not None
    assert path.read_bytes() == now


def test_a_damaged_journal_is_put_aside_as_it_is_and_the_next_start_begins_anew(tmp_path, capsys):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
    path = tmp_path / "journal.db"
    damaged = b"not a database at all" * 500
    path.write_bytes(damaged)
    with pytest.raises(ArchiveError) as caught:
        Journal(tmp_path)
    assert "thrumcast state set-aside --yes" in str(caught.value.hint)
    assert cli.run(["state", "set-aside", "--data", str(tmp_path)]) == 2
    assert path.read_bytes() == damaged
    assert cli.run(["state", "set-aside", "--data", str(tmp_path), "--yes", "--json"]) == 0
    aside = Path(json.loads(capsys.readouterr().out)["aside"])
    assert (aside / "journal.db").read_bytes() == damaged
    assert not list(tmp_path.glob("journal.db*"))
    with Journal(tmp_path) as journal:
        assert journal.view(("features",)).pending["features"].rows == 0
        assert journal.counters()["journal_losses"] == 1
        with pytest.raises(DirectoryHeld):
            set_aside(tmp_path, "held")
    assert set_aside(tmp_path, "sound").is_dir()
    with pytest.raises(ArchiveError, match="found none"):
        set_aside(tmp_path, "none")


def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match="expected to write") as caught:
        Journal(tmp_path / "file" / "data")
    assert "--data DIR" in caught.value.hint


def test_a_reader_in_another_process_sees_what_is_committed_and_needs_no_lock(journal):
    journal.commit(whole_commit(1))
    code = f"""
        from pathlib import Path
        from pipeline.edges.store.database import view_journal
        view = view_journal(Path({str(journal.directory)!r}))
        print(view.schema.name, view.pending["features"].tables[0].num_rows, view.counters["received"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=root()
    )
    assert done.stdout.split() == ["test-1", "1", "2"]


def root() -> Path:
    return Path(__file__).parents[2]


def test_a_journal_on_a_slow_disk_closes_as_it_is_and_nothing_is_missing_after(tmp_path: Path) -> None:
    log = tmp_path / "journal.db-wal"
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        assert not journal.slow
        journal.slow = True
    assert log.stat().st_size > 0, "the log was moved into the database: two more syncs"
    with Journal(tmp_path) as journal:
        assert journal.states() == {KEY: b"\x01"}
        assert journal.view(("features",)).pending["features"].rows == 1
    assert not log.exists()


def test_a_transaction_that_takes_long_is_noticed_and_one_that_writes_nothing_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path) as journal:
        monkeypatch.setattr("pipeline.edges.store.journal.SLOW_S", 0.0)
        journal.commit(Commit())
        assert not journal.slow
        journal.commit(Commit(counters={"received": 1}))
        assert journal.slow


def test_a_journal_that_was_let_go_refuses_a_transaction(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    with pytest.raises(ArchiveError):
        journal.commit(Commit(counters={"received": 1}))
