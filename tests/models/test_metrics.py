"""Numbers about predictions, against what can be worked out by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import sequence

from models.evaluation import metrics
from models.evaluation.events import Track, event_metrics, fault_outcomes, recording_metrics
from models.evaluation.report import metrics_text
from models.evaluation.scoring import score

CLASSES = ("healthy", "bearing_outer", "bearing_inner")


def one_hot(labels: list[int], p: float = 0.95) -> np.ndarray:
    out = np.full((len(labels), 3), (1 - p) / 2)
    out[np.arange(len(labels)), labels] = p
    return out


def test_precision_recall_and_f1_by_hand():
    y, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    matrix = metrics.confusion(y, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    rows = metrics.per_class(matrix)
    assert rows[0] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3}
    assert rows[3] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert metrics.macro_f1(matrix) == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)  # the absent class does not count


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40))
def test_auroc_is_the_share_of_pairs_in_the_right_order(seed, n):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    p = rng.integers(0, 5, n) / 4.0  # with ties
    if y.min() == y.max():
        return
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(p[y == 1], p[y == 0])]
    assert metrics.macro_auroc(y, np.stack([1 - p, p], axis=1)) == pytest.approx(float(np.mean(pairs)))


def test_ece_by_hand():
    p = np.array([[0.9, 0.1]] * 10)
    y = np.array([0] * 6 + [1] * 4)
    assert metrics.ece(y, p) == pytest.approx(0.3)
    assert metrics.ece(np.array([0] * 9 + [1]), p) == pytest.approx(0.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(rng, temperature):
    logits = rng.normal(0, 3, (20_000, 4))
    p = metrics.softmax(logits, temperature)
    y = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
    found = metrics.fit_temperature(y, logits)
    assert found == pytest.approx(temperature, rel=0.05)
    assert metrics.nll(y, logits, found) <= metrics.nll(y, logits, 1.0)


def test_numbers_that_do_not_exist_are_none_and_not_nan():
    empty = metrics.window_metrics(np.empty(0, np.int64), np.empty((0, 3)), CLASSES)
    assert [empty[key] for key in ("accuracy", "macro_f1", "macro_auroc", "ece")] == [None] * 4
    single = metrics.window_metrics(np.zeros(5, np.int64), one_hot([0] * 5), CLASSES)
    assert single["macro_auroc"] is None
    assert single["accuracy"] == 1.0
    assert single["baselines"] == {"chance": 1.0, "majority": 1.0}


def test_a_mode_of_which_nothing_was_held_out_has_dashes_and_one_that_is_never_recognised_zeros():
    y = np.array([0] * 4 + [1] * 4)
    track = Track(sequence(y.tolist()), one_hot([0] * 8))
    numbers = score([track], CLASSES, specs.alarm(merge_s=0.0), warm_up_windows=0)
    rows = [line.split() for line in metrics_text(numbers).splitlines()]
    assert [CLASSES[0], "0.500", "1.000", "0.667", "4"] in rows
    assert [CLASSES[1], "0.000", "0.000", "0.000", "4"] in rows
    assert [CLASSES[2], "-", "-", "-", "0"] in rows


def test_a_fault_is_detected_after_the_persistence_of_the_alarm():
    labels = [0] * 20 + [1] * 40
    track = Track(sequence(labels), one_hot(labels))
    found = event_metrics([track], CLASSES, specs.alarm(enter_s=3.0, merge_s=0.0))
    assert (found["episodes"], found["detections"], found["missed"], found["misdiagnosed"]) == (1, 1, 0, 0)
    assert found["detection_delay_s"]["median"] == pytest.approx(3.0, abs=0.6)
    assert found["false_alarms"] == 0


def test_a_wrong_diagnosis_is_no_miss_and_no_detection():
    labels = [0] * 20 + [1] * 40
    track = Track(sequence(labels), one_hot([0] * 20 + [2] * 40))
    found = event_metrics([track], CLASSES, specs.alarm(merge_s=0.0))
    assert (found["detections"], found["misdiagnosed"], found["missed"], found["false_alarms"]) == (0, 1, 0, 0)
    assert found["detection_delay_s"] == {"median": None, "p90": None}


def test_a_fault_that_is_over_before_an_alarm_can_be_raised_is_too_short_and_not_missed():
    spec = specs.alarm(enter_s=3.0, merge_s=0.0)
    for windows, expected in ((4, (1, 0)), (5, (0, 1))):  # windows of 1 s, 0.5 s apart: 2.5 s and 3 s
        for said in (0, 1):
            track = Track(sequence([1] * (windows + 2)), one_hot([said] * (windows + 2)))
            found = event_metrics([track], CLASSES, spec, warm_up_windows=2)
            assert (found["too_short"], found["episodes"]) == expected
            assert found["missed"] == (found["episodes"] if said == 0 else 0)
    cold = Track(sequence([1] * 3), one_hot([1] * 3))
    assert event_metrics([cold], CLASSES, spec, warm_up_windows=5)["too_short"] == 1


def fates_of_five():
    """One fault each that is detected, misdiagnosed and missed, and two that are too short; windows are 0.5 s apart."""
    said = ((40, 1), (40, 2), (40, 0), (2, 1), (3, 0))
    return [Track(sequence([1] * n), one_hot([k] * n)) for n, k in said]


def test_the_fates_of_faults_are_what_the_event_metrics_count():
    outcomes = fault_outcomes(fates_of_five(), CLASSES, specs.alarm(enter_s=3.0, merge_s=0.0))
    found = event_metrics(fates_of_five(), CLASSES, specs.alarm(enter_s=3.0, merge_s=0.0))
    count = Counter(outcome.name for outcome in outcomes)
    assert count == {"detected": 1, "misdiagnosed": 1, "missed": 1, "too_short": 2}
    assert [found[name] for name in ("detections", "misdiagnosed", "missed", "too_short")] == [1, 1, 1, 2]
    assert [outcome.delay_s for outcome in outcomes if outcome.name == "detected"] == [
        found["detection_delay_s"]["median"]
    ]


def test_a_model_that_always_says_one_fault_detects_nothing_and_its_alarm_is_false():
    tracks = [Track(sequence([0] * 60 + [1] * 40, machine=f"m{n}"), one_hot([1] * 100)) for n in range(3)]
    found = event_metrics(tracks, CLASSES, specs.alarm(merge_s=0.0), warm_up_windows=5)
    assert (found["false_alarms"], found["detections"], found["standing"], found["episodes"]) == (3, 0, 3, 3)
    assert found["detection_delay_s"]["median"] is None
    assert "3 with an earlier alarm still up" in metrics_text(
        score(tracks, CLASSES, specs.alarm(merge_s=0.0), warm_up_windows=5)
    )


def test_a_false_alarm_that_comes_back_within_the_fault_detects_it_then_and_stays_false():
    said = [1] * 10 + [0] * 50 + [1] * 40  # the second time 30 s after the first: one episode
    found = event_metrics([Track(sequence([0] * 60 + [1] * 40), one_hot(said))], CLASSES, specs.alarm(merge_s=60.0))
    assert (found["false_alarms"], found["detections"]) == (1, 1)
    assert found["detection_delay_s"]["median"] == pytest.approx(3.0, abs=0.6)


def test_an_alarm_raised_while_nobody_knows_is_early_and_what_was_said_before_an_unknown_stretch_is_not_asked_twice():
    early = Track(sequence([0] * 20 + [-1] * 20 + [1] * 20), one_hot([0] * 25 + [1] * 35))
    found = event_metrics([early], CLASSES, specs.alarm(merge_s=0.0))
    assert (found["detections"], found["false_alarms"], found["detection_delay_s"]["median"]) == (1, 0, 0.0)
    pause = Track(sequence([1] * 20 + [-1] * 20 + [1] * 20), one_hot([1] * 60))
    found = event_metrics([pause], CLASSES, specs.alarm(merge_s=0.0))
    assert (found["episodes"], found["detections"], found["standing"]) == (1, 1, 0)


def test_intervals_resample_machines_and_need_two_of_them():
    late = [
        Track(sequence([0] * 20 + [1] * 40, machine=f"m{n}"), one_hot([0] * (20 + 2 * n) + [1] * (40 - 2 * n)))
        for n in range(6)
    ]
    found = event_metrics(late, CLASSES, specs.alarm(merge_s=0.0))
    low, high = found["interval_90"]["delay_median_s"]
    assert low < found["detection_delay_s"]["median"] < high
    assert found["interval_90"]["detected_share"] == [1.0, 1.0]
    assert found["interval_90"]["false_alarms_per_machine_day"] == [0.0, 0.0]
    assert set(event_metrics(late[:1], CLASSES, specs.alarm(merge_s=0.0))["interval_90"].values()) == {None}
    one = [
        Track(sequence([0] * 30, machine="a"), one_hot([2] * 30)),
        Track(sequence([0] * 30, machine="b"), one_hot([0] * 30)),
    ]
    found = event_metrics(one, CLASSES, specs.alarm(merge_s=0.0))
    assert found["interval_90"]["false_alarms_per_machine_day"] == [0.0, 2 * found["false_alarms_per_machine_day"]]


def test_a_silent_model_misses_and_a_nervous_one_raises_false_alarms():
    silent = Track(sequence([1] * 30), one_hot([0] * 30))
    nervous = Track(sequence([0] * 30), one_hot([2] * 30))
    found = event_metrics([silent, nervous], CLASSES, specs.alarm(merge_s=0.0))
    assert (found["missed"], found["false_alarms"]) == (1, 1)
    days = 15.5 / 86_400
    assert found["healthy_machine_days"] == pytest.approx(days, rel=1e-3)
    assert found["false_alarms_per_machine_day"] == pytest.approx(1 / days, rel=1e-3)


def test_no_false_alarm_in_d_days_means_less_than_three_in_d_days():
    found = event_metrics([Track(sequence([0] * 50), one_hot([0] * 50))], CLASSES, specs.alarm(merge_s=0.0))
    limit = found["false_alarms_per_machine_day_upper"] * found["healthy_machine_days"]
    assert limit == pytest.approx(3.0, abs=0.01)


def test_an_alarm_during_warm_up_is_not_raised():
    track = Track(sequence([0] * 12), one_hot([1] * 10 + [0] * 2))
    assert event_metrics([track], CLASSES, specs.alarm(enter_s=1.0, merge_s=0.0))["false_alarms"] == 1
    assert (
        event_metrics([track], CLASSES, specs.alarm(enter_s=1.0, merge_s=0.0), warm_up_windows=10)["false_alarms"] == 0
    )


def test_alarms_in_windows_of_unknown_truth_count_neither_way():
    found = event_metrics([Track(sequence([-1] * 40), one_hot([1] * 40))], CLASSES, specs.alarm(merge_s=0.0))
    assert (found["episodes"], found["false_alarms"], found["healthy_machine_days"]) == (0, 0, 0.0)
    assert found["false_alarms_per_machine_day"] is None


def test_a_recording_is_judged_by_its_mean_probability():
    p = np.array([[0.4, 0.6, 0.0]] * 3 + [[1.0, 0.0, 0.0]] * 2)  # 3 of 5 windows say outer, the mean says healthy
    result = recording_metrics([Track(sequence([0] * 5), p)], CLASSES)
    assert result["count"] == 1
    assert result["accuracy"] == 1.0
    (row,) = result["predictions"]
    assert (row["machine"], row["point"], row["truth"], row["predicted"]) == ("pump-01", "de", "healthy", "healthy")
    assert row["share"] == pytest.approx(0.64)


def test_sequences_of_one_stream_are_one_recording_and_each_truth_is_judged():
    first = Track(sequence([1] * 4), one_hot([1] * 4))
    second = Track(sequence([1] * 4 + [2] * 4), one_hot([1] * 8))
    result = recording_metrics([first, second], CLASSES)
    assert [(row["truth"], row["windows"]) for row in result["predictions"]] == [
        ("bearing_outer", 8),
        ("bearing_inner", 4),
    ]
    assert result["accuracy"] == 0.5
