"""Composition of a training of real-valued output: `--set task=next` or `--set task=life`.

The version gets the alias of its task; it is never champion or challenger, because it says no failure mode.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from models.bundle import Bundle, ModelSpec
from models.data.dataset import Dataset, provenance, read, read_machines
from models.data.tasks import Targets
from models.jobs.registration import packages, register, summary
from models.jobs.train import DEFAULT_SPLIT, Say, Trained, TrainRequest, dataset_spec
from models.settings import TrainSettings
from models.training.runlog import Pace, RunLog
from models.training.values import (
    HeldOutValues,
    ValueData,
    ValueModel,
    fit_values,
    held_out_values,
    value_data,
    values_text,
)
from pipeline.config.tables import Config

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


def train_values(request: TrainRequest, *, say: Say, warn: Say, status: Say | None = None) -> Trained:
    """Train a version that says values.

    Raises:
        ThrumcastError: there is nothing to learn from.
        ModelError: what came out does not work; nothing is registered.
    """
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
