"""Alarms: hysteresis and persistence in seconds of event time."""

from __future__ import annotations

import specs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.alarm import AlarmState, judge
from pipeline.core.records import AlarmChange, StreamKey

SPEC = specs.alarm(enter_p=0.8, leave_p=0.5, enter_s=2.0, leave_s=3.0, merge_s=0.0)
KEY = StreamKey("pump-01", "de")
SECOND = 10**9


def run(ps: list[float], mode: str = "unbalance") -> tuple[list[AlarmChange], AlarmState]:
    """Windows of one second, one after the other, each with probability p of `mode`."""
    state, changes = AlarmState(), []
    for i, p in enumerate(ps):
        probabilities = {"healthy": 1 - p, mode: p}
        state, some = judge(SPEC, state, KEY, probabilities, i * SECOND, (i + 1) * SECOND)
        changes += some
    return changes, state


def test_a_mode_that_persists_raises_one_alarm() -> None:
    changes, state = run([0.1, 0.9, 0.9, 0.9, 0.9])
    assert [(c.type, c.mode, c.at_ns, c.since_ns) for c in changes] == [("raised", "unbalance", 3 * SECOND, SECOND)]
    assert state.name == "alarm"


def test_a_short_burst_is_a_warning_and_no_alarm() -> None:
    changes, state = run([0.9])
    assert (changes, state.name) == ([], "warning")
    changes, state = run([0.9, 0.1, 0.9, 0.1])
    assert (changes, state.name) == ([], "normal")


def test_an_alarm_holds_between_the_thresholds_and_clears_after_its_wait() -> None:
    changes, _ = run([0.9, 0.9, 0.6, 0.6, 0.6, 0.6, 0.4, 0.4, 0.6, 0.4, 0.4])
    assert [c.type for c in changes] == ["raised"]
    changes, state = run([0.9, 0.9, 0.4, 0.4, 0.4])
    assert [c.type for c in changes] == ["raised", "cleared"]
    assert changes[0].id == changes[1].id
    assert state == AlarmState()


def test_healthy_never_raises_an_alarm() -> None:
    assert run([0.0] * 50) == ([], AlarmState())


@given(st.lists(st.floats(0, 1), max_size=60))
def test_raised_and_cleared_alternate_and_every_alarm_had_its_time(ps: list[float]) -> None:
    changes, _ = run(ps)
    types = [c.type for c in changes]
    assert types == ["raised", "cleared"] * (len(types) // 2) + ["raised"] * (len(types) % 2)
    for change in changes:
        if change.type == "raised":
            assert change.at_ns - change.since_ns >= SPEC.enter_s * SECOND
