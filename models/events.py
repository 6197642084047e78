"""What an operator would have seen: alarms against fault episodes, and one verdict per recording.

A *fault episode* is a run of windows of one sequence with the same failure mode as truth. The alarms are those of
pipeline.core.alarm, run over the predictions with the settings of the service. Per episode, in this order:
detected (an alarm of the right mode is up inside it), misdiagnosed (alarms of other modes only), too short (over before
warm-up and persistence are, so that no alarm could be raised: says nothing of the model), missed.
A *false alarm* is an alarm that is up in windows known to be healthy and in no fault episode.
Delay = first alarm of the right mode - start of the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.dataset import UNKNOWN, WindowSequence
from models.metrics import number_or_none
from pipeline.core.alarm import HEALTHY, AlarmSpec, AlarmState, judge
from pipeline.core.records import AlarmChange

DAY_S = 86_400.0
SECOND_NS = 1e9
RESAMPLES = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A sequence and the probabilities (T, K) that it was given."""

    sequence: WindowSequence
    p: NDArray[np.float64]

    def after(self, windows: int) -> Track:
        """Without its first windows."""
        return Track(self.sequence.cut(windows, len(self.sequence)), self.p[windows:])


@dataclass(frozen=True, slots=True)
class _Span:
    """A fault episode or an alarm, [start, end) in ns."""

    mode: str
    start_ns: int
    end_ns: int
    id: str = ""  # of an alarm

    def meets(self, other: _Span) -> bool:
        return self.start_ns < other.end_ns and other.start_ns < self.end_ns


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a fault episode."""

    mode: str
    name: str  # detected, misdiagnosed, too_short or missed
    delay_s: float | None = None  # of a detected one


@dataclass(slots=True)
class _Tally:
    """What was counted on some machines."""

    detected: int = 0
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
        return self.detected + self.misdiagnosed + self.missed


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
    found = _Tally()
    alarms = _alarms(track, classes, spec, warm_up_windows)
    episodes = _truth_spans(track.sequence, classes)
    faults = [span for span in episodes if span.mode != HEALTHY]
    healthy = [span for span in episodes if span.mode == HEALTHY]
    found.healthy_s = sum(span.end_ns - span.start_ns for span in healthy) / SECOND_NS
    judged = track.sequence.start_ns[warm_up_windows:]
    for fate in (_fate(fault, alarms, judged, spec) for fault in faults):
        setattr(found, fate.name, getattr(found, fate.name) + 1)
        if fate.delay_s is not None:
            found.delays_s.append(fate.delay_s)
    in_fault = {alarm.id for alarm in alarms if any(alarm.meets(fault) for fault in faults)}
    in_health = {alarm.id for alarm in alarms if any(alarm.meets(span) for span in healthy)}
    found.false_alarms = len(in_health - in_fault)  # by id: an alarm that comes back is one episode
    return found


def _fate(fault: _Span, alarms: Sequence[_Span], judged: NDArray[np.int64], spec: AlarmSpec) -> Fate:
    """Of one episode; judged = starts of the windows after warm-up."""
    met = [alarm for alarm in alarms if alarm.meets(fault)]
    right = [alarm for alarm in met if alarm.mode == fault.mode]
    inside = judged[(judged >= fault.start_ns) & (judged < fault.end_ns)]
    if right:
        return Fate(fault.mode, "detected", max(0, right[0].start_ns - fault.start_ns) / SECOND_NS)
    if met:
        return Fate(fault.mode, "misdiagnosed")
    if inside.size == 0 or fault.end_ns - inside[0] < spec.enter_s * SECOND_NS:
        return Fate(fault.mode, "too_short")  # over before an alarm can be raised, whatever the network says
    return Fate(fault.mode, "missed")


def _intervals(machines: Sequence[_Tally]) -> dict[str, list[float] | None]:
    """5 % and 95 % of what is counted, machines resampled; None where less than two machines have any of it."""
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
    """5 % and 95 % of a number over machines drawn with replacement; the same draws every time."""
    if len(machines) < 2:
        return None
    draws = np.random.default_rng(0).integers(len(machines), size=(RESAMPLES, len(machines)))
    found = [number([machines[place] for place in draw]) for draw in draws.tolist()]
    return [float(np.quantile(found, share)) for share in (0.05, 0.95)]


def fault_fates(
    tracks: Sequence[Track], classes: Sequence[str], spec: AlarmSpec, *, warm_up_windows: int = 0
) -> list[Fate]:
    """What became of every fault, as `event_metrics` counts them."""
    fates = []
    for track in tracks:
        alarms = _alarms(track, classes, spec, warm_up_windows)
        judged = track.sequence.start_ns[warm_up_windows:]
        faults = [span for span in _truth_spans(track.sequence, classes) if span.mode != HEALTHY]
        fates += [_fate(fault, alarms, judged, spec) for fault in faults]
    return fates


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


def _alarms(track: Track, classes: Sequence[str], spec: AlarmSpec, warm_up_windows: int) -> list[_Span]:
    """Alarms over one sequence; one that is still up at the end ends there."""
    sequence, state = track.sequence, AlarmState()
    spans: list[_Span] = []
    up: dict[str, AlarmChange] = {}
    for t in range(warm_up_windows, len(sequence)):
        probabilities = dict(zip(classes, track.p[t].tolist(), strict=True))
        start_ns, end_ns = int(sequence.start_ns[t]), int(sequence.end_ns[t])
        state, changes = judge(spec, state, sequence.key, probabilities, start_ns, end_ns)
        for change in changes:
            if change.type == "raised":
                up[change.id] = change
            elif change.type in ("cleared", "revoked"):
                spans.append(_Span(change.mode, up.pop(change.id).at_ns, change.at_ns, change.id))
    for raised in up.values():
        end_ns = max(int(sequence.end_ns[-1]), raised.at_ns) + 1
        spans.append(_Span(raised.mode, raised.at_ns, end_ns, raised.id))
    return sorted(spans, key=lambda span: span.start_ns)


def _truth_spans(sequence: WindowSequence, classes: Sequence[str]) -> list[_Span]:
    """Runs of windows with the same known truth."""
    y = sequence.y
    edges = [0, *(np.flatnonzero(y[1:] != y[:-1]) + 1).tolist(), y.size]
    return [
        _Span(classes[int(y[first])], int(sequence.start_ns[first]), int(sequence.end_ns[last - 1]) + 1)
        for first, last in pairwise(edges)
        if y[first] != UNKNOWN
    ]


def poisson_upper(count: int) -> float:
    """Upper 95 % limit of a Poisson mean after `count` events: chi2(0.95, 2 count + 2) / 2."""
    from scipy.special import gammaincinv  # chi2.ppf without the weight of scipy.stats

    return float(gammaincinv(count + 1, 0.95))
