"""The journal: all of a commit or nothing, kept over restarts, held by one process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.records import AlarmChange, FeatureRow, Prediction, StreamKey
from pipeline.edges.archive_tables import FeatureSchema
from pipeline.edges.faults import KILLED
from pipeline.edges.journal import Commit, Journal, Quarantined
from pipeline.edges.journal_read import view_journal
from pipeline.errors import ArchiveError, SchemaError

SCHEMA = FeatureSchema("test-1", ("rms", "kurtosis"), ("g", "1"))
CLASSES = ("healthy", "unbalance")
KEY = StreamKey("pump-01", "de")
SECOND_NS = 1_000_000_000


def feature_row(window: int, key: StreamKey = KEY, channels: tuple[str, ...] = ("x",), session: int = 7) -> FeatureRow:
    values = np.arange(len(channels) * 2, dtype=np.float32).reshape(-1, 2) + window
    start_ns = window * SECOND_NS
    end_ns = start_ns + SECOND_NS
    return FeatureRow(
        key, session, window, start_ns, end_ns, 12e3, None, 1.0, 0, "healthy", channels, values, SCHEMA.name
    )


def prediction(window: int, key: StreamKey = KEY) -> Prediction:
    start_ns = window * SECOND_NS
    p = np.array([0.25, 0.75], np.float32)
    return Prediction(
        key, 7, window, start_ns, start_ns + SECOND_NS, "unbalance", 0.75, p, "normal", window, "v0001", SCHEMA.name
    )


def alarm(change: str, number: str = "a1", at_ns: int = 5) -> AlarmChange:
    return AlarmChange(KEY, change, number, "unbalance", 0.9, at_ns, 4)


def whole_commit(window: int) -> Commit:
    return Commit(
        states={KEY: bytes([window % 256])},
        features=[feature_row(window)],
        predictions=[prediction(window)],
        classes=CLASSES,
        alarms=[alarm("raised", f"a{window}")],
        quarantined=[Quarantined("plant/x", window, "length", b"\x00" * 9000, 9000)],
        counters={"received": 2, "committed": 1},
    )


def content(journal: Journal) -> tuple[object, ...]:
    view = journal.view(("features", "predictions", "alarms", "quarantine"))
    rows = {kind: pending.table(view.arrow_schema(kind)).to_pylist() for kind, pending in view.pending.items()}
    return journal.states(), journal.counters(), journal.open_alarms(), rows, view.extras


@pytest.fixture
def journal(tmp_path: Path):
    with Journal(tmp_path / "data") as opened:
        opened.bind(SCHEMA)
        yield opened


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_what_was_committed_is_there_after_reopening_however_it_was_cut(tmp_path_factory, cuts):
    directory = tmp_path_factory.mktemp("journal")
    window = 0
    with Journal(directory) as journal:
        journal.bind(SCHEMA)
        for cut in cuts:
            rows = [feature_row(window + i, channels=("x", "y") if i % 2 else ("x",)) for i in range(cut)]
            journal.commit(Commit(states={KEY: bytes([window])}, features=rows, counters={"rows": cut}))
            window += cut
        before = content(journal)
    with Journal(directory) as journal:
        assert content(journal) == before
        assert journal.counters() == {"rows": sum(cuts)}
        assert journal.pending_rows("features") == journal.pending_rows() == sum(cuts)
        assert sorted(row["window"] for row in before[3]["features"]) == list(range(window))


def test_a_commit_keeps_everything_it_was_given(journal):
    journal.commit(whole_commit(3))
    journal.commit(whole_commit(4))
    states, counters, alarms, rows, extras = content(journal)
    assert states == {KEY: b"\x04"}
    assert counters == {"received": 4, "committed": 2}
    assert alarms == {"a3": alarm("raised", "a3"), "a4": alarm("raised", "a4")}
    assert {kind: len(found) for kind, found in rows.items()} == dict.fromkeys(rows, 2)
    assert rows["features"][0]["x.rms"] == 3.0
    assert rows["features"][0]["x.kurtosis"] == 4.0
    assert rows["features"][0]["speed_rpm"] is None
    assert rows["predictions"][1]["p_unbalance"] == 0.75
    assert len(rows["quarantine"][0]["payload"]) == 4096
    assert rows["quarantine"][0]["size_bytes"] == 9000
    assert extras == {"features": ("x",), "predictions": CLASSES, "alarms": (), "quarantine": ()}


def test_the_largest_session_number_is_kept(journal):
    journal.commit(Commit(features=[feature_row(1, session=2**64 - 1)]))
    assert content(journal)[3]["features"][0]["session"] == 2**64 - 1


def test_a_window_that_was_not_predicted_is_null(journal):
    nothing = np.full(2, np.nan, np.float32)
    row = Prediction(KEY, 7, 1, 0, 1, None, float("nan"), nothing, "warming_up", 0, "v0001", SCHEMA.name)
    journal.commit(Commit(predictions=[row], classes=CLASSES))
    found = content(journal)[3]["predictions"][0]
    assert [found[name] for name in ("mode", "p", "p_healthy", "p_unbalance")] == [None] * 4


def test_an_alarm_is_open_until_it_is_cleared(journal):
    journal.commit(Commit(alarms=[alarm("raised"), alarm("updated", at_ns=6)]))
    assert journal.open_alarms() == {"a1": alarm("updated", at_ns=6)}
    journal.commit(Commit(alarms=[alarm("cleared", at_ns=7)]))
    assert journal.open_alarms() == {}
    assert journal.pending_rows("alarms") == 3


def test_a_forgotten_stream_has_no_state_but_keeps_its_rows(journal):
    journal.commit(whole_commit(1))
    journal.forget([KEY])
    assert journal.states() == {}
    assert journal.pending_rows("features") == 1


def test_a_commit_that_fails_changes_nothing_and_can_be_tried_again(journal):
    journal.commit(whole_commit(1))
    before = content(journal)
    big = Commit(states={StreamKey("m", str(i)): bytes(4096) for i in range(300)}, counters={"received": 1})
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(ArchiveError, match="full") as caught:
        journal.commit(big)
    assert "free some space" in caught.value.hint
    assert content(journal) == before
    journal._db.execute("PRAGMA max_page_count = 1000000")
    journal.commit(big)
    assert len(journal.states()) == 301
    assert journal.counters()["received"] == 3


def test_a_commit_that_fails_half_way_leaves_the_journal_usable(journal):
    whole = whole_commit(1)
    with pytest.raises(ArchiveError):  # rows are written before the state that SQLite cannot take
        journal.commit(Commit(states={KEY: object()}, features=whole.features, counters={"received": 1}))
    assert journal.pending_rows() == 0
    journal.commit(whole)
    assert journal.pending_rows("features") == 1
    assert journal.counters()["received"] == 2


def test_a_commit_with_one_wrong_row_writes_nothing(journal):
    other = feature_row(2)
    wrong = FeatureRow(*[getattr(other, name) for name in FeatureRow.__slots__[:-1]], "test-2")
    with pytest.raises(SchemaError, match=r"test-1.*test-2"):
        journal.commit(Commit(states={KEY: b"1"}, features=[feature_row(1), wrong], counters={"received": 1}))
    assert journal.states() == {}
    assert journal.counters() == {}
    assert journal.pending_rows() == 0


def test_probabilities_without_their_classes_are_refused(journal):
    with pytest.raises(SchemaError, match="one probability for each of the 0 classes"):
        journal.commit(Commit(predictions=[prediction(1)]))


def test_feature_rows_need_a_feature_table(tmp_path):
    with Journal(tmp_path) as journal, pytest.raises(SchemaError, match="knows its feature table"):
        journal.commit(Commit(features=[feature_row(1)]))


def test_a_journal_of_another_feature_table_is_refused_by_name(tmp_path):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        with pytest.raises(SchemaError, match=r"expected the feature schema test-2, found.*test-1") as caught:
            journal.bind(FeatureSchema("test-2", ("rms",), ("g",)))
        assert "new data directory" in caught.value.hint
        with pytest.raises(SchemaError, match="other features"):
            journal.bind(FeatureSchema("test-1", ("rms",), ("g",)))


def test_a_second_process_is_told_who_holds_the_directory(tmp_path):
    with Journal(tmp_path):
        code = f"from pathlib import Path; from pipeline.edges.journal import Journal; Journal(Path({str(tmp_path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root())
        assert done.returncode == 1
        assert f"held by process: {os.getpid()}" in done.stderr
    with Journal(tmp_path):
        pass


def test_a_directory_is_free_again_after_its_process_was_killed(tmp_path):
    code = """
        import os
        from pathlib import Path
        from pipeline.edges.journal import Commit, Journal
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


def test_a_journal_of_version_1_is_brought_up_to_date_with_all_that_stands_in_it(tmp_path):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        journal.commit(whole_commit(1))
        before = journal.view(("features",)).pending["features"].tables[0]
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute("ALTER TABLE pending DROP COLUMN crc")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'journal_version'")
    db.close()
    with pytest.raises(ArchiveError, match=r"expected journal version 2, found.*1"):
        view_journal(tmp_path)  # a reader changes nothing
    with Journal(tmp_path) as journal:
        assert journal.view(("features",)).pending["features"].tables[0].equals(before)
        journal.commit(whole_commit(2))
        assert len(journal.view(("features",)).pending["features"].tables) == 2


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


def test_another_journal_version_is_refused_and_left_alone(tmp_path):
    with Journal(tmp_path) as journal:
        journal.commit(Commit(counters={"received": 1}))
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'journal_version'")
    db.close()
    with pytest.raises(ArchiveError, match=r"expected journal version 2, found.*99"):
        Journal(tmp_path)
    with pytest.raises(ArchiveError, match=r"expected journal version 2, found.*99"):
        view_journal(tmp_path)


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


def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match="expected to write") as caught:
        Journal(tmp_path / "file" / "data")
    assert "--data DIR" in caught.value.hint


def test_a_reader_in_another_process_sees_what_is_committed_and_needs_no_lock(journal):
    journal.commit(whole_commit(1))
    code = f"""
        from pathlib import Path
        from pipeline.edges.journal_read import view_journal
        view = view_journal(Path({str(journal.directory)!r}))
        print(view.schema.name, view.pending["features"].tables[0].num_rows, view.counters["received"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=root()
    )
    assert done.stdout.split() == ["test-1", "1", "2"]


def root() -> Path:
    return Path(__file__).parent.parent


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '{\"name\": \"te\u0001st\"' WHERE key = 'feature_schema'",
        "UPDATE meta SET value = '{}' WHERE key = 'feature_schema'",
        "UPDATE parts SET extras = '[\"x'",
        "UPDATE meta SET value = 'seven' WHERE key = 'part_number'",
    ],
)
def test_a_damaged_word_in_a_small_table_is_named_too(tmp_path, statement):
    with Journal(tmp_path) as journal:
        journal.bind(SCHEMA)
        with journal.transaction() as db:
            db.execute("INSERT INTO parts VALUES ('features', '2024-01-01', 1, 1, 1, 'a', '[]', 0, 0)")
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute(statement)
    db.close()

    def look():
        with Journal(tmp_path) as journal:
            journal.view(())

    with pytest.raises(ArchiveError, match=r"journal\.db damaged"):
        look()
    with pytest.raises(ArchiveError, match=r"journal\.db damaged"):
        view_journal(tmp_path)
