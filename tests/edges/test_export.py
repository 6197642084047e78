"""Exported rows and readings: nothing is lost on the way out, and thrumcast reads its own files again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from archive_plant import Plant, feature_row, prediction
from harness.recordings import joined
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import run
from pipeline.core.records import BearingOrders, Block, StreamKey
from pipeline.edges.recordings.export import export_readings
from pipeline.edges.recordings.readings import ReadingsWriter
from pipeline.edges.recordings.recording import Options, open_recordings, streams
from pipeline.edges.store.export import export_rows
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import Selection, read_kind
from pipeline.errors import RecordingError, ThrumcastError

START_NS = 1_764_518_400_123_456_789
OPTIONS = {"csv": {}, "parquet": {}, "uff": {}, "wav": {"unit": "g"}}


def stored(folder: Path, pieces: list[int], *, rate_hz: float = 1000.0, gap: int = 0) -> list[Block]:
    """Blocks of two channels with a gap of `gap` samples after the first one."""
    rng = np.random.default_rng(len(pieces))
    writer, blocks, index = ReadingsWriter(folder), [], 0
    for n in pieces:
        samples = rng.standard_normal((2, n)).astype(np.float32)
        t0_ns = START_NS + round(index * 1e9 / rate_hz)
        block = Block(
            StreamKey("pump-01", "de"),
            7,
            index,
            t0_ns,
            rate_hz,
            ("x", "y"),
            "g",
            samples,
            speed_rpm=1480.0,
            orders=BearingOrders(0.4, 3.6, 5.4, 2.3),
        )
        writer.append(block)
        blocks.append(block)
        index += n + (gap if len(blocks) == 1 else 0)
    writer.close()
    return blocks


@pytest.mark.parametrize("kind", sorted(OPTIONS))
@settings(max_examples=8)
@given(pieces=st.lists(st.integers(40, 300), min_size=1, max_size=4), gap=st.sampled_from([0, 50]))
def test_exported_readings_are_read_again_sample_for_sample(
    tmp_path_factory: pytest.TempPathFactory, kind: str, pieces: list[int], gap: int
) -> None:
    folder = tmp_path_factory.mktemp("export")
    blocks = stored(folder / "in", pieces, gap=gap)
    done = export_readings(folder / "in", folder / "out", kind)
    stretches = [blocks[:1], blocks[1:]] if gap and len(blocks) > 1 else [blocks]
    assert len(done.files) == len(stretches)
    assert done.samples == sum(pieces)
    for path, stretch in zip(done.files, stretches, strict=True):
        (one,) = open_recordings(path, Options(**OPTIONS[kind]))
        assert (one.rate_hz, one.unit, len(one.channels)) == (1000.0, "g", 2)
        np.testing.assert_array_equal(joined(streams(one)[0]), np.concatenate([b.samples for b in stretch], axis=1))
        if kind in ("csv", "parquet"):
            assert one.channels == (("x", "y") if kind == "parquet" else ("x [g]", "y [g]"))
            assert abs(one.start_ns() - stretch[0].t0_ns) < 1_000
        if kind == "parquet":
            assert (one.speed_rpm, one.orders("x")) == (1480.0, stretch[0].orders)


def test_a_span_of_readings_is_cut_at_the_sample(tmp_path: Path) -> None:
    blocks = stored(tmp_path / "in", [500, 500])
    whole = np.concatenate([block.samples for block in blocks], axis=1)
    start = datetime.fromtimestamp(START_NS / 1e9 + 0.2495, UTC)
    end = datetime.fromtimestamp(START_NS / 1e9 + 0.7495, UTC)
    (path,) = export_readings(tmp_path / "in", tmp_path / "out", "parquet", start=start, end=end).files
    (one,) = open_recordings(path)
    np.testing.assert_array_equal(joined(streams(one)[0]), whole[:, 250:750])
    assert not export_readings(tmp_path / "in", tmp_path / "none", "csv", machines=["pump-02"]).files


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="found none in"):
        export_readings(tmp_path / "empty", tmp_path / "out", "csv")
    stored(tmp_path / "in", [100], rate_hz=999.5)
    with pytest.raises(RecordingError, match=r"whole number of Hz for WAV, found 999\.5 Hz of pump-01/de"):
        export_readings(tmp_path / "in", tmp_path / "out", "wav")
    writer = ReadingsWriter(tmp_path / "holes")
    writer.append(replace(stored(tmp_path / "other", [100])[0], samples=np.full((2, 100), np.nan, np.float32)))
    writer.close()
    with pytest.raises(RecordingError, match="expected finite samples for UFF58"):
        export_readings(tmp_path / "holes", tmp_path / "out", "uff")


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """Two machines on two days, some rows of them not yet in a part."""
    plant = Plant(tmp_path / "data")
    rows = [(window, number) for window in range(60) for number in (1, 2)]
    predictions = [prediction(*row) for row in rows]
    features = [feature_row(*row) for row in rows]
    plant.journal.commit(Commit(features=features, predictions=predictions, classes=("healthy", "unbalance")))
    plant.archive.roll()
    plant.add(feature_row(60))
    plant.close()
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["features", "predictions"])
def test_exported_rows_are_those_of_the_archive(plant: Path, tmp_path: Path, kind: str) -> None:
    wanted = read_kind(plant, kind)
    pieces: list[int] = []
    assert export_rows(plant, kind, tmp_path / "a.parquet", on_piece=pieces.append) == wanted.num_rows
    assert max(pieces) < wanted.num_rows, "it comes in pieces"
    order = [("machine", "ascending"), ("start", "ascending")]
    found = pq.read_table(tmp_path / "a.parquet")
    assert found.sort_by(order).equals(wanted.sort_by(order))
    assert found.schema.equals(wanted.schema, check_metadata=True), "the units go along"
    export_rows(plant, kind, tmp_path / "a.csv")
    text = pa_csv.read_csv(tmp_path / "a.csv")
    assert text.column_names == wanted.column_names
    assert sorted(text["window"].to_pylist()) == sorted(wanted["window"].to_pylist())


def test_columns_machines_points_and_times_are_chosen(plant: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    chosen = Selection(["pump-02"], datetime(2024, 1, 1, 0, 5, tzinfo=UTC), datetime(2024, 1, 1, 0, 10, tzinfo=UTC))
    assert export_rows(plant, "features", path, columns=["window", "x.rms"], selection=chosen) == 5
    found = pq.read_table(path)
    assert found.column_names == ["window", "x.rms"]
    assert found["window"].to_pylist() == [35, 36, 37, 38, 39]
    assert export_rows(plant, "features", path, points=["none"]) == 0
    assert pq.read_table(path).num_rows == 0, "no rows are an empty table, with its columns"


def test_a_failed_export_leaves_the_old_file_and_nothing_else(plant: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.csv"
    path.parent.mkdir()
    path.write_text("old")
    with pytest.raises(ThrumcastError, match=r"x\.rmss"):
        export_rows(plant, "features", path, columns=["x.rmss"])
    assert [one.name for one in path.parent.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"
    with pytest.raises(ThrumcastError, match="expected to write"):
        export_rows(plant, "features", tmp_path / "nowhere" / "a.csv")


def test_the_command_says_what_it_wrote_and_what_does_not_fit(
    plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ("--data", str(plant))
    assert run(["export", "features", "f.csv", *data, "--machine", "pump-01", "--columns", "machine,start"]) == 0
    assert "61 rows in f.csv" in capsys.readouterr().out
    assert (tmp_path / "f.csv").read_text().splitlines()[1] == '"pump-01","2023-12-31T23:30:00.000000Z"'
    assert run(["export", "features", "f.xlsx", *data]) == 2
    assert "expected a file .csv or .parquet" in capsys.readouterr().err
    assert run(["export", "readings", "r", *data]) == 1
    assert "thrumcast record" in capsys.readouterr().err
    stored(plant / "archive" / "readings", [100])
    assert run(["export", "readings", "r", *data, "--format", "wav", "--json"]) == 0
    assert '"samples": 100' in capsys.readouterr().out
