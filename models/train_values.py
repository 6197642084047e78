"""Composition of a training of real-valued output: `--set task=next` or `--set task=life`.

The version gets the alias of its task; it is never champion or challenger, because it says no failure mode.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle
from models.dataset import Dataset, build, provenance, read, read_machines
from models.registering import register, summary
from models.runlog import RunLog
from models.settings import TrainSettings
from models.spec import ModelSpec
from models.splits import Fold, make_split
from models.tasks import Targets, ValueSequence, as_one_class, next_values, remaining_life
from models.train import DEFAULT_SPLIT, Say, Trained, TrainRequest, dataset_spec, packages
from models.values import ValueModel, fit_values, pooled, value_metrics, values_text
from pipeline.config import Config
from pipeline.errors import ThrumcastError

_CARD = """# Model card {{version}}

## Intended use
Says for every window of vibration: {what}. It says no failure mode and cannot serve as champion.

## Data
{machines} machines, {windows} windows with a value to learn from.

## Numbers
Held out by {split}, in units:

```
{numbers}
```

## Limits
* Says nothing about machines unlike the ones above, and does not say how sure it is.
"""


def train_values(request: TrainRequest, *, say: Say, warn: Say) -> Trained:
    """Train a version that says values.

    Raises:
        ThrumcastError: there is nothing to learn from.
        ModelError: what came out does not work; nothing is registered.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    config, settings = request.config, request.settings
    table = read(request.source, request.start, request.end)
    spec = dataset_spec(config, settings.inputs)
    dataset = build(table, spec)
    say(dataset.facts.text())
    if settings.task == "next":
        chosen = build(table, dataclasses.replace(spec, inputs=settings.targets or settings.inputs))
        sequences, targets = next_values(dataset, chosen)
    else:
        sequences, targets = remaining_life(dataset, read_machines(request.source))
    windows = sum(int(np.isfinite(each.target).any(axis=1).sum()) for each in sequences)
    say(f"values:  {', '.join(targets.names)}; {windows} windows of {len(sequences)} sequences")
    run = request.data_dir / "runs" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    run.mkdir(parents=True, exist_ok=True)
    split, numbers = "none", dict[str, Any]()
    with (run / "metrics.jsonl").open("w") as log:
        if request.split != "none":
            split, numbers = _held_out(request, dataset, sequences, targets, RunLog(log, say, settings.folds), warn)
        model = fit_values(sequences, dataset.inputs, settings, RunLog(log, say, 0), None)
    seconds = time.monotonic() - started
    text = values_text(settings.task, numbers) if numbers else "nothing was held back: there are no honest numbers"
    machines = sorted({each.windows.key.machine for each in sequences})
    data = {**dataset.facts.document(), "machines": machines, "used": windows, "remarks": []}
    data |= provenance(request.source)
    train = {
        "command": request.command,
        "settings": settings.document(),
        "epochs": model.epochs,
        "schedule_epochs": model.epochs,
        "split": split,
        "interrupted": model.cut_short,
        "seconds": round(seconds, 3),
        "run": run.name,
        "packages": packages(),
    }
    what = ", ".join(f"{name} [{unit}]" for name, unit in zip(targets.names, targets.units, strict=True))
    card = _CARD.format(what=what, machines=len(machines), windows=windows, split=split, numbers=text)
    bundle = Bundle(
        _spec(dataset, config, settings, model, targets), model.weights(), {"values": numbers}, data, train, card
    )
    return _register(request.data_dir, bundle, text, say)


def _held_out(
    request: TrainRequest,
    dataset: Dataset,
    sequences: list[ValueSequence],
    targets: Targets,
    watch: RunLog,
    warn: Say,
) -> tuple[str, dict[str, Any]]:
    """Errors on machines that were held back, pooled over the folds; by time where there is one machine only."""
    facts, settings = read_machines(request.source), request.settings
    dealt = as_one_class(sequences)
    try:
        split = make_split(dealt, ("any",), facts, request.split or DEFAULT_SPLIT, settings.folds)
    except ThrumcastError as error:
        if request.split is not None:
            raise
        warn(f"{error.message}; splitting by time instead")
        split = make_split(dealt, ("any",), facts, "time", settings.folds)
    sums = []
    for number, fold in enumerate(split.folds):
        train, test = _sides(fold, sequences)
        model = fit_values(train, dataset.inputs, settings, watch, number)
        if model.cut_short:
            raise KeyboardInterrupt
        sums.append(value_metrics(settings.task, targets, train, test, model.predict(test)))
    return split.name, pooled(sums, targets)


def _sides(fold: Fold, sequences: list[ValueSequence]) -> tuple[list[ValueSequence], list[ValueSequence]]:
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


def _spec(dataset: Dataset, config: Config, settings: TrainSettings, model: ValueModel, targets: Targets) -> ModelSpec:
    return ModelSpec(
        version="v0000",  # the registry names it
        classes=(),
        inputs=dataset.inputs,
        feature_schema=dataset.feature_schema,
        window_length_s=config.window.length_s,
        window_hop_s=config.window.hop_s,
        bandwidth_hz=config.features.bandwidth_hz,
        scaler=model.scaler,
        hidden=settings.hidden,
        layers=settings.layers,
        cell=settings.cell,
        members=len(model.networks),
        task=settings.task,
        targets=tuple(f"{name} [{unit}]" for name, unit in zip(targets.names, targets.units, strict=True)),
        target_scaler=model.target_scaler,
    )


def _register(data_dir: Path, bundle: Bundle, text: str, say: Say) -> Trained:
    task = bundle.spec.task
    _, version = register(data_dir, bundle, task)
    document = {**summary(bundle, version, [task]), "task": task, "targets": list(bundle.spec.targets)}
    say(f"{version} says values, not failure modes: it does not serve")
    return Trained(version, document, f"held out by {bundle.train['split']}\n{text}\n\n{version}: {task}")
