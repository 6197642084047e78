"""Archived probabilities under other alarm settings: what fewer false alarms cost in delay.

Prediction rows keep the raw probabilities of every window. So alarm settings can be tried on what the service really
said, without a network; `unknown` and zones are added by models/evaluation/scoring.py. Windows that the service did not
judge (its memory was warming up) raise no alarm here either, but count for delays as they do in `evaluate`. Windows
without a prediction of this version are left out: a fault that begins in them begins at the first window with one.
All settings are run over the same windows. The first is the present configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.dataset import Dataset
from models.evaluation.events import Track, event_metrics
from models.evaluation.report import table
from pipeline.core.alarm import AlarmSpec
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = tuple(field.name for field in dataclasses.fields(AlarmSpec))
MOST_SETTINGS = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """A variant of the alarm settings, and how it differs from the configuration."""

    spec: AlarmSpec
    changed: Mapping[str, float]

    @property
    def name(self) -> str:
        """`enter_s=10 leave_p=0.3`, or `as configured`."""
        return " ".join(f"{key}={value:g}" for key, value in self.changed.items()) or "as configured"


def settings_of(base: AlarmSpec, given: Sequence[str]) -> list[Setting]:
    """The present settings and every combination of `key=value[,value...]`.

    Raises:
        ConfigError: an unknown key, no number, or thresholds that do not go together.
    """
    choices: dict[str, list[float]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            numbers = []
        if key not in KEYS or not equals or not numbers or not all(np.isfinite(n) and n >= 0 for n in numbers):
            msg = f"--alarms: expected KEY=NUMBER[,NUMBER...] with a key of [alarm], found: {text}"
            raise ConfigError(msg, hint=f"keys are {', '.join(KEYS)}")
        choices[key] = numbers
    variants = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())] if choices else []
    if len(variants) > MOST_SETTINGS:
        msg = f"--alarms: expected at most {MOST_SETTINGS} combinations, found: {len(variants)}"
        raise ConfigError(msg, hint="try fewer values at once")
    settings = [Setting(base, {})]
    for changed in variants:
        spec = dataclasses.replace(base, **changed)
        if not 0 <= spec.leave_p <= spec.enter_p <= 1:
            msg = f"--alarms: expected 0 <= leave_p <= enter_p <= 1, found: {spec.leave_p:g} and {spec.enter_p:g}"
            raise ConfigError(msg, hint="with leave_p above enter_p an alarm would close as soon as it opens")
        settings.append(Setting(spec, changed))
    return settings


def archived_tracks(
    dataset: Dataset, predictions: pa.Table, version: str, classes: Sequence[str], warm_up_windows: int
) -> list[Track]:
    """Return the archived predictions of a version for the windows of a dataset; windows without one are left out."""
    names = ["machine", "point", "session", "model", "state_age", *(f"p_{mode}" for mode in classes)]
    said: dict[tuple[str, str, int, int], tuple[bool, list[float]]] = {}
    columns = [predictions.column(name).to_pylist() for name in names]
    starts = predictions.column("start").to_numpy().astype("datetime64[ns]").astype(np.int64).tolist()
    for start_ns, machine, point, session, model, age, *p in zip(starts, *columns, strict=True):
        if model == version and all(value is not None and value == value for value in p):  # NaN: not stepped
            said[machine, point, session, start_ns] = age > warm_up_windows, p
    tracks = []
    for sequence in dataset.sequences:
        keys = [
            (*sequence.key, session, start_ns)
            for session, start_ns in zip(sequence.session.tolist(), sequence.start_ns.tolist(), strict=True)
        ]
        there = np.array([key in said for key in keys], np.bool_)
        if there.any():
            some = {
                field.name: getattr(sequence, field.name)[there]
                for field in dataclasses.fields(sequence)
                if isinstance(getattr(sequence, field.name), np.ndarray)
            }
            judged, archived = zip(*(said[key] for key in keys if key in said), strict=True)
            tracks.append(
                Track(dataclasses.replace(sequence, **some), np.array(archived, np.float64), np.array(judged))
            )
    return tracks


def trade_off(
    tracks: Sequence[Track], classes: Sequence[str], settings: Sequence[Setting], *, warm_up_windows: int = 0
) -> list[dict[str, Any]]:
    """Return the event numbers of every setting over the same windows."""
    return [
        {
            "setting": setting.name,
            "alarm": dataclasses.asdict(setting.spec),
            "events": event_metrics(tracks, classes, setting.spec, warm_up_windows=warm_up_windows),
        }
        for setting in settings
    ]


def trade_off_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one line per setting: faults found, their delay, and false alarms."""
    head = (
        "alarms",
        "faults",
        "detected",
        "standing",
        "wrong mode",
        "missed",
        "too short",
        "delay s",
        "90 %",
        "false",
        "per day",
        "95 % below",
    )
    cells = []
    for row in rows:
        events = row["events"]
        delay = events["detection_delay_s"]
        rate = (events["false_alarms_per_machine_day"], events["false_alarms_per_machine_day_upper"])
        counts = (events[key] for key in ("episodes", "detections", "standing", "misdiagnosed", "missed", "too_short"))
        late = (_number(delay[key], 1) for key in ("median", "p90"))
        cells.append(
            (row["setting"], *map(str, counts), *late, str(events["false_alarms"]), *(_number(r, 2) for r in rate))
        )
    return table(head, cells)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
