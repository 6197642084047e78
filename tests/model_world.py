"""Small worlds for the modelling tests: tables, archives, bundles and sequences without any signal processing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.bundle import Bundle, ModelSpec
from models.data.dataset import DatasetSpec, WindowSequence
from models.network import NetworkConfig, RecurrentNetwork
from models.scaling import Scaler
from models.settings import TrainSettings
from pipeline.config.tables import ModelConfig
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.machines import MachinesFile
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.schema import FeatureSchema

SCHEMA = FeatureSchema("test-1", ("rms", "kurtosis", "crest"), ("g", "1", "1"), ("a", "b", "c"), ("gap", "gap", "gap"))
START_NS = 1_704_067_200_000_000_000
SECOND_NS = 1_000_000_000
TIME = pa.timestamp("us", tz="UTC")


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Feature rows; what is not given is good, of one machine, 1 s long and 0.5 s after the one before."""
    full = []
    for number, row in enumerate(rows):
        start = row.pop("start_s", 0.5 * number)
        fixed = {"machine": "pump-01", "point": "de", "session": 1, "window": number, "quality": 0, "truth": "healthy"}
        full.append(
            fixed
            | {"start": round(start * 1e6), "end": round((start + 1) * 1e6), "schema": "test-1"}
            | {"x.rms": 1.0, "x.kurtosis": 3.0}
            | row
        )
    columns = {name: [row.get(name) for row in full] for name in dict.fromkeys(key for row in full for key in row)}
    kinds = {"start": TIME, "end": TIME, "session": pa.uint64(), "quality": pa.uint32(), "truth": pa.string()}
    types = {name: kinds.get(name, pa.float32() if "." in name else None) for name in columns}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def sequence(
    y: list[int], *, machine: str = "pump-01", x: np.ndarray | None = None, hop_s: float = 0.5
) -> WindowSequence:
    """Windows of 1 s in one stream."""
    count = len(y)
    start = START_NS + (np.arange(count) * hop_s * SECOND_NS).astype(np.int64)
    values = np.zeros((count, 1), np.float32) if x is None else x.astype(np.float32)
    return WindowSequence(
        StreamKey(machine, "de"), values, np.array(y, np.int64), start, start + SECOND_NS, np.ones(count, np.uint64)
    )


def dataset_spec(modes: tuple[str, ...], resolve: Callable[[str], str] = str, **changes: Any) -> DatasetSpec:
    """How rows become sequences, as a training does it unless told otherwise."""
    fields = {"max_gap_s": ModelConfig().max_gap_s, "inputs": TrainSettings().inputs, **changes}
    return DatasetSpec(modes, resolve, **fields)


def network_config(
    inputs: int, outputs: int, hidden: int, layers: int = 1, *rest: Any, **changes: Any
) -> NetworkConfig:
    """Sizes of a network; what is not given is that of a training."""
    given = dict(zip(("dropout", "cell"), rest, strict=False)) | changes
    usual = TrainSettings()
    return NetworkConfig(inputs, outputs, hidden, layers, **{"dropout": usual.dropout, "cell": usual.cell, **given})


def network_step(network: RecurrentNetwork, z: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One window of B sequences, as a predictor steps: z (B, F), h (L, B, S) -> outputs (B, O), h (L, B, S)."""
    outputs, h = network(z[:, None], h)
    return outputs[:, 0], h


def bundle(
    rng: np.random.Generator, *, features: int = 5, hidden: int = 7, layers: int = 1, classes: int = 3
) -> Bundle:
    """A model with random weights, wide enough that its outputs move."""
    spec = ModelSpec(
        version="v0001",
        classes=tuple(f"mode_{k}" for k in range(classes)),
        inputs=tuple(f"x.f{k}" for k in range(features)),
        feature_schema="test-1",
        window_length_s=1.0,
        window_hop_s=0.5,
        bandwidth_hz=5000.0,
        scaler=Scaler(
            "robust",
            rng.normal(0, 10, features).astype(np.float32),
            rng.uniform(0.1, 10, features).astype(np.float32),
        ),
        hidden=hidden,
        layers=layers,
        temperature=1.7,
        cell="gru",
        members=1,
        task="window",
    )
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    train = {"settings": {}, "epochs": 1, "split": None, "interrupted": False}
    return Bundle(spec, weights, {}, {"machines": []}, train, "# Model card {version}\n")


def archive_of_plant(
    data: Path, rng: np.random.Generator, *, machines: int = 6, windows: int = 24, modes: tuple[str, ...] = ()
) -> None:
    """An archive in which kurtosis and crest say the mode; half of the machines are healthy, half have a fault."""
    modes = modes or ("normal", "outer_race")
    rows, facts = [], dict[StreamKey, dict[str, Any]]()
    for number in range(machines):
        truth = modes[number % len(modes)]
        key = StreamKey(f"pump-{number:02d}", "de")
        facts[key] = {"specimen": f"bearing-{number}", "load_hp": number // len(modes)}
        level = 3.0 + 3.0 * (number % len(modes))
        for window in range(windows):
            start = START_NS + window * SECOND_NS // 2
            values = np.array([[1.0 + number, level, level + 1]]) + rng.normal(0, 0.4, (1, 3))
            rows.append(
                FeatureRow(
                    key, 1, window, start, start + SECOND_NS, 12e3, 1500.0, 1.0, 0, truth, ("x",),
                    values.astype(np.float32), SCHEMA.name,
                )
            )  # fmt: skip
    _archive(data, rows, facts)


def archive_of_lives(
    data: Path, rng: np.random.Generator, *, machines: int = 9, windows: int = 30, early: float = 2.0
) -> None:
    """Machines that are healthy, then have a damaged outer or inner race; a small sign tells `early` which."""
    rows, facts = [], dict[StreamKey, dict[str, Any]]()
    for number in range(machines):
        key, fault = StreamKey(f"pump-{number:02d}", "de"), number % 2
        facts[key] = {"specimen": f"bearing-{number}"}
        onset = int(rng.integers(windows // 3, 2 * windows // 3))
        for window in range(windows):
            start = START_NS + window * SECOND_NS // 2
            damaged = window >= onset
            sign = (2.0 if damaged else early) * (1 if fault else -1)
            values = np.array([[1.0, 3.0 + 4.0 * damaged, 4.0 + sign]]) + rng.normal(0, 0.2, (1, 3))
            truth = ("outer_race", "inner_race")[fault] if damaged else "normal"
            rows.append(
                FeatureRow(
                    key, 1, window, start, start + SECOND_NS, 12e3, 1500.0, 1.0, 0, truth, ("x",),
                    values.astype(np.float32), SCHEMA.name,
                )
            )  # fmt: skip
    _archive(data, rows, facts)


def _archive(data: Path, rows: list[FeatureRow], facts: dict[StreamKey, dict[str, Any]]) -> None:
    """Write half of the rows into Parquet and leave the others in the journal."""
    journal = Journal(data)
    try:
        archive = Archive(data, journal, SCHEMA)
        journal.commit(Commit(features=rows[: len(rows) // 2]))
        archive.roll()
        journal.commit(Commit(features=rows[len(rows) // 2 :]))  # these stay in the journal
    finally:
        journal.close()
    MachinesFile(data / "machines.jsonl").update_all(facts)
