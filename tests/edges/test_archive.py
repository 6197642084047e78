"""The archive: what was committed is in Parquet once, whatever happens on the way, and any reader opens it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from archive_plant import MIDNIGHT_NS, SCHEMA, Plant, addresses, feature_row, key_of, parts_of, prediction
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.forecast import Forecast, Future
from pipeline.core.records import AlarmChange
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.check import verify
from pipeline.edges.store.compact import compact, prune
from pipeline.edges.store.journal import DUPLICATE_ROWS, Commit, Journal, set_aside
from pipeline.edges.store.parts import encode_part
from pipeline.edges.store.read import Selection, first_row, read_features, read_kind, read_predictions
from pipeline.edges.store.schema import FeatureSchema, Quarantined, Rows, feature_tables
from pipeline.errors import ArchiveError, SchemaError


@settings(max_examples=20, deadline=None)
@given(
    windows=st.lists(st.tuples(st.integers(0, 59), st.integers(1, 3)), min_size=1, max_size=30),
    rolls=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_every_window_is_there_once_however_often_it_came_and_whenever_it_was_rolled(tmp_path_factory, windows, rolls):
    plant = Plant(tmp_path_factory.mktemp("data"))
    for (window, number), roll in zip(windows, rolls, strict=False):
        plant.add(feature_row(window, number, ("x", "y") if number == 2 else ("x",)))
        if roll:
            plant.archive.roll()
    plant.archive.roll()
    plant.journal.close()
    expected = sorted({(f"pump-{number:02d}", 7, window) for window, number in windows})
    assert addresses(read_features(plant.data)) == expected
    report = verify(plant.data)
    assert report.problems == ()
    assert report.rows == len(expected)
    assert plant_counter(plant.data) == len(windows) - len(expected)


def test_the_first_row_for_which_something_holds_is_found_in_parts_and_journal(plant):
    plant.add(*(feature_row(window) for window in range(3)))
    plant.archive.roll()
    plant.add(feature_row(7, number=2))
    columns = ("machine", "window")
    assert first_row(plant.data, "features", columns, pc.field("window") == 2) == {"machine": "pump-01", "window": 2}
    assert first_row(plant.data, "features", columns, pc.field("window") > 2) == {"machine": "pump-02", "window": 7}
    assert first_row(plant.data, "features", columns, pc.field("window") > 7) is None
    assert first_row(plant.data, "features", columns) in [{"machine": "pump-01", "window": w} for w in range(3)]
    assert first_row(plant.data, "predictions", ("machine",)) is None


def test_looking_for_a_row_reads_no_part_that_its_statistics_rule_out_and_none_after_the_first_hit(plant):
    for number in (1, 2):
        plant.add(feature_row(40, number))
        plant.archive.roll()
    second = parts_of(plant.data)[1]
    content = second.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    second.write_bytes(b"PAR1" + bytes(len(content) - footer - 4) + content[-footer:])  # its rows cannot be read
    with pytest.raises((ArchiveError, OSError)):
        read_features(plant.data)
    assert first_row(plant.data, "features", ("machine",)) == {"machine": "pump-01"}
    assert first_row(plant.data, "features", ("machine",), pc.field("truth").is_valid()) is None
    assert first_row(plant.data, "features", ("machine",), pc.field("machine") == "pump-03") is None


def plant_counter(data: Path) -> int:
    with Journal(data) as journal:
        return journal.counters().get(DUPLICATE_ROWS, 0)


def test_rows_go_to_the_utc_date_of_their_windows_end(plant):
    plant.add(*(feature_row(window) for window in range(60)))
    parts = plant.archive.roll()
    assert [(part.date, part.rows) for part in parts] == [("2023-12-31", 29), ("2024-01-01", 31)]
    assert [path.parent.name for path in parts_of(plant.data)] == ["date=2023-12-31", "date=2024-01-01"]
    assert plant.journal.pending_rows() == 0
    assert plant.archive.roll() == []


def test_a_part_is_written_as_the_interface_says(plant):
    plant.add(*(feature_row(window, number) for window in (40, 39, 38) for number in (2, 1)))
    (part,) = plant.archive.roll()
    path = plant.data / "archive" / part.relative
    assert part.relative == "features/date=2024-01-01/part-00000001.parquet"
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    address = ["machine", "point", "session", "window", "start", "end"]
    facts = ["rate_hz", "speed_rpm", "coverage", "quality", "truth", "schema"]
    assert schema.names == [*address, *facts, "x.rms", "x.kurtosis"]
    assert schema.field("machine").type == pa.string()
    assert schema.field("session").type == pa.uint64()
    assert schema.field("start").type == schema.field("end").type == pa.timestamp("us", "UTC")
    assert schema.field("x.rms").type == pa.float32()
    assert schema.field("x.rms").metadata[b"unit"] == b"g"
    assert schema.field("x.rms").metadata[b"source"] == b"ISO 20816"
    assert schema.field("quality").metadata[b"bit_1"] == b"flat"
    about = json.loads(schema.metadata[b"thrumcast"])
    assert about["schema"] == "test-1"
    assert about["format"] == 1
    assert about["writer"].startswith("thrumcast ")
    columns = {file.metadata.row_group(0).column(i).path_in_schema: i for i in range(len(schema.names))}
    rms = file.metadata.row_group(0).column(columns["x.rms"])
    assert rms.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in rms.encodings
    assert not any("DICTIONARY" in encoding for encoding in rms.encodings)
    assert any("DICTIONARY" in e for e in file.metadata.row_group(0).column(columns["machine"]).encodings)
    table = file.read()
    assert list(zip(table["machine"].to_pylist(), table["window"].to_pylist(), strict=True)) == [
        (f"pump-{number:02d}", window) for number in (1, 2) for window in (38, 39, 40)
    ]
    assert table["start"][0].as_py() == datetime(2024, 1, 1, 0, 8, tzinfo=UTC)


@pytest.mark.parametrize(("rows", "groups"), [(1, [1]), (20_000, [20_000]), (20_001, [10_001, 10_000])])
def test_row_groups_are_cut_evenly(rows, groups):
    metadata = pq.ParquetFile(pa.BufferReader(encode_part(pa.table({"a": np.arange(rows)})))).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups


def grown(plant: Plant) -> set[str]:
    """Three parts, each with a column that the ones before did not have."""
    for i, channels in enumerate((("x",), ("x", "z"), ("a",))):
        plant.add(*(feature_row(30 + 3 * i + w, i + 1, channels) for w in range(3)))
        plant.archive.roll()
    return {f"{channel}.{feature}" for channel in "axz" for feature in SCHEMA.features}


def test_pandas_reads_all_rows_and_columns_also_after_growth(plant):
    columns = grown(plant)
    frame = pd.read_parquet(plant.data / "archive" / "features")
    assert len(frame) == 9
    assert columns <= set(frame.columns)
    assert frame["z.rms"].notna().sum() == 3


def test_duckdb_reads_all_rows_and_columns_also_after_growth(plant):
    columns = grown(plant)
    relation = duckdb.sql(f"SELECT * FROM read_parquet('{plant.data}/archive/features/**/*.parquet')")
    assert columns <= set(relation.columns)
    found = duckdb.sql(f"""SELECT count(*), count("z.rms"), sum("a.rms")
        FROM read_parquet('{plant.data}/archive/features/**/*.parquet', hive_partitioning = true)
        WHERE date = '2024-01-01'""").fetchall()
    assert found == [(9, 3, 36 + 37 + 38)]


def test_polars_reads_all_rows_and_columns_also_after_growth(plant):
    columns = grown(plant)
    directory = plant.data / "archive" / "features"
    frame = pl.read_parquet(directory, hive_partitioning=True)
    assert len(frame) == 9
    assert columns <= set(frame.columns)
    lazy = pl.scan_parquet(directory, hive_partitioning=True).filter(pl.col("machine") == "pump-03")
    assert lazy.select("a.rms").collect()["a.rms"].to_list() == [36.0, 37.0, 38.0]


def test_older_parts_are_widened_once_and_then_left_alone(plant):
    grown(plant)
    before = {path: path.stat().st_ino for path in parts_of(plant.data)}
    assert {part.extras for part in plant.journal.view(()).parts} == {("a", "x", "z")}
    assert {part.bytes for part in plant.journal.view(()).parts} == {path.stat().st_size for path in before}
    plant.add(feature_row(50))
    plant.archive.roll()
    assert {path: path.stat().st_ino for path in before} == before


def test_predictions_of_models_with_other_classes_stand_in_one_table(plant):
    plant.journal.commit(Commit(predictions=[prediction(1)], classes=("healthy", "unbalance")))
    plant.archive.roll()
    other = Commit(predictions=[prediction(1, classes=3, model="v0002")], classes=("healthy", "looseness", "unbalance"))
    plant.journal.commit(other)
    plant.archive.roll()
    frame = pd.read_parquet(plant.data / "archive" / "predictions")
    assert [name for name in frame.columns if name.startswith("p_")] == ["p_healthy", "p_unbalance", "p_looseness"]
    assert frame["p_looseness"].notna().sum() == 1
    assert read_predictions(plant.data)["model"].to_pylist() == ["v0001", "v0002"]
    assert verify(plant.data).problems == ()


def test_alarms_and_quarantine_are_archived_too(plant):
    change = AlarmChange(key_of(1), "raised", "a1", "unbalance", 0.9, MIDNIGHT_NS, MIDNIGHT_NS - 5000)
    bad = Quarantined("plant/\ud800", MIDNIGHT_NS, "length", b"\x00\x01", 2)
    plant.journal.commit(Commit(alarms=[change], quarantined=[bad]))
    assert {part.kind for part in plant.archive.roll()} == {"alarms", "quarantine"}
    assert read_kind(plant.data, "alarms")["id"].to_pylist() == ["a1"]
    assert read_kind(plant.data, "quarantine")["payload"].to_pylist() == [b"\x00\x01"]
    assert plant.journal.open_alarms() == {"a1": change}


def test_a_reader_sees_pending_rows_once_and_can_leave_them_out(plant):
    plant.add(feature_row(31), feature_row(32))
    plant.archive.roll()
    plant.add(feature_row(33, channels=("y",)))
    table = read_features(plant.data)
    assert table["window"].to_pylist() == [31, 32, 33]
    assert table["y.rms"].to_pylist() == [None, None, 33.0]
    assert read_features(plant.data, include_pending=False)["window"].to_pylist() == [31, 32]


def test_a_reader_chooses_columns_machines_and_times(plant):
    plant.add(*(feature_row(window, number) for window in range(60) for number in (1, 2)))
    plant.archive.roll()
    plant.add(feature_row(60, 1), feature_row(60, 2))
    at = datetime(2024, 1, 1, tzinfo=UTC)
    table = read_features(
        plant.data, columns=["window", "x.rms"], machines=["pump-02"], start=at, end=at + timedelta(minutes=2)
    )
    assert table.to_pydict() == {"window": [30, 31], "x.rms": [30.0, 31.0]}
    late = read_features(plant.data, columns=["machine"], start=at + timedelta(minutes=30))
    assert late["machine"].to_pylist() == ["pump-01", "pump-02"]
    with pytest.raises(ArchiveError, match=r"found: x\.rmz") as caught:
        read_features(plant.data, columns=["x.rmz"])
    assert caught.value.hint == "did you mean x.rms?"


@pytest.mark.parametrize("rolled", [False, True])
def test_a_reader_chooses_forecasts_by_the_start_of_their_window(plant, rolled):
    rows = [feature_row(window) for window in (30, 31, 32)]
    futures = (Future(("unbalance",), True, 0.5, (0.5, 1.0)),)
    forecasts = [Forecast(r.key, r.session, r.window, r.start_ns, r.end_ns, futures, "v0001") for r in rows]
    plant.journal.commit(Commit(forecasts=forecasts))
    if rolled:
        plant.archive.roll()
    at = datetime(2024, 1, 1, 0, 1, tzinfo=UTC)
    chosen = Selection(start=at, end=at + timedelta(minutes=1))
    found = read_kind(plant.data, "forecast", ["window", "mode"], chosen)
    assert found.to_pydict() == {"window": [31, 31], "mode": ["unbalance", "end"]}


def test_the_number_of_the_next_part_grows_with_every_roll_append_and_merge(plant):
    def next_number() -> int:
        return plant.journal.view(()).part_number

    assert next_number() == 1
    plant.add(feature_row(31))
    plant.archive.roll()
    assert next_number() == 2
    plant.add(feature_row(31))  # a duplicate: a roll without a part
    assert plant.archive.roll() == []
    assert next_number() == 3
    rows = [Rows("features", channels, table) for channels, table in feature_tables([feature_row(32)], SCHEMA)]
    (part,) = plant.archive.append(rows, {"a": ""})
    assert (part.number, next_number()) == (3, 4)
    assert len(list(compact(plant.archive))) == 1
    assert [part.number for part in plant.journal.view(()).parts] == [4]
    assert next_number() == 5
    assert list(prune(plant.archive, date(2024, 1, 2)))
    assert next_number() == 5
    plant.archive.roll()  # nothing is pending
    assert next_number() == 5


def test_files_without_a_journal_are_read_by_their_listing(plant):
    grown(plant)
    expected = read_features(plant.data)
    plant.journal.close()
    for path in plant.data.glob("journal.db*"):
        path.unlink()
    table = read_features(plant.data)
    assert table.equals(expected)
    assert table.schema.field("z.rms").metadata[b"unit"] == b"g"
    assert verify(plant.data).problems == ()


def test_a_directory_that_is_missing_is_an_error_and_an_empty_one_an_empty_table(tmp_path):
    with pytest.raises(ArchiveError, match="expected a data directory"):
        read_features(tmp_path / "none")
    assert read_features(tmp_path).num_rows == 0
    assert read_features(tmp_path).schema.names[:2] == ["machine", "point"]


def test_an_archive_of_another_feature_table_is_refused_by_name_with_and_without_its_journal(plant):
    plant.add(feature_row(31))
    plant.archive.roll()
    plant.journal.close()
    other = FeatureSchema("test-2", SCHEMA.features, SCHEMA.units)
    for turn in ("with", "without"):
        with Journal(plant.data) as journal, pytest.raises(SchemaError, match=r"test-2.*test-1") as caught:
            Archive(plant.data, journal, other)
        assert caught.value.exit_code == 3
        assert "new data directory" in caught.value.hint
        set_aside(plant.data, turn)


def test_a_new_journal_takes_over_the_parts_of_a_lost_one_and_overwrites_none(plant):
    columns = grown(plant)
    plant.journal.close()
    for path in plant.data.glob("journal.db*"):
        path.unlink()
    set_aside(plant.data, "lost")
    again = Plant(plant.data)
    again.add(feature_row(50, 4), feature_row(30, 1))  # one new window, and one that is there already
    (part,) = (part for part in again.archive.roll() if part.kind == "features")
    again.journal.close()
    assert (part.number, part.rows) == (4, 1)
    table = read_features(plant.data)
    assert table.num_rows == 10
    assert columns <= set(table.column_names)
    assert verify(plant.data).problems == ()
