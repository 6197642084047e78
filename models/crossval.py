"""Grouped cross-validation: what the network says of machines that it was not trained on.

Every fold fits its own scaler and weights on its training side. The held-out logits of all folds are pooled:
they choose the number of passes (one number for all folds) and the temperature. For the reported
probabilities each fold's temperature is fitted on the other folds, so that no window calibrates itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.augment import structural
from models.dataset import UNKNOWN, Dataset, WindowSequence
from models.events import Track
from models.metrics import fit_temperature, nll, softmax
from models.network import GruClassifier, GruConfig
from models.scaling import Scaler
from models.settings import TrainSettings
from models.splits import Fold, Split
from models.training import EpochReport, Example, epochs_for, fit, predict

CHECKS = 20  # looks at the held-out side per fold

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# (fold from 0 or None for the final fit, report, held-out negative log-likelihood or None)
Watch = Callable[[int | None, EpochReport, float | None], None]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Held-out probabilities of every tested sequence, and what they chose."""

    tracks: tuple[Track, ...]
    fold_of: tuple[int, ...]  # of each track
    epochs: int
    schedule_epochs: int  # length of the learning-rate schedule in the folds
    temperature: float
    likelihood: tuple[tuple[int, float], ...]  # (epoch, pooled negative log-likelihood)
    folds_done: int


@dataclass(frozen=True, slots=True, eq=False)
class _FoldLogits:
    sequences: tuple[WindowSequence, ...]
    at: dict[int, list[Float32]]  # epoch -> logits (T, K) per sequence


def config_of(dataset: Dataset, settings: TrainSettings) -> GruConfig:
    """Sizes of the network for this data."""
    return GruConfig(
        inputs=len(dataset.inputs),
        classes=len(dataset.classes),
        hidden=settings.hidden,
        layers=settings.layers,
        dropout=settings.dropout,
    )


def fit_scaler(sequences: Sequence[WindowSequence], kind: str) -> Scaler:
    """Scaler of the training side."""
    return Scaler.fit(np.concatenate([sequence.x for sequence in sequences]), kind)


def examples_of(sequences: Sequence[WindowSequence], scaler: Scaler) -> list[Example]:
    """Scaled sequences."""
    return [Example(scaler.apply(sequence.x), sequence.y) for sequence in sequences]


def cross_validate(
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    watch: Watch,
    *,
    epochs: int | None = None,
    schedule_epochs: int | None = None,
) -> OutOfFold | None:
    """Train every fold and pool what it says of its test side.

    With `epochs` given nothing is chosen: every fold is trained that long. Ctrl-C ends it with the folds that are
    done; without any, the result is None.
    """
    config = config_of(dataset, settings)
    total = epochs or max(epochs_for(examples_of(fold.train, _identity(dataset)), settings) for fold in split.folds)
    step = max(1, total // CHECKS)
    checks = [total] if epochs else sorted({*range(step, total + 1, step), total})
    schedule = schedule_epochs or total
    done: list[_FoldLogits] = []
    try:
        for number, fold in enumerate(split.folds):
            done.append(
                _one_fold(number, fold, split.untested, dataset.inputs, config, settings, checks, schedule, watch)
            )
    except KeyboardInterrupt:
        if not done:
            return None
    pooled = {epoch: _pool(done, epoch, split.untested) for epoch in checks}
    likelihood = tuple((epoch, nll(y, logits, fit_temperature(y, logits))) for epoch, (y, logits) in pooled.items())
    best = _best_epoch(likelihood)
    temperature = fit_temperature(*pooled[best])
    tracks: list[Track] = []
    fold_of: list[int] = []
    for number, fold_logits in enumerate(done):
        others = [other for other in done if other is not fold_logits]
        own = fit_temperature(*_pool(others, best, split.untested)) if others else temperature
        for sequence, logits in zip(fold_logits.sequences, fold_logits.at[best], strict=True):
            tracks.append(Track(_tested(sequence, split.untested), softmax(logits, own)))
            fold_of.append(number)
    return OutOfFold(tuple(tracks), tuple(fold_of), best, schedule, temperature, likelihood, len(done))


def _one_fold(
    number: int,
    fold: Fold,
    untested: Sequence[int],
    inputs: Sequence[str],
    config: GruConfig,
    settings: TrainSettings,
    checks: Sequence[int],
    schedule_epochs: int,
    watch: Watch,
) -> _FoldLogits:
    """Train on one side; keep what is said of the other at every check."""
    scaler = fit_scaler(fold.train, settings.scaler)
    test = examples_of(fold.test, scaler)
    at: dict[int, list[Float32]] = {}
    best, since_best = np.inf, 0

    def look(report: EpochReport, network: GruClassifier) -> bool:
        nonlocal best, since_best
        if report.epoch not in checks:
            watch(number, report, None)
            return True
        at[report.epoch] = predict(network, test)
        y, logits = _pool([_FoldLogits(fold.test, at)], report.epoch, untested)
        likelihood = nll(y, logits, fit_temperature(y, logits))
        watch(number, report, likelihood)
        best, since_best = (likelihood, 0) if likelihood < best else (best, since_best + 1)
        return since_best < settings.patience

    train = examples_of(fold.train, scaler)
    fit(
        train,
        config,
        settings,
        epochs=checks[-1],
        schedule_epochs=schedule_epochs,
        structure=structural(inputs),
        after_epoch=look,
    )
    last = max(at)
    for epoch in checks:  # a fold that stopped early stays as it was
        at.setdefault(epoch, at[last])
    return _FoldLogits(fold.test, at)


def _best_epoch(likelihood: Sequence[tuple[int, float]]) -> int:
    """Return the epoch with the least likelihood loss, smoothed over its neighbours; never an early accident."""
    losses = np.array([loss for _, loss in likelihood])
    padded = np.concatenate([losses[:1], losses, losses[-1:]])
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    smooth[: len(losses) // 4] = np.inf
    return likelihood[int(smooth.argmin())][0]


def _tested(sequence: WindowSequence, untested: Sequence[int]) -> WindowSequence:
    """Mask the classes that are not tested."""
    y = np.where(np.isin(sequence.y, untested), UNKNOWN, sequence.y)
    return WindowSequence(sequence.key, sequence.x, y, sequence.start_ns, sequence.end_ns, sequence.session)


def _pool(folds: Sequence[_FoldLogits], epoch: int, untested: Sequence[int]) -> tuple[Int64, Float32]:
    """True classes (N,) and logits (N, K) of all tested windows."""
    y = np.concatenate([_tested(sequence, untested).y for fold in folds for sequence in fold.sequences])
    logits = np.concatenate([part for fold in folds for part in fold.at[epoch]])
    return y[y != UNKNOWN], logits[y != UNKNOWN]


def _identity(dataset: Dataset) -> Scaler:
    features = len(dataset.inputs)
    return Scaler("standard", np.zeros(features, np.float32), np.ones(features, np.float32))
