"""Compaction and pruning: the same rows for every reader at every moment, also after a crash anywhere."""

from __future__ import annotations

import itertools
import threading
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from archive_plant import Plant, feature_row, fill, parts_of, upkeep_turns
from fault_points import fault_points
from harness.crashes import exit_status
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edges.faults import KILLED
from pipeline.edges.store import archive, swap
from pipeline.edges.store import compact as compaction
from pipeline.edges.store.check import survey, verify
from pipeline.edges.store.compact import compact, mergeable, prune
from pipeline.edges.store.journal import PRUNED_ROWS
from pipeline.edges.store.read import read_features, rows_of
from pipeline.edges.store.schema import Part
from pipeline.errors import ArchiveError
from pipeline.service.upkeep import Upkeep
from pipeline.telemetry import Telemetry

ROOT = Path(__file__).parents[2]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def nothing_left(data: Path) -> bool:
    return list((data / "archive" / ".staging").iterdir()) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(2, 4))
def test_compaction_changes_no_row_for_any_reader(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], least: int
) -> None:
    plant = Plant(tmp_path_factory.mktemp("d") / "data")
    first = 20
    for size in sizes:
        plant.add(*(feature_row(w) for w in range(first, first + size)))
        plant.archive.roll()
        first += size
    before, parts = read_features(plant.data), len(parts_of(plant.data))
    done = list(compact(plant.archive, least=least))
    assert read_features(plant.data).equals(before)
    frame = pd.read_parquet(plant.data / "archive" / "features")
    assert sorted(frame["window"]) == sorted(before["window"].to_pylist())
    days = [path.parent.name for path in parts_of(plant.data)]
    assert least > 2 or all(days.count(day) == 1 for day in set(days))
    assert len(days) == parts - sum(one.parts - 1 for one in done)
    assert verify(plant.data).problems == ()
    plant.journal.close()


def test_what_a_roll_that_died_has_placed_is_not_left_beside_its_rows_when_a_merge_comes_first(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge takes the number of the roll, which then writes its rows under another name."""
    for window in (0, 1):  # two parts of the day before
        plant.add(feature_row(window))
        plant.archive.roll()
    plant.add(feature_row(40))
    with monkeypatch.context() as patched:
        patched.setattr(plant.journal, "finish_roll", interrupt)
        with pytest.raises(KeyboardInterrupt):
            plant.archive.roll()
    assert len(list(compact(plant.archive))) == 1
    plant.archive.roll()
    assert sorted(pd.read_parquet(plant.data / "archive" / "features")["window"]) == [0, 1, 40]
    assert verify(plant.data).problems == ()


def test_a_channel_with_a_dot_in_its_name_comes_back_as_a_row(plant: Plant) -> None:
    made = feature_row(0, channels=("de.x", "x"))
    plant.add(made)
    plant.archive.roll()
    (row,) = rows_of(read_features(plant.data), plant.schema.features)[made.key]
    assert row.channels == made.channels
    assert row.values.tolist() == made.values.tolist()


def test_a_day_of_small_parts_becomes_one_and_new_parts_come_after_it(plant: Plant) -> None:
    fill(plant)
    before = read_features(plant.data)
    assert len(parts_of(plant.data)) == 7  # the third turn ends after midnight
    done = {(one.kind, one.date): one for one in compact(plant.archive)}
    assert done["features", "2023-12-31"].parts == 3
    assert len(parts_of(plant.data)) == len(parts_of(plant.data, "predictions")) == 2
    plant.add(feature_row(90))
    plant.archive.roll()
    assert read_features(plant.data).num_rows == before.num_rows + 1
    report = verify(plant.data)
    assert report.problems == report.notes == ()
    assert nothing_left(plant.data)


def part(number: int, rows: int) -> Part:
    return Part("features", "2024-01-01", number, rows, rows * 400, "", (), number, number)


@given(rows=st.integers(50, 3000), least=st.integers(16, 48))
def test_a_service_that_merges_by_itself_writes_a_day_about_twice(rows: int, least: int) -> None:
    parts, written = [], 0
    for number in range(288):  # one every five minutes
        parts.append(part(number, rows))
        while chosen := next(mergeable(tuple(parts), least), None):
            written += sum(one.rows for one in chosen)
            parts = [one for one in parts if one not in chosen]
            parts.append(part(1000 + number, sum(one.rows for one in chosen)))
    assert sum(one.rows for one in parts) == 288 * rows
    assert written <= 2 * 288 * rows
    assert len(parts) <= 288 // least + 2 * least


def test_large_parts_are_left_alone(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "TARGET_ROWS", 50)
    fill(plant)  # rows by part: 20 20 18 on the first day, 2 20 20 20 on the second
    merged = [(one.parts, one.rows) for one in compact(plant.archive) if one.kind == "features"]
    assert merged == [(2, 40), (3, 42)]
    assert list(compact(plant.archive)) == []


def test_a_damaged_part_is_named_and_not_merged_into_something_that_looks_whole(plant: Plant) -> None:
    fill(plant)
    damaged = parts_of(plant.data)[0]
    content = bytearray(damaged.read_bytes())
    content[60] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ArchiveError, match=damaged.name):
        list(compact(plant.archive))
    assert damaged.exists()


def test_pruning_removes_whole_days_of_every_kind_and_nothing_else(plant: Plant) -> None:
    fill(plant)
    before = read_features(plant.data)
    gone = list(prune(plant.archive, date(2024, 1, 1)))
    assert {(one.kind, one.date) for one in gone} == {("features", "2023-12-31"), ("predictions", "2023-12-31")}
    assert gone[0].rows == 58  # a window belongs to the day in which it ends: 29 of two machines
    after = read_features(plant.data)
    assert after.equals(before.filter([str(end)[:10] >= "2024-01-01" for end in before["end"].to_pylist()]))
    assert not (plant.data / "archive" / "features" / "date=2023-12-31").exists()
    assert plant.journal.counters()[PRUNED_ROWS] == 58 + 29
    report = verify(plant.data)
    assert report.problems == report.notes == ()
    assert list(prune(plant.archive, date(2024, 1, 1))) == []


def test_a_file_system_that_cannot_exchange_directories_gets_the_same_by_two_renames(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "_rename_exchange", lambda *_: False)
    fill(plant)
    before = read_features(plant.data)
    assert list(compact(plant.archive))
    assert read_features(plant.data).equals(before)
    assert verify(plant.data).problems == ()
    assert nothing_left(plant.data)


@pytest.mark.parametrize("died_after", ["first rename", "second rename"])
def test_a_death_between_the_two_renames_loses_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, died_after: str
) -> None:
    fill(plant)
    before = read_features(plant.data)

    class Died(BaseException):
        pass

    def exchange(fresh: Path, live: Path, old: Path) -> None:
        live.rename(old)
        if died_after == "second rename":
            fresh.rename(live)
        raise Died

    monkeypatch.setattr(swap, "_exchange", exchange)
    with pytest.raises(Died):
        list(compact(plant.archive))
    plant.journal.close()
    again = Plant(plant.data)
    assert read_features(plant.data).equals(before)
    assert verify(plant.data).problems == ()
    assert nothing_left(plant.data)
    again.journal.close()


def test_readers_that_look_all_the_time_never_see_a_row_twice_or_miss_one(plant: Plant) -> None:
    fill(plant, turns=8, rows=3)
    expected = read_features(plant.data).num_rows
    stop, ours, plain, gone = threading.Event(), set(), set(), 0

    def look() -> None:
        nonlocal gone
        while not stop.is_set():
            ours.add(read_features(plant.data).num_rows)
            ours.add(sum(s.rows for s in survey(plant.data)[0] if s.kind == "features"))
            try:
                plain.add(len(pd.read_parquet(plant.data / "archive" / "features", columns=["window"])))
            except FileNotFoundError:
                gone += 1  # a plain reader that listed before and opens after: it looks again

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(12):  # every turn splits nothing but adds one row and merges it again
        plant.add(feature_row(24 + turn, 3))
        plant.archive.roll()
        list(compact(plant.archive))
    stop.set()
    reader.join()
    allowed = set(range(expected, expected + 13))
    assert ours <= allowed
    assert plain <= allowed
    assert verify(plant.data).problems == ()


@pytest.mark.parametrize(("name", "passes"), list(itertools.product(fault_points("edges/store/swap.py"), (1, 3))))
def test_a_death_at_any_step_of_upkeep_loses_and_doubles_nothing(tmp_path: Path, name: str, passes: int) -> None:
    if name == "swap_exchanged" and passes == 3:
        passes = 2  # pruning exchanges nothing
    assert exit_status(upkeep_turns, tmp_path, f"{name}:{passes}") == KILLED
    between = verify(tmp_path)
    assert between.problems == ()
    windows = [row["window"] for row in read_features(tmp_path).select(["window"]).to_pylist()]
    later = [w for w in windows if w >= 30]
    frame = pd.read_parquet(tmp_path / "archive" / "features")
    assert sorted(frame["window"]) == sorted(windows)
    assert exit_status(upkeep_turns, tmp_path, "") == 0
    report = verify(tmp_path)
    assert report.problems == report.notes == ()
    assert read_features(tmp_path)["window"].to_pylist().count(30) == later.count(30) == 2
    assert nothing_left(tmp_path)


def test_a_new_channel_rewrites_a_large_archive_beside_the_rolls_a_few_parts_per_step(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for window in range(8):
        plant.add(feature_row(window))
        plant.archive.roll()
    untouched = {path: path.stat().st_mtime_ns for path in parts_of(plant.data)}
    size = next(iter(untouched)).stat().st_size
    monkeypatch.setattr(archive, "WIDEN_BYTES", 2 * size)  # a wider part has more than `size`: two are enough
    plant.add(feature_row(8, channels=("x", "z")))
    plant.archive.roll()
    same = [path for path, changed_ns in untouched.items() if path.stat().st_mtime_ns == changed_ns]
    assert (len(same), plant.archive.narrow_parts) == (6, 6)
    before = read_features(plant.data)  # whole, wide, and with the new row
    assert (before.num_rows, verify(plant.data).problems) == (9, ())
    assert "z.rms" in before.column_names
    left = []
    while plant.archive.widen():
        left.append(plant.archive.narrow_parts)
        assert read_features(plant.data).equals(before)
        assert verify(plant.data).problems == ()
    assert left == [4, 2, 0]
    assert len({tuple(pq.read_schema(path).names) for path in parts_of(plant.data)}) == 1


def test_upkeep_goes_on_with_what_a_former_service_has_left_narrow(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.add(feature_row(0))
    plant.archive.roll()
    monkeypatch.setattr(archive, "WIDEN_BYTES", 0)
    plant.add(feature_row(1, channels=("x", "z")))
    plant.archive.roll()
    plant.close()
    monkeypatch.undo()
    again = Plant(plant.data)
    Upkeep(again.archive, again.data, Telemetry()).look()
    again.close()
    assert len({tuple(pq.read_schema(path).names) for path in parts_of(plant.data)}) == 1
