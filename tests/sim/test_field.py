"""Machines as they are found in the field: what their sound readings show, and what still stands out of them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.faults import HEALTHY
from sim import field
from sim.machine import initial, step
from sim.population import draw
from sim.recipe import CURRICULUM, training_machine

RATE_HZ = 12_000.0


def found(seed: int, kind: str = "motor"):
    return field.as_found(draw(kind, np.random.default_rng(seed)), np.random.default_rng((seed, 1)), RATE_HZ)


def test_a_share_of_zero_leaves_every_machine_as_it_was() -> None:
    for number in range(len(CURRICULUM)):
        machine = training_machine(3, number, 4.0)
        assert machine.make.turn_g is None
        assert not machine.make.weak
        assert (machine.unit, machine.rate_hz) == ("g", RATE_HZ)


def test_a_sound_machine_in_the_field_has_lines_at_high_orders() -> None:
    lines = [_order_lines_db(found(seed), order=7) for seed in range(24)]
    assert np.median(lines) > 6
    assert np.median([_order_lines_db(draw("motor", np.random.default_rng(seed)), order=7) for seed in range(24)]) < 6


def test_harmonics_stay_below_what_a_sound_machine_may_have() -> None:
    for seed in range(50):
        make = found(seed)
        orders = np.arange(1, field.HARMONICS + 1)
        velocity = np.abs(make.turn_g[0]) / (2 * np.pi * orders * make.speed_hz) * 9806.65 / np.sqrt(2)
        assert np.linalg.norm(velocity) <= 1.21
        assert make.unbalance_mm_s <= 1.8


def test_a_fault_begins_above_the_weak_lines_of_its_own_bearing() -> None:
    for number in range(120):
        machine = training_machine(5, number, 4.0, found=1.0)
        for course in machine.life.courses:
            own = max((weak.severity for weak in machine.make.weak if weak.mode == course.mode), default=0.0)
            assert course.detectable >= min(0.9, 1.5 * own)


def test_a_rate_carries_the_fault_that_it_is_chosen_for() -> None:
    rates = {training_machine(5, number, 4.0, found=1.0).rate_hz for number in range(120)}  # Machine refuses others
    assert rates >= {1000.0, RATE_HZ}
    assert field.rate_of(found(1), HEALTHY, np.random.default_rng(0), RATE_HZ) in {1000.0, RATE_HZ}


def _order_lines_db(make, *, order: int) -> float:
    """The line at this shaft order over the median of the 60 bins around it, of about two seconds of the x axis."""
    machine = _sound(make)
    state, pieces, theta = initial(machine), [], []
    for _ in range(6):
        state, frame = step(machine, state)
        pieces.append(frame.samples[0])
        theta.append(frame.theta_rad)
    x, angle = np.concatenate(pieces), np.concatenate(theta)
    orders = np.concatenate([order + np.linspace(-0.4, 0.4, 61)])
    power = [abs(np.mean(x * np.hanning(x.size) * np.exp(-1j * one * angle))) ** 2 for one in orders]
    return float(10 * np.log10(max(power[28:33]) / np.median(power)))


def _sound(make):
    from sim.life import Life
    from sim.machine import Machine

    return Machine("motor-01", (1, 2), make, Life(), RATE_HZ)


if __name__ == "__main__":
    pytest.main([__file__])
