"""What a fault does besides its own line, and how unequally simulated machines are watched."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import hilbert

from pipeline.config.specs import stream_specs
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from sim.archive import installation
from sim.components import Drive, friction, gears
from sim.fleet import about
from sim.life import Condition, Fault
from sim.population import draw
from sim.recipe import CURRICULUM, training_plant

RATE_HZ = 12_000.0


def _gearbox(number: int):
    return draw("gearbox", np.random.default_rng((3, number)))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_worn_gears_are_loudest_where_the_same_teeth_meet_again(number: int) -> None:
    make, meetings = _gearbox(number), 6
    turns = meetings * make.teeth[1] / math.gcd(*make.teeth)
    theta = np.linspace(0, 2 * math.pi * turns, round(turns * RATE_HZ / make.speed_hz), endpoint=False)
    heard = {}
    for severity in (0.0, 1.0):
        condition = Condition((Fault("gear_wear", severity),) if severity else ())
        loudness = np.abs(hilbert(gears(make, condition, theta, Drive(make.speed_hz, 1.0, 1.0), RATE_HZ)[0]))
        lines = np.abs(np.fft.rfft(loudness / loudness.mean()))
        heard[severity] = lines[meetings] / lines.size
    assert heard[1.0] > 0.1 > 10 * heard[0.0]


def test_a_damaged_bearing_is_warm_only_late() -> None:
    make = _gearbox(0)
    kelvin = [friction(make, Condition((Fault("bearing_outer", severity),))) for severity in (0.3, 1.0)]
    assert kelvin[0] < 0.02 * kelvin[1]
    assert 5 <= kelvin[1] <= 30
    assert friction(make, Condition((Fault("unbalance", 1.0),))) == 0


def test_what_a_gearbox_says_of_its_teeth_reaches_the_features() -> None:
    machine = next(m for m in training_plant(5, 60, 10.0).machines if m.make.kind == "gearbox")
    key = StreamKey(machine.id, "de")
    assert stream_specs(Config(), {key: about(machine)})(key).gear_teeth == (machine.make.teeth[0],)
    assert stream_specs(Config(), {})(key).gear_teeth == ()


def test_machines_to_learn_from_meet_nuisances_and_are_the_same_machines_without() -> None:
    calm, disturbed = (training_plant(5, 200, 10.0, disturbed=share).machines for share in (0.0, 0.4))
    assert not any(machine.events for machine in calm)
    assert 0.25 < np.mean([bool(machine.events) for machine in disturbed]) < 0.55
    assert len({event.kind for machine in disturbed for event in machine.events}) == 6
    assert all(event.end_s <= 10.0 for machine in disturbed for event in machine.events)
    assert [m.make.speed_hz for m in calm] == [m.make.speed_hz for m in disturbed]


def test_of_modest_plants_a_third_has_one_axis_and_a_third_no_nameplate() -> None:
    made = training_plant(5, 3 * len(CURRICULUM), 10.0)
    sites = [installation(made, number, modest=True) for number in range(len(made.machines))]
    assert sum(site.plant.axes == ("x",) for site in sites) == len(CURRICULUM)
    assert sum(not site.nameplate for site in sites) == len(CURRICULUM)
    assert all(installation(made, n, modest=False).nameplate for n in range(len(made.machines)))
