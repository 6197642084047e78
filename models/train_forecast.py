"""A forecast's decoder on top of a trained version, and honest numbers about it.

The network that serves is not changed. The numbers come from networks, and decoders on them, of the folds.
"""

from __future__ import annotations

from dataclasses import replace

from models.bundle import Bundle
from models.crossval import OutOfFold
from models.dataset import Dataset
from models.finalfit import final_fit
from models.forecast import Forecaster
from models.forecast_training import Facts, Futures, fit_decoder, forecast_metrics, futures, pooled_forecast
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
    decoded, _ = _decoded(bundle, dataset, settings, facts)
    if split is None or held_out is None:
        return decoded
    sums = []
    for fold in split.folds:
        # The fold's own network: the version's would know the machines that are held out.
        side = replace(dataset, sequences=fold.train)
        model = final_fit(side, settings, held_out, lambda *_: None)
        if model.cut_short:
            raise KeyboardInterrupt
        spec = replace(bundle.spec, scaler=model.scaler, members=model.members)
        try:
            own, known = _decoded(replace(bundle, spec=spec, weights=model.weights), side, settings, facts)
            test = futures(own, fold.test, facts, settings.forecast)
        except ThrumcastError:  # a fold in which nothing follows anything has no numbers
            continue
        sums.append(forecast_metrics(Forecaster(own), known, test))
    if sums:
        decoded.metrics["forecast"] = pooled_forecast(sums)
    return decoded


def _decoded(bundle: Bundle, dataset: Dataset, settings: TrainSettings, facts: Facts) -> tuple[Bundle, Futures]:
    """Train the decoder on the states that the network has on these sequences."""
    known = futures(bundle, dataset.sequences, facts, settings.forecast)
    weights = fit_decoder(known, len(dataset.classes), settings)
    spec = replace(bundle.spec, decoder=settings.decoder)
    return replace(bundle, spec=spec, weights=bundle.weights | weights), known
