"""Backfill as a person uses it: idempotent, resumable, honest about what it could not read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.live import schema
from harness.streams import ENGINE

from pipeline.cli import run
from pipeline.core.records import StreamKey
from pipeline.edges.faults import KILLED
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.recordings import presets
from pipeline.edges.recordings.recording import Options, write_recording
from pipeline.edges.store.check import verify
from pipeline.edges.store.read import read_features

RATE_HZ = 1024.0
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


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A command with --json."""
    env = os.environ | SETTINGS | environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "pipeline", *arguments, "--json"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(*arguments: str, rc: int | None = 0, **environment: str) -> tuple[str, str]:
    """What a command with --json prints on stdout and stderr. It runs in this process: a start takes a second."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in (SETTINGS | environment).items():
            patch.setenv(name, value)
        found = run([*arguments, "--json"])
    assert rc in (found, None), err.getvalue()
    return out.getvalue(), err.getvalue()


def thrumcast(*arguments: str, rc: int = 0, **environment: str) -> dict[str, Any]:
    """Run a command to its end; its document."""
    document: dict[str, Any] = json.loads(said(*arguments, rc=rc, **environment)[0] or "{}")
    return document


def killed(*arguments: str, at: str) -> None:
    """Run a command in a process of its own, which ends itself at that fault point."""
    with started(*arguments, THRUMCAST_FAULT_AT=at) as process:
        err = process.communicate()[1]
    assert process.returncode == KILLED, err


def plain(data: Path) -> pa.Table:
    """Feature rows as a reader finds them that knows nothing of a journal."""
    return pq.read_table(data / "archive" / "features", partitioning=None)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.sort_by([("machine", "ascending"), ("window", "ascending")]).to_pylist()
    return found


def marked(mark: str) -> list[int]:
    """Processes with this mark in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in place.read_bytes():
                found.append(int(place.parent.name))
    return found


def wait_until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until_s, "in vain"
        time.sleep(0.02)


def test_a_second_backfill_changes_nothing(recordings: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = thrumcast("backfill", str(recordings), "--data", str(data), "--channels", "near=x")
    before = read_features(data)
    second = thrumcast("backfill", str(recordings), "--data", str(data), "--channels", "near=x")
    assert (first["inputs"], first["windows"], first["skipped"]) == (3, before.num_rows, [])
    assert (second["already_done"], second["windows"]) == (3, 0)
    assert repr(read_features(data).to_pylist()) == repr(before.to_pylist())


def test_windows_that_are_there_already_are_not_counted_as_new(recordings: Path, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"), "--workers", "1")
    first = thrumcast("backfill", str(recordings), *data, "--channels", "near=x")
    before = read_features(tmp_path / "data")
    out, err = said("backfill", str(recordings), *data, "--channels", "near=y", rc=None)
    second = json.loads(out)
    assert (second["windows"], second["windows_known"]) == (0, first["windows"])
    assert "use another --data" in err
    after = read_features(tmp_path / "data")
    same = after.select(before.column_names).to_pylist()  # the new name has columns, and nothing in them
    assert repr(same) == repr(before.to_pylist())
    both = thrumcast("backfill", str(recordings), *data, "--channels", "near=x,far=x")  # a new point, and a known one
    assert (both["windows"], both["windows_known"]) == (first["windows"], first["windows"])


@pytest.mark.parametrize("known", ["truth", "label", "nothing", "run to failure"])
def test_training_is_suggested_where_something_is_known_and_labelling_where_nothing_is(
    tmp_path: Path, rng: np.random.Generator, known: str
) -> None:
    metadata = {"sample_rate_hz": RATE_HZ, "dataset": "lab", "recording": "r"}
    metadata |= {"fault_class": "normal"} if known == "truth" else {}
    metadata |= {"fault_class": "run_to_failure", "run_to_failure": True} if known == "run to failure" else {}
    write_recording(tmp_path / "r.parquet", rng.standard_normal((1, 4096)).astype(np.float32), ("x",), metadata)
    data = str(tmp_path / "data")
    if known == "label":
        span = ("--from", "2000-01-01T00:00:00Z", "--to", "2000-01-01T00:00:02Z")
        thrumcast("labels", "add", "lab-r", "unbalance", *span, "--data", data)
    err = said("backfill", str(tmp_path / "r.parquet"), "--data", data, "--workers", "1", rc=None)[1]
    train, label = (
        f"thrumcast train --data {data}",
        f"thrumcast labels add lab-r MODE --from ... --to ... --data {data}",
    )
    assert f"next: {train if known in ('truth', 'label') else label}" in err
    assert train in err


def test_labelling_is_suggested_for_the_machine_that_came_last_and_nothing_where_there_is_no_window(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    data = ("--data", str(tmp_path / "data"), "--workers", "1")
    samples = rng.standard_normal((1, 4096)).astype(np.float32)
    for name, length in (("first", 4096), ("second", 4096), ("short", 2)):
        metadata = {"sample_rate_hz": RATE_HZ, "dataset": "lab", "recording": name}
        write_recording(tmp_path / f"{name}.parquet", samples[:, :length], ("x",), metadata)
        err = said("backfill", str(tmp_path / f"{name}.parquet"), *data, rc=None)[1]
        assert ("next:" in err) is (name != "short")
        assert name == "short" or f"next: thrumcast labels add lab-{name} MODE" in err
    assert "window.length_s = 0.5 s, 512 samples at 1024 Hz" in err
    short = ("backfill", str(tmp_path / "short.parquet"), "--data", str(tmp_path / "empty"), "--workers", "1")
    thrumcast(*short)
    err = said(*short, rc=None)[1]
    assert "nothing to train on" in err
    assert "next:" not in err


def test_a_backfill_that_was_killed_goes_on_and_ends_as_if_nothing_had_been(recordings: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    thrumcast("backfill", str(recordings), "--data", str(whole))
    killed("backfill", str(recordings), "--data", str(cut), at="append_before_transaction")
    assert read_features(cut).num_rows == 0  # its files stand there, but no recording counts as done
    document = thrumcast("backfill", str(recordings), "--data", str(cut))
    assert document["already_done"] == 0
    for read in (read_features, plain):
        assert repr(rows_of(read(cut))) == repr(rows_of(read(whole)))
    assert verify(cut).problems == verify(cut).notes == ()


def test_workers_end_when_the_process_that_writes_is_killed(tmp_path: Path, rng: np.random.Generator) -> None:
    """The recordings are some seconds of work, of which nothing is left for a worker to do when its parent is gone."""
    for i in range(24):
        metadata = {"sample_rate_hz": RATE_HZ, "dataset": "lab", "recording": f"long{i}"}
        write_recording(tmp_path / "long" / f"{i}.parquet", rng.standard_normal((1, 400_000)), ("x",), metadata)
    data, mark = str(tmp_path / "data"), f"{tmp_path.name}-{os.getpid()}"
    with started("backfill", str(tmp_path / "long"), "--data", data, "--workers", "2", THRUMCAST_MARK=mark) as process:
        wait_until(lambda: len(marked(mark)) >= 5)  # itself, who forks, who counts resources, two workers
        assert process.poll() is None
        process.kill()
    wait_until(lambda: marked(mark) == [])


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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_recording_for_whose_channels_there_is_no_room_is_skipped_alone_and_by_name(
    recordings: Path, tmp_path: Path, rng: np.random.Generator, workers: str
) -> None:
    for i in range(4):  # read in one go with the others
        names = (f"wide{i}_a", f"wide{i}_b")
        metadata = {"sample_rate_hz": RATE_HZ, "dataset": "lab", "recording": f"w{i}"}
        samples = rng.standard_normal((2, 4096)).astype(np.float32)
        write_recording(recordings / f"w{i}.parquet", samples, names, metadata)
    command = ["backfill", str(recordings), "--data", str(tmp_path / "data"), "--workers", workers]
    document = thrumcast(*command, THRUMCAST_ARCHIVE__MAX_CHANNELS="5")
    assert len(document["skipped"]) == 3  # near, far, and one pair more
    assert all("archive.max_channels = 5" in skipped["reason"] for skipped in document["skipped"])
    rows = read_features(tmp_path / "data")
    assert {f"lab-r{i}" for i in range(3)} <= set(rows["machine"].to_pylist())
    assert len({name.partition(".")[0] for name in rows.column_names if "." in name}) == 4
    assert verify(tmp_path / "data").problems == ()
    document = thrumcast(*command)  # with room for them
    assert (document["already_done"], document["skipped"]) == (4, [])


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


def test_columns_of_text_are_left_out_with_a_word_and_without_one_if_the_channels_were_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n" + "\n".join(f"{i % 7},ok" for i in range(2048)))
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    for channels, told in (((), True), (("--channels", "x"), False)):
        data = ("--data", str(tmp_path / f"data{told}"), "--rate", "1024", "--workers", "1")
        err = said("backfill", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), *data, *channels, rc=None)[1]
        line = f"2 files, the first one: {tmp_path / 'a.csv'}: columns without numbers are ignored: label"
        assert (line in err) is told


def test_what_holds_for_many_recordings_is_said_once_and_names_each_path_once(recordings: Path, tmp_path: Path) -> None:
    (recordings / "torn.parquet").write_bytes(b"PAR1 but not really")
    data = ("--data", str(tmp_path / "data"), "--workers", "1")
    out, err = said("backfill", str(recordings), *data, "--channels", "drive_end=x", rc=None)
    assert len(json.loads(out)["skipped"]) == 4
    first = recordings / "r0.parquet"
    assert f"skipped: 3 files, the first one: expected a channel of {first}, found: drive_end\n" in err
    assert err.count("hint: there are near, far: --channels near=x\n") == 1
    assert err.count("torn.parquet") == 1


def test_another_cut_is_refused_in_words(recordings: Path, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"), "--workers", "1")
    thrumcast("backfill", str(recordings), *data)
    err = said("backfill", str(recordings), *data, THRUMCAST_WINDOW__HOP_S="0.5", rc=None)[1]
    assert "as before, length 0.5 s, hop 0.25 s, found: length 0.5 s, hop 0.5 s" in err
    assert "WindowConfig" not in err


def test_records_shorter_than_a_window_are_named(recordings: Path, tmp_path: Path) -> None:
    document = thrumcast("backfill", str(recordings), "--data", str(tmp_path / "data"), THRUMCAST_WINDOW__LENGTH_S="60")
    assert len(document["without_windows"]) == 3


def text(path: Path, head: str = "x\n", rows: int = 4096) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path))).standard_normal(rows)
    path.write_text(head + "".join(f"{value:.4f}\n" for value in values))
    return path


def test_bad_files_of_every_kind_end_nothing_and_the_good_ones_are_archived(recordings: Path, tmp_path: Path) -> None:
    import pickle
    import struct

    os.mkfifo(tmp_path / "pipe.csv")
    bad = {
        "a.mat": pickle.dumps({"x": 1}),
        "b.mat": b"M",
        "c.npy": b"\x93NUMPY",
        "e.h5": b"\x89HDF\r\n\x1a\n",
        "f.xlsx": b"PK\x03\x04",
    }
    bad["d.wav"] = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 0, 8000, 0, 0, 16, b"data", 0
    )
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for workers in ("1", "2"):
        given = [str(tmp_path / name) for name in (*bad, "pipe.csv")]
        data = str(tmp_path / f"data{workers}")
        document = thrumcast("backfill", str(recordings), *given, "--data", data, "--workers", workers)
        assert document["streams"] == 3
        assert {Path(entry["input"]).name for entry in document["skipped"]} == {*bad, "pipe.csv"}
        assert all(entry["input"] in entry["reason"] for entry in document["skipped"])


def test_a_file_that_kills_its_worker_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from pipeline.drivers import backfill as driver

    class Pool:
        """Dies with every share that holds the deadly file."""

        dead = False

        def submit(self, work: Callable[..., Any], share: list[driver.Job]) -> Future[driver.Share]:
            if self.dead:
                raise BrokenProcessPool
            future: Future[driver.Share] = Future()
            if any(job.path.name == "deadly" for job in share):
                self.dead = True
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(driver.Share([driver.Outcome(job.path) for job in share], []))
            return future

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr(driver, "pool", lambda workers, start: Pool())
    monkeypatch.setattr(driver, "LEAST_BYTES", 1)
    monkeypatch.setattr(driver, "MOST_BYTES", 1)
    jobs = []
    for name in ("a", "deadly", "b", "c", "d", "e", "f"):
        (tmp_path / name).write_bytes(b"x")
        jobs.append(driver.Job(tmp_path / name, None, None, ""))
    done = [one for share in driver._run(jobs, lambda: None, 2) for one in share.done]  # type: ignore[arg-type, return-value]
    assert sorted(one.path.name for one in done) == sorted(job.path.name for job in jobs)
    assert [one.path.name for one in done if one.error] == ["deadly"]


def test_files_passed_over_are_named_in_text_and_in_json(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    text(folder / "a.csv")
    (folder / "notes.txt").write_text("words only\n")
    command = ("backfill", str(folder), "--rate", "1024", "--workers", "1", "--data", str(tmp_path / "data"))
    out, err = said(*command, rc=None)
    passed = json.loads(out)["passed_over"]
    assert [(Path(one["input"]).name, one["reason"]) for one in passed] == [
        ("notes.txt", "text without rows of numbers")
    ]
    assert f"passed over: 1 files (text without rows of numbers): {folder / 'notes.txt'}" in err


def test_equal_file_names_and_names_outside_ascii_are_machines_of_their_own(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    for name in ("one/1.csv", "two/1.csv", "насос.csv", "пресс.csv"):
        text(tmp_path / "in" / name)
    thrumcast("backfill", str(tmp_path / "in"), "--rate", "1024", "--data", data)
    facts = MachinesFile(tmp_path / "data" / MACHINES_NAME).load()
    assert len(facts) == 4
    assert {known["original_name"] for known in facts.values()} == {"one/1", "two/1", "насос", "пресс"}
    assert {known["specimen"] for known in facts.values()} == {"in/one", "in/two", f"{tmp_path.name}/in"}
    assert all(key.machine.isascii() for key in facts)
    text(tmp_path / "other" / "насос.csv", rows=5000)  # another run, another folder
    thrumcast("backfill", str(tmp_path / "other"), "--rate", "1024", "--data", data)
    assert len(MachinesFile(tmp_path / "data" / MACHINES_NAME).load()) == 5


def test_a_dry_run_says_what_is_understood_and_stores_nothing(tmp_path: Path) -> None:
    path = text(tmp_path / "a.csv", "Sampling Frequency: 1024\nUnits;mg\n\nacc\n")
    data = tmp_path / "data"
    document = thrumcast("backfill", str(path), "--dry-run", "--data", str(data))
    (one,) = document["understood"]
    assert (one["format"], one["unit"], one["scale"], one["rate_hz"]) == ("text", "g", 0.001, 1024.0)
    assert "Sampling Frequency" in one["rate_from"]
    assert one["streams"] == [{"point": "acc", "channels": {"acc": "acc"}}]
    assert (one["start"], one["start_from"], one["length_s"]) == ("2000-01-01T00:00:00.000Z", "nominal", 4.0)
    assert not data.exists()
    (tmp_path / "b.mat").write_bytes(b"M")
    refused = thrumcast("backfill", str(tmp_path / "b.mat"), "--dry-run", rc=1)
    assert "b.mat" in refused["skipped"][0]["reason"]


def test_a_folder_of_a_public_set_just_works(tmp_path: Path) -> None:
    for name in ("35Hz12kN/Bearing1_1/1.csv", "35Hz12kN/Bearing1_1/2.csv", "35Hz12kN/Bearing1_2/1.csv"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(len(name)).standard_normal((32_768, 2))
        values[0, 0] = float(path.stem) + len(path.parent.name)
        np.savetxt(
            path, values, "%.4f", ",", header="Horizontal_vibration_signals,Vertical_vibration_signals", comments=""
        )
    document = thrumcast("backfill", str(tmp_path / "set"), "--preset", "xjtu", "--data", str(tmp_path / "data"))
    assert document["skipped"] == []
    facts = MachinesFile(tmp_path / "data" / MACHINES_NAME).load()
    assert {key.machine for key in facts} == {"XJTU-Bearing1_1", "XJTU-Bearing1_2"}
    assert all(known["specimen"].startswith("XJTU/Bearing1_") and known["run_to_failure"] for known in facts.values())


def test_the_files_of_a_run_are_one_stream_and_a_broken_one_is_left_out_of_it(tmp_path: Path) -> None:
    from pipeline.drivers import backfill as driver

    folder = tmp_path / "Bearing1_1"
    folder.mkdir(parents=True)
    for minute in range(1, 7):
        values = np.random.default_rng(minute).standard_normal((32_768, 2))
        np.savetxt(folder / f"{minute}.csv", values, "%.4f", ",", header="horiz,vert", comments="")
    (folder / "3.csv").write_text("no number\n")
    files = sorted(folder.iterdir())
    (together,) = presets.runs(files, "xjtu")
    assert list(together) == files
    spec = replace(ENGINE.spec_of(StreamKey("m", "p")), max_gap_s=150.0)  # a minute is missing
    engine = replace(ENGINE, spec_of=lambda key: spec)
    worker = driver.Worker(engine, str, {}, schema())
    job = driver.Job(files[0], None, None, "", options=Options(preset="xjtu"), more=tuple(files[1:]))
    outcomes, found = driver._job(worker, job)
    assert [one.path.name for one in outcomes if one.error] == ["3.csv"]
    ages = [row.state_age for row in found.predictions]
    assert ages == list(range(ages[0], ages[0] + len(ages))), "the state goes on from file to file"
    assert sum(one.windows for one in outcomes) == len(found.features) == len(ages)
    assert len({row.session for row in found.features}) == 5
    assert not any("max_gap_s" in note for one in outcomes for note in one.notes)
    forgetful = driver.Worker(ENGINE, str, {}, schema())
    assert any("max_gap_s is " in note for one in driver._job(forgetful, job)[0] for note in one.notes)
    marks = {name for one in outcomes for name in one.inputs}
    shutil.copy(files[0], folder / "3.csv")
    outcomes, whole = driver._job(driver.Worker(engine, str, dict.fromkeys(marks, ""), schema()), job)
    assert len(whole.features) > len(found.features), "a run with a new file is computed again"
    marks = {name: what for one in outcomes for name, what in one.inputs.items()}
    outcomes, nothing = driver._job(driver.Worker(engine, str, marks, schema()), job)
    assert all(one.known for one in outcomes)
    assert not nothing.features
