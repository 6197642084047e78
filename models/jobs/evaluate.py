"""Evaluation of a version: which predictions are scored, and the remarks beside the numbers.

    --split none    the version as it is, over everything in the directory, with `unknown` and zones under the alarms
                    as in service (models/evaluation/scoring.py); warns about machines it was trained on
    --split FIELD   its settings and schedule, trained again per fold: held-out predictions only. On the archive and
                    with the split of its training these are the numbers that `train` printed. The alarms are those of
                    the network alone, because a fold has no detector of its own

A version of real numbers is scored as such (models/jobs/values.py). With `--against` another version is scored on the
same windows and classes, and the differences are shown.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.bundle import VALUE_TASKS, Bundle
from models.data.dataset import Dataset, build, check_trainable, read, read_machines
from models.data.prior import with_simulated
from models.data.splits import make_split
from models.data.tasks import one_mode_per_sequence
from models.evaluation import report
from models.evaluation.alarm_replay import archived_tracks, settings_of, trade_off, trade_off_text
from models.evaluation.diagnosis import diagnose, evidence
from models.evaluation.events import Track
from models.evaluation.scoring import FLOOR_FEATURES, Zones, as_served, run, score, train_data, trained_on, zones_of
from models.jobs.train import DEFAULT_SPLIT, dataset_spec
from models.jobs.values import evaluate_values
from models.predictor import NumpyPredictor
from models.registry import CHAMPION, Registry
from models.settings import TrainSettings
from models.training.checkpoint import Pace
from models.training.folds import cross_validate
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config
from pipeline.core.features.table import NAMES
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 20_000  # bounds the memory

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """Which version is scored, and on what."""

    data_dir: Path
    config: Config
    version: str | None = None  # version or alias; None: champion, else the newest
    against: str | None = None
    split: str | None = None  # None: the one the version was trained with


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The result, as JSON and as text."""

    document: dict[str, Any]
    text: str


def evaluate(request: EvaluateRequest, *, say: Say, warn: Say, status: Say | None = None) -> EvaluateResult:
    """Score a version, and another one beside it if asked.

    Raises:
        ModelError: no such version.
        SchemaError: the archive has another feature schema than the model.
        ThrumcastError: nothing in the archive can be scored.
    """
    registry = Registry(request.data_dir)
    models = [registry.load(name) for name in (request.version or _default(registry), request.against) if name]
    task = models[0].spec.task
    if models[-1].spec.task != task:
        said = f"{models[-1].spec.version} of the task {models[-1].spec.task}"
        msg = f"--against: expected another version of the task {task}, found: {said}"
        raise ThrumcastError(msg, hint="evaluate them one by one: their numbers cannot be compared")
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
    return EvaluateResult(document, text or report.evaluated_text(document))


def replay_alarms(request: EvaluateRequest, given: Sequence[str], *, say: Say, warn: Say) -> EvaluateResult:
    """Run the alarms over the archived predictions of a version, with the present and other alarm settings.

    Raises:
        ConfigError: a setting that cannot be.
        ModelError: no such version.
        ThrumcastError: nothing in the archive can be scored.
    """
    from pipeline.edges.store.read import read_predictions

    started, config = time.monotonic(), request.config
    settings = settings_of(alarm_spec(config), given)
    registry = Registry(request.data_dir)
    model = registry.load(request.version or _default(registry))
    version, classes = model.spec.version, model.spec.classes
    spec = dataclasses.replace(dataset_spec(config, ""), exact_inputs=model.spec.inputs, exact_classes=classes)
    features = read(request.data_dir)
    dataset = build(features, spec)
    predictions = read_predictions(request.data_dir)
    tracks: list[Track] = []
    if all(f"p_{mode}" in predictions.column_names for mode in classes):
        tracks = archived_tracks(dataset, predictions, version, classes, config.model.warm_up_windows)
    source = "archived predictions"
    if not tracks:
        source = "its predictions now: it has none in the archive"
        warn(f"expected predictions of {version} in the archive, found none: it is stepped over the archived features")
        model.check_fits(dataset.feature_schema)
        tracks = run(NumpyPredictor(model), dataset.sequences)
    remarks = trained_on(model, {track.sequence.key.machine for track in tracks})
    for remark in remarks:
        warn(remark)
    windows = sum(len(track.of_alarms(config.model.warm_up_windows)) for track in tracks)
    say(f"{version}: {windows} windows of {len({track.sequence.key for track in tracks})} streams, {source}")
    tracks = as_served(tracks, model, _zones(features, config))
    rows = trade_off(tracks, classes, settings, warm_up_windows=config.model.warm_up_windows)
    document = {"version": version, "source": source, "windows": windows, "remarks": remarks, "settings": rows}
    return EvaluateResult(document | {"seconds": round(time.monotonic() - started, 3)}, trade_off_text(rows))


def _default(registry: Registry) -> str:
    aliases, versions = registry.aliases(), registry.versions()
    return CHAMPION if CHAMPION in aliases or not versions else versions[-1]


def _evaluate_one(model: Bundle, request: EvaluateRequest, say: Say, warn: Say, status: Say | None) -> dict[str, Any]:
    started = time.monotonic()
    spec = dataclasses.replace(
        dataset_spec(request.config, ""), exact_inputs=model.spec.inputs, exact_classes=model.spec.classes
    )
    features = read(request.data_dir)
    dataset = build(features, spec)
    model.check_fits(dataset.feature_schema)
    say(f"{model.spec.version}\n{dataset.facts.text()}")
    if model.spec.task == "sequence":
        dataset = one_mode_per_sequence(dataset)
    if dataset.facts.used == 0:
        msg = f"expected windows with a truth that {model.spec.version} knows, found: none of {dataset.facts.windows}"
        raise ThrumcastError(msg, hint=f"it knows {', '.join(model.spec.classes)}")
    name = request.split or model.train["split"] or DEFAULT_SPLIT
    if name == "none":
        numbers, remarks = _as_it_is(model, dataset, features, request.config)
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


def _as_it_is(model: Bundle, dataset: Dataset, features: pa.Table, config: Config) -> tuple[dict[str, Any], list[str]]:
    """Score the serving predictor, with alarms as in service; a remark names machines that it was trained on."""
    tracks = as_served(run(NumpyPredictor(model), dataset.sequences), model, _zones(features, config))
    warm_up = config.model.warm_up_windows
    numbers = score(tracks, dataset.classes, alarm_spec(config), warm_up_windows=warm_up, task=model.spec.task)
    return numbers, trained_on(model, dataset.facts.machines)


def _zones(features: pa.Table, config: Config) -> Zones:
    """Return the vibration zone of every window; the archive is read a slice at a time."""
    from pipeline.edges.store.read import rows_of

    names = [name for name in features.column_names if "." not in name or name.rpartition(".")[2] in FLOOR_FEATURES]
    needed, found = features.select(names), dict[tuple[StreamKey, int, int], str | None]()
    for first in range(0, needed.num_rows, ROWS_AT_ONCE):
        rows = rows_of(needed.slice(first, ROWS_AT_ONCE), NAMES)
        found |= zones_of(rows, lambda key: config.machine(key.machine, key.point).limits)
    return found


def _trained_again(
    model: Bundle, dataset: Dataset, request: EvaluateRequest, name: str, say: Say, status: Say | None
) -> tuple[dict[str, Any], list[str]]:
    """Train again with the version's settings and score held-out groups."""
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
    warm_up = config.model.warm_up_windows
    numbers = score(held_out.tracks, dataset.classes, alarm_spec(config), warm_up_windows=warm_up, task=settings.task)
    return numbers, list(split.remarks)
