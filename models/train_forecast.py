"""A forecast's decoder on top of a trained version, and honest numbers about it.

The network that serves is not changed. The numbers come from networks, and decoders on them, of the folds; they also
say how many steps a decoder is trained: on few machines it soon knows their futures by heart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.bundle import Bundle
from models.crossval import OutOfFold
from models.dataset import Dataset
from models.finalfit import final_fit
from models.forecast import Forecaster
from models.forecast_training import (
    CHECKS,
    STEPS,
    Facts,
    Futures,
    fit_decoder,
    forecast_metrics,
    futures,
    pooled_forecast,
)
from models.settings import TrainSettings
from models.splits import Split
from pipeline.errors import ThrumcastError


def with_forecast(
    bundle: Bundle,
    dataset: Dataset,
    settings: TrainSettings,
    facts: Facts,
    split: Split | None,
    held_out: OutOfFold | None,
) -> Bundle:
    """Return the version with a decoder and, where something was held back, `metrics.forecast`.

    Raises:
        ThrumcastError: no mode ever follows another in these data.
    """
    folds = [] if split is None or held_out is None else split.folds
    sums: dict[int, list[dict[str, Any]]] = {steps: [] for steps in CHECKS}
    for fold in folds:
        # The fold's own network: the version's would know the machines that are held out.
        side = replace(dataset, sequences=fold.train)
        model = final_fit(side, settings, held_out, lambda *_: None)
        if model.cut_short:
            raise KeyboardInterrupt
        spec = replace(bundle.spec, scaler=model.scaler, members=model.members)
        try:
            own, known = _decoded(replace(bundle, spec=spec, weights=model.weights), side, settings, facts)
            test = futures(own[STEPS], fold.test, facts, settings.forecast)
        except ThrumcastError:  # a fold in which nothing follows anything has no numbers
            continue
        for steps in CHECKS:
            sums[steps].append(forecast_metrics(Forecaster(own[steps]), known, test))
    numbers = {steps: pooled_forecast(of_folds) for steps, of_folds in sums.items() if of_folds}
    best = min(numbers, key=lambda steps: float(numbers[steps]["guesses"]["model"]["log_loss"]), default=STEPS)
    decoded = _decoded(bundle, dataset, settings, facts)[0][best]
    if numbers:
        decoded.metrics["forecast"] = numbers[best] | {"steps": best}
    return decoded


def _decoded(
    bundle: Bundle, dataset: Dataset, settings: TrainSettings, facts: Facts
) -> tuple[dict[int, Bundle], Futures]:
    """Train the decoder on the states that the network has on these sequences; the version after every check."""
    known = futures(bundle, dataset.sequences, facts, settings.forecast)
    spec = replace(bundle.spec, decoder=settings.decoder, horizon=known.horizon)
    seen = fit_decoder(known, len(dataset.classes), settings)
    return {
        steps: replace(bundle, spec=spec, weights=bundle.weights | weights) for steps, weights in seen.items()
    }, known
