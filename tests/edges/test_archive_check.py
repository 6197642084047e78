"""`verify` and the survey: what is in an archive, and every file of it that is not as it was written."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_plant import feature_row, parts_of
from click.testing import CliRunner

from pipeline.commands import archive as archive_command
from pipeline.edges.store.check import survey, verify
from pipeline.edges.store.parts import adopt
from pipeline.edges.store.read import read_features
from pipeline.errors import ArchiveError, ThrumcastError


@pytest.mark.parametrize("damage", ["cut", "bit", "missing", "foreign", "unlisted", "moved"])
def test_verify_names_every_file_that_is_not_as_it_was_written(plant, damage):
    plant.add(*(feature_row(window) for window in range(60)))
    plant.archive.roll()
    plant.archive.roll()
    path = parts_of(plant.data)[1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-7])
    elif damage == "bit":
        content[10] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    elif damage == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif damage == "unlisted":
        path = path.with_name("part-00000077.parquet")
        path.write_bytes(content)
    else:
        path.write_bytes(parts_of(plant.data)[0].read_bytes())
    report = verify(plant.data)
    assert path.relative_to(plant.data / "archive").as_posix() in "\n".join(report.problems)


def test_verify_finds_a_key_that_stands_twice(plant):
    plant.add(feature_row(40))
    plant.archive.roll()
    plant.journal.close()
    (path,) = parts_of(plant.data)
    path.with_name("part-00000002.parquet").write_bytes(path.read_bytes())
    for journal in plant.data.glob("journal.db*"):
        journal.unlink()
    assert "each key once, found 1 keys" in verify(plant.data).problems[0]


def test_the_survey_counts_per_kind_and_date(plant):
    plant.add(*(feature_row(window, number) for window in range(60) for number in (1, 2)))
    plant.archive.roll()
    plant.add(feature_row(60))
    stocks, pending = survey(plant.data)
    found = [(stock.kind, stock.date, stock.files, stock.rows, stock.machines) for stock in stocks]
    assert found == [("features", "2023-12-31", 1, 58, 2), ("features", "2024-01-01", 1, 62, 2)]
    assert stocks[1].first == datetime(2024, 1, 1, tzinfo=UTC)
    assert pending == {"features": 1, "predictions": 0, "forecast": 0, "alarms": 0, "quarantine": 0}


def test_the_command_lists_and_verifies(plant):
    plant.add(*(feature_row(window) for window in range(60)))
    plant.archive.roll()
    runner = CliRunner()
    listed = runner.invoke(archive_command.command, ["ls", "--data", str(plant.data), "--json"], catch_exceptions=False)
    assert [entry["rows"] for entry in json.loads(listed.stdout)["archive"]] == [29, 31]
    text = runner.invoke(archive_command.command, ["ls", "--data", str(plant.data)], catch_exceptions=False)
    assert "2024-01-01" in text.stdout
    whole = runner.invoke(archive_command.command, ["verify", "--data", str(plant.data), "--json"])
    assert (whole.exit_code, json.loads(whole.stdout)["ok"]) == (0, True)
    parts_of(plant.data)[0].unlink()
    broken = runner.invoke(archive_command.command, ["verify", "--data", str(plant.data)])
    assert isinstance(broken.exception, ArchiveError)
    assert "part-00000001" in broken.stdout


def test_whatever_byte_of_a_part_is_damaged_a_reader_reads_or_names_it_and_raises_nothing_else(plant, rng):
    plant.add(*(feature_row(window) for window in range(60)))
    plant.archive.roll()
    path = parts_of(plant.data)[0]
    whole = path.read_bytes()
    root, refused = plant.data / "archive", Counter[str]()
    for at in rng.integers(4, len(whole) - 8, 300).tolist():
        content = bytearray(whole)
        content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        for name, read in (("read", lambda: read_features(plant.data)), ("adopt", lambda: adopt(root, plant.schema))):
            try:
                read()
            except ThrumcastError:
                refused[name] += 1
    path.write_bytes(whole)
    assert min(refused["read"], refused["adopt"]) > 10
