"""The journal: all of a commit or nothing, kept over restarts, held by one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_rows import CLASSES, KEY, SCHEMA, alarm, content, feature_row, prediction, whole_commit
from msgspec.structs import replace

from pipeline.core.records import Prediction, StreamKey
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.schema import FeatureSchema
from pipeline.errors import ArchiveError, SchemaError


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
        assert journal.pending_rows() == sum(cuts)
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
    assert extras == {"features": ("x",), "predictions": CLASSES, "forecast": (), "alarms": (), "quarantine": ()}


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
    assert journal.view(("alarms",)).pending["alarms"].rows == 3


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
    assert journal.view(("features",)).pending["features"].rows == 1
    assert journal.counters()["received"] == 2


def test_a_commit_with_one_wrong_row_writes_nothing(journal):
    wrong = replace(feature_row(2), schema="test-2")
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
