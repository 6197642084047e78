"""The history beside the archive: the extremes of the rows, always; a cache that can be lost, late or damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from archive_plant import MIDNIGHT_NS, Plant, feature_row, fill, key_of, prediction
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.edges.store.compact import compact, prune
from pipeline.edges.store.history import HISTORY_NAME, LEVELS_S, Points, build, level_of, path_of, read_points
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import read_features

MIDNIGHT_US = MIDNIGHT_NS // 1000
FOREVER = (MIDNIGHT_US - 86_400_000_000, MIDNIGHT_US + 3 * 86_400_000_000)
LATER = date(2024, 1, 9)


def history(data: Path) -> list[Path]:
    return sorted((data / HISTORY_NAME).rglob("*.history"))


def per_bucket(points: Points, level_s: int) -> dict[int, tuple[float, float, float, int, int]]:
    """Minimum, maximum, mean, finite values and rows of every bucket with rows, by its start."""
    found = {}
    place = points.at_us // (level_s * 1_000_000)
    for bucket in np.unique(place):
        here = place == bucket
        good = here & (points.count > 0)
        n = int(points.count[good].sum())
        mean = float((points.mean[good].astype(float) * points.count[good]).sum() / n) if n else 0.0
        low, high = (float(points.low[good].min()), float(points.high[good].max())) if n else (0.0, 0.0)
        found[int(bucket)] = (low, high, mean, n, int(points.rows[here].sum()))
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-4000, 90_000), st.integers(1, 2), st.floats(-1e6, 1e6, width=32) | st.just(np.nan)),
        min_size=1, max_size=40, unique_by=lambda row: row[:2],
    ),
    st.sampled_from(LEVELS_S),
    st.integers(1, 8),
)  # fmt: skip
def test_a_bucket_has_the_extremes_the_mean_and_the_number_of_its_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, float]], level_s: int, rolls: int
) -> None:
    plant = Plant(tmp_path_factory.mktemp("d") / "data")
    for n, (second, number, value) in enumerate(rows):
        start_ns = MIDNIGHT_NS + second * 1_000_000_000
        values = np.array([[value, -value]], np.float32)
        row = replace(feature_row(n, number), start_ns=start_ns, end_ns=start_ns + 10**9, values=values)
        plant.add(row)
        if n % rolls == rolls - 1:
            plant.archive.roll()
    raw = {n: read_points(plant.data, key_of(n), "x.rms", *FOREVER, None) for n in (1, 2)}
    list(build(plant.data, LATER))
    assert len(history(plant.data)) > 0 or len(rows) < rolls
    for number, expected in raw.items():
        found = read_points(plant.data, key_of(number), "x.rms", *FOREVER, level_s)
        a, b = per_bucket(found, level_s), per_bucket(expected, level_s)
        assert a.keys() == b.keys()
        for bucket, (low, high, mean, n, count) in b.items():
            assert a[bucket][:2] == (low, high)
            assert a[bucket][2] == pytest.approx(mean, rel=1e-5, abs=1.0)
            assert a[bucket][3:] == (n, count)
    plant.journal.close()


def test_buckets_are_read_and_not_the_rows(plant: Plant) -> None:
    fill(plant)
    list(build(plant.data, LATER))
    for path in (plant.data / "archive").rglob("*.parquet"):
        path.write_bytes(b"nobody reads me")
    found = read_points(plant.data, key_of(1), "x.rms", *FOREVER, 7200)
    # The window that ends at midnight belongs to the second day, and is in the last bucket of the first.
    assert (len(found.at_us), found.rows.sum(), found.low.min(), found.high.max()) == (3, 60, 0.0, 59.0)
    late = read_points(plant.data, key_of(1), "y.rms", *FOREVER, 60)
    assert (late.rows.sum(), late.count.sum()) == (60, 10)  # a channel that came with the last turn
    assert read_points(plant.data, key_of(9), "x.rms", *FOREVER, 60).rows.sum() == 0


def test_a_day_with_new_rows_is_read_from_the_archive_until_it_is_built_again(plant: Plant) -> None:
    fill(plant)
    assert {(one.kind, one.date) for one in build(plant.data, LATER)} == {
        (kind, day) for kind in ("features", "predictions") for day in ("2023-12-31", "2024-01-01")
    }
    assert list(build(plant.data, LATER)) == []
    for again in (False, True):
        plant.add(feature_row(70 + again))
        for _ in range(2):  # in the journal, then in Parquet
            assert read_points(plant.data, key_of(1), "x.rms", *FOREVER, 600).high.max() == 70 + again
            plant.archive.roll()
    assert [one.date for one in build(plant.data, LATER)] == ["2024-01-01"]
    assert read_points(plant.data, key_of(1), "x.rms", *FOREVER, 600).high.max() == 71
    list(compact(plant.archive))
    assert read_points(plant.data, key_of(1), "x.rms", *FOREVER, 600).rows.sum() == 62
    assert len(list(build(plant.data, LATER))) == 4
    list(prune(plant.archive, date(2024, 1, 1)))
    list(build(plant.data, LATER))
    assert [path.stem for path in history(plant.data)] == ["2024-01-01"] * 2


def test_an_unfinished_day_has_no_file(plant: Plant) -> None:
    fill(plant)
    assert {one.date for one in build(plant.data, date(2024, 1, 1))} == {"2023-12-31"}


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.999), st.booleans())
def test_a_damaged_file_is_never_shown_and_made_again(
    tmp_path_factory: pytest.TempPathFactory, where: float, cut: bool
) -> None:
    plant = Plant(tmp_path_factory.mktemp("d") / "data")
    fill(plant, turns=2)
    list(build(plant.data, LATER))
    path = path_of(plant.data, "features", "2023-12-31")
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    expected = per_bucket(read_points(plant.data, key_of(1), "x.kurtosis", *FOREVER, None), 60)
    content[place] ^= 0xFF
    path.write_bytes(content[:place] if cut else content)
    found = per_bucket(read_points(plant.data, key_of(1), "x.kurtosis", *FOREVER, 60), 60)
    assert found == expected
    rebuilt = list(build(plant.data, LATER))
    assert rebuilt or path.exists()  # what the reader did not need may stay
    assert per_bucket(read_points(plant.data, key_of(1), "x.kurtosis", *FOREVER, 60), 60) == expected
    plant.journal.close()


def test_runs_tell_when_the_session_and_the_model_changed(plant: Plant) -> None:
    rows = [feature_row(w, session=7 + (w >= 50)) for w in range(20, 60)]
    said = [prediction(w, model="v0002" if w >= 40 else "v0001") for w in range(20, 60)]
    plant.journal.commit(Commit(features=rows, predictions=said, classes=("healthy", "unbalance")))
    plant.archive.roll()
    for built in (False, True):
        if built:
            list(build(plant.data, LATER))
        sessions = read_points(plant.data, key_of(1), "x.rms", *FOREVER, 600).runs
        models = read_points(plant.data, key_of(1), None, *FOREVER, 600).runs
        assert [(at, value) for at, value in sessions] == [
            (MIDNIGHT_US - 600_000_000, "7"), (MIDNIGHT_US + 1_200_000_000, "8"),
        ]  # fmt: skip
        assert [value for _, value in models] == ["v0001", "v0002"]


def test_a_build_that_is_killed_leaves_nothing_that_is_read(plant: Plant) -> None:
    fill(plant)
    program = (
        "import sys, time; from datetime import date; from pathlib import Path\n"
        "from pipeline.edges.store import history\n"
        "def stuck():\n    print('building', flush=True); time.sleep(60)\n"
        "list(history.build(Path(sys.argv[1]), date(2024, 1, 9), go_on=stuck))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(plant.data)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    assert list(build(plant.data, LATER)) == []  # one builds at a time
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list((plant.data / HISTORY_NAME / "features").glob("*.tmp")) != []
    assert read_points(plant.data, key_of(1), "x.rms", *FOREVER, 600).rows.sum() == 60
    assert len(list(build(plant.data, LATER))) == 4
    assert list((plant.data / HISTORY_NAME / "features").glob("*.tmp")) == []


def test_the_widest_level_that_fits_is_taken() -> None:
    day = 86_400
    assert [level_of(d * day / 600) for d in (0.1, 1, 7, 30, 90)] == [None, 60, 600, 600, 7200]


def test_all_of_it_can_be_made_again(plant: Plant) -> None:
    fill(plant)
    list(build(plant.data, LATER))
    before = {path: path.read_bytes() for path in history(plant.data)}
    time.sleep(0.01)
    assert len(list(build(plant.data, LATER, again=True))) == 4
    assert {path: path.read_bytes() for path in history(plant.data)} == before
    assert read_features(plant.data).num_rows == 120
