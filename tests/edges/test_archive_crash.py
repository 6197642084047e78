"""The archive while something goes on or goes wrong: readers, crashes, a full disk, rolls that are left off."""

from __future__ import annotations

import threading
from pathlib import Path

import pandas as pd
import pytest
from archive_plant import Plant, feature_row, run_turns
from fault_points import fault_points
from harness.crashes import exit_status

from pipeline.edges.faults import KILLED
from pipeline.edges.store.check import verify
from pipeline.edges.store.read import read_features, read_predictions
from pipeline.errors import ArchiveError

ROOT = Path(__file__).parents[2]


def test_a_reader_beside_a_rolling_writer_never_sees_a_row_twice_or_loses_one(plant):
    """Counts may only grow by whole commits, in order: a row is in the journal or in a listed file, never in both."""
    done = threading.Event()
    problems: list[str] = []

    def read_again_and_again() -> None:
        seen = 0
        while not done.is_set():
            windows = sorted(read_features(plant.data, columns=["window"])["window"].to_pylist())
            if windows != list(range(len(windows))) or len(windows) < seen:
                problems.append(f"{seen} -> {windows}")
            seen = len(windows)
            problems.extend(verify(plant.data).problems)

    reader = threading.Thread(target=read_again_and_again)
    reader.start()
    try:
        for i in range(25):
            plant.add(feature_row(2 * i), feature_row(2 * i + 1, channels=("x", f"c{i // 8}")))
            plant.archive.roll()
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert read_features(plant.data).num_rows == 50


def test_commits_from_another_thread_during_a_roll_are_kept_for_the_next_one(plant):
    def commit_all() -> None:
        for window in range(40):
            plant.add(feature_row(window, 2))

    writer = threading.Thread(target=commit_all)
    writer.start()
    while writer.is_alive():
        plant.archive.roll()
    writer.join()
    plant.archive.roll()
    assert plant.journal.pending_rows() == 0
    assert read_features(plant.data)["window"].to_pylist() == list(range(40))


@pytest.mark.parametrize("steps", range(12))
def test_a_roll_that_is_left_off_at_any_step_loses_nothing_and_doubles_nothing(plant, steps):
    """The second of two days, with a part that gets a new column."""
    plant.add(feature_row(28), feature_row(29))
    plant.archive.roll()
    plant.add(feature_row(30, channels=("x", "c")), feature_row(31))
    asked = iter(range(steps))
    rolled = plant.archive.roll(lambda: next(asked, None) is None)
    assert bool(rolled) == (plant.journal.pending_rows() == 0)
    assert read_features(plant.data)["window"].to_pylist() == [28, 29, 30, 31]
    plant.archive.roll()
    assert plant.journal.pending_rows() == 0
    assert read_features(plant.data)["window"].to_pylist() == [28, 29, 30, 31]
    assert verify(plant.data).problems == ()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("uninterrupted")
    run_turns(data)
    return data


# The Nth pass is where it matters most: the second roll crosses midnight, the third and fourth widen older parts.
# An append has tests of its own.
POINTS = fault_points("edges/store/journal.py", "edges/store/archive.py")
STORE_POINTS = tuple(name for name in POINTS if not name.startswith("append_"))
CRASHES = [(name, 1) for name in STORE_POINTS] + [
    ("after_staging", 3),
    ("after_rename", 4),
    ("after_rewrite_rename", 2),
    ("roll_in_transaction", 3),
]


@pytest.mark.parametrize(("name", "passes"), CRASHES, ids=[f"{name}:{n}" for name, n in CRASHES])
def test_a_crash_at_any_point_once_or_twice_loses_and_doubles_nothing(tmp_path, uninterrupted, name, passes):
    assert exit_status(run_turns, tmp_path, f"{name}:{passes}") == KILLED
    exit_status(run_turns, tmp_path, name)  # dies again, unless that place is behind it
    between = verify(tmp_path)
    assert between.problems == ()
    run_turns(tmp_path)
    report = verify(tmp_path)
    assert report.problems == report.notes == ()
    assert report.pending_rows == 0
    for read in (read_features, read_predictions):
        assert read(tmp_path).equals(read(uninterrupted))
    frame = pd.read_parquet(tmp_path / "archive" / "features")
    assert len(frame) == read_features(uninterrupted).num_rows == 24


def test_an_unfinished_file_in_staging_is_removed_at_the_start(plant):
    plant.journal.close()
    left = plant.data / "archive" / ".staging" / "features-part.parquet"
    left.write_bytes(b"half")
    assert "unfinished" in verify(plant.data).notes[0]
    Plant(plant.data).journal.close()
    assert not left.exists()


def test_a_full_disk_keeps_the_rows_for_the_next_roll(plant, monkeypatch):
    plant.add(feature_row(31))

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.edges.store.archive.stage", full)
        with pytest.raises(ArchiveError, match="No space left") as caught:
            plant.archive.roll()
    assert "free some space" in caught.value.hint
    assert plant.journal.pending_rows() == 1
    assert len(plant.archive.roll()) == 1
