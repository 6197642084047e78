"""What a model of values is tried on: the sequences with their targets, and errors on machines that are held back.

The same for `train`, `train --compare` and `evaluate`, so that they say the same of the same data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models.data.dataset import Dataset, DatasetSpec, build
from models.data.splits import Facts, Fold, make_split
from models.data.tasks import Targets, ValueSequence, as_one_class, next_values, remaining_life
from models.settings import TrainSettings
from models.training.folds import Watch
from models.training.values import fit_values, pooled, value_metrics
from pipeline.errors import ThrumcastError


@dataclass(frozen=True, slots=True, eq=False)
class ValueData:
    """The data of a model of values."""

    dataset: Dataset
    sequences: list[ValueSequence]
    targets: Targets

    @property
    def windows(self) -> int:
        """Windows with a value to learn from."""
        return sum(int(np.isfinite(each.target).any(axis=1).sum()) for each in self.sequences)

    @property
    def machines(self) -> list[str]:
        """Machines that have any of them."""
        return sorted({each.windows.key.machine for each in self.sequences})

    def text(self) -> str:
        """One line for the terminal."""
        return f"values:  {', '.join(self.targets.names)}; {self.windows} windows of {len(self.sequences)} sequences"


def value_data(
    table: pa.Table,
    spec: DatasetSpec,
    task: str,
    facts: Facts,
    *,
    targets: str = "",
    exact_targets: tuple[str, ...] | None = None,
) -> ValueData:
    """Make the sequences and targets of a task of values.

    Args:
        table: rows of a feature archive.
        spec: how they become sequences.
        task: next or life.
        facts: machines.jsonl.
        targets: next: features or columns to foretell; empty for the inputs.
        exact_targets: next: the columns of a model that is there already.

    Raises:
        ThrumcastError: there is nothing to learn from.
    """
    dataset = build(table, spec)
    if task == "life":
        return ValueData(dataset, *remaining_life(dataset, facts))
    asked = dataclasses.replace(spec, inputs=targets or spec.inputs, exact_inputs=exact_targets)
    return ValueData(dataset, *next_values(dataset, build(table, asked)))


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutValues:
    """Errors on what was held back, and how it was."""

    split: str
    numbers: dict[str, Any]
    remarks: tuple[str, ...]


def held_out_values(
    data: ValueData,
    settings: TrainSettings,
    facts: Facts,
    field: str | None,
    default: str,
    watch: Watch,
    warn: Callable[[str], None],
) -> HeldOutValues:
    """Errors on machines that were held back, pooled over the folds.

    Without a `field` it is split by `default`, or by time where there is one machine only. `warn` is told what is
    to be said about the split.
    """
    dealt = as_one_class(data.sequences)
    try:
        split = make_split(dealt, ("any",), facts, field or default, settings.folds)
    except ThrumcastError as error:
        if field is not None:
            raise
        warn(f"{error.message}; splitting by time instead")
        split = make_split(dealt, ("any",), facts, "time", settings.folds)
    for remark in split.remarks:
        warn(remark)
    sums = []
    for number, fold in enumerate(split.folds):
        train, test = _sides(fold, data.sequences)
        model = fit_values(train, data.dataset.inputs, settings, watch, number)
        if model.cut_short:
            raise KeyboardInterrupt
        sums.append(value_metrics(settings.task, data.targets, train, test, model.predict(test)))
    return HeldOutValues(split.name, pooled(sums, data.targets), split.remarks)


def _sides(fold: Fold, sequences: Sequence[ValueSequence]) -> tuple[list[ValueSequence], list[ValueSequence]]:
    """Values of the windows of either side; a piece of a sequence keeps the values of its windows."""
    whole = {(each.windows.key, int(start)): (each, t) for each in sequences
             for t, start in enumerate(each.windows.start_ns)}  # fmt: skip
    sides: list[list[ValueSequence]] = []
    for side in (fold.train, fold.test):
        made = []
        for part in side:
            each, first = whole[part.key, int(part.start_ns[0])]
            last = first + len(part)
            target = each.target[first:last].copy()
            if side is fold.train and last < len(each.windows):
                target[-1] = np.nan  # its value is that of a window beyond the cut
            made.append(ValueSequence(part, target, each.now[first:last]))
        sides.append(made)
    return sides[0], sides[1]
