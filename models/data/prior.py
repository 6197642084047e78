"""Simulated machines that a network learns from beside the recorded ones.

A handful of recordings shows every failure mode on one or two machines, and a network learns those machines by heart:
their resonances, not their faults. models/simulated.parquet (written by benchmarks/studies/pretrain.py) holds the
windows of simulated machines of many designs. Their sequences join the training side of every fold and of the final
fit, and never a test side. `--set simulated=0` trains without them.
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
from pipeline.config.tables import ModelConfig, ModesConfig

PLACE = Path(__file__).parents[1] / "simulated.parquet"
CHANNEL = "x"  # the only channel of the file; it stands for every channel of the archive


def keep(table: pa.Table) -> None:
    """Write the windows of simulated machines that ship with the package."""
    columns = [name for name in table.column_names if "." not in name or name.startswith(f"{CHANNEL}.")]
    pq.write_table(
        table.select(columns),
        PLACE,
        compression="zstd",
        use_dictionary=["machine", "point", "truth", "schema"],
        column_encoding={name: "BYTE_STREAM_SPLIT" for name in columns if "." in name},
    )


def with_simulated(dataset: Dataset, settings: TrainSettings, say: Callable[[str], None]) -> Dataset:
    """Return the dataset with simulated sequences of its classes as `prior`.

    The dataset comes back unchanged when no simulated machines are wanted, or when they do not fit; `say` is told why.
    """
    if settings.simulated <= 0 or settings.task != "window":
        return dataset
    if not PLACE.exists():
        say(f"simulated machines are left out: {PLACE.name} is missing from this installation")
        return dataset
    table = pq.read_table(PLACE)
    schema = table["schema"][0].as_py()
    if schema != dataset.feature_schema:
        theirs = f"their feature schema is {schema}, that of the archive {dataset.feature_schema}"
        say(f"simulated machines are left out: {theirs}")
        return dataset
    modes = ModesConfig()
    spec = DatasetSpec(
        modes.names,
        modes.resolve,
        ModelConfig().max_gap_s,
        settings.inputs,
        exact_inputs=_columns(dataset.inputs),
        exact_classes=dataset.classes,
    )
    simulated = build(table, spec).sequences
    known = [s for s in simulated if (s.y != UNKNOWN).any()]
    chosen = np.random.default_rng(settings.seed).permutation(len(known))[: round(settings.simulated * len(known))]
    say(f"simulated machines beside the data: {len(chosen)} sequences")
    return replace(dataset, prior=tuple(known[i] for i in np.sort(chosen)))


def _columns(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the column of the file that stands for each input: the same feature of the one channel."""
    return tuple(f"{CHANNEL}.{name.rpartition('.')[2]}" for name in inputs)
