"""Composition of an evaluation: which predictions are scored, and what is said beside the numbers.

    --split none    the version as it is, over everything in the directory; warns of machines it was trained on
    --split FIELD   its settings and schedule, trained again per fold: held-out predictions only. On the archive
                    and with the split that it was made from these are the numbers that `train` has printed

A version that says values is scored as what it is (models/evaluate_values.py).
With `--against` another version is scored on the same windows and classes, and the differences are shown.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import report
from models.alarm_replay import archived_tracks, settings_of, trade_off, trade_off_text
from models.bundle import Bundle
from models.dataset import Dataset, build, check_trainable, read, read_machines
from models.diagnosis import diagnose, evidence
from models.evaluate_values import evaluate_values
from models.events import Track
from models.predictor import NumpyPredictor
from models.prior import with_simulated
from models.registry import CHAMPION, Registry
from models.runlog import Pace
from models.scoring import run, score, train_data, trained_on
from models.settings import TrainSettings
from models.spec import VALUE_TASKS
from models.splits import make_split
from models.tasks import one_mode_per_sequence
from models.train import DEFAULT_SPLIT, alarm_spec, dataset_spec
from pipeline.config import Config
from pipeline.errors import ThrumcastError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """What is to be scored, and on what."""

    data_dir: Path
    config: Config
    version: str | None = None  # version or alias; None: champion, else the newest
    against: str | None = None
    split: str | None = None  # None: the one the version was trained with


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result, as JSON and as text."""

    document: dict[str, Any]
    text: str


def evaluate(request: EvaluateRequest, *, say: Say, warn: Say, status: Say | None = None) -> Evaluated:
    """Score a version, and another one beside it if asked.

    Raises:
        ModelError: no such version.
        SchemaError: the archive speaks another feature schema than the model.
        ThrumcastError: nothing in the archive can be scored.
    """
    registry = Registry(request.data_dir)
    models = [registry.load(name) for name in (request.version or _default(registry), request.against) if name]
    task = models[0].spec.task
    if models[-1].spec.task != task:
        said = f"{models[-1].spec.version} of the task {models[-1].spec.task}"
        msg = f"--against: expected another version of the task {task}, found: {said}"
        raise ThrumcastError(msg, hint="evaluate them one by one: their numbers are not of the same kind")
    if task in VALUE_TASKS:
        spec, at = dataset_spec(request.config, ""), (request.data_dir, request.split, DEFAULT_SPLIT)
        scored = [evaluate_values(model, spec, *at, say=say, warn=warn) for model in models]
        text = "\n\n".join(text for _, text in scored)
        document, *against = [document for document, _ in scored]
    else:
        text = ""
        document, *against = [_evaluate_one(model, request, say, warn, status) for model in models]
    if against:
        document["against"] = against[0]
    return Evaluated(document, text or report.evaluated_text(document))


def replay_alarms(request: EvaluateRequest, given: Sequence[str], *, say: Say, warn: Say) -> Evaluated:
    """Archived predictions of a version under the present and other alarm settings.

    Raises:
        ConfigError: a setting that cannot be.
        ModelError: no such version.
        ThrumcastError: nothing in the archive can be scored.
    """
    from pipeline.edges.archive_read import read_predictions

    started, config = time.monotonic(), request.config
    settings = settings_of(alarm_spec(config), given)
    registry = Registry(request.data_dir)
    model = registry.load(request.version or _default(registry))
    version, classes = model.spec.version, model.spec.classes
    spec = dataclasses.replace(dataset_spec(config, ""), exact_inputs=model.spec.inputs, exact_classes=classes)
    dataset = build(read(request.data_dir), spec)
    predictions = read_predictions(request.data_dir)
    tracks: list[Track] = []
    if all(f"p_{mode}" in predictions.column_names for mode in classes):
        tracks = archived_tracks(dataset, predictions, version, classes, config.model.warm_up_windows)
    source = "archived predictions"
    if not tracks:
        source = "its predictions now: it has none in the archive"
        warn(f"expected predictions of {version} in the archive, found none: it is stepped over the archived features")
        model.check_fits(dataset.feature_schema)
        stepped = run(NumpyPredictor(model), dataset.sequences)
        tracks = [track.after(config.model.warm_up_windows) for track in stepped]
    windows = sum(len(track.sequence) for track in tracks)
    say(f"{version}: {windows} windows of {len({track.sequence.key for track in tracks})} streams, {source}")
    rows = trade_off(tracks, classes, settings)
    document = {"version": version, "source": source, "windows": windows, "settings": rows}
    return Evaluated(document | {"seconds": round(time.monotonic() - started, 3)}, trade_off_text(rows))


def _default(registry: Registry) -> str:
    aliases, versions = registry.aliases(), registry.versions()
    return CHAMPION if CHAMPION in aliases or not versions else versions[-1]


def _evaluate_one(model: Bundle, request: EvaluateRequest, say: Say, warn: Say, status: Say | None) -> dict[str, Any]:
    started = time.monotonic()
    spec = dataclasses.replace(
        dataset_spec(request.config, ""), exact_inputs=model.spec.inputs, exact_classes=model.spec.classes
    )
    dataset = build(read(request.data_dir), spec)
    model.check_fits(dataset.feature_schema)
    say(f"{model.spec.version}\n{dataset.facts.text()}")
    if model.spec.task == "sequence":
        dataset = one_mode_per_sequence(dataset)
    if dataset.facts.used == 0:
        msg = f"expected windows with a truth that {model.spec.version} knows, found: none of {dataset.facts.windows}"
        raise ThrumcastError(msg, hint=f"it knows {', '.join(model.spec.classes)}")
    name = request.split or model.train["split"] or DEFAULT_SPLIT
    if name == "none":
        numbers, remarks = _as_it_is(model, dataset, request.config)
    else:
        numbers, remarks = _trained_again(model, dataset, request, name, say, status)
    for remark in remarks:
        warn(remark)
    found = diagnose(model, dataset.sequences, **evidence(model))
    for line in found.lines():
        warn(line)
    return {
        "version": model.spec.version,
        **numbers,
        "diagnosis": found.document(),
        "split": name,
        "remarks": remarks,
        "data": dataset.facts.document(),
        "train_data": train_data(model),
        "seconds": round(time.monotonic() - started, 3),
    }


def _as_it_is(model: Bundle, dataset: Dataset, config: Config) -> tuple[dict[str, Any], list[str]]:
    """Score the serving predictor; machines that it was trained on are named."""
    tracks = run(NumpyPredictor(model), dataset.sequences)
    numbers = score(tracks, dataset.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
    return numbers, trained_on(model, dataset.facts.machines)


def _trained_again(
    model: Bundle, dataset: Dataset, request: EvaluateRequest, name: str, say: Say, status: Say | None
) -> tuple[dict[str, Any], list[str]]:
    """Score the version's recipe on groups that it is not shown."""
    import torch

    from models.crossval import cross_validate

    torch.set_num_threads(1)
    config = request.config
    present = tuple(mode for mode, count in dataset.facts.windows_per_mode.items() if count)
    check_trainable(dataclasses.replace(dataset, classes=present))
    settings = TrainSettings.from_document(model.train["settings"])
    dataset = with_simulated(dataset, settings, say)
    facts = read_machines(request.data_dir)
    split = make_split(dataset.sequences, dataset.classes, facts, name, settings.folds)
    for number, fold in enumerate(split.folds, 1):
        say(f"fold {number}: held out {', '.join(fold.groups)}")
    held_out = cross_validate(
        dataset,
        split,
        settings,
        (lambda *_: None) if status is None else Pace(status, len(split.folds), settings.members),
        schedule_epochs=int(model.train["schedule_epochs"]),
    )
    if held_out is None or held_out.folds_done < len(split.folds):
        raise KeyboardInterrupt
    numbers = score(held_out.tracks, dataset.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
    return numbers, list(split.remarks)
