"""Backfill as a person uses it: idempotent, resumable, honest about what it could not read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.records import StreamKey
from pipeline.edges.archive_read import read_features
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.recordings import write_recording

RATE_HZ = 1024.0
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
SETTINGS = {
    "THRUMCAST_WINDOW__LENGTH_S": "0.5",
    "THRUMCAST_WINDOW__HOP_S": "0.25",
    "THRUMCAST_FEATURES__BANDWIDTH_HZ": "400",
    "THRUMCAST_FEATURES__ENVELOPE_LOW_HZ": "50",
    "THRUMCAST_FEATURES__ENVELOPE_HIGH_HZ": "400",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def recordings(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(3):
        metadata = {
            "sample_rate_hz": RATE_HZ,
            "dataset": "lab",
            "recording": f"r{i}",
            "fault_class": "normal",
            "load_hp": i,
            "units": "g",
        }
        samples = rng.standard_normal((2, 4096)).astype(np.float32)
        write_recording(folder / f"r{i}.parquet", samples, ("near", "far"), metadata)
    return folder


def thrumcast(*arguments: str, rc: int = 0, **environment: str) -> dict[str, Any]:
    """Run a command with --json; its document."""
    import os

    env = os.environ | SETTINGS | environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", MAIN, *arguments, "--json"], env=env, capture_output=True, text=True)
    assert done.returncode == rc, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_a_second_backfill_changes_nothing(recordings: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = thrumcast("backfill", str(recordings), "--data", str(data), "--channels", "near=x")
    before = read_features(data)
    second = thrumcast("backfill", str(recordings), "--data", str(data), "--channels", "near=x")
    assert (first["inputs"], first["windows"], first["skipped"]) == (3, before.num_rows, [])
    assert (second["already_done"], second["windows"]) == (3, 0)
    assert repr(read_features(data).to_pylist()) == repr(before.to_pylist())


def test_both_cores_give_what_one_gives(recordings: Path, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        thrumcast("backfill", str(recordings), "--data", str(tmp_path / workers), "--workers", workers)
    keys = [("machine", "ascending"), ("window", "ascending")]
    one, two = (read_features(tmp_path / workers).sort_by(keys) for workers in ("1", "2"))
    assert repr(one.to_pylist()) == repr(two.to_pylist())


def test_what_the_recording_says_of_its_machine_is_kept(recordings: Path, tmp_path: Path) -> None:
    thrumcast("backfill", str(recordings), "--data", str(tmp_path / "data"), "--channels", "near=x,far=x")
    facts = MachinesFile(tmp_path / "data" / MACHINES_NAME).load()
    assert {str(key) for key in facts} == {f"lab-r{i}/{point}" for i in range(3) for point in ("near", "far")}
    assert facts[StreamKey("lab-r2", "near")]["load_hp"] == 2
    assert set(read_features(tmp_path / "data", columns=["truth"])["truth"].to_pylist()) == {"healthy"}


def test_a_bad_file_among_many_is_reported_and_the_others_go_on(recordings: Path, tmp_path: Path) -> None:
    (recordings / "torn.parquet").write_bytes(b"PAR1 but not really")
    document = thrumcast("backfill", str(recordings), "--data", str(tmp_path / "data"))
    assert document["streams"] == 3
    assert [Path(entry["input"]).name for entry in document["skipped"]] == ["torn.parquet"]


def test_a_recording_is_not_cut_in_two_ways_in_one_data_directory(recordings: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    thrumcast("backfill", str(recordings), "--data", data)
    document = thrumcast("backfill", str(recordings), "--data", data, rc=1, THRUMCAST_WINDOW__LENGTH_S="0.25")
    assert all("cut one way only" in entry["reason"] for entry in document["skipped"])
    assert len(document["skipped"]) == 3


def test_an_archive_of_another_feature_schema_is_refused_by_name(recordings: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    thrumcast("backfill", str(recordings), "--data", data)
    document = thrumcast("backfill", str(recordings), "--data", data, rc=3, THRUMCAST_FEATURES__SLIP_TOLERANCE="0.03")
    assert document["ok"] is False
    assert "feature schema" in document["error"]


def test_a_recording_without_a_rate_and_an_unknown_channel_say_what_to_do(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "norate.csv").write_text("x\n" + "\n".join(map(str, range(100))))
    data = str(tmp_path / "data")
    no_rate = thrumcast("backfill", str(tmp_path / "norate.csv"), "--data", data, rc=1)
    assert "--rate" in no_rate["skipped"][0]["reason"]
    unknown = thrumcast("backfill", str(recordings), "--data", data, "--channels", "naer=x", rc=1)
    assert "did you mean near" in unknown["skipped"][0]["reason"]


def test_records_shorter_than_a_window_are_named(recordings: Path, tmp_path: Path) -> None:
    document = thrumcast("backfill", str(recordings), "--data", str(tmp_path / "data"), THRUMCAST_WINDOW__LENGTH_S="60")
    assert len(document["without_windows"]) == 3
