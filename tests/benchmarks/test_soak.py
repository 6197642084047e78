"""The soak: memory that grows is told from memory that wobbles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.studies.soak import Sample, Verdict, judge


def soaked(rss_mb: Callable[[int], float], anonymous_mb: Callable[[int], float] = lambda i: 90.0) -> Verdict:
    """What is said of an hour in which memory went like this."""
    noise = np.random.default_rng(1).normal(0, 0.05, 360)
    return judge(
        [Sample(10.0 * i, rss_mb(i) + noise[i], anonymous_mb(i) - noise[i], 20, 3, 16, 0.6, 1.0) for i in range(360)]
    )


def test_the_soak_tells_a_slope_from_noise() -> None:
    flat, rising = soaked(lambda i: 150.0), soaked(lambda i: 150 + 5 * i / 360)
    for slope in (flat.resident.least_squares, flat.resident.theil_sen, flat.anonymous.least_squares):
        assert abs(slope) < 0.1
    assert rising.resident.least_squares == pytest.approx(5.0, abs=0.1)
    assert rising.resident.theil_sen == pytest.approx(5.0, abs=0.1)
    assert flat.kept
    assert not rising.kept


def test_the_soak_sees_a_leak_that_other_pages_hide_and_one_in_steps() -> None:
    assert not soaked(lambda i: 150.0, lambda i: 90 + 5 * i / 360).kept
    assert not soaked(lambda i: 150 + i // 60).kept
    assert soaked(lambda i: 150 + 20 * (i < 60)).kept  # in the warm-up


def test_a_fit_that_is_too_rough_for_the_promise_still_sees_a_leak_far_beyond_it() -> None:
    steps, wobble = soaked(lambda i: 302 + 12 * (i >= 180) + 12 * (i >= 290)), soaked(lambda i: 150 + 3 * (i // 40 % 2))
    assert min(steps.resident.error, wobble.resident.error) > 1
    assert not steps.kept
    assert wobble.kept
    few = judge([Sample(10.0 * i, 150 + i, 90.0, 20, 3, 16, 0.6, 1.0) for i in range(4)])
    assert np.isnan(few.resident.error)
    assert few.resident.kept


def test_the_error_of_a_slope_counts_samples_that_resemble_their_neighbours_as_few() -> None:
    noisy, stepped = soaked(lambda i: 150.0).resident, soaked(lambda i: 150 + (i // 120) % 2).resident
    hours = np.arange(108, 360) / 360
    _, covariance = np.polyfit(hours, (np.arange(108, 360) // 120) % 2, 1, cov=True)
    assert stepped.error > 3 * np.sqrt(covariance[0, 0])
    assert noisy.error < 0.05
