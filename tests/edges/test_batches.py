"""Batches of a distributed run: exact for every reader, whatever dies, comes twice or comes with new channels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from archive_plant import SCHEMA
from fault_points import fault_points
from harness.batches import ABOUT, OF_A_BATCH, claimed, commit_first, commit_second, made, rows_of
from harness.crashes import exit_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.edges.faults import KILLED
from pipeline.edges.store.batches import PARTITIONS, BatchArchive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.parts import list_parts
from pipeline.edges.store.read import read_features
from pipeline.errors import ConfigError


def keys(folder: Path) -> list[tuple[str, int]]:
    """As a reader sees them that knows nothing of thrumcast."""
    table = ds.dataset(folder / "archive" / "features", format="parquet", partitioning="hive").to_table()
    return sorted(zip(table["machine"].to_pylist(), table["window"].to_pylist(), strict=True))


def expected(*batches: int) -> list[tuple[str, int]]:
    return sorted(
        (f"pump-{task:02d}", 10 * batch + i) for batch in batches for task in range(OF_A_BATCH) for i in range(4)
    )


def test_a_batch_that_is_whole_and_comes_again_writes_nothing(tmp_path):
    archive = claimed(tmp_path)
    assert archive.commit(0, made(archive, 0))
    before = {path: path.stat().st_mtime_ns for *_, path in list_parts(archive.root)}
    assert not archive.commit(0, made(archive, 0))
    assert {path: path.stat().st_mtime_ns for *_, path in list_parts(archive.root)} == before
    assert list((archive.root / ".staging").iterdir()) == []
    assert keys(tmp_path) == expected(0)


@pytest.mark.parametrize("point", fault_points("edges/store/batches.py"))
def test_a_driver_that_dies_anywhere_repeats_its_batch_exactly(tmp_path, point):
    archive = claimed(tmp_path)
    archive.commit(0, made(archive, 0))
    fault = f"{point}:2" if point == "batch_renamed" else point
    assert exit_status(commit_second, tmp_path, fault) == KILLED
    assert set(keys(tmp_path)) <= set(expected(0, 1))
    assert len(keys(tmp_path)) == len(set(keys(tmp_path)))
    again = BatchArchive(tmp_path, SCHEMA)
    again.claim(ABOUT)
    again.sweep()
    again.commit(1, made(again, 1, ("x", "y")))
    assert keys(tmp_path) == expected(0, 1)
    assert again.batches() == [0, 1]
    assert again.batches({0}) == [1]


def test_a_try_with_other_partitions_leaves_nothing_of_the_first_one(tmp_path):
    assert exit_status(commit_first, tmp_path, "batch_before_mark") == KILLED
    archive = claimed(tmp_path)
    one_task = [archive.put(7, [rows for task in range(OF_A_BATCH) for rows in rows_of(0, task)])]
    archive.commit(0, one_task)
    assert [number for _, _, number, _ in list_parts(archive.root)] == [7]
    assert keys(tmp_path) == expected(0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([("x",), ("x", "y"), ("z",), ("a", "x")]), min_size=1, max_size=5))
def test_every_part_has_a_column_for_every_channel_so_any_reader_sees_all(tmp_path_factory, channels):
    folder = tmp_path_factory.mktemp("batches")
    archive = claimed(folder)
    for batch, some in enumerate(channels):
        archive.commit(batch, made(archive, batch, some))
        schemas = {tuple(pq.read_schema(path).names) for *_, path in list_parts(archive.root)}
        assert len(schemas) == 1
    frame = pd.read_parquet(folder / "archive" / "features")
    assert len(frame) == len(expected(*range(len(channels))))
    for batch, some in enumerate(channels):
        mine = frame[frame["window"] // 10 == batch]
        for channel in {one for names in channels for one in names}:
            assert mine[f"{channel}.rms"].notna().all() == (channel in some)
    assert read_features(folder).num_rows == len(frame)


def test_an_archive_belongs_to_one_run(tmp_path):
    claimed(tmp_path).claim(ABOUT)
    with pytest.raises(ConfigError, match=r"expected an archive of run two, found in .*: one"):
        BatchArchive(tmp_path, SCHEMA).claim({"run": "two"})
    with Journal(tmp_path / "other"):
        pass
    with pytest.raises(ConfigError, match="without a journal"):
        BatchArchive(tmp_path / "other", SCHEMA).claim(ABOUT)
    with pytest.raises(ConfigError, match=f"partition below {PARTITIONS}"):
        claimed(tmp_path).put(PARTITIONS, [])
