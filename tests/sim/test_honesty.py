"""What an analyst would hold against a simulator: that the task is too easy, or easy for the wrong reason."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy.stats import kurtosis

from pipeline.core.features.table import FEATURES
from sim.components import bearing_gap_rad
from sim.detectable import detectable
from sim.life import HEALTHY, Course, Life
from sim.machine import Machine, initial, step
from sim.population import MakeUp, draw, faults_of
from sim.signals import G_MM_S2

RATE_HZ = 12_000.0
TURN_RAD = 2 * math.pi


def _make(number: int, kind: str = "fan", shift: float = 0.0) -> MakeUp:
    return draw(kind, np.random.default_rng((91, number)), shift)


@functools.cache
def _run(number: int, mode: str, severity: float, kind: str = "fan", seconds: float = 1.0) -> np.ndarray:
    life = Life() if mode == HEALTHY else Life((Course(mode, "constant", 0.0, 1.0, severity),))
    machine = Machine("m-01", (91, number), _make(number, kind), life, RATE_HZ)
    state, parts = initial(machine), []
    for _ in range(2 + math.ceil(seconds * RATE_HZ / machine.frame)):
        state, frame = step(machine, state)
        parts.append(frame.samples)
    return np.concatenate(parts[1:], axis=1)[:, : round(seconds * RATE_HZ)]


def _velocity_at(x: np.ndarray, hz: float) -> float:
    """mm/s rms within 3 % of that frequency."""
    window = np.hanning(x.size)
    g = np.abs(np.fft.rfft(x * window)) * math.sqrt(2 / (np.sum(window**2) * x.size))  # rms per bin
    bins = np.fft.rfftfreq(x.size, 1 / RATE_HZ)
    near = np.abs(bins - hz) < 0.03 * hz + 1.5
    return float(np.sqrt(np.sum((g[near] * G_MM_S2 / (TURN_RAD * bins[near])) ** 2)))


def _envelope_db(x: np.ndarray, hz: float) -> float:
    """The line at that frequency over the local floor in the squared envelope, and nothing else."""
    spectrum = np.fft.rfft(x)
    bins = np.fft.rfftfreq(x.size, 1 / RATE_HZ)
    spectrum[(bins < 1200) | (bins > 5300)] = 0
    analytic = np.fft.ifft(np.concatenate((2 * spectrum, np.zeros(x.size - spectrum.size))))
    envelope = np.abs(analytic) ** 2
    power = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(x.size))) ** 2
    near, around = np.abs(bins - hz) < 0.015 * hz + 1, np.abs(bins - hz) < 0.3 * hz + 8
    return float(10 * np.log10(power[near].max() / np.median(power[around])))


def _auroc(negative: list[float], positive: list[float]) -> float:
    pairs = np.subtract.outer(np.array(positive), np.array(negative))
    return float(np.mean(pairs > 0) + 0.5 * np.mean(pairs == 0))


# levels


def test_sound_machines_and_faults_have_the_velocities_that_charts_give() -> None:
    makes = [_make(k) for k in range(60)]
    sound = [_velocity_at(_run(k, HEALTHY, 0.0)[0], makes[k].speed_hz) for k in range(60)]
    worst = [_velocity_at(_run(k, "unbalance", 1.0)[0], makes[k].speed_hz) for k in range(60)]
    assert 0.25 < np.percentile(sound, 10) < np.percentile(sound, 90) < 2.0
    assert 3.5 < np.percentile(worst, 5) < np.percentile(worst, 95) < 15


@pytest.mark.parametrize("angular", [False, True])
def test_misalignment_has_twice_the_speed_and_angular_shows_along_the_shaft(angular: bool) -> None:
    ratios, axial = [], []
    for number in [k for k in range(40) if _make(k).angular == angular][:10]:
        x, speed_hz = _run(number, "misalignment", 0.9), _make(number).speed_hz
        rows = [[_velocity_at(axis, k * speed_hz) for k in (1, 2)] for axis in x]
        ratios.append(rows[0][1] / rows[0][0])
        axial.append(rows[2][0] / rows[0][0])
    assert 0.3 < np.median(ratios) < 1.5
    assert (np.median(axial) > 0.5) == angular


def test_looseness_has_many_harmonics_and_half_orders() -> None:
    gains = {order: [] for order in (0.5, 1.5, 4.0, 6.0)}
    for number in range(10):
        speed_hz = _make(number).speed_hz
        for order, found in gains.items():
            sound = _velocity_at(_run(number, HEALTHY, 0.0)[0], order * speed_hz)
            found.append(_velocity_at(_run(number, "looseness", 0.9)[0], order * speed_hz) / sound)
    assert all(np.median(found) > 2 for found in gains.values())


@pytest.mark.parametrize("wheel", [0, 1])
def test_a_cracked_tooth_strikes_once_per_turn_of_its_own_shaft(wheel: int) -> None:
    found = []
    for number in [k for k in range(60) if _make(k, "gearbox").cracked_wheel == wheel][:8]:
        make = _make(number, "gearbox")
        own_hz = make.speed_hz * (1.0, make.teeth[0] / make.teeth[1])[wheel]
        x = _run(number, "gear_tooth", 1.0, "gearbox", 4.0)[0]
        sound = _run(number, HEALTHY, 0.0, "gearbox", 4.0)[0]
        found.append(_envelope_db(x, 2 * own_hz) - _envelope_db(sound, 2 * own_hz))
    assert np.median(found) > 6


def test_cavitation_raises_the_floor_with_little_kurtosis() -> None:
    rows = []
    for number in range(8):
        sound, x = _run(number, HEALTHY, 0.0, "pump")[0], _run(number, "cavitation", 1.0, "pump")[0]
        high = [np.sum(np.abs(np.fft.rfft(y))[3000:5000] ** 2) for y in (sound, x)]
        rows.append((high[1] / high[0], kurtosis(x, fisher=False)))
    lift, peaked = np.median(rows, axis=0)
    assert lift > 3
    assert peaked < 8


# incipient


@pytest.mark.parametrize(
    ("mode", "least"), [("bearing_outer", 4.0), ("bearing_inner", 3.0), ("bearing_ball", 3.0), ("bearing_cage", 2.0)]
)
def test_a_bearing_fault_is_detectable_where_the_truth_begins_and_hardly_before(mode: str, least: float) -> None:
    before, at, after = [], [], []
    for number in range(24):
        make = _make(number)
        threshold = detectable(make, mode, RATE_HZ)
        hz = TURN_RAD / bearing_gap_rad(make, mode) * make.speed_hz
        sound = _envelope_db(_run(number, HEALTHY, 0.0)[0], hz)
        before.append(_envelope_db(_run(number, mode, 0.4 * threshold)[0], hz) - sound)
        at.append(_envelope_db(_run(number, mode, threshold)[0], hz) - sound)
        after.append(_envelope_db(_run(number, mode, min(1.0, 2 * threshold))[0], hz) - sound)
    assert abs(np.median(before)) < 3
    assert np.median(at) > 0
    assert np.median(after) > least
    assert np.median(after) > np.median(at) > np.median(before) - 1


def test_incipient_classes_overlap_and_grown_ones_hardly_do() -> None:
    def lines(mode: str, times: float) -> list[float]:
        found = []
        for number in range(40):
            make = _make(number)
            hz = TURN_RAD / bearing_gap_rad(make, "bearing_inner") * make.speed_hz
            severity = min(1.0, times * detectable(make, "bearing_inner", RATE_HZ))
            found.append(_envelope_db(_run(number, mode, 0.0 if mode == HEALTHY else severity)[0], hz))
        return found

    sound = lines(HEALTHY, 0.0)
    assert 0.5 < _auroc(sound, lines("bearing_inner", 1.0)) < 0.97
    assert _auroc(sound, lines("bearing_inner", 3.0)) > 0.9


# shortcuts


def test_no_threshold_on_rms_separates_sound_machines_from_those_that_begin_to_fail() -> None:
    sound = [float(_run(k, HEALTHY, 0.0)[0].std()) for k in range(40)]
    for mode in ("bearing_inner", "unbalance", "looseness"):
        damaged = [float(_run(k, mode, 1.5 * detectable(_make(k), mode, RATE_HZ))[0].std()) for k in range(40)]
        assert _auroc(sound, damaged) < 0.9, mode


def test_raw_spectra_learned_at_one_speed_fail_at_another() -> None:
    """A linear model on spectrum lines in Hz, one machine: what it learns is where the lines were."""
    from dataclasses import replace

    def spectra(speed_hz: float, mode: str, first: int) -> np.ndarray:
        rows = []
        for entropy in range(first, first + 12):
            make = replace(_make(3), speed_hz=speed_hz * (1 + 0.01 * (entropy % 5)))
            life = Life() if mode == HEALTHY else Life((Course(mode, "constant", 0.0, 1.0, 0.5),))
            machine = Machine("m-01", (91, 3, entropy), make, life, RATE_HZ)
            state, parts = initial(machine), []
            for _ in range(4):
                state, frame = step(machine, state)
                parts.append(frame.samples[0])
            x = np.concatenate(parts[1:])
            rows.append(np.log10(np.abs(np.fft.rfft(x * np.hanning(x.size)))[1:400] + 1e-6))
        return np.array(rows)

    def data(speed_hz: float, first: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [spectra(speed_hz, mode, first) for mode in ("unbalance", "misalignment")]
        return np.concatenate(parts), np.repeat([-1.0, 1.0], [len(part) for part in parts])

    x, y = data(25.0, 0)
    mean = x.mean(0)
    weights = (x - mean).T @ np.linalg.solve((x - mean) @ (x - mean).T + 1.0 * np.eye(len(x)), y)

    def accuracy(speed_hz: float) -> float:
        x, y = data(speed_hz, 100)
        return float(np.mean(np.sign((x - mean) @ weights) == y))

    assert accuracy(25.0) > 0.95
    assert accuracy(41.0) < 0.75


def test_features_that_are_called_gain_free_survive_a_gain_change() -> None:
    from pipeline.config.specs import stream_specs
    from pipeline.config.tables import Config
    from pipeline.core.engine import Engine
    from pipeline.core.records import Block, StreamKey

    x = _run(2, "bearing_outer", 0.5, seconds=2.0)
    make = _make(2)

    def values(gain: float) -> np.ndarray:
        block = Block(
            StreamKey("m-01", "de"), 1, 0, 0, RATE_HZ, ("x", "y", "z"), "g", (gain * x).astype(np.float32),
            60 * make.speed_hz, make.orders,
        )  # fmt: skip
        return Engine(stream_specs(Config(), {})).step({}, [block]).features[0].values

    free = [k for k, feature in enumerate(FEATURES) if feature.gain_free]
    np.testing.assert_allclose(values(0.37)[:, free], values(1.0)[:, free], rtol=2e-3, atol=2e-3)


def test_a_shifted_population_lies_partly_outside_the_ranges_of_the_other() -> None:
    own = [_make(k) for k in range(200)]
    other = [_make(k, shift=0.3) for k in range(200)]
    for value in (lambda m: m.damping[0], lambda m: m.modes_hz[0], lambda m: m.slip, lambda m: m.load_epsilon):
        low, high = min(map(value, own)), max(map(value, own))
        outside = np.mean([not low <= value(m) <= high for m in other])
        assert 0.2 < outside < 0.5
    assert not {m.orders for m in own} & {m.orders for m in other}
    noise = [np.median([m.floor_g_per_rthz.mean() for m in makes]) for makes in (own, other)]
    assert 1.0 < noise[1] / noise[0] < 1.5


def test_every_fault_of_every_kind_becomes_detectable_before_the_end() -> None:
    for kind in ("pump", "fan", "motor", "gearbox"):
        for mode in faults_of(kind):
            thresholds = [detectable(_make(k, kind), mode, RATE_HZ) for k in range(40)]
            assert min(thresholds) >= 0.04
            assert np.median(thresholds) < 0.5, (kind, mode)
