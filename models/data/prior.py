"""Simulated machines beside the recorded ones: what a network should know before it sees a few real bearings.

A handful of recordings shows every failure mode on one or two machines, and a network learns those machines by heart:
their resonances, not their faults. models/simulated.parquet (written by benchmarks/studies/pretrain.py) holds the windows of
simulated machines of many make-ups. Their sequences join the training side of every fold and of the final fit, never
a test side. `--set simulated=0` does without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.data.dataset import UNKNOWN, Dataset, DatasetSpec, build
from models.settings import TrainSettings
from pipeline.config.tables import ModesConfig

PLACE = Path(__file__).resolve().parents[1] / "simulated.parquet"
CHANNEL = "x"  # the file has one channel; it stands in for any


def keep(table: pa.Table) -> None:
    """Write the windows of simulated machines that ship with the package."""
    channel = [name for name in table.column_names if "." not in name or name.startswith(f"{CHANNEL}.")]
    pq.write_table(
        table.select(channel),
        PLACE,
        compression="zstd",
        use_dictionary=["machine", "point", "truth", "schema"],
        column_encoding={name: "BYTE_STREAM_SPLIT" for name in channel if "." in name},
    )


def with_simulated(dataset: Dataset, settings: TrainSettings, say: Callable[[str], None]) -> Dataset:
    """The data set with simulated sequences of its classes as `prior`, or as it is where they do not fit."""
    if settings.simulated <= 0 or settings.task != "window" or not PLACE.exists():
        return dataset
    table = pq.read_table(PLACE)
    schema = table["schema"][0].as_py()
    if schema != dataset.feature_schema:
        say(f"simulated machines are left out: they speak {schema}, the archive {dataset.feature_schema}")
        return dataset
    modes = ModesConfig()
    spec = DatasetSpec(modes.names, modes.resolve, exact_inputs=_columns(dataset.inputs), exact_classes=dataset.classes)
    simulated = build(table, spec).sequences
    known = [s for s in simulated if (s.y != UNKNOWN).any()]
    chosen = np.random.default_rng(settings.seed).permutation(len(known))[: round(settings.simulated * len(known))]
    say(f"simulated machines beside the data: {len(chosen)} sequences")
    return replace(dataset, prior=tuple(known[i] for i in np.sort(chosen)))


def _columns(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Which column of the file stands in for each input: the same feature of the one channel."""
    return tuple(f"{CHANNEL}.{name.rpartition('.')[2]}" for name in inputs)
