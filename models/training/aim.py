"""Whom a network is trained for: machines that nobody has recorded yet, or the very machines of the archive.

    new    what a machine's structure adds is blurred or taken away, and simulated machines join in (models/training/augment.py,
           models/data/prior.py): what is learned carries over to other machines
    known  none of that: whatever tells these machines apart may be learned by heart. Best for another load, or another
           day, of machines that have been labelled before
    auto   new, unless known is better in every fold of a split of three or more

What is held out says what the model is for, so nothing else needs to be asked: held out by load, the machines are known
ones; held out by bearing or rig, they are new. The folds that choose are those that are reported, so every one must
agree: of two equals the luckier is then taken once in 2^folds. In most trainings the first fold disagrees and the
others are never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models.data.dataset import UNKNOWN, Dataset
from models.data.splits import Split
from models.settings import TrainSettings
from models.training.checkpoint import Checkpoints
from models.training.folds import NotBetter, OutOfFold, Watch, cross_validate

FOLDS_THAT_CONVINCE = 3
KNOWN_OFFSET = 0.3  # standard deviation of what stands for a new mounting of a known machine


@dataclass(frozen=True, slots=True, eq=False)
class Aimed:
    """What cross-validation said, and the data and settings with which the rest of the training goes on."""

    held_out: OutOfFold | None
    dataset: Dataset
    settings: TrainSettings
    interrupted: bool = False  # by Ctrl-C, in whichever of the two


def as_asked(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, TrainSettings]:
    """Data and settings for the aim that is set; auto is new here, since nothing is held out to ask."""
    return _for_known(dataset, settings) if settings.aim == "known" else (dataset, replace(settings, aim="new"))


def _for_known(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, TrainSettings]:
    """Everything that makes a network carry over to other machines is left out."""
    settings = replace(settings, aim="known", structure_drop=0.0, structure_offset=KNOWN_OFFSET, simulated=0.0)
    return replace(dataset, prior=()), settings


def aimed_validation(
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    watch: Watch,
    *,
    say: Callable[[str], None],
    checkpoints: Checkpoints | None = None,
) -> Aimed:
    """Cross-validate for new machines, for known ones, or for whichever the held-out side prefers."""
    asked = as_asked(dataset, settings)
    held_out = cross_validate(asked[0], split, asked[1], watch, checkpoints=checkpoints)
    folds = len(split.folds)
    if held_out is None or held_out.folds_done < folds:
        return Aimed(held_out, *asked, interrupted=True)
    if settings.aim != "auto" or folds < FOLDS_THAT_CONVINCE:
        return Aimed(held_out, *asked)
    known, losses = _for_known(dataset, settings), fold_losses(held_out)
    try:
        rival = cross_validate(known[0], split, known[1], watch, checkpoints=checkpoints, part="known-", to_beat=losses)
    except NotBetter:
        say("aim: new machines")
        return Aimed(held_out, *asked)
    if rival is None or rival.folds_done < folds:
        return Aimed(held_out, *asked, interrupted=True)
    if not (fold_losses(rival) < losses).all():
        say("aim: new machines")
        return Aimed(held_out, *asked)
    say(f"aim: known machines, since that is better in all {folds} folds of {split.name}")
    return Aimed(rival, *known)


def fold_losses(held_out: OutOfFold) -> np.ndarray:
    """Mean -log p of the truth over the tested windows of every fold (N,)."""
    losses: list[list[np.ndarray]] = [[] for _ in range(held_out.folds_done)]
    for track, fold in zip(held_out.tracks, held_out.fold_of, strict=True):
        tested = np.flatnonzero(track.sequence.y != UNKNOWN)
        losses[fold].append(-np.log(np.maximum(track.p[tested, track.sequence.y[tested]], 1e-12)))
    pooled = [np.concatenate(each) for each in losses]
    return np.array([each.mean() if each.size else 0.0 for each in pooled])
