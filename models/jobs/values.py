"""Training and evaluation of real-valued output: `--set task=next` and `--set task=life`.

A version that says values gets the alias of its task. It is never champion or challenger, because it names no failure
mode.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle, ModelSpec
from models.data.dataset import Dataset, DatasetSpec, provenance, read, read_machines
from models.data.tasks import Targets
from models.evaluation.scoring import step_through, train_data, trained_on
from models.jobs.registration import only_training, packages, register, summary
from models.jobs.train import DEFAULT_SPLIT, Say, TrainRequest, TrainResult, dataset_spec
from models.predictor import ValuePredictor
from models.settings import TrainSettings
from models.training.checkpoint import Pace, RunLog
from models.training.values import (
    HeldOutValues,
    ValueData,
    ValueModel,
    fit_values,
    held_out_values,
    pooled,
    value_data,
    value_metrics,
    values_text,
)
from pipeline.config.tables import Config

CHANGE = "change of "  # a target that begins so is added to the present value; versions without it say values
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
{remarks}* Says nothing about machines unlike the ones above, and does not say how sure it is.
"""


def train_values(request: TrainRequest, *, say: Say, warn: Say, status: Say | None = None) -> TrainResult:
    """Train a version that says values.

    Raises:
        ThrumcastError: there is nothing to learn from, or another training is running.
        ModelError: what came out does not work; nothing is registered.
    """
    with only_training(request.data_dir):
        return _trained(request, say, warn, status)


def _trained(request: TrainRequest, say: Say, warn: Say, status: Say | None) -> TrainResult:
    started = time.monotonic()
    torch.set_num_threads(1)
    config, settings = request.config, request.settings
    trial = asked_data(request, say)
    dataset, sequences, targets = trial.dataset, trial.sequences, trial.targets
    run = request.data_dir / "runs" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    run.mkdir(parents=True, exist_ok=True)
    held_out = HeldOutValues("none", {}, ("nothing was held back",))
    pace = None if status is None else Pace(status, settings.folds, settings.members)
    with (run / "metrics.jsonl").open("w") as log:
        watch = RunLog(log, say, settings.folds, pace=pace)
        if request.split != "none":
            facts = read_machines(request.source)
            held_out = held_out_values(trial, settings, facts, request.split, DEFAULT_SPLIT, watch, warn)
        model = fit_values(sequences, dataset.inputs, settings, watch, None)
    seconds = time.monotonic() - started
    numbers, split, machines, windows = held_out.numbers, held_out.split, trial.machines, trial.windows
    text = values_text(settings.task, numbers) if numbers else "nothing was held back: there are no honest numbers"
    data = {**dataset.facts.document(), "machines": machines, "used": windows, "remarks": list(held_out.remarks)}
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
    card = _CARD.format(
        what=what,
        machines=len(machines),
        windows=windows,
        split=split,
        numbers=text,
        remarks="".join(f"* {remark}\n" for remark in held_out.remarks),
    )
    bundle = Bundle(
        _spec(dataset, config, settings, model, targets), model.weights(), {"values": numbers}, data, train, card
    )
    return _register(request.data_dir, bundle, text, say)


def asked_data(request: TrainRequest, say: Say) -> ValueData:
    """Read what is asked for; its facts are said before anything is computed.

    Raises:
        ThrumcastError: there is nothing to learn from.
    """
    settings, facts = request.settings, read_machines(request.source)
    table = read(request.source, request.start, request.end)
    data = value_data(
        table, dataset_spec(request.config, settings.inputs), settings.task, facts, targets=settings.targets
    )
    say(data.dataset.facts.text())
    say(data.text())
    return data


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
        temperature=1.0,  # values have none
        cell=settings.cell,
        members=len(model.networks),
        task=settings.task,
        targets=tuple(
            f"{CHANGE if model.changes else ''}{name} [{unit}]"
            for name, unit in zip(targets.names, targets.units, strict=True)
        ),
        target_scaler=model.target_scaler,
    )


def _register(data_dir: Path, bundle: Bundle, text: str, say: Say) -> TrainResult:
    task = bundle.spec.task
    _, version = register(data_dir, bundle, task)
    document = {**summary(bundle, version, [task]), "task": task, "targets": list(bundle.spec.targets)}
    say(f"{version} says values, not failure modes: it does not serve")
    return TrainResult(version, document, f"held out by {bundle.train['split']}\n{text}\n\n{version}: {task}")


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
    started, facts = time.monotonic(), read_machines(data_dir)
    torch.set_num_threads(1)
    names = tuple(target.removeprefix(CHANGE).rpartition(" [")[0] for target in model.spec.targets)
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
    """Step the version through everything. The naive guesses use the means of the very windows that are scored."""
    said = step_through(ValuePredictor(model), [each.windows for each in data.sequences], len(model.spec.targets))
    changes = all(target.startswith(CHANGE) for target in model.spec.targets)
    values = [
        (one + each.now if changes else one).astype(np.float32) for one, each in zip(said, data.sequences, strict=True)
    ]
    sums = value_metrics(model.spec.task, data.targets, data.sequences, data.sequences, values)
    return HeldOutValues("none", pooled([sums], data.targets), tuple(trained_on(model, data.machines)))
