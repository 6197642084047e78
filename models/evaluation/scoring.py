"""Runs the serving predictor over sequences and computes all numbers about the result. No torch.

`as_served` adds what the service knows of a window beside the probabilities: the version's own detector says `unknown`,
and the zone is the floor under the alarms. Both come from the archived features and the present configuration. An alarm
that a zone calls for has the mode `other`, as in service. A replay cannot know who acknowledged an alarm, which other
versions served in between, or which alarms were up before a pause longer than `model.max_gap_s`; these are left out, so
every sequence begins without alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.data.dataset import UNKNOWN, WindowSequence
from models.evaluation.events import Track, event_metrics, recording_metrics
from models.evaluation.metrics import window_metrics
from models.predictor import NumpyPredictor, ValuePredictor
from models.unknown import detector
from pipeline.core.alarm import AlarmSpec
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.core.severity import Limits, floor

FLOOR_FEATURES = ("velocity_rms", "rel_rms")  # the features that zones depend on

Zones = Mapping[tuple[StreamKey, int, int], str | None]


def run(predictor: NumpyPredictor, sequences: Sequence[WindowSequence]) -> list[Track]:
    """Step through all sequences side by side, each from a zero state, as the live service would."""
    probabilities = step_through(predictor, sequences, len(predictor.classes))
    return [Track(sequence, p) for sequence, p in zip(sequences, probabilities, strict=True)]


def step_through(
    predictor: NumpyPredictor | ValuePredictor, sequences: Sequence[WindowSequence], outputs: int
) -> list[NDArray[np.float64]]:
    """Return the outputs (T, outputs) of the predictor for every sequence."""
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    said = [np.empty((len(sequence), outputs)) for sequence in sequences]
    h = predictor.initial(len(order))
    for t in range(len(sequences[order[0]]) if order else 0):
        active = [row for row in order if len(sequences[row]) > t]  # a prefix of order: the longest come first
        x = np.stack([sequences[row].x[t] for row in active])
        y, h = predictor.step(x, h[: len(active)])
        for place, row in enumerate(active):
            said[row][t] = y[place]
    return said


def trained_on(model: Bundle, machines: Collection[str]) -> list[str]:
    """Return a remark that names the machines a version was trained on, if there are any."""
    seen = sorted(set(model.data["machines"]) & set(machines))
    if not seen:
        return []
    some = ", ".join(seen[:5]) + (f" and {len(seen) - 5} more" if len(seen) > 5 else "")
    known = f"{len(seen)} of {len(machines)} machines were in the training data of {model.spec.version}"
    return [f"{known}, their numbers are too good: {some}"]


def train_data(model: Bundle) -> dict[str, Any]:
    """Return what a version was trained on, in short."""
    data = model.data
    return {"machines": data["machines"], "windows": data["used"], "from": data["from"], "to": data["to"]}


def score(
    tracks: Sequence[Track], classes: Sequence[str], alarms: AlarmSpec, *, warm_up_windows: int, task: str = "window"
) -> dict[str, Any]:
    """Return all numbers of `evaluate --json` that follow from the predictions.

    With one mode per sequence only the last window has a truth. No fault begins anywhere, so there are no events.
    """
    y = np.concatenate([track.sequence.y for track in tracks]) if tracks else np.empty(0, np.int64)
    p = np.concatenate([track.p for track in tracks]) if tracks else np.empty((0, len(classes)))
    known = y != UNKNOWN
    return {
        **window_metrics(y[known], p[known], classes),
        "recordings": recording_metrics(tracks, classes),
        "events": event_metrics(tracks if task == "window" else (), classes, alarms, warm_up_windows=warm_up_windows),
    }


def as_served(tracks: Sequence[Track], model: Bundle, zones: Zones) -> list[Track]:
    """Return the tracks of a version with `unknown` and the zone of every window."""
    is_unknown, made = detector(model), []
    for track in tracks:
        windows = track.sequence
        sessions, starts = windows.session.tolist(), windows.start_ns.tolist()
        zone = [zones[windows.key, session, start] for session, start in zip(sessions, starts, strict=True)]
        unknown = None if is_unknown is None else is_unknown(windows.x, track.p.astype("float32"))
        made.append(replace(track, zone=zone, unknown=unknown))
    return made


def zones_of(rows: Mapping[StreamKey, Sequence[FeatureRow]], limits_of: Callable[[StreamKey], Limits | None]) -> Zones:
    """Return the vibration zone by stream, session and start in ns."""
    return {
        (key, row.session, row.start_ns): floor(row, limits)
        for key in rows
        for limits in [limits_of(key)]
        for row in rows[key]
    }
