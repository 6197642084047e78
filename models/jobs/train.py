"""Training of a version: archive -> dataset -> folds -> numbers -> final fit -> registry.

    1  facts about the data, before anything is computed
    2  grouped cross-validation: honest metrics, number of passes, temperature      (models/training/folds.py)
    3  a final fit on everything, for that number of passes; a decoder for forecasts on top if wanted
    4  diagnosis, self-test, new registry version, alias `challenger`; `champion` too when there is none yet

Ctrl-C keeps what is learned: during 2 the finished folds count and 3 follows, during 3 the last whole pass is kept. An
interrupted training never becomes champion by itself. `--resume` continues it and gives the weights that it would have
given.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle, ModelSpec
from models.cells import DIRECT
from models.data.dataset import Dataset, DatasetSpec, build, check_trainable, provenance, read, read_machines
from models.data.prior import with_simulated
from models.data.splits import Split, split_or_by_time
from models.data.tasks import one_mode_per_sequence
from models.evaluation import card, plots, report
from models.evaluation.diagnosis import diagnose, evidence
from models.evaluation.events import fault_outcomes
from models.evaluation.scoring import score
from models.jobs.registration import only_training, packages, reference_document, register, summary
from models.registry import CHALLENGER, CHAMPION
from models.settings import TrainSettings
from models.training.checkpoint import Checkpoints, Pace, RunLog, fingerprint
from models.training.folds import (
    AimChoice,
    CrossValidation,
    FinalModel,
    choose_aim,
    data_for_aim,
    final_fit,
    leaky_validation,
)
from models.training.forecast import check_foreseeable, with_forecast
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config
from pipeline.edges.store.snapshot import SNAPSHOTS_NAME
from pipeline.errors import ThrumcastError

DEFAULT_SPLIT = "specimen"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What is to be trained, and from what."""

    data_dir: Path
    config: Config
    settings: TrainSettings
    split: str | None = None  # None: by specimen, by time where that cannot be
    start: datetime | None = None
    end: datetime | None = None
    command: str = ""  # as typed, for train.json
    leaky: bool = False  # also score a split that leaks, beside the honest one
    resume: str | None = None  # a run of this data directory, or `last`
    snapshot: str | None = None  # learn from this snapshot of the data directory; None: from what it holds now

    @property
    def source(self) -> Path:
        """Where features, labels and facts are read."""
        return self.data_dir if self.snapshot is None else self.data_dir / SNAPSHOTS_NAME / self.snapshot


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The new version, and what to print of it."""

    version: str
    document: dict[str, Any]
    text: str


def train(request: TrainRequest, *, say: Say, warn: Say, status: Say | None = None) -> TrainResult:
    """Train a new version of the registry of a data directory.

    Raises:
        ThrumcastError: there is nothing to learn from, or another training is running.
        ModelError: what came out does not work; nothing is registered.
    """
    with only_training(request.data_dir):
        return _trained(request, say, warn, status)


def _trained(request: TrainRequest, say: Say, warn: Say, status: Say | None) -> TrainResult:
    started = time.monotonic()
    torch.set_num_threads(1)  # the service may share this machine, and one thread always gives the same sums
    request = _of_resumed_run(request)
    config, settings = request.config, request.settings
    dataset = asked_data(request, say)
    check_foreseeable(dataset.sequences, read_machines(request.source), settings.forecast)
    split = choose_split(dataset, request, warn)
    run = run_directory(request)
    checkpoints = Checkpoints(run)
    checkpoints.begin({"settings": settings.document(), "split": split and split.name, "data": fingerprint(dataset)})
    leaky = None
    with (run / "metrics.jsonl").open("a") as log:
        folds = 0 if split is None else len(split.folds)
        watch = RunLog(log, say, folds, pace=None if status is None else Pace(status, folds, settings.members))
        aimed = AimChoice(None, *data_for_aim(dataset, settings))
        if split is not None:
            aimed = choose_aim(dataset, split, settings, watch, say=say, checkpoints=checkpoints)
        held_out, dataset, settings = aimed.held_out, aimed.dataset, aimed.settings
        interrupted = aimed.interrupted
        if interrupted:
            warn("interrupted: the remaining folds are left out, the final fit follows (Ctrl-C again to cut it short)")
        elif request.leaky and held_out is not None:
            leaky = leaky_validation(dataset, settings, held_out, dataclasses.replace(watch, split="leaky"), warn)
        model = final_fit(dataset, settings, held_out, watch, checkpoints)
    metrics = {} if held_out is None else _metrics(held_out, dataset, config, settings.task)
    if leaky is not None:
        metrics["leaky"] = _metrics(leaky, dataset, config, settings.task)
        metrics["leaky"] |= {"folds_done": leaky.folds_done, "folds": leaky.folds}
    interrupted = interrupted or model.cut_short
    seconds = time.monotonic() - started
    train_document = {
        "command": request.command,
        "settings": settings.document(),
        "epochs": model.epochs,
        "schedule_epochs": model.schedule_epochs,
        "split": None if split is None else split.name,
        "interrupted": interrupted,
        "seconds": round(seconds, 3),
        "run": run.name,
        "losses": [round(loss, 5) if np.isfinite(loss) else None for loss in model.losses],
        "largest_gradient": model.largest_gradient if np.isfinite(model.largest_gradient) else None,
        "packages": packages(),
    }
    remarks = ["nothing was held back"] if split is None else list(split.remarks)
    data_document = {**dataset.facts.document(), "feature_schema": dataset.feature_schema, "remarks": remarks}
    data_document |= provenance(request.source)
    data_document |= reference_document(dataset, split, model.scaler, say)
    spec = _spec(dataset, config, settings, model, 1.0 if held_out is None else held_out.temperature)
    bundle = Bundle(spec, model.weights, metrics, data_document, train_document, "")
    if settings.forecast:
        say(f"forecast: {settings.forecast} modes ahead, on the states of the network")
        try:
            bundle = with_forecast(bundle, dataset, settings, read_machines(request.source), split, held_out, warn)
        except KeyboardInterrupt:
            interrupted = train_document["interrupted"] = True
            warn("interrupted: the version makes no forecast; --resume trains it")
    found = diagnose(bundle, dataset.sequences, **evidence(bundle))
    bundle.train["diagnosis"] = found.document()
    for line in found.lines():
        warn(line)
    trained = _register(request, bundle, _pictures(run, bundle, held_out, config, say), seconds, say, warn)
    if not interrupted:
        checkpoints.clear()
    return trained


def asked_data(request: TrainRequest, say: Say) -> Dataset:
    """Read the data of a request and turn it into what its task is trained on.

    Raises:
        ThrumcastError: there is nothing to learn from.
    """
    settings = request.settings
    rows = read(request.source, request.start, request.end)
    dataset = build(rows, dataset_spec(request.config, settings.inputs))
    say(dataset.facts.text())
    check_trainable(dataset)
    dataset = with_simulated(dataset, settings, say)
    if settings.task == "sequence":
        dataset = one_mode_per_sequence(dataset)
        say(f"one mode per sequence: {len(dataset.sequences)} sequences")
    return dataset


def run_directory(request: TrainRequest) -> Path:
    """Return a new run, or the one that is to be resumed.

    Raises:
        ThrumcastError: there is no such run.
    """
    runs = request.data_dir / "runs"
    if request.resume is None:
        return runs / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    there = sorted(path.parent.name for path in runs.glob("*/run.json"))
    name = there[-1] if request.resume == "last" and there else request.resume
    if name not in there:
        msg = f"--resume: expected a run of {runs}, found: {request.resume} ({len(there)} are there)"
        raise ThrumcastError(msg, hint="leave --resume out to train from the beginning")
    return runs / name


def _of_resumed_run(request: TrainRequest) -> TrainRequest:
    """Return the request with the settings and the split of the resumed run, where none are given."""
    if request.resume is None:
        return request
    begun = json.loads((run_directory(request) / "run.json").read_text())
    plain = request.settings == TrainSettings()
    settings = TrainSettings.from_document(begun["settings"]) if plain else request.settings
    return dataclasses.replace(request, settings=settings, split=request.split or begun["split"] or "none")


def _pictures(
    run: Path, bundle: Bundle, held_out: CrossValidation | None, config: Config, say: Say
) -> dict[str, bytes]:
    """Draw the pictures that there are numbers for."""
    if not plots.available():
        say("no pictures: they need matplotlib (pip install 'thrumcast[plots]')")
        return {}
    tracks, classes = () if held_out is None else held_out.tracks, bundle.spec.classes
    timed = tracks if bundle.spec.task == "window" else ()
    outcomes = fault_outcomes(timed, classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
    with tempfile.TemporaryDirectory() as there:
        made = plots.draw(Path(there), run / "metrics.jsonl", bundle.metrics, tracks, outcomes)
        say(f"pictures: {', '.join(path.name for path in made)}")
        return {path.name: path.read_bytes() for path in made}


def dataset_spec(config: Config, inputs: str) -> DatasetSpec:
    """Turn the configuration into how rows become sequences."""
    return DatasetSpec(config.modes.names, config.modes.resolve, config.model.max_gap_s, inputs)


def choose_split(dataset: Dataset, request: TrainRequest, warn: Say) -> Split | None:
    """Return the split of the request: by default by specimen, or by time where there is only one; None for `none`."""
    if request.split == "none":
        warn("split none: nothing is held back, so there are no honest numbers")
        return None
    facts, folds = read_machines(request.source), request.settings.folds
    return split_or_by_time(dataset.sequences, dataset.classes, facts, request.split, DEFAULT_SPLIT, folds, warn)


def _metrics(held_out: CrossValidation, dataset: Dataset, config: Config, task: str) -> dict[str, Any]:
    warm_up = config.model.warm_up_windows
    numbers = score(held_out.tracks, dataset.classes, alarm_spec(config), warm_up_windows=warm_up, task=task)
    return {**numbers, "likelihood": [list(pair) for pair in held_out.likelihood]}


def _spec(
    dataset: Dataset, config: Config, settings: TrainSettings, model: FinalModel, temperature: float
) -> ModelSpec:
    return ModelSpec(
        version="v0000",  # the registry names it
        classes=dataset.classes,
        inputs=dataset.inputs,
        feature_schema=dataset.feature_schema,
        window_length_s=config.window.length_s,
        window_hop_s=config.window.hop_s,
        bandwidth_hz=config.features.bandwidth_hz,
        scaler=model.scaler,
        hidden=settings.hidden,
        layers=settings.layers,
        temperature=temperature,
        cell=settings.cell,
        members=model.members,
        task=settings.task,
        direct=DIRECT in model.weights,
    )


def _register(
    request: TrainRequest, bundle: Bundle, pictures: dict[str, bytes], seconds: float, say: Say, warn: Say
) -> TrainResult:
    registry, version = register(request.data_dir, card.with_card(bundle), CHALLENGER, pictures)
    aliases = [CHALLENGER]
    if CHAMPION not in registry.aliases() and not bundle.train["interrupted"]:
        registry.point(CHAMPION, version, why="the first version")
        aliases.append(CHAMPION)
        say(f"{version} is champion too: there was none")
    elif bundle.train["interrupted"]:
        warn(f"{version} comes from an interrupted training")
    document = {
        **summary(bundle, version, aliases),
        "classes": list(bundle.spec.classes),
        "skipped": bundle.data["ignored"],
        "data": bundle.data,
        "temperature": bundle.spec.temperature,
        "diagnosis": bundle.train["diagnosis"],
        "windows_per_s": round(bundle.data["used"] / max(seconds, 1e-9), 1),
    }
    return TrainResult(version, document, report.trained_text(document))
