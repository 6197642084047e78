"""Alarms: a state machine over the predictions of one stream.

A failure mode that stays at or above `enter_p` for `enter_s` raises an alarm; the alarm clears when
its mode has stayed below `leave_p` for `leave_s`. Two thresholds and two waits (hysteresis and
persistence), in seconds of event time and not in windows, because overlapping windows are not
independent and because a float's last bit must not decide. Windows that were not judged change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.records import AlarmChange, StreamKey

HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class AlarmSpec:
    """Thresholds as probabilities, waits in event time."""

    enter_p: float = 0.8
    leave_p: float = 0.5
    enter_s: float = 3.0
    leave_s: float = 15.0


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What is suspected or open. `since_ns` is when `mode` first reached `enter_p`."""

    mode: str | None = None
    since_ns: int = 0
    raised: bool = False
    low_since_ns: int | None = None  # of an open alarm: since when its mode has been below leave_p

    @property
    def name(self) -> str:
        """The stream's state as far as alarms go: normal, warning or alarm."""
        return "normal" if self.mode is None else "alarm" if self.raised else "warning"


def judge(
    spec: AlarmSpec, state: AlarmState, key: StreamKey, probabilities: dict[str, float], start_ns: int, end_ns: int
) -> tuple[AlarmState, list[AlarmChange]]:
    """Take the probabilities of the window [start_ns, end_ns); return what changed."""
    if state.raised:
        return _watch(spec, state, key, probabilities, start_ns, end_ns)
    mode, p = max(probabilities.items(), key=lambda item: item[1])
    if mode == HEALTHY or p < spec.enter_p:
        return AlarmState(), []
    if mode != state.mode:
        state = AlarmState(mode=mode, since_ns=start_ns)
    if end_ns - state.since_ns < spec.enter_s * 1e9:
        return state, []
    return replace(state, raised=True), [_change("raised", replace(state, raised=True), key, p, end_ns)]


def _watch(
    spec: AlarmSpec, state: AlarmState, key: StreamKey, probabilities: dict[str, float], start_ns: int, end_ns: int
) -> tuple[AlarmState, list[AlarmChange]]:
    """An open alarm clears after its mode has been improbable for long enough."""
    p = probabilities.get(state.mode or "", 0.0)
    if p >= spec.leave_p:
        return replace(state, low_since_ns=None), []
    low_since_ns = start_ns if state.low_since_ns is None else state.low_since_ns
    if end_ns - low_since_ns < spec.leave_s * 1e9:
        return replace(state, low_since_ns=low_since_ns), []
    return AlarmState(), [_change("cleared", state, key, p, end_ns)]


def _change(type_: str, state: AlarmState, key: StreamKey, p: float, at_ns: int) -> AlarmChange:
    mode = state.mode or HEALTHY
    return AlarmChange(key, type_, f"{key}/{mode}/{state.since_ns}", mode, p, at_ns, state.since_ns)
