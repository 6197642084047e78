"""Readings that are kept: the blocks come back as they were, and the archive's features can be computed from them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.broker import Site
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import cli
from pipeline.config.specs import stream_specs
from pipeline.config.tables import Config, DataConfig
from pipeline.core.codec import encode
from pipeline.core.engine import Engine
from pipeline.core.records import BearingOrders, Block, StreamKey
from pipeline.drivers.parity import compare
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.recordings import readings
from pipeline.edges.recordings.readings import READINGS_NAME, ReadingsWriter, find_readings, read_readings
from pipeline.edges.recordings.recording import open_recording
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import read_features
from pipeline.errors import RecordingError
from pipeline.service.compose import opened

KEY = StreamKey("pump-01", "de")
START_NS = 1_704_067_200_000_000_000
RATE_HZ = 4000.0


def blocks(count: int = 12, size: int = 1000, key: StreamKey = KEY, session: int = 2**63 + 5) -> list[Block]:
    """Speed and clock wander from block to block."""
    rng = np.random.default_rng(11)
    return [
        Block(
            key=key,
            session=session,
            index=k * size,
            t0_ns=START_NS + round(k * size * 1e9 / RATE_HZ) + 1000 * k,
            rate_hz=RATE_HZ,
            channels=("x", "y"),
            unit="g",
            samples=rng.standard_normal((2, size)).astype(np.float32),
            speed_rpm=None if k == 3 else 1500.0 + k,
            orders=BearingOrders(0.4, 3.6, 5.4, 2.4),
            truth="healthy",
            speed_source="nominal",
        )
        for k in range(count)
    ]


def kept(folder: Path, given_: list[Block]) -> ReadingsWriter:
    writer = ReadingsWriter(folder)
    for block in given_:
        writer.append(block)
    writer.close()
    return writer


def same(one: Block, other: Block) -> bool:
    plain = replace(one, samples=other.samples)
    facts = all(getattr(plain, name) == getattr(other, name) for name in Block.__slots__ if name != "samples")
    return facts and np.array_equal(one.samples, other.samples)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), limit=st.integers(500, 5000))
def test_blocks_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int) -> None:
    folder = tmp_path_factory.mktemp("readings")
    given_, index = [], 0
    for k, size in enumerate(sizes):
        made = blocks(k + 1, size)[-1]
        given_.append(replace(made, index=index))
        index += size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "PART_SAMPLES", limit)
        kept(folder, given_)
    back = [block for path in find_readings(folder) for block in read_readings(path)]
    assert sorted(block.index for block in back) == [block.index for block in given_]
    for one, other in zip(sorted(back, key=lambda block: block.index), given_, strict=True):
        assert same(one, other)


def test_a_gap_another_session_or_another_truth_begins_a_new_part(tmp_path: Path) -> None:
    given_ = blocks(8)
    given_[2:] = [replace(block, truth="unbalance") for block in given_[2:]]
    del given_[5]
    given_ += [replace(block, t0_ns=block.t0_ns + 10**10) for block in blocks(1, session=9)]
    writer = kept(tmp_path, given_)
    assert writer.parts == len(find_readings(tmp_path)) == 4
    assert writer.samples == sum(block.samples.shape[1] for block in given_)


def test_a_part_is_a_recording_and_a_table_with_addresses(tmp_path: Path) -> None:
    kept(tmp_path, blocks())
    (path,) = find_readings(tmp_path)
    recording = open_recording(path)
    assert (recording.machine, recording.channels, recording.rate_hz) == ("pump-01", ("x", "y"), RATE_HZ)
    assert (recording.unit, recording.truth, recording.samples) == ("g", "healthy", 12_000)
    table = pq.read_table(path, partitioning=None)
    assert table.column_names == ["machine", "point", "session", "index", "speed_rpm", "x", "y"]
    assert table["session"][0].as_py() == 2**63 + 5
    assert table["speed_rpm"].null_count == 1000
    assert path.parent.name == "date=2024-01-01"


def test_keeping_the_same_readings_twice_makes_the_same_file(tmp_path: Path) -> None:
    kept(tmp_path, blocks())
    once = {path: path.read_bytes() for path in find_readings(tmp_path)}
    kept(tmp_path, blocks())
    assert {path: path.read_bytes() for path in find_readings(tmp_path)} == once


def test_another_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(_part(tmp_path), columns=["x"]).replace_schema_metadata({}), path)
    with pytest.raises(RecordingError, match="expected readings of version 1"):
        next(read_readings(path))


def _part(folder: Path) -> Path:
    kept(folder / "parts", blocks(2))
    return find_readings(folder / "parts")[0]


def archived(folder: Path, given_: list[Block]) -> None:
    """The features of these blocks in the archive of a data directory."""
    config = Config(data=DataConfig(dir=str(folder)))
    engine = Engine(stream_specs(config, {}))
    with opened(config) as (journal, archive):
        step = engine.step({}, given_)
        journal.commit(Commit(features=step.features))
        archive.roll()


def test_archived_features_are_found_again_in_the_archived_readings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = [*blocks(), *blocks(key=StreamKey("pump-02", "de"))]
    archived(tmp_path, given_)
    kept(tmp_path / READINGS_NAME, given_)
    assert cli.run(["archive", "verify", "--parity", "--data", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    parity = document["parity"]
    assert parity["windows"] == 10
    assert (parity["differing_windows"], parity["largest_difference"], parity["not_archived"]) == (0, None, 0)


def test_one_changed_sample_is_found_with_its_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given_ = blocks()
    archived(tmp_path, given_)
    samples = given_[-1].samples.copy()
    samples[1, 500] += 40.0
    kept(tmp_path / READINGS_NAME, [*given_[:-1], replace(given_[-1], samples=samples)])
    assert cli.run(["archive", "verify", "--parity", "--data", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    parity = json.loads(captured.out)["parity"]
    assert parity["differing_windows"] == 1
    worst = parity["largest_difference"]
    assert (worst["machine"], worst["point"], worst["window"]) == ("pump-01", "de", 4)
    assert worst["column"].startswith("y.")
    assert "rms" in parity["differing_features"]
    assert "windows that differ: 1" in captured.err


def test_the_largest_of_several_differences_is_the_one_that_is_named(tmp_path: Path) -> None:
    given_ = blocks()
    archived(tmp_path, given_)
    table = read_features(tmp_path)
    for column, window, off in (("x.rms", 1, 1.0), ("y.rms", 2, 50.0), ("x.rms", 3, 2.0)):
        values = table[column].to_numpy().copy()
        values[table["window"].to_pylist().index(window)] += off
        table = table.set_column(table.column_names.index(column), column, pa.array(values, pa.float32()))
    found = compare(given_, table, stream_specs(Config(), {}))
    assert found.differing_windows == 3
    assert found.largest is not None
    assert (found.largest.column, found.largest.window) == ("y.rms", 2)
    assert found.largest.size == pytest.approx(50.0, rel=1e-3)


@pytest.mark.network
def test_what_is_sent_while_recording_is_kept_in_order_and_once(tmp_path: Path, mosquitto: PrivateBroker) -> None:
    given_ = blocks()
    shuffled = [given_[k] for k in (0, 2, 1, 1, 3, 5, 4, *range(6, 12), 3)]
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    command = [sys.executable, "-m", "pipeline", "record", "--broker", url, "--data", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("recording ")
        with Site(mosquitto) as site:
            site.send(b"no block", *map(encode, shuffled), topic="plant/a/pump-01/de/vibration")
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["streams"], document["samples"], document["messages_passed_over"]) == (1, 12_000, 1)
    back = [block for path in find_readings(tmp_path / READINGS_NAME) for block in read_readings(path)]
    assert all(same(replace(one, orders=given_[0].orders), other) for one, other in zip(back, given_, strict=True))


def test_parity_without_readings_says_how_to_keep_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archived(tmp_path, blocks())
    assert cli.run(["archive", "verify", "--parity", "--data", str(tmp_path)]) == 1
    assert "thrumcast record" in capsys.readouterr().err
