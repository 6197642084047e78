"""Rows derived from files go into parts at once: what a crash leaves, and what a plain Parquet reader sees of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from archive_plant import Plant, append_turns, feature_row
from fault_points import fault_points
from harness.crashes import exit_status

from pipeline.edges.faults import KILLED
from pipeline.edges.store.check import verify
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import read_features, read_predictions
from pipeline.edges.store.schema import Rows, feature_tables

APPEND = fault_points("edges/store/journal.py", "edges/store/archive.py")
POINTS = tuple(name for name in APPEND if name.startswith(("append_", "after_")))
# The second append crosses midnight, the third and fourth widen older parts.
CRASHES = [(name, 1) for name in POINTS] + [("after_rename", 4), ("append_before_transaction", 3)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("uninterrupted")
    append_turns(data)
    return data


def rows(plant: Plant, *windows: int, number: int = 1, channels: tuple[str, ...] = ("x",)) -> list[Rows]:
    made = [feature_row(window, number, channels) for window in windows]
    return [Rows("features", extras, table) for extras, table in feature_tables(made, plant.schema)]


def plain(data: Path) -> list[int]:
    """Windows as a reader finds them that knows nothing of a journal."""
    return sorted(pd.read_parquet(data / "archive" / "features")["window"])


@pytest.mark.parametrize(("name", "passes"), CRASHES, ids=[f"{name}:{n}" for name, n in CRASHES])
def test_a_crash_at_any_point_once_or_twice_loses_and_doubles_nothing(
    tmp_path: Path, uninterrupted: Path, name: str, passes: int
) -> None:
    assert exit_status(append_turns, tmp_path, f"{name}:{passes}") == KILLED
    exit_status(append_turns, tmp_path, name)  # dies again, unless that place is behind it
    assert verify(tmp_path).problems == ()
    append_turns(tmp_path)
    report = verify(tmp_path)
    assert report.problems == report.notes == ()
    for read in (read_features, read_predictions):
        assert read(tmp_path).equals(read(uninterrupted))
    assert plain(tmp_path) == plain(uninterrupted)


def test_what_an_interrupted_append_placed_is_gone_before_anything_else_is_written(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window 0 is of another day than window 40, so its part would stay if the next append only wrote its own."""
    with monkeypatch.context() as patched:
        patched.setattr(plant.journal, "finish_append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            plant.archive.append(rows(plant, 0, 1), {"first": ""})
    assert plain(plant.data) == [0, 1]
    assert read_features(plant.data).num_rows == 0  # nobody listed them
    plant.archive.append(rows(plant, 40), {"second": ""})
    assert plain(plant.data) == [40]
    plant.archive.append(rows(plant, 0, 1), {"first": ""})
    assert plain(plant.data) == read_features(plant.data)["window"].to_pylist() == [0, 1, 40]
    assert set(plant.journal.inputs_done()) == {"first", "second"}


def test_what_waits_in_the_journal_is_rolled_before_files_are_appended(plant: Plant) -> None:
    plant.add(feature_row(3))
    plant.archive.append(rows(plant, 4), {"a": ""})
    assert plant.journal.pending_rows() == 0
    assert plain(plant.data) == [3, 4]


def test_a_recording_that_comes_again_under_another_name_adds_no_row(plant: Plant) -> None:
    plant.archive.append(rows(plant, 1, 2, 3), {"a": ""})
    plant.archive.append([*rows(plant, 2, 3, 4), *rows(plant, 1, 2, number=2)], {"b": ""})
    assert plain(plant.data) == [1, 1, 2, 2, 3, 4]
    assert plant.journal.counters()["archive_duplicate_rows"] == 2


def test_a_channel_that_comes_later_gets_a_column_in_every_part(plant: Plant) -> None:
    plant.archive.append(rows(plant, 1), {"a": ""})
    plant.archive.append(rows(plant, 2, channels=("x", "y")), {"b": ""})
    frame = pd.read_parquet(plant.data / "archive" / "features")
    assert frame.set_index("window")["y.rms"].isna().to_dict() == {1: True, 2: False}


def test_inputs_without_rows_are_finished_all_the_same(plant: Plant) -> None:
    assert plant.archive.append([], {"silent": "cut"}) == []
    assert plant.journal.inputs_done() == {"silent": "cut"}
    plant.journal.commit(Commit(features=[feature_row(1)]))
    plant.archive.roll()
    assert plain(plant.data) == [1]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
