"""The fit on everything, for as many passes as cross-validation found best; one network per member of the ensemble."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.network import RecurrentNetwork
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.checkpoint import Checkpoints, Progress
from models.training.folds import OutOfFold, Watch, config_of, examples_of, fit_scaler, of_member
from models.training.loop import EpochReport, epochs_for, fit
from models.training.objective import Example

CHECKPOINTS = 10  # per member

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class FinalModel:
    """What the final fit leaves behind."""

    weights: Weights  # members stacked, if there are several
    scaler: Scaler
    members: int
    epochs: int
    schedule_epochs: int  # length of the learning-rate schedule that the passes are the beginning of
    losses: tuple[float, ...]  # of the first member, pass by pass
    largest_gradient: float
    cut_short: bool  # by Ctrl-C; the weights are those of the last whole pass


@dataclass(slots=True)
class _Kept:
    """The last whole pass of one member."""

    weights: Weights
    losses: list[float]
    gradient: float = 0.0


def final_fit(
    dataset: Dataset,
    settings: TrainSettings,
    held_out: OutOfFold | None,
    watch: Watch,
    checkpoints: Checkpoints | None = None,
) -> FinalModel:
    """Fit on all sequences. Ctrl-C keeps the last whole pass of the members that have one.

    Raises:
        KeyboardInterrupt: before the first pass was done.
    """
    sequences = (*dataset.sequences, *dataset.prior)
    scaler = fit_scaler(sequences, settings.scaler)
    examples = examples_of(sequences, scaler)
    epochs = epochs_for(examples, settings) if held_out is None else held_out.epochs
    schedule = epochs if held_out is None else held_out.schedule_epochs
    kept: list[_Kept] = []
    cut_short = False
    try:
        for member in range(settings.members):
            kept.append(_Kept({}, []))
            _one_member(dataset, examples, scaler, settings, member, (epochs, schedule), kept[-1], watch, checkpoints)
    except KeyboardInterrupt:
        whole = [each for each in kept if each.weights]
        if not whole:
            raise
        # A member that is less trained than the others would only blur them.
        kept, cut_short = whole[: max(1, len(kept) - 1)], True
    names = kept[0].weights
    stacked = {
        name: np.stack([each.weights[name] for each in kept]) if len(kept) > 1 else names[name] for name in names
    }
    gradient = max(each.gradient for each in kept)
    losses = tuple(kept[0].losses)
    return FinalModel(stacked, scaler, len(kept), len(losses), schedule, losses, gradient, cut_short)


def _one_member(
    dataset: Dataset,
    examples: list[Example],
    scaler: Scaler,
    settings: TrainSettings,
    member: int,
    passes: tuple[int, int],
    kept: _Kept,
    watch: Watch,
    checkpoints: Checkpoints | None,
) -> None:
    """Train one member; `kept` has its last whole pass, whatever happens."""
    own = of_member(settings, member)
    # Folds that were cut short may have chosen otherwise: then this is another fit.
    part = f"final-{settings.aim}-{passes[0]}-of-{passes[1]}-member-{member}"
    saved = checkpoints.load(part) if checkpoints else None
    if saved is not None:
        named = {name.removeprefix("network."): value for name, value in saved.state.tensors.items()}
        weights = config_of(dataset, settings, scaler)
        kept.weights = {name: named[name].numpy().copy() for name in RecurrentNetwork(weights).state_dict()}
        kept.losses, kept.gradient = saved.kept["losses"].tolist(), float(saved.kept["gradient"][0])

    def keep(seen: EpochReport, network: RecurrentNetwork) -> bool:
        kept.weights = {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}
        kept.losses.append(seen.loss)
        kept.gradient = max(kept.gradient, seen.gradient_norm)
        last = seen.epoch == passes[0]
        if checkpoints and (last or seen.epoch % max(1, passes[0] // CHECKPOINTS) == 0):
            arrays = {"losses": np.array(kept.losses), "gradient": np.array([kept.gradient])}
            checkpoints.save(part, Progress(seen.state(), arrays, finished=last))
        watch(None, replace(seen, member=member, aim=settings.aim), None)
        return True

    if saved is None or not saved.finished:
        fit(
            examples,
            config_of(dataset, own, scaler),
            own,
            epochs=passes[0],
            schedule_epochs=passes[1],
            augmentation=Augmentation.of(dataset.inputs, scaler, own),
            start=None if saved is None else saved.state,
            after_epoch=keep,
        )
