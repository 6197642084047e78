"""Decoded samples in, features, the network's state and Parquet rows out: one thread, beside the arithmetic alone.

Many streams of three axes, windows of 4,096 samples every 1,024, all features, the shipped model. A turn is what the
live service takes at once: some blocks of every stream. Every turn steps the engine and makes Arrow rows; at the end
they are sorted and written as Parquet parts. The arithmetic is the feature kernels and the network's steps of the same
windows, called again with nothing around them. The share of each stage is measured in separate runs, because the
clocks of the stages take time themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from benchmarks.measure import Effort, cpu_of, median
from benchmarks.report import Row, Section, number_text
from benchmarks.vibration import CHANNELS, ORDERS, SPEED_RPM, T0_NS, vibration
from models.bundle import load
from models.predictor import NumpyPredictor
from pipeline.config.specs import default_spec
from pipeline.config.tables import Config
from pipeline.core import features, quality, stream
from pipeline.core.engine import Engine
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges.store import parts, schema
from pipeline.edges.store.schema import FeatureSchema, arrow_schema, conform
from pipeline.service.compose import feature_schema

MODEL = Path(__file__).resolve().parents[1] / "models" / "pretrained"
RATE_HZ, LENGTH, HOP = 25_600.0, 4096, 1024
STREAMS = 32
TURNS = 8  # at the smallest effort
SHAPES = ((8, 1024), (2, 4096))  # blocks of a stream per turn, samples per block and channel
FIRST = (
    "import time, numpy as np; from pipeline.core import stream\n"
    "from pipeline.config.specs import default_spec; from pipeline.core.records import *\n"
    "x = np.random.default_rng(1).standard_normal((3, 25600)).astype(np.float32)\n"
    "block = Block(StreamKey('m', 'p'), 1, 0, 10**18, 10240.0, ('x', 'y', 'z'), 'g', x, 1480.0)\n"
    "spec = default_spec(); stream.step(spec, stream.initial(spec), block); print(time.process_time())"
)


@dataclass(slots=True)
class Clock:
    """CPU seconds by stage, and the calls of the arithmetic, to be made again."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: list[Callable[[], object]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds to a stage."""
        before_s = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - before_s

    def timed(self, name: str, function: Callable[..., Any], *, again: bool = False) -> Callable[..., Any]:
        """The function, on the clock; `again` keeps its calls."""

        def called(*given: Any) -> Any:
            with self.stage(name):
                found = function(*given)
            if again:
                self.calls.append(lambda: function(*given))
            return found

        return called


@dataclass(frozen=True, slots=True)
class Plant:
    """Streams that send, and what becomes of it."""

    engine: Engine
    schema: FeatureSchema
    classes: tuple[str, ...]
    turns: list[list[Block]]
    folder: Path

    def run(self, clock: Clock) -> int:
        """All turns and one roll; returns the number of windows."""
        states: dict[StreamKey, StreamState] = {}
        tables: dict[str, list[pa.Table]] = {"features": [], "predictions": []}
        for blocks in self.turns:
            with clock.stage("engine"):
                step = self.engine.step(states, blocks)
            states |= step.states
            with clock.stage("rows"):
                tables["features"] += [t for _, t in schema.feature_tables(step.features, self.schema)]
                tables["predictions"].append(schema.prediction_table(step.predictions, self.classes))
        for kind, extras in (("features", CHANNELS), ("predictions", self.classes)):
            with clock.stage("Parquet"):
                columns = arrow_schema(kind, extras, self.schema if kind == "features" else None)
                rows = parts.sort_rows(conform(pa.concat_tables(tables[kind]), columns), kind)
                (self.folder / f"{kind}.parquet").write_bytes(parts.encode_part(rows))
        return sum(table.num_rows for table in tables["features"])


def run(effort: Effort) -> Section:
    """Blocks of two sizes; and a cold start, unless in a hurry."""
    rows: list[Row] = []
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="thrumcast-bench-") as place:
        for blocks, samples in SHAPES:
            some, numbers = _measured(effort, Path(place), blocks, samples)
            rows += some
            document |= {f"blocks_of_{samples}": numbers}
        if effort.rounds > 1:
            row, numbers = _cold(effort, place)
            rows.append(row)
            document |= numbers
    title = f"throughput: {STREAMS} streams of {len(CHANNELS)} axes, windows of {LENGTH}, hop {HOP}, one thread"
    return Section(title, rows, {"throughput": document})


def _measured(effort: Effort, folder: Path, blocks: int, samples: int) -> tuple[list[Row], dict[str, float]]:
    plant = _plant(folder, blocks, samples, TURNS * effort.scale)
    arithmetic = Clock()
    with _watched(plant, arithmetic, again=True):
        windows = plant.run(arithmetic)

    def alone() -> None:
        for call in arithmetic.calls:
            call()

    whole_s, watched_s, alone_s, clock = [], [], [], Clock()
    for _ in range(effort.rounds + 2):
        whole_s.append(cpu_of(lambda: plant.run(Clock())))
        with _watched(plant, clock):
            watched_s.append(cpu_of(lambda: plant.run(clock)))
        alone_s.append(cpu_of(alone))
    us = {name: 1e6 * seconds / len(watched_s) / windows for name, seconds in clock.seconds.items()}
    us["rest of the engine"] = us.pop("engine") - sum(us[n] for n in ("order + window", "quality", "kernels", "model"))
    ratio = median([whole / alone for whole, alone in zip(whole_s, alone_s, strict=True)])
    total_us, alone_us = 1e6 * median(whole_s) / windows, 1e6 * median(alone_s) / windows
    where = ", ".join(f"{name} {value:.3g}" for name, value in sorted(us.items(), key=lambda item: -item[1]))
    rows = [
        Row(
            f"{blocks} blocks of 3 x {samples} a turn",
            1e6 / total_us,
            "windows/s",
            f"its arithmetic alone ({number_text(1e6 / alone_us)} windows/s), in time",
            ratio,
        ),
        Row("... a window, a clock at every stage", 1e6 * median(watched_s) / windows, "us", f"{where}"),
    ]
    numbers = {"windows_per_s": 1e6 / total_us, "ratio_to_arithmetic": ratio}
    return rows, numbers | {f"{name.replace(' + ', '_').replace(' ', '_')}_us": value for name, value in us.items()}


@contextmanager
def _watched(plant: Plant, clock: Clock, *, again: bool = False) -> Iterator[None]:
    """Puts the stages of the engine on the clock."""
    batch = sys.modules[features.compute.__module__]
    with ExitStack() as stack:
        for where, name, stage, arithmetic in (
            (stream, "advance", "order + window", False),
            (quality, "scan_rows", "quality", False),
            (batch, "compute_rows", "kernels", True),
            (NumpyPredictor, "step", "model", True),
        ):
            timed = clock.timed(stage, getattr(where, name), again=again and arithmetic)
            stack.enter_context(patch.object(where, name, timed if where is not NumpyPredictor else _method(timed)))
        yield


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *given: function(self, *given)


def _plant(folder: Path, blocks: int, samples: int, turns: int) -> Plant:
    """Every stream sends two turns of its own again and again: decoded samples are in the cache, and so are these."""
    usual = default_spec()
    window = replace(usual.window, length_s=LENGTH / RATE_HZ, hop_s=HOP / RATE_HZ)
    spec = replace(usual, window=window, features=replace(usual.features, bandwidth_hz=0.0))
    predictor = NumpyPredictor(load(MODEL))
    keys = [StreamKey(f"machine-{i:02d}", "de") for i in range(STREAMS)]
    sent: dict[StreamKey, list[Any]] = {}
    for i, key in enumerate(keys):
        signal = vibration(len(CHANNELS), 2 * blocks * samples, RATE_HZ, seed=1 + i)
        sent[key] = [np.ascontiguousarray(piece) for piece in np.split(signal, 2 * blocks, axis=1)]
    given = [
        [
            Block(
                key=key,
                session=1,
                index=number * samples,
                t0_ns=T0_NS + round(number * samples * 1e9 / RATE_HZ),
                rate_hz=RATE_HZ,
                channels=CHANNELS,
                unit="g",
                samples=sent[key][number % len(sent[key])],
                speed_rpm=SPEED_RPM,
                orders=ORDERS,
            )
            for number in range(turn * blocks, (turn + 1) * blocks)
            for key in keys
        ]
        for turn in range(turns)
    ]
    table = feature_schema(Config())
    table = FeatureSchema(spec.features.schema, table.features, table.units)
    return Plant(Engine(lambda key: spec, predictor), table, predictor.classes, given, folder)


def _cold(effort: Effort, place: str) -> tuple[Row, dict[str, float]]:
    """CPU seconds of import and first window: with every kernel to be compiled, and with all of them on disk."""
    folders = [f"{place}/kernels-{i}" for i in range(effort.rounds)]
    cold_s = median([_first_window_s(folder) for folder in folders])
    warm_s = median([_first_window_s(folder) for folder in folders])
    beside = f"the same with the kernels kept on disk ({warm_s:.2g} s)"
    row = Row("import and first window, nothing compiled", cold_s, "s", beside, cold_s / warm_s)
    return row, {"cold_start_s": cold_s, "warm_start_s": warm_s}


def _first_window_s(kernels: str) -> float:
    environment = os.environ | {"NUMBA_CACHE_DIR": kernels}
    found = subprocess.run([sys.executable, "-c", FIRST], env=environment, capture_output=True, text=True, check=True)
    return float(found.stdout)
