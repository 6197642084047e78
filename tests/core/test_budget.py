"""The budget of false alarms: a stream's own threshold, learned while it is sound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.core import budget
from pipeline.core.alarm import AlarmState, judge
from pipeline.core.budget import BLOCK_S, LEAST_H, PEAKS, YEAR_S, SoundHistory, fitted, learn, threshold, verdict
from pipeline.core.engine import Engine
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import AlarmChange, FeatureRow, Float32, StreamKey
from pipeline.core.state import StreamState, budget_of, from_bytes, to_bytes

KEY = StreamKey("pump-01", "de")
SECOND = 10**9
SPEC = specs.stream(
    alarm=specs.alarm(enter_p=0.8, leave_p=0.5, enter_s=2.0), commissioning_windows=1, warm_up_windows=0
)
PER_BLOCK = BLOCK_S / YEAR_S  # one a year


def history(scores: Sequence[float], window_s: float = BLOCK_S) -> SoundHistory:
    """A history of windows of `window_s` with these log odds, each a block of its own unless it is shorter."""
    found = SoundHistory()
    for i, value in enumerate(scores):
        span = (round(i * window_s * 1e9), round((i + 1) * window_s * 1e9))
        found = learn(found, 1.0, 2.0, "v0001", budget.probability(value), *span)
    return found


@pytest.mark.parametrize("minutes", [300, 1500, 6000])
@pytest.mark.parametrize(
    "law", [stats.norm(-6, 1), stats.logistic(-6, 0.5), stats.gumbel_r(-6, 0.4), stats.t(12, -6, 0.6)]
)
def test_the_upper_threshold_keeps_the_budget_of_nine_streams_in_ten(law: stats.rv_frozen, minutes: int) -> None:
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(60):
        peaks = np.sort(law.rvs(minutes, random_state=rng))[::-1][: PEAKS + 1]
        estimate, upper = fitted(tuple(peaks.tolist()), minutes, PER_BLOCK)
        assert estimate <= upper
        kept.append(law.sf(upper) <= PER_BLOCK)
    assert np.mean(kept) >= 0.9


def test_a_quiet_stream_meets_its_budget_after_a_day_and_then_alarms_earlier_than_others() -> None:
    rng = np.random.default_rng(1)
    found = history(rng.normal(-9, 0.5, int(LEAST_H * 60) - 30).tolist())
    said = verdict(found, 1.0, declared=True, enter_p=0.8, leave_p=0.5)
    assert (said.state, said.needs_h) == ("collecting", LEAST_H)
    assert "not enough sound history yet" in said.text
    assert "needs about 24 h" in said.text
    assert threshold(found, "v0001", 0.8, 0.5) == 0.8  # not lower before a day has passed
    found = history(rng.normal(-9, 0.5, int(1.3 * LEAST_H * 60)).tolist())
    said = verdict(found, 1.0, declared=True, enter_p=0.8, leave_p=0.5)
    assert said.state == "met"
    assert "budget met" in said.text
    assert threshold(found, "v0001", 0.8, 0.5) == said.enter_p == 0.5
    assert learn(found, 1.0, 2.0, "v0001", 0.99, 0, SECOND) == found  # final
    assert threshold(found, "v0002", 0.8, 0.5) == 0.8  # the scores of another model are others
    assert learn(found, 1.0, 2.0, "v0002", 0.99, 0, SECOND).blocks == 0


def test_a_noisy_stream_gets_a_higher_threshold_within_an_hour_and_a_certain_fault_still_alarms() -> None:
    rng = np.random.default_rng(2)
    found = history(rng.logistic(1.0, 1.0, 60).tolist())
    p = threshold(found, "v0001", 0.8, 0.5)
    assert 0.8 < p <= budget.NEVER_P
    loud = history(rng.logistic(6.0, 0.5, 3000).tolist())
    assert verdict(loud, 1.0, declared=True, enter_p=0.8, leave_p=0.5).state == "exceeded"
    state, changes = AlarmState(), list[AlarmChange]()
    for i in range(4):
        state, some = judge(
            SPEC.alarm, state, KEY, {"healthy": 0.0, "unbalance": 1.0}, i * SECOND, (i + 1) * SECOND, enter_p=p
        )
        changes += some
    assert [change.type for change in changes] == ["raised"]


def test_one_event_in_commissioning_does_not_decide() -> None:
    peaks = np.sort(np.random.default_rng(3).normal(-6, 0.7, 1500))[::-1][: PEAKS + 1]
    without = fitted(tuple(peaks.tolist()), 1500, PER_BLOCK)
    peaks[0] = 16.0
    assert fitted(tuple(peaks.tolist()), 1500, PER_BLOCK) == without


def test_a_short_burst_is_no_peak_and_a_burst_that_holds_is_one() -> None:
    def peak(burst: int) -> float | None:
        scores = [-6.0] * 30 + [3.0] * burst + [-6.0] * 20
        return history(scores, window_s=1.0).block_peak

    assert peak(1) == -6.0
    assert peak(2) == 3.0


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0.1, 9.0))
@settings(deadline=None)
def test_a_history_is_small_and_survives_bytes_at_every_window(ps: list[float], window_s: float) -> None:
    ns = round(window_s * 1e9)
    state, plain = StreamState(), SoundHistory()
    for i, p in enumerate(ps):
        span = (i * ns, (i + 1) * ns)
        plain = learn(plain, 1.0, 2.0, "v0001", p, *span)
        state = from_bytes(SPEC, to_bytes(SPEC, StreamState(sound=learn(state.sound, 1.0, 2.0, "v0001", p, *span))))
    assert state.sound == plain
    assert len(plain.peaks) <= PEAKS + 1
    assert len(plain.recent) <= 2 + 2.0 / window_s
    assert len(to_bytes(SPEC, state)) < 1500


class Echo:
    """Says `unbalance` with the probability that stands in the kurtosis."""

    version, classes, inputs, hidden_shape = "v0001", ("healthy", "unbalance"), ("x.kurtosis",), (1, 1)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        return np.concatenate([1 - x, x], axis=1), h


def rows(ps: Sequence[float]) -> list[FeatureRow]:
    found = []
    for i, p in enumerate(ps):
        values = np.zeros((1, len(NAMES)), np.float32)
        values[0, COLUMN["kurtosis"]] = p
        found.append(
            FeatureRow(
                key=KEY,
                session=1,
                window=i,
                start_ns=i * 2 * SECOND,
                end_ns=(i + 1) * 2 * SECOND,
                rate_hz=1000.0,
                speed_rpm=None,
                coverage=1.0,
                quality=0,
                truth=None,
                channels=("x",),
                values=values,
                schema="s",
            )
        )
    return found


@given(st.lists(st.integers(1, 1800), max_size=5), st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_however_the_rows_are_cut_the_engine_learns_the_same(cuts: list[int], seed: int) -> None:
    noise = np.random.default_rng(seed).logistic(-3, 1, 1800)
    some, engine = rows((1 / (1 + np.exp(-noise))).tolist()), Engine(lambda _: SPEC, Echo())
    whole = engine.predict({}, {KEY: some})
    states: dict[StreamKey, StreamState] = {}
    alarms = list[AlarmChange]()
    edges = [0, *sorted(cuts), len(some)]
    for first, last in pairwise(edges):
        step = engine.predict(states, {KEY: some[first:last]})
        states = {key: from_bytes(SPEC, to_bytes(SPEC, state)) for key, state in step.states.items()}
        alarms += step.alarms
    assert states[KEY].sound == whole.states[KEY].sound
    assert states[KEY].sound.fitted >= budget.FIRST_FIT
    assert alarms == whole.alarms


def test_a_stream_that_was_not_declared_sound_learns_nothing_and_says_so() -> None:
    spec = specs.stream(commissioning_windows=0, warm_up_windows=0)
    step = Engine(lambda _: spec, Echo()).predict({}, {KEY: rows([0.1] * 100)})
    assert step.states[KEY].sound == SoundHistory()
    assert "commissioning_windows" in budget_of(spec, step.states[KEY]).text
    assert budget_of(specs.stream(false_alarms_per_year=0.0), StreamState()).state == "off"
