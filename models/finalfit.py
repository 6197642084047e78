"""The fit on everything, for as many passes as cross-validation found best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.augment import structural
from models.crossval import OutOfFold, Watch, config_of, examples_of, fit_scaler
from models.dataset import Dataset
from models.network import GruClassifier
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training import EpochReport, epochs_for, fit

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class FinalModel:
    """What the final fit leaves behind."""

    weights: Weights
    scaler: Scaler
    hidden: int
    layers: int
    epochs: int
    schedule_epochs: int  # length of the learning-rate schedule that the passes are the beginning of
    cut_short: bool  # by Ctrl-C; the weights are those of the last whole pass


def final_fit(dataset: Dataset, settings: TrainSettings, held_out: OutOfFold | None, watch: Watch) -> FinalModel:
    """Fit on all sequences.

    Raises:
        KeyboardInterrupt: before the first pass was done.
    """
    config = config_of(dataset, settings)
    scaler = fit_scaler(dataset.sequences, settings.scaler)
    examples = examples_of(dataset.sequences, scaler)
    epochs = epochs_for(examples, settings) if held_out is None else held_out.epochs
    schedule = epochs if held_out is None else held_out.schedule_epochs
    kept: Weights = {}
    done, cut_short = 0, False

    def keep(seen: EpochReport, network: GruClassifier) -> bool:
        nonlocal kept, done
        kept = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
        done = seen.epoch
        watch(None, seen, None)
        return True

    try:
        fit(
            examples,
            config,
            settings,
            epochs=epochs,
            schedule_epochs=schedule,
            structure=structural(dataset.inputs),
            after_epoch=keep,
        )
    except KeyboardInterrupt:
        if not kept:
            raise
        cut_short = True
    return FinalModel(kept, scaler, config.hidden, config.layers, done, schedule, cut_short)
