"""A forecast's decoder on top of a trained version, and honest numbers about it.

The network that serves is not changed. The numbers come from networks, and decoders on them, of the folds; they also
say how many steps a decoder is trained, and how far it is to be believed: see models/training/forecast_scoring.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from models.bundle import Bundle
from models.data.dataset import Dataset
from models.data.splits import Fold, Split
from models.forecast import Forecaster
from models.settings import TrainSettings
from models.training.folds import OutOfFold, final_fit
from models.training.forecast_scoring import UNTRIED, Trial, score
from models.training.forecast import Facts, Futures, fit_decoder, futures
from pipeline.errors import ThrumcastError


def with_forecast(
    bundle: Bundle,
    dataset: Dataset,
    settings: TrainSettings,
    facts: Facts,
    split: Split | None,
    held_out: OutOfFold | None,
    warn: Callable[[str], None],
) -> Bundle:
    """Return the version with a decoder and, where something was held back, `metrics.forecast`.

    Raises:
        ThrumcastError: no mode ever follows another in these data.
    """
    trials = []
    for fold in [] if split is None or held_out is None else split.folds:
        try:
            trials.append(_trial(bundle, dataset, settings, facts, fold, held_out))
        except ThrumcastError:  # a fold in which nothing follows anything has no numbers
            continue
    numbers = score(trials) if trials else None
    steps, trust = UNTRIED if numbers is None else (numbers["trained_steps"], numbers["trust"])
    if numbers is None:
        warn(f"forecast: no held-out change of mode says how far it is to be believed; taken: {trust:.0%}")
    decoded = _decoded(bundle, dataset, settings, facts)[0][steps]
    if numbers is not None:
        decoded.metrics["forecast"] = numbers
    return replace(decoded, spec=replace(decoded.spec, trust=trust))


def _trial(
    bundle: Bundle, dataset: Dataset, settings: TrainSettings, facts: Facts, fold: Fold, held_out: OutOfFold | None
) -> Trial:
    """Decoders on the fold's own network: the version's would know the machines that are held out."""
    side = replace(dataset, sequences=fold.train)
    model = final_fit(side, settings, held_out, lambda *_: None)
    if model.cut_short:
        raise KeyboardInterrupt
    spec = replace(bundle.spec, scaler=model.scaler, members=model.members)
    own, known = _decoded(replace(bundle, spec=spec, weights=model.weights), side, settings, facts)
    test = futures(next(iter(own.values())), fold.test, facts, settings.forecast).foreseeable(known)
    if not len(test.tokens):
        msg = "forecast: expected held-out changes to modes that the training side knows, found: none"
        raise ThrumcastError(msg)
    return Trial(known, test, {steps: Forecaster(decoded) for steps, decoded in own.items()})


def _decoded(
    bundle: Bundle, dataset: Dataset, settings: TrainSettings, facts: Facts
) -> tuple[dict[int, Bundle], Futures]:
    """Train the decoder on the states that the network has on these sequences; the version after every check."""
    known = futures(bundle, dataset.sequences, facts, settings.forecast)
    usual = tuple(known.usual(len(dataset.classes)).tolist())
    spec = replace(bundle.spec, decoder=settings.decoder, horizon=known.horizon, usual=usual)
    seen = fit_decoder(known, len(dataset.classes), settings)
    return {
        steps: replace(bundle, spec=spec, weights=bundle.weights | weights) for steps, weights in seen.items()
    }, known
