"""The physics: formulas against closed form, and nothing depends on how time is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import impacts, signals

RATE_HZ = 12_000.0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


def _line(x: np.ndarray, cycles: float) -> float:
    """Peak amplitude of the tone with so many cycles in x."""
    return float(2 * abs(np.mean(x * np.exp(-2j * np.pi * cycles * np.arange(x.size) / x.size))))


# speed and angle


@pytest.mark.parametrize("dt_s", [0.05, 0.5, 5.0])
def test_speed_wanders_by_its_sigma_whatever_the_step(dt_s: float, rng: np.random.Generator) -> None:
    value, seen = 0.0, []
    for _ in range(20_000):
        value = signals.wander(value, 0.01, 1.0, dt_s, rng)
        seen.append(value)
    assert np.std(seen) == pytest.approx(0.01, rel=0.1)


@given(st.floats(1, 60), st.floats(1, 60), st.integers(2, 5000))
def test_a_piece_of_shaft_angle_turns_by_its_mean_speed_and_never_back(from_hz: float, to_hz: float, n: int) -> None:
    theta = signals.shaft_angle(3.0, from_hz, to_hz, n, RATE_HZ)
    assert theta[-1] - 3.0 == pytest.approx(2 * math.pi * (from_hz + to_hz) / 2 * n / RATE_HZ)
    assert theta[0] > 3.0
    assert np.all(np.diff(theta) > 0)


def test_shaft_harmonics_stand_at_their_orders_with_their_amplitudes() -> None:
    theta = 2 * math.pi * np.arange(6000) / 600  # 10 turns
    x = signals.harmonics(signals.unit_phasor(theta), np.array([[1.0, 0.5j, 0.25]], np.complex64))
    assert x.shape == (1, 6000)
    assert [_line(x[0], 10 * k) for k in (1, 2, 3, 4)] == pytest.approx([1.0, 0.5, 0.25, 0.0], abs=1e-4)


def test_one_mm_s_at_100_hz_is_0_09_g() -> None:
    assert signals.velocity_to_g(1.0, 100.0) == pytest.approx(0.0906, abs=1e-4)


def test_looseness_makes_half_orders_and_many_harmonics() -> None:
    theta = 2 * math.pi * np.arange(20_000) / 1000  # 20 turns
    x = signals.rattle(theta, 0.8, 0.3)
    assert _line(x, 10) > 0.05  # 0.5x
    assert all(_line(x, 20 * k) > 0.05 for k in range(1, 11))
    assert abs(float(np.mean(x))) < 0.01  # an acceleration that goes nowhere


def test_a_shaft_that_modulates_a_gear_mesh_gives_sidebands() -> None:
    theta = 2 * math.pi * np.arange(20_000) / 1000  # 20 turns
    mod = (0.4 * np.cos(theta)).astype(np.float32)
    flat = np.zeros_like(mod)
    x, plain = (signals.gear_mesh(theta, 19, (1.0, 0.5), m, flat) for m in (mod, flat))
    assert _line(x, 380) == pytest.approx(1.0, abs=1e-3)
    assert _line(x, 760) == pytest.approx(0.5, abs=1e-3)
    assert _line(x, 400) == pytest.approx(0.2, abs=1e-3)
    assert _line(plain, 400) < 1e-3


def test_a_cracked_tooth_is_met_once_per_turn() -> None:
    dip = signals.tooth_dip(2 * math.pi * np.arange(3000) / 1000, 0.2)
    assert dip[[0, 1000, 2000]].min() > 0.999
    assert int(np.sum(np.diff((dip > 0.5).astype(int)) == 1)) == 3  # on the way to 1000, 2000 and 3000
    assert np.mean(dip > 0.5) < 0.1


def test_bubbles_burst_at_their_mean_rate_and_with_the_blades(rng: np.random.Generator) -> None:
    theta = 2 * math.pi * 25 * np.arange(240_000) / RATE_HZ
    at = signals.burst_positions(300.0, theta, 5, 0.6, RATE_HZ, rng)
    assert at.size == pytest.approx(6000, rel=0.06)
    assert np.all(np.diff(at) >= 0)
    assert np.mean(np.cos(5 * theta[at])) == pytest.approx(0.3, abs=0.05)


def test_the_mains_line_does_not_notice_where_it_is_cut() -> None:
    whole = signals.line_tone(0, 5000, RATE_HZ, 50.0, 1.5, 0.3)
    parts = np.concatenate([signals.line_tone(k, 1000, RATE_HZ, 50.0, 1.5, 0.3) for k in range(0, 5000, 1000)])
    np.testing.assert_array_equal(whole, parts)


# filters


@settings(deadline=None)  # the first call compiles
@given(st.integers(1, 399), st.floats(0.1, 0.99))
def test_filters_give_the_same_however_they_are_cut(cut: int, pole: float) -> None:
    rng = np.random.default_rng(cut)
    x = rng.standard_normal((3, 400)).astype(np.float32)
    whole, end = signals.low_pass(x, pole, np.zeros(3))
    first, middle = signals.low_pass(np.ascontiguousarray(x[:, :cut]), pole, np.zeros(3))
    second, last = signals.low_pass(np.ascontiguousarray(x[:, cut:]), pole, middle)
    np.testing.assert_array_equal(whole, np.concatenate((first, second), axis=1))
    np.testing.assert_array_equal(end, last)

    at, heights = np.sort(rng.integers(0, 400, 20)), rng.random(20)
    whole_decay, end_height = signals.decay(at, heights, pole, 400, 0.0)
    early = at < cut
    first_decay, height = signals.decay(at[early], heights[early], pole, cut, 0.0)
    second_decay, last_height = signals.decay(at[~early] - cut, heights[~early], pole, 400 - cut, height)
    np.testing.assert_array_equal(whole_decay, np.concatenate((first_decay, second_decay)))
    assert end_height == last_height


def test_coloured_noise_rises_below_its_corner(rng: np.random.Generator) -> None:
    white = rng.standard_normal((1, 600_000)).astype(np.float32)
    pole = signals.pole_of(100.0, RATE_HZ)
    x, _ = signals.colour(white, 3.0, pole, np.zeros(1))
    power = np.abs(np.fft.rfft(x[0])) ** 2
    hz = np.fft.rfftfreq(x.shape[1], 1 / RATE_HZ)
    low, high = power[(hz > 2) & (hz < 12)].mean(), power[hz > 5000].mean()
    assert math.sqrt(low / high) == pytest.approx(4.0, rel=0.12)


# bearings


def test_strikes_go_on_across_pieces_with_their_mean_gap(rng: np.random.Generator) -> None:
    pending, all_angles = 0.5, []
    for k in range(1, 201):
        angles, pending = impacts.strikes(pending, 1.7, 0.02, 30.0 * k, rng)
        assert pending > 30.0 * k
        all_angles.append(angles)
    together = np.concatenate(all_angles)
    assert together.max() <= 6000
    gaps = np.diff(together)
    assert gaps.mean() == pytest.approx(1.7, rel=0.002)
    assert gaps.std() == pytest.approx(0.02 * 1.7, rel=0.1)


def test_a_spall_at_6_o_clock_is_loaded_most_and_at_12_least() -> None:
    loads = [impacts.outer_load(angle) for angle in (0, math.pi / 2, math.pi)]
    assert loads == pytest.approx([1.0, 0.5, 0.15], abs=0.01)
    assert impacts.stribeck(np.array([0.0, math.pi]), 0.4) == pytest.approx([1.0, 0.1])


def test_strikes_grow_and_wear_off_while_roughness_only_grows() -> None:
    severity = np.linspace(0, 1, 101)
    strikes = np.array([impacts.impact_height(s) for s in severity])
    rough = np.array([impacts.roughness(s) for s in severity])
    assert strikes[0] == rough[0] == 0
    assert 0.5 < severity[strikes.argmax()] < 0.9
    assert strikes[-1] < 0.5 * strikes.max()
    assert np.all(np.diff(rough) > 0)


# ring-down


@given(st.floats(-0.99, 20), st.floats(500, 5000), st.floats(0.01, 0.06))
def test_a_strike_between_samples_rings_as_the_formula_says(at: float, hz: float, damping: float) -> None:
    poles = impacts.mode_poles(np.array([hz]), np.array([damping]), RATE_HZ)
    out, _ = impacts.ring(np.zeros(200), np.array([at]), np.array([2.0]), poles, np.zeros(1, complex))
    t_s = (np.arange(200) - at) / RATE_HZ
    natural = 2 * math.pi * hz
    formula = 2 * np.exp(-damping * natural * t_s) * np.sin(natural * math.sqrt(1 - damping**2) * t_s)
    np.testing.assert_allclose(out[0], np.where(t_s >= 0, formula, 0.0), atol=1e-4)


@settings(max_examples=30)
@given(st.integers(1, 299))
def test_ringing_goes_on_across_a_cut(cut: int) -> None:
    rng = np.random.default_rng(cut)
    poles = impacts.mode_poles(np.array([2000.0, 3500.0]), np.array([0.02, 0.04]), RATE_HZ)
    drive, at, heights = rng.standard_normal(300), np.sort(rng.uniform(-1, 299, 12)), rng.random(12)
    whole, end = impacts.ring(drive, at, heights, poles, np.zeros(2, complex))
    early = at <= cut - 1
    first, middle = impacts.ring(drive[:cut], at[early], heights[early], poles, np.zeros(2, complex))
    second, last = impacts.ring(drive[cut:], at[~early] - cut, heights[~early], poles, middle)
    np.testing.assert_allclose(np.concatenate((first, second), axis=1), whole, atol=1e-6)
    np.testing.assert_allclose(last, end)


@pytest.mark.parametrize("rate_hz", [12_000.0, 51_200.0])
@pytest.mark.parametrize("damping", [0.01, 0.06])
def test_noise_of_rms_1_rings_with_rms_1(rate_hz: float, damping: float, rng: np.random.Generator) -> None:
    poles = impacts.mode_poles(np.array([3000.0]), np.array([damping]), rate_hz)
    out, _ = impacts.ring(rng.standard_normal(200_000), np.empty(0), np.empty(0), poles, np.zeros(1, complex))
    assert float(np.sqrt(np.mean(out**2))) == pytest.approx(1.0, rel=0.07)
