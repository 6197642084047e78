"""A long pause: the network's memory and what the alarms were waiting for begin anew, what was up stays up."""

from __future__ import annotations

import numpy as np
import pytest
import specs

from pipeline.core.engine import Engine, Step
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import FeatureRow, Float32, StreamKey

KEY = StreamKey("pump-01", "de")
SPEC = specs.stream(alarm=specs.alarm(enter_s=3.0, leave_s=3.0, merge_s=0.0), max_gap_s=30.0, warm_up_windows=2)
DAY_S = 86_400


class Echo:
    """Says `unbalance` of a window whose kurtosis is above 3, and nothing of the windows before."""

    version, classes, inputs, hidden_shape = "v0001", ("healthy", "unbalance"), ("x.kurtosis",), (1, 1)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        faulty = (x[:, 0] > 3).astype(np.float32)
        return np.stack([1 - faulty, faulty], axis=1), h + 1


def row(at_s: float, *, faulty: bool) -> FeatureRow:
    values = np.zeros((1, len(NAMES)), np.float32)
    values[0, COLUMN["kurtosis"]] = 6.0 if faulty else 1.0
    start_ns = round(at_s * 1e9)
    return FeatureRow(
        key=KEY, session=1, window=int(at_s), start_ns=start_ns, end_ns=start_ns + 10**9, rate_hz=1000.0,
        speed_rpm=None, coverage=1.0, quality=0, truth=None, channels=("x",), values=values, schema="s",
    )  # fmt: skip


def said(*windows: tuple[float, bool]) -> Step:
    rows = [row(at_s, faulty=faulty) for at_s, faulty in windows]
    return Engine(lambda _: SPEC, Echo()).predict({}, {KEY: rows})


@pytest.mark.parametrize("pause_s", [20, 32, 14 * DAY_S])
def test_a_suspicion_from_before_a_long_pause_does_not_shorten_the_wait_after_it(pause_s: int) -> None:
    before = [(float(at), at == 9) for at in range(10)]  # the last window is suspicious
    after = [(10.0 + pause_s + at, True) for at in range(7)]
    alone, whole = said(*after), said(*before, *after)
    shorter = pause_s <= SPEC.max_gap_s
    raised = [change.since_ns // 10**9 for change in whole.alarms if change.type == "raised"]
    assert raised == [9 if shorter else 10 + pause_s + SPEC.warm_up_windows]
    if not shorter:
        assert whole.alarms == alone.alarms
        assert [p.state for p in whole.predictions[10:]] == [p.state for p in alone.predictions]


def test_an_alarm_that_was_up_outlasts_a_pause_and_clears_only_after_its_wait() -> None:
    before = [(float(at), True) for at in range(8)] + [(8.0, False)]  # one window below leave_p
    after = [(9.0 + DAY_S + at, False) for at in range(8)]
    step = said(*before, *after)
    assert [change.type for change in step.alarms] == ["raised", "cleared"]
    cleared_s = step.alarms[1].at_ns / 1e9
    assert cleared_s == 9 + DAY_S + SPEC.warm_up_windows + SPEC.alarm.leave_s
