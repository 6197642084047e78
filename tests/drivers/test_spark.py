"""The Spark driver: the same rows as the engine alone, whatever is cut, restarted, repeated or killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from harness.streams import with_a_gap

from benchmarks.model import untrained
from models.registry import CHAMPION, Registry
from pipeline.config.tables import Config, DataConfig
from pipeline.core.records import Block, StreamKey
from pipeline.edges.recordings import readings
from pipeline.edges.store.read import read_features, read_predictions
from pipeline.service.compose import MakeEngine

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'thrumcast[spark]'")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("no Java here", allow_module_level=True)
pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")]

ROOT = Path(__file__).parents[2]
RATE_HZ = 2000.0
MACHINES = ("fan-01", "_pump-01", "motor-02", ".mill-03")  # files of some programs that begin so are hidden
T0_NS = 1_764_547_190_000_000_000  # ten seconds before midnight
PATIENCE_S = 240.0


def recorded(seed: int, machine: str, channels: str = "xyz", seconds: int = 16) -> list[Block]:
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE_HZ)
    x = rng.standard_normal((len(channels), n)).astype(np.float32)
    blocks = []
    for index in range(0, n, 500):
        some = np.ascontiguousarray(x[:, index : index + 500])
        t0_ns = T0_NS + round(index * 1e9 / RATE_HZ)
        key = StreamKey(machine, "de")
        blocks.append(Block(key, 7, index, t0_ns, RATE_HZ, tuple(channels), "g", some, speed_rpm=1500.0))
    return with_a_gap(blocks, 20)


STREAMS = [recorded(i, machine, "xyz" if i % 2 else "ab") for i, machine in enumerate(MACHINES)]


def stored(folder: Path, streams: Sequence[Sequence[Block]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two seconds."""
    monkeypatch.setattr(readings, "PART_SAMPLES", round(2 * RATE_HZ))
    writer = readings.ReadingsWriter(folder)
    for blocks in streams:
        for block in blocks:
            writer.append(block)
    writer.close()


def engine(data: Path) -> Any:
    registry = Registry(data)
    if CHAMPION not in registry.aliases():
        registry.point(CHAMPION, registry.add(untrained(Config())), why="test")
    return MakeEngine(_config(data), {}, "v0001")()


def _config(data: Path) -> Config:
    return Config(data=DataConfig(dir=str(data)))


def expected(data: Path, *, flush: bool) -> dict[StreamKey, contract.Outcome]:
    alone = engine(data)
    step = alone.step({}, [block for blocks in STREAMS for block in blocks])
    return contract.collect([step, alone.flush(step.states)] if flush else [step])


def spark(*words: object, fault: str | None = None) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("THRUMCAST_")}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTHONWARNINGS": "ignore"}
    if fault is not None:
        env["THRUMCAST_FAULT_AT"] = fault
    command = [sys.executable, "-m", "pipeline", "spark", *map(str, words), "--master", "local[2]"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said[-3000:]
    return said


def killed(process: subprocess.Popen[str]) -> None:
    """With everything that it has started: JVM and Python workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def same(data: Path, wanted: dict[StreamKey, contract.Outcome]) -> None:
    """Features to the last bit, predictions within the tolerance of the laws, each row once, for every reader."""
    table = read_features(data)
    names = [name for name in table.column_names if "." in name]
    found = [tuple(row[n] for n in ("machine", "point", "session", "window")) for row in table.to_pylist()]
    assert len(found) == len(set(found)) == sum(len(outcome.rows) for outcome in wanted.values())
    frame = table.to_pandas().sort_values(["machine", "point", "window"])
    said = read_predictions(data).to_pandas().sort_values(["machine", "point", "window"])
    for key, outcome in wanted.items():
        mine = frame[frame["machine"] == key.machine]
        windows = [row[1] for row in outcome.rows]
        assert mine["window"].tolist() == windows
        channels = outcome.rows[0][9]
        columns = [name for name in names if name.rpartition(".")[0] in channels]
        values = mine[columns].to_numpy(np.float32)
        truth = np.array([np.frombuffer(row[-1], np.float32) for row in outcome.rows])
        np.testing.assert_array_equal(values, truth)
        p = said[said["machine"] == key.machine][[n for n in said.columns if n.startswith("p_")]].to_numpy(np.float32)
        np.testing.assert_allclose(p, outcome.probabilities, atol=1e-6)
    parts = ds.dataset(data / "archive" / "features", format="parquet", partitioning="hive")
    assert parts.count_rows() == len(frame) == len(pd.read_parquet(data / "archive" / "features"))
    for path in (data / "archive").rglob("part-*.parquet"):
        assert pq.read_metadata(path).num_rows


# -- the processor alone, without a JVM --------------------------------------------------------------------------------


def test_a_stream_that_comes_in_any_batches_gives_the_rows_of_the_engine_alone(tmp_path, monkeypatch):
    from pyspark.sql import Row
    from pyspark.sql.streaming.tws_tester import TwsTester

    from pipeline.drivers.spark import StreamStep, write
    from pipeline.drivers.spark import Target as Where
    from pipeline.service.distributed import recipe_of

    wanted = expected(tmp_path / "alone", flush=False)
    stored(tmp_path / "readings", STREAMS, monkeypatch)
    paths = list(map(str, readings.find_readings(tmp_path / "readings")))
    rng = random.Random(5)
    for sizes in ([len(paths)], [1] * len(paths), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]):
        data = tmp_path / f"data-{len(sizes)}"
        engine(data)
        recipe = recipe_of(_config(data), None)
        target = Where(data, recipe.schema)
        target.archive.claim({"run": "test"})
        tester = TwsTester(StreamStep(recipe, ends=False))
        left = list(paths)
        for batch, size in enumerate(sizes):
            some, left = left[:size], left[size:]
            rng.shuffle(some)  # Spark hands over the files of a batch in any order
            by_stream: dict[StreamKey, list[Row]] = {}
            for path in some:
                place = readings.place_of(Path(path).name)
                assert place is not None
                by_stream.setdefault(place[0], []).append(Row(path=path))
            rows = [row for key, mine in by_stream.items() for row in tester.test(str(key), mine)]
            target.archive.commit(batch, [write(target, rows).share])
        assert not left
        same(data, wanted)


# -- with Spark --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_computed_as_one_batch_gives_the_rows_of_the_engine_alone(tmp_path, monkeypatch):
    wanted = expected(tmp_path / "data", flush=True)
    stored(tmp_path / "readings", STREAMS, monkeypatch)
    (tmp_path / "readings" / "m~p~1~2~3.parquet").write_bytes(b"not a part")
    (tmp_path / "readings" / "other.parquet").write_bytes(b"nor this")
    said = ended(spark("backfill", "--source", tmp_path / "readings", "--data", tmp_path / "data"))
    assert "2 unreadable_part" in said
    same(tmp_path / "data", wanted)
    assert "computed before" in ended(spark("backfill", "--source", tmp_path / "readings", "--data", tmp_path / "data"))
    same(tmp_path / "data", wanted)


def test_a_live_query_that_is_killed_at_its_sink_and_anywhere_loses_and_doubles_nothing(tmp_path, monkeypatch):
    """Killed between the mark of a batch and Spark's own commit, then in the middle; readings arrive in between."""
    data, source = tmp_path / "data", tmp_path / "readings"
    wanted = expected(data, flush=False)
    stored(source, [blocks[:12] for blocks in STREAMS], monkeypatch)
    words = ("run", "--source", source, "--data", data, "--checkpoint", tmp_path / "state", "--files-per-batch", 12)
    process = spark(*words, "--available-now", fault="batch_marked")
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0, said[-2000:]
    notes = data / "archive" / ".batches"
    assert json.loads((notes / "0000000000.json").read_text())["placed"]
    assert not (tmp_path / "state" / "commits" / "0").exists()
    stored(source, [blocks[12:] for blocks in STREAMS], monkeypatch)
    process = spark(*words, "--every-s", 0)
    deadline_s = time.monotonic() + PATIENCE_S
    while not (notes / "0000000001.json").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    killed(process)
    said = ended(spark(*words, "--available-now"))
    same(data, wanted)
    assert "nothing new" in ended(spark(*words, "--available-now"))
