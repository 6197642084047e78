"""What an operator would have seen: alarms against faults, and one verdict per recording.

A *fault* is a run of windows of one sequence with the same failure mode as truth. Windows of unknown truth do not end
it. The alarms are those of pipeline.core.alarm, run over the predictions with the settings of the service; an alarm
belongs to the window at which it was raised. One alarm may be up several times under one id, because it came back
within `merge_s`; that is one alarm.

An alarm is *false* if it was first raised on a sound machine, whatever comes later. A fault has one of these outcomes,
tried in this order:

    detected      an alarm of its mode was raised during the fault; or before it, at `early` or later (the fault was
                  there but could not be seen yet), and was still up
    standing      an alarm of its mode was up already, raised before this fault existed: it tells nobody anything
    misdiagnosed  only alarms of other modes were up
    missed        no alarm was up
    too_short     missed, but over before warm-up and persistence allow any alarm: this says nothing about the model

Only the first is a detection. Its delay runs from the first window of the fault, warm-up included (a fault that begins
there waits for it in service too), to the alarm, and is never below 0. The rule (`false_alarms`, `outcome_of`) has no
unit of time: recordings and the archive use ns, simulated plants use s.

Where a track knows them, `unknown` and the zone take part as in service (models/evaluation/scoring.py). Held-out
predictions of a training have neither, so their numbers are about the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import UNKNOWN, WindowSequence
from models.evaluation.metrics import number_or_none
from pipeline.core.alarm import AlarmSpec, AlarmState, judge
from pipeline.core.faults import HEALTHY
from pipeline.core.records import AlarmChange

DAY_S = 86_400.0
SECOND_NS = 1e9
RESAMPLES = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AlarmInterval:
    """A time [start, end) during which an alarm was up."""

    mode: str
    start: float
    end: float
    id: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure mode in [start, end). An alarm of its mode that is raised at `early` or later belongs to it."""

    mode: str
    early: float
    start: float
    end: float


def false_alarms(
    alarms: Sequence[AlarmInterval], on_sound_machine: Callable[[AlarmInterval], bool]
) -> list[AlarmInterval]:
    """Return the first interval of every false alarm; `on_sound_machine` judges that interval."""
    first: dict[str, AlarmInterval] = {}
    for interval in sorted(alarms, key=lambda interval: interval.start):
        first.setdefault(interval.id, interval)
    return [interval for interval in first.values() if on_sound_machine(interval)]


def outcome_of(fault: Fault, alarms: Sequence[AlarmInterval]) -> tuple[str, float | None]:
    """Return the outcome of a fault and, if it was detected, when the alarm was raised."""
    met = [interval for interval in alarms if interval.start < fault.end and fault.start < interval.end]
    right = [interval for interval in met if interval.mode == fault.mode]
    if raised := [interval.start for interval in right if interval.start >= fault.early]:
        return "detected", min(raised)
    if right:
        return "standing", None
    return ("misdiagnosed" if met else "missed"), None


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A sequence with its probabilities (T, K), and what the service adds to them where that is known."""

    sequence: WindowSequence
    p: NDArray[np.float64]
    judged: NDArray[np.bool_] | None = None  # (T,) whether alarms look at it; None: from `warm_up_windows` on
    unknown: NDArray[np.bool_] | None = None  # (T,) said by the detector; None: it was not asked
    zone: Sequence[str | None] | None = None  # (T,) vibration zone; None: zones raise no alarm

    def of_alarms(self, warm_up_windows: int) -> NDArray[np.int64]:
        """Numbers of the windows that the alarms look at."""
        asked = np.arange(len(self.sequence)) >= warm_up_windows if self.judged is None else self.judged
        return np.flatnonzero(asked)


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """The outcome of one fault."""

    mode: str
    name: str  # detected, standing, misdiagnosed, too_short or missed
    delay_s: float | None = None  # of a detected one


@dataclass(slots=True)
class _Tally:
    """Counts over some machines."""

    detected: int = 0
    standing: int = 0
    misdiagnosed: int = 0
    missed: int = 0
    too_short: int = 0
    false_alarms: int = 0
    healthy_s: float = 0.0
    delays_s: list[float] = field(default_factory=list)

    def add(self, other: _Tally) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def judged(self) -> int:
        return self.detected + self.standing + self.misdiagnosed + self.missed


def event_metrics(
    tracks: Sequence[Track], classes: Sequence[str], spec: AlarmSpec, *, warm_up_windows: int = 0
) -> dict[str, Any]:
    """Count detections, misses, wrong diagnoses and false alarms, and the delays; `events` of `evaluate --json`."""
    machines: dict[str, _Tally] = {}
    for track in tracks:
        machines.setdefault(track.sequence.key.machine, _Tally()).add(_tally(track, classes, spec, warm_up_windows))
    total = _Tally()
    for tally in machines.values():
        total.add(tally)
    days = total.healthy_s / DAY_S
    return {
        "episodes": total.judged,
        "detections": total.detected,
        "standing": total.standing,
        "missed": total.missed,
        "misdiagnosed": total.misdiagnosed,
        "too_short": total.too_short,
        "false_alarms": total.false_alarms,
        "healthy_machine_days": days,
        "false_alarms_per_machine_day": number_or_none(total.false_alarms / days if days else float("nan")),
        # With n events in D days the rate is below the upper limit with 95 % (Poisson; n = 0: rule of three).
        "false_alarms_per_machine_day_upper": number_or_none(
            poisson_upper(total.false_alarms) / days if days else float("nan")
        ),
        "detection_delay_s": {
            "median": float(np.median(total.delays_s)) if total.delays_s else None,
            "p90": float(np.percentile(total.delays_s, 90)) if total.delays_s else None,
        },
        "interval_90": _intervals(list(machines.values())),
    }


def _tally(track: Track, classes: Sequence[str], spec: AlarmSpec, warm_up_windows: int) -> _Tally:
    found, sequence = _Tally(), track.sequence
    alarms = _alarms(track, classes, spec, warm_up_windows)
    for outcome in _outcomes(track, classes, spec, warm_up_windows, alarms):
        setattr(found, outcome.name, getattr(found, outcome.name) + 1)
        if outcome.delay_s is not None:
            found.delays_s.append(outcome.delay_s)
    sound = sequence.y == (classes.index(HEALTHY) if HEALTHY in classes else len(classes))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sound, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2):
        found.healthy_s += float(sequence.end_ns[last - 1] - sequence.start_ns[first]) / SECOND_NS
    raised_at = set(sequence.end_ns[sound].tolist())
    found.false_alarms = len(false_alarms(alarms, lambda interval: interval.start in raised_at))
    return found


def _outcomes(
    track: Track, classes: Sequence[str], spec: AlarmSpec, warm_up_windows: int, alarms: Sequence[AlarmInterval]
) -> list[FaultOutcome]:
    judged = track.sequence.start_ns[track.of_alarms(warm_up_windows)]
    outcomes = []
    for fault in _faults(track.sequence, classes):
        name, raised_ns = outcome_of(fault, alarms)
        inside = judged[(judged >= fault.start) & (judged < fault.end)]
        if name == "missed" and (inside.size == 0 or fault.end - inside[0] < spec.enter_s * SECOND_NS):
            name = "too_short"
        delay_s = None if raised_ns is None else max(0.0, raised_ns - fault.start) / SECOND_NS
        outcomes.append(FaultOutcome(fault.mode, name, delay_s))
    return outcomes


def _intervals(machines: Sequence[_Tally]) -> dict[str, list[float] | None]:
    """Return the 5 % and 95 % quantiles with machines resampled; None where fewer than two machines count."""
    faulty = [each for each in machines if each.judged]
    healthy = [each for each in machines if each.healthy_s]
    late = [each for each in machines if each.delays_s]
    return {
        "detected_share": interval_90(faulty, lambda some: sum(t.detected for t in some) / sum(t.judged for t in some)),
        "delay_median_s": interval_90(late, lambda some: float(np.median([d for t in some for d in t.delays_s]))),
        "false_alarms_per_machine_day": interval_90(
            healthy, lambda some: sum(t.false_alarms for t in some) / sum(t.healthy_s for t in some) * DAY_S
        ),
    }


def interval_90(machines: Sequence[T], number: Callable[[list[T]], float]) -> list[float] | None:
    """Return the 5 % and 95 % quantiles of a number over resampled machines; the draws are always the same."""
    if len(machines) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(machines), size=(RESAMPLES, len(machines)))
    found = [number([machines[place] for place in draw]) for draw in draws.tolist()]
    return [float(np.quantile(found, share)) for share in (0.05, 0.95)]


def fault_outcomes(
    tracks: Sequence[Track], classes: Sequence[str], spec: AlarmSpec, *, warm_up_windows: int = 0
) -> list[FaultOutcome]:
    """Return the outcome of every fault, as `event_metrics` counts them."""
    return [
        outcome
        for track in tracks
        for outcome in _outcomes(track, classes, spec, warm_up_windows, _alarms(track, classes, spec, warm_up_windows))
    ]


def recording_metrics(tracks: Sequence[Track], classes: Sequence[str]) -> dict[str, Any]:
    """One verdict per (machine, point, truth): the class with the largest mean probability.

    `share` is that mean, `session` the first one of the recording.
    """
    mean: dict[tuple[str, str, int], list[Any]] = {}
    for track in tracks:
        for k in np.unique(track.sequence.y[track.sequence.y != UNKNOWN]).tolist():
            mine = track.sequence.y == k
            entry = mean.setdefault(
                (*track.sequence.key, k), [np.zeros(len(classes)), 0, track.sequence.session[mine][0]]
            )
            entry[0] += track.p[mine].sum(axis=0)
            entry[1] += int(mine.sum())
    predictions = []
    for (machine, point, k), (total, windows, session) in sorted(mean.items()):
        best = int(total.argmax())
        predictions.append(
            {
                "machine": machine,
                "point": point,
                "session": int(session),
                "truth": classes[k],
                "predicted": classes[best],
                "share": float(total[best] / windows),
                "windows": windows,
            }
        )
    right = sum(row["truth"] == row["predicted"] for row in predictions)
    accuracy = right / len(predictions) if predictions else None
    return {"count": len(predictions), "accuracy": accuracy, "predictions": predictions}


def _alarms(track: Track, classes: Sequence[str], spec: AlarmSpec, warm_up_windows: int) -> list[AlarmInterval]:
    """Return the alarms of one sequence, in ns; an alarm that is still up at the end of the sequence ends there."""
    sequence, state = track.sequence, AlarmState()
    found: list[AlarmInterval] = []
    raised: dict[str, AlarmChange] = {}
    for t in track.of_alarms(warm_up_windows).tolist():
        probabilities = dict(zip(classes, track.p[t].tolist(), strict=True))
        start_ns, end_ns = int(sequence.start_ns[t]), int(sequence.end_ns[t])
        unknown = track.unknown is not None and bool(track.unknown[t])
        zone = None if track.zone is None else track.zone[t]
        state, changes = judge(spec, state, sequence.key, probabilities, start_ns, end_ns, unknown=unknown, zone=zone)
        for change in changes:
            if change.type == "raised":
                raised[change.id] = change
            elif change.type in ("cleared", "revoked"):
                found.append(AlarmInterval(change.mode, raised.pop(change.id).at_ns, change.at_ns, change.id))
    end_ns = int(sequence.end_ns[-1]) + 1 if len(sequence) else 0
    return [*found, *(AlarmInterval(change.mode, change.at_ns, end_ns, change.id) for change in raised.values())]


def _faults(sequence: WindowSequence, classes: Sequence[str]) -> list[Fault]:
    """Return the faults of one sequence, in ns; `early` follows the last window that is known to be of another mode."""
    y = sequence.y
    known = np.flatnonzero(y != UNKNOWN)
    edges = [0, *(np.flatnonzero(np.diff(y[known])) + 1).tolist(), known.size]
    faults = []
    for begin, end in pairwise(edges):
        if begin == end or (mode := classes[int(y[known[begin]])]) == HEALTHY:
            continue
        first, last = int(known[begin]), int(known[end - 1])
        since = int(known[begin - 1]) + 1 if begin else 0
        early_ns, start_ns = int(sequence.end_ns[since]), int(sequence.start_ns[first])
        faults.append(Fault(mode, early_ns, start_ns, int(sequence.end_ns[last]) + 1))
    return faults


def poisson_upper(count: int) -> float:
    """Upper 95 % limit of a Poisson mean after `count` events: chi2(0.95, 2 count + 2) / 2."""
    from scipy.special import gammaincinv  # chi2.ppf without the weight of scipy.stats

    return float(gammaincinv(count + 1, 0.95))
