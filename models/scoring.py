"""Running the serving predictor over sequences, and all numbers about the result. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.dataset import UNKNOWN, WindowSequence
from models.events import Track, event_metrics, recording_metrics
from models.metrics import window_metrics
from models.predictor import NumpyPredictor
from pipeline.core.alarm import AlarmSpec


def run(predictor: NumpyPredictor, sequences: Sequence[WindowSequence]) -> list[Track]:
    """Step through all sequences side by side, each from a zero state, as the live service would."""
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    probabilities = [np.empty((len(sequence), len(predictor.classes))) for sequence in sequences]
    h = predictor.initial(len(order))
    for t in range(len(sequences[order[0]]) if order else 0):
        active = [row for row in order if len(sequences[row]) > t]  # a prefix of order: the longest come first
        x = np.stack([sequences[row].x[t] for row in active])
        p, h = predictor.step(x, h[: len(active)])
        for place, row in enumerate(active):
            probabilities[row][t] = p[place]
    return [Track(sequence, p) for sequence, p in zip(sequences, probabilities, strict=True)]


def score(
    tracks: Sequence[Track], classes: Sequence[str], alarms: AlarmSpec, *, warm_up_windows: int, task: str = "window"
) -> dict[str, Any]:
    """All numbers of `evaluate --json` that follow from the predictions.

    Of a whole sequence only the last window has a mode: no fault begins anywhere, and no event can be counted.
    """
    y = np.concatenate([track.sequence.y for track in tracks]) if tracks else np.empty(0, np.int64)
    p = np.concatenate([track.p for track in tracks]) if tracks else np.empty((0, len(classes)))
    known = y != UNKNOWN
    return {
        **window_metrics(y[known], p[known], classes),
        "recordings": recording_metrics(tracks, classes),
        "events": event_metrics(tracks if task == "window" else (), classes, alarms, warm_up_windows=warm_up_windows),
    }
