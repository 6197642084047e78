"""The part of an evaluation that is about values: a version of `task=next` or `task=life` is scored as what it says."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.data.dataset import DatasetSpec, read, read_machines
from models.evaluation.scoring import step_through, train_data, trained_on
from models.predictor import ValuePredictor
from models.settings import TrainSettings
from models.training.values import (
    HeldOutValues,
    ValueData,
    held_out_values,
    pooled,
    value_data,
    value_metrics,
    values_text,
)

Say = Callable[[str], None]


def evaluate_values(
    model: Bundle, spec: DatasetSpec, data_dir: Path, field: str | None, default: str, *, say: Say, warn: Say
) -> tuple[dict[str, Any], str]:
    """Score a version that says values; return the document and the text.

    Args:
        model: the version.
        spec: how rows become sequences.
        data_dir: where features and facts are read.
        field: what is held back, `none`, or None for what the version was held out by.
        default: the split of versions that had none.
        say: progress.
        warn: what is to be known of the numbers.

    Raises:
        SchemaError: the archive speaks another feature schema than the model.
        ThrumcastError: nothing in the archive can be scored.
    """
    import torch

    started, facts = time.monotonic(), read_machines(data_dir)
    torch.set_num_threads(1)
    names = tuple(target.rpartition(" [")[0] for target in model.spec.targets)
    exact = dataclasses.replace(spec, exact_inputs=model.spec.inputs)
    data = value_data(read(data_dir), exact, model.spec.task, facts, exact_targets=names)
    model.check_fits(data.dataset.feature_schema)
    say(f"{model.spec.version}\n{data.dataset.facts.text()}\n{data.text()}")
    field = field or model.train["split"]
    if field == "none":
        found = _as_it_is(model, data)
        for remark in found.remarks:
            warn(remark)
    else:
        settings = TrainSettings.from_document(model.train["settings"])
        found = held_out_values(data, settings, facts, field, default, lambda *_: None, warn)
    seconds = round(time.monotonic() - started, 3)
    document = {
        "version": model.spec.version,
        "task": model.spec.task,
        "targets": list(model.spec.targets),
        "windows": data.windows,
        "values": found.numbers,
        "split": found.split,
        "remarks": list(found.remarks),
        "data": data.dataset.facts.document(),
        "train_data": train_data(model),
        "seconds": seconds,
    }
    how = "everything in the directory" if field == "none" else f"trained again, held out by {found.split}"
    text = f"{model.spec.version}: {how}, {seconds:.1f} s\n{values_text(model.spec.task, found.numbers)}"
    return document, text


def _as_it_is(model: Bundle, data: ValueData) -> HeldOutValues:
    """Step the version through everything; the naive guesses know the means of what is scored."""
    said = step_through(ValuePredictor(model), [each.windows for each in data.sequences], len(model.spec.targets))
    values = [each.astype(np.float32) for each in said]
    sums = value_metrics(model.spec.task, data.targets, data.sequences, data.sequences, values)
    return HeldOutValues("none", pooled([sums], data.targets), tuple(trained_on(model, data.machines)))
