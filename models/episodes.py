"""Which alarms are false and what became of a fault: one rule for recordings, for the archive and for simulated plants.

Time has no unit here. An alarm may be up several times under one id (it came back within `merge_s`): one episode. It
is *false* if it was first raised on a sound machine, whatever comes later. Of a fault, in this order:

    detected      an alarm of its mode was raised in it; or before, while it was there but not to be seen yet, and was
                  still up when it was
    standing      an alarm of its mode was up already, from before there was such a fault: it tells nobody anything
    misdiagnosed  alarms of other modes only were up
    missed        none was

Only the first is a detection. Delay = when that alarm was raised - when the fault could be seen, and never below 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Up:
    """An alarm was up in [start, end)."""

    mode: str
    start: float
    end: float
    id: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure mode in [start, end); an alarm of its mode that is raised at `early` or later is about it."""

    mode: str
    early: float
    start: float
    end: float


def false_alarms(alarms: Sequence[Up], on_sound_machine: Callable[[Up], bool]) -> list[Up]:
    """How every false one was raised first; `on_sound_machine` looks at when that was."""
    first: dict[str, Up] = {}
    for up in sorted(alarms, key=lambda up: up.start):
        first.setdefault(up.id, up)
    return [up for up in first.values() if on_sound_machine(up)]


def fate_of(fault: Fault, alarms: Sequence[Up]) -> tuple[str, float | None]:
    """What became of it; of a detected one also when the alarm was raised."""
    met = [up for up in alarms if up.start < fault.end and fault.start < up.end]
    right = [up for up in met if up.mode == fault.mode]
    if raised := [up.start for up in right if up.start >= fault.early]:
        return "detected", min(raised)
    if right:
        return "standing", None
    return ("misdiagnosed" if met else "missed"), None
