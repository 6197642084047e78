"""Events and broken sensors: each does what its label says, and nothing to the machine underneath."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis

from pipeline.errors import ConfigError
from sim.events import KINDS, QUIET, SENSOR_FAULTS, Event, moment
from sim.life import Life
from sim.machine import Machine, initial, step
from sim.population import draw
from sim.sensors import SensorState, disturb

RATE_HZ = 12_000.0
MAKE = draw("fan", np.random.default_rng((4, 2)))


def _run(*events: Event, seconds: float = 3.0) -> np.ndarray:
    machine = Machine("fan-01", (4, 2), MAKE, Life(), RATE_HZ, events)
    state, parts = initial(machine), []
    for _ in range(math.ceil(seconds * RATE_HZ / machine.frame)):
        state, frame = step(machine, state)
        parts.append(frame.samples)
    return np.concatenate(parts, axis=1)[:, 4096:]


def _broken(kind: str, size: float = math.nan) -> tuple[np.ndarray, np.ndarray]:
    return _run(), _run(Event(kind, 0.0, 100.0, size))


def _power(x: np.ndarray, low_hz: float, high_hz: float) -> float:
    hz, power = np.fft.rfftfreq(x.size, 1 / RATE_HZ), np.abs(np.fft.rfft(x * np.hanning(x.size))) ** 2
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum())


@pytest.mark.parametrize("kind", SENSOR_FAULTS)
def test_every_sensor_fault_changes_the_reading_and_leaves_the_machine_alone(kind: str) -> None:
    event = Event(kind, 1.0, 2.0, 0.02 if kind == "clipping" else math.nan)
    sound, broken = _run(), _run(event)
    changed = np.flatnonzero(np.any(sound != broken, axis=0)) + 4096
    assert 1.0 * RATE_HZ - 4096 < changed[0] < 1.0 * RATE_HZ + 2 * 4096
    assert changed[-1] < 2.0 * RATE_HZ + 4096
    np.testing.assert_array_equal(sound[:, -4096:], broken[:, -4096:])
    assert np.isfinite(broken).all()


def test_a_drop_out_is_silence_now_and_then() -> None:
    sound, broken = _broken("drop_out", 0.3)
    gone = np.all(broken == 0, axis=0)
    assert 0.15 < gone.mean() < 0.45
    np.testing.assert_array_equal(broken[:, ~gone], sound[:, ~gone])


def test_a_flatline_is_one_number() -> None:
    assert np.unique(_broken("flatline", 0.25)[1]).tolist() == [0.25]


def test_drift_bias_and_hum_are_added() -> None:
    sound, drifted = _broken("drift", 6.0)
    slope = np.polyfit(np.arange(sound.shape[1]) / RATE_HZ, (drifted - sound)[0], 1)[0]
    assert slope == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_allclose(_broken("bias", 2.0)[1] - sound, 2.0, atol=1e-5)
    hum = (_broken("mains_hum", 0.3)[1] - sound)[0]
    assert _power(hum, 49, 51) > 0.99 * _power(hum, 1, 6000)


def test_clipping_leaves_nothing_above_full_scale_and_much_at_it() -> None:
    sound = _run()
    full = float(np.std(sound[0]))
    clipped = _run(Event("clipping", 0.0, 100.0, full))
    assert np.abs(clipped).max() == np.float32(full)
    assert np.mean(np.abs(clipped[0]) == np.float32(full)) > 0.1


def test_a_gain_change_changes_the_level_and_no_ratio() -> None:
    sound, quiet = _broken("gain_change", 0.4)
    assert np.std(quiet) == pytest.approx(0.4 * np.std(sound), rel=1e-5)
    assert kurtosis(quiet[0]) == pytest.approx(kurtosis(sound[0]), abs=1e-4)


def test_a_loose_mount_hears_little_above_its_own_resonance() -> None:
    sound, loose = _broken("loose_mount", 1500.0)
    assert _power(loose[0], 1200, 1800) > 3 * _power(sound[0], 1200, 1800)
    assert _power(loose[0], 4000, 5800) < 0.3 * _power(sound[0], 4000, 5800)


def test_quantisation_leaves_few_values_and_swapping_leaves_all_of_them() -> None:
    sound, coarse = _broken("quantisation", 9.0)
    assert np.unique(coarse).size < 40
    np.testing.assert_array_equal(_broken("swapped_axes", 1.0)[1], np.roll(sound, 1, axis=0))


def test_a_saturated_amplifier_wrecks_what_is_slow() -> None:
    sound, slope = _broken("saturation", 3.0)
    assert _power(slope[0], 0.3, 5) > 100 * _power(sound[0], 0.3, 5)
    assert _power(slope[0], 500, 5000) == pytest.approx(_power(sound[0], 500, 5000), rel=0.01)


def test_a_frozen_logger_repeats_one_piece() -> None:
    _, frozen = _broken("frozen_logger")
    pieces = frozen[:, : 4096 * (frozen.shape[1] // 4096)].reshape(3, -1, 4096)
    np.testing.assert_array_equal(pieces, np.repeat(pieces[:, :1], pieces.shape[1], axis=1))


@settings(deadline=None)
@given(st.sampled_from(SENSOR_FAULTS), st.floats(0, 5), st.integers(16, 2000))
def test_a_fault_that_is_over_leaves_samples_as_they_are(kind: str, end_s: float, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
    events = (Event(kind, 0.0, end_s + 0.1),)
    after, state = disturb(events, x, end_s + 0.2, RATE_HZ, SensorState(), np.random.default_rng(1))
    assert after is x
    assert state.frozen is None


# what happens to machines


def test_nothing_happens_at_a_quiet_moment() -> None:
    assert moment((), 5.0) == QUIET
    assert moment([Event(kind, 10.0, 20.0) for kind in KINDS if kind != "run_up"], 5.0) == QUIET


def test_a_stop_is_a_stop_and_only_the_surroundings_are_left() -> None:
    running = _run()
    stopped = _run(Event("run_up", 500.0, 600.0))
    assert _power(stopped[0], 1000, 5500) < 0.7 * _power(running[0], 1000, 5500)
    at_hz = MAKE.speed_hz
    assert _power(stopped[0], 0.97 * at_hz, 1.03 * at_hz) < 0.05 * _power(running[0], 0.97 * at_hz, 1.03 * at_hz)
    assert np.isfinite(stopped).all()


def test_a_run_up_ends_at_the_speed_and_a_ramp_returns_to_it() -> None:
    up = Event("run_up", 10.0, 20.0)
    assert [moment([up], t).speed for t in (0, 15, 25)] == [0.0, 0.5, 1.0]
    ramp = Event("ramp", 10.0, 50.0, 0.3)
    assert [round(moment([ramp], t).speed, 6) for t in (0, 30, 60)] == [1.0, 1.3, 1.0]


def test_hammering_knocks_and_a_neighbour_hums_at_its_own_speed() -> None:
    quiet = _run()
    assert kurtosis(_run(Event("hammering", 0.0, 100.0, 5.0))[0]) > kurtosis(quiet[0]) + 2
    loud = _run(Event("neighbour_start", 0.0, 4.0, 20.0))
    at_hz = MAKE.neighbour_hz
    assert _power(loud[0], 0.98 * at_hz, 1.02 * at_hz) > 5 * _power(quiet[0], 0.98 * at_hz, 1.02 * at_hz)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (("flat_line", 0.0, 1.0), "did you mean flatline"),
        (("flatline", 2.0, 1.0), "start_s < end_s"),
        (("drop_out", 0.0, 1.0, 1.5), "0.01 to 1"),
        (("stop", -1.0, 1.0), "0 <= start_s"),
    ],
)
def test_an_event_that_cannot_happen_is_refused(wrong: tuple[str, float, float], word: str) -> None:
    with pytest.raises(ConfigError) as error:
        Event(*wrong)
    assert word in f"{error.value} {error.value.hint}"
