"""Alarms: a state machine per stream and failure mode, over the predictions of one stream.

    suspected --enter_s at or above enter_p--> raised --a fault improbable for leave_s--> cleared
                                               raised --another mode is raised instead--> revoked

*Cleared* means that the machine is well again: the probability of any fault at all has been below `leave_p`. *Revoked*
means that the diagnosis was taken back: another mode was raised, and this one was improbable for as long as the other
was suspected.

The first name of an open alarm is kept until another has more evidence. Evidence is time weighted by probability, in
seconds: of the open alarm since it was first suspected, at most `rename_s`; of another mode since it was last
suspected, without a limit. So a few sure windows do not rename an alarm that stood for an hour, and a second fault
that stays is raised in the end. The alarm of the vibration severity alone names nothing, and gives way at once.

A mode that returns within `merge_s` reopens its alarm under the same id, so that one episode stays one alarm. A later
return raises no new alarm before `cooldown_s` have passed since the last one ended.

There are two thresholds and two waits, so that the last bit of a float cannot decide. The waits are in seconds of
event time and not in windows, because overlapping windows are not independent. A window that was not judged changes
nothing, and neither does one that looks like nothing the model knows.

The vibration severity is a floor under the alarms (`pipeline.core.severity.floor`). Zone C is at least a warning. Zone
D that lasts is an alarm of mode `other`, whatever the network says. Zone None means that the severity is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from pipeline.core.faults import HEALTHY
from pipeline.core.records import AlarmChange, StreamKey

OTHER = "other"  # the mode of an alarm that the vibration severity alone raises
STRAINED = ("C", "D")


@dataclass(frozen=True, slots=True)
class AlarmSpec:
    """When an alarm is raised and cleared: thresholds are probabilities, waits are event time."""

    enter_p: float
    leave_p: float
    enter_s: float
    leave_s: float
    cooldown_s: float  # how long a mode raises no new alarm after its last one ended
    merge_s: float  # how soon after its end a mode must return to reopen the same alarm
    rename_s: float  # evidence for an open alarm that another mode must exceed; more is not asked


class Suspicion(msgspec.Struct, frozen=True):
    """A mode that is probable, but has not been so for long enough."""

    mode: str
    since_ns: int
    evidence_s: float = 0.0  # time weighted by probability
    to_ns: int = 0  # up to which evidence is counted; windows overlap


class Episode(msgspec.Struct, frozen=True):
    """An alarm, open or ended. `since_ns` is when its mode first reached `enter_p`."""

    mode: str
    since_ns: int
    p: float  # when it was raised
    low_since_ns: int | None = None  # since when its mode has been below leave_p
    well_since_ns: int | None = None  # since when a fault of any mode has been below leave_p
    acked_ns: int | None = None
    ended_ns: int | None = None
    by_severity: bool = False  # raised by the zone alone
    evidence_s: float = 0.0  # time weighted by probability, at most rename_s
    to_ns: int = 0  # up to which evidence is counted


class AlarmState(msgspec.Struct, frozen=True):
    """What is suspected, which alarms are open, and which ended lately."""

    suspicion: Suspicion | None = None
    open: tuple[Episode, ...] = ()  # oldest first
    past: tuple[Episode, ...] = ()  # ended less than cooldown_s or merge_s ago
    unknown_since_ns: int | None = None
    unknown: bool = False  # for enter_s no mode that the model knows has fitted
    strained: bool = False  # zone C or D

    @property
    def name(self) -> str:
        """The state of the stream: normal, warning, unknown or alarm."""
        if self.open:
            return "alarm"
        if self.unknown:
            return "unknown"
        return "warning" if self.suspicion is not None or self.strained else "normal"

    @property
    def mode(self) -> str | None:
        """The mode of the newest open alarm, else the suspected mode."""
        if self.open:
            return self.open[-1].mode
        return None if self.suspicion is None else self.suspicion.mode


_QUIET = AlarmState()
_Named = TypeVar("_Named", Suspicion, Episode)


def judge(
    spec: AlarmSpec,
    state: AlarmState,
    key: StreamKey,
    probabilities: dict[str, float],
    start_ns: int,
    end_ns: int,
    *,
    unknown: bool = False,
    zone: str | None = None,
    enter_p: float | None = None,
) -> tuple[AlarmState, list[AlarmChange]]:
    """Take the probabilities of the window [start_ns, end_ns). Return the alarms that changed.

    `enter_p` replaces the threshold of the spec for a stream that has its own, see `pipeline.core.budget`.
    """
    enter_p = spec.enter_p if enter_p is None else enter_p
    if unknown and zone != "D":
        since_ns = start_ns if state.unknown_since_ns is None else state.unknown_since_ns
        return replace(state, unknown_since_ns=since_ns, unknown=end_ns - since_ns >= spec.enter_s * 1e9), []
    values = list(probabilities.values())
    p = max(values)
    mode = list(probabilities)[values.index(p)]
    if state == _QUIET and mode == HEALTHY and zone not in STRAINED:  # nearly all windows
        return state, []
    if _is_steady(spec, state, mode, p, zone):
        return state, []
    still, ended, changes = _watch(spec, state.open, key, probabilities, start_ns, end_ns, zone)
    memory_ns = max(spec.cooldown_s, spec.merge_s) * 1e9
    past = [*state.past, *ended]
    if past:
        past = [e for e in past if end_ns - (e.ended_ns or 0) < memory_ns]
    by_severity = False
    if unknown or mode == HEALTHY or p < enter_p:
        by_severity = zone == "D" and not still
        mode, p = (OTHER, probabilities.get(OTHER, 0.0)) if by_severity else (HEALTHY, p)
    suspicion = None
    if mode != HEALTHY and all(e.mode != mode for e in still):
        same = state.suspicion is not None and state.suspicion.mode == mode
        suspicion = state.suspicion if same and state.suspicion is not None else Suspicion(mode, start_ns)
        suspicion = _counted(suspicion, p, start_ns, end_ns)
        stronger = by_severity or all(suspicion.evidence_s > e.evidence_s for e in still if not e.by_severity)
        raised = _due(spec, suspicion, past, p, end_ns) if stronger else None
        if raised is not None:
            evidence_s = min(suspicion.evidence_s, spec.rename_s)
            raised = replace(raised, by_severity=by_severity, evidence_s=evidence_s, to_ns=end_ns)
            still, revoked = _revoked(still, suspicion, end_ns)
            changes += [_change("revoked", e, key, probabilities.get(e.mode, 0.0), end_ns) for e in revoked]
            changes.append(_change("raised", raised, key, p, end_ns))
            past = [*(e for e in past if e.mode != mode), *(revoked if memory_ns else [])]
            still, suspicion = [*still, raised], None
    return AlarmState(suspicion, tuple(still), tuple(past), strained=zone in STRAINED), changes


def acknowledge(state: AlarmState, key: StreamKey, alarm_id: str, at_ns: int) -> tuple[AlarmState, list[AlarmChange]]:
    """Acknowledge an open alarm. It stays open until it clears. A second acknowledgement changes nothing."""
    changes = []
    episodes = list(state.open)
    for place, episode in enumerate(episodes):
        if episode_id(key, episode) == alarm_id and episode.acked_ns is None:
            episodes[place] = replace(episode, acked_ns=at_ns)
            changes.append(_change("acked", episode, key, episode.p, at_ns))
    return replace(state, open=tuple(episodes)), changes


def waits_begin_anew(state: AlarmState) -> AlarmState:
    """Keep the open alarms and begin all waits again.

    What happened in a long pause is unknown. Another model has not seen what the last one suspected.
    """
    return replace(
        state,
        suspicion=None,
        open=tuple(replace(episode, low_since_ns=None, well_since_ns=None) for episode in state.open),
        unknown_since_ns=None,
        unknown=False,
    )


def episode_id(key: StreamKey, episode: Episode) -> str:
    """The name of an alarm: where, what and since when. All changes of an alarm carry the same id."""
    return f"{key}/{episode.mode}/{episode.since_ns}"


def _is_steady(spec: AlarmSpec, state: AlarmState, mode: str, p: float, zone: str | None) -> bool:
    """Whether one open alarm, whose mode is still the most probable, is all there is. Then nothing changes."""
    if len(state.open) != 1 or state.suspicion is not None or state.past or state.unknown_since_ns is not None:
        return False
    episode = state.open[0]
    still = episode.mode == mode and p >= spec.leave_p and episode.low_since_ns is None
    return still and episode.evidence_s >= spec.rename_s and state.strained == (zone in STRAINED)


def _watch(
    spec: AlarmSpec,
    episodes: tuple[Episode, ...],
    key: StreamKey,
    probabilities: dict[str, float],
    start_ns: int,
    end_ns: int,
    zone: str | None,
) -> tuple[list[Episode], list[Episode], list[AlarmChange]]:
    """The open alarms after a window: those that stay open, those that ended, and the changes."""
    still: list[Episode] = []
    ended: list[Episode] = []
    changes: list[AlarmChange] = []
    fault_p = 1.0 - probabilities.get(HEALTHY, 0.0)
    for episode in episodes:
        p = probabilities.get(episode.mode, fault_p)  # a mode that this model does not know: any fault holds it
        held = zone is None or zone in STRAINED if episode.by_severity else False
        high = held or p >= spec.leave_p
        low_since_ns = None if high else start_ns if episode.low_since_ns is None else episode.low_since_ns
        well = not high and fault_p < spec.leave_p
        well_since_ns = None if not well else start_ns if episode.well_since_ns is None else episode.well_since_ns
        if (low_since_ns, well_since_ns) != (episode.low_since_ns, episode.well_since_ns):
            episode = replace(episode, low_since_ns=low_since_ns, well_since_ns=well_since_ns)
        if high and episode.evidence_s < spec.rename_s:
            episode = _counted(episode, p, start_ns, end_ns, spec.rename_s)
        if well_since_ns is None or end_ns - well_since_ns < spec.leave_s * 1e9:
            still.append(episode)
        else:
            ended.append(replace(episode, low_since_ns=None, well_since_ns=None, ended_ns=end_ns))
            changes.append(_change("cleared", episode, key, p, end_ns))
    return still, ended, changes


def _counted(named: _Named, p: float, start_ns: int, end_ns: int, most_s: float = math.inf) -> _Named:
    """With the evidence of a window that names its mode with probability p."""
    new_s = max(0, end_ns - max(start_ns, named.to_ns)) / 1e9
    return replace(named, evidence_s=min(named.evidence_s + p * new_s, most_s), to_ns=end_ns)


def _due(spec: AlarmSpec, suspicion: Suspicion, past: list[Episode], p: float, end_ns: int) -> Episode | None:
    """The alarm to raise once the suspicion has lasted. One that ended lately is reopened, or held back."""
    if end_ns - suspicion.since_ns < spec.enter_s * 1e9:
        return None
    for episode in past:
        if episode.mode == suspicion.mode and episode.ended_ns is not None:
            if suspicion.since_ns - episode.ended_ns < spec.merge_s * 1e9:
                return replace(episode, ended_ns=None, p=p)
            if end_ns - episode.ended_ns < spec.cooldown_s * 1e9:
                return None
    return Episode(suspicion.mode, suspicion.since_ns, p)


def _revoked(still: list[Episode], suspicion: Suspicion, end_ns: int) -> tuple[list[Episode], list[Episode]]:
    """The open alarms that stay, and those that were improbable for as long as another mode was suspected."""
    gone = [e for e in still if e.low_since_ns is not None and e.low_since_ns <= suspicion.since_ns]
    return [e for e in still if e not in gone], [
        replace(e, low_since_ns=None, well_since_ns=None, ended_ns=end_ns) for e in gone
    ]


def _change(type_: str, episode: Episode, key: StreamKey, p: float, at_ns: int) -> AlarmChange:
    return AlarmChange(key, type_, episode_id(key, episode), episode.mode, p, at_ns, episode.since_ns)
