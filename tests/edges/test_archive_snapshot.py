"""Snapshots of the archive: cheap, named, never written over, and not touched by upkeep."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from archive_plant import Plant, feature_row, fill, parts_of

from pipeline.edges.store.check import verify
from pipeline.edges.store.compact import compact, prune
from pipeline.edges.store.read import read_features, read_kind
from pipeline.edges.store.snapshot import snapshot
from pipeline.errors import ArchiveError

ROOT = Path(__file__).parents[2]


def test_a_snapshot_is_a_data_directory_that_upkeep_does_not_touch(plant: Plant) -> None:
    fill(plant)
    before = read_features(plant.data)
    plant.add(feature_row(90))
    made = snapshot(plant.data, "before-cleaning")
    assert (made.rows["features"], made.pending_rows) == (before.num_rows, 1)
    plant.archive.roll()
    list(compact(plant.archive))
    list(prune(plant.archive, date(2024, 1, 2)))
    assert read_features(made.path).equals(before)
    assert read_kind(made.path, "predictions").num_rows == 60
    assert verify(made.path).problems == ()
    assert len(read_features(plant.data)) == 0


def test_a_snapshot_that_is_not_as_it_was_is_named(plant: Plant) -> None:
    fill(plant)
    made = snapshot(plant.data, "one")
    changed, missing = parts_of(made.path)[:2]
    other = parts_of(made.path)[2].read_bytes()  # a whole file, with the right columns, and not the one that was kept
    changed.unlink()
    changed.write_bytes(other)
    missing.unlink()
    problems = "\n".join(verify(made.path).problems)
    assert f"{changed.name}: not the content of the snapshot" in problems
    assert f"{missing.name}: No such file" in problems
    assert verify(plant.data).problems == ()


def test_a_snapshot_costs_no_space_and_needs_no_lock(plant: Plant) -> None:
    fill(plant)
    code = "import sys\nfrom pathlib import Path\nfrom pipeline.edges.store.snapshot import snapshot\n"
    code += "print(snapshot(Path(sys.argv[1]), 'one').files)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(plant.data)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(len(plant.journal.view(()).parts))
    for path in parts_of(plant.data):
        assert path.stat().st_nlink == 2


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "x" * 65])
def test_a_snapshot_has_a_name_that_is_an_id(plant: Plant, name: str) -> None:
    fill(plant, turns=1)
    with pytest.raises(ArchiveError, match="name"):
        snapshot(plant.data, name)
    assert snapshot(plant.data).files == 2  # without one it is called after the time


def test_a_snapshot_is_never_written_over(plant: Plant) -> None:
    fill(plant, turns=1)
    snapshot(plant.data, "one")
    with pytest.raises(ArchiveError, match="found one of that name"):
        snapshot(plant.data, "one")
