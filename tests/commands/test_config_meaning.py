"""What the configuration means: machines, their bearings and limits, and modes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from harness.config import resolved
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config.sources import load
from pipeline.config.specs import stream_specs
from pipeline.config.tables import BearingConfig, ModesConfig
from pipeline.core.bearings import find
from pipeline.core.records import StreamKey
from pipeline.core.severity import Limits, limits_of_class
from pipeline.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_configuration")

MACHINES = """
[window]
length_s = 4.0
[machines.pump]
area = "hall"
speed_rpm = 1500
unit = "g"
window = { hop_s = 0.25 }
bearing = { ftf = 0.4, bpfo = 3.6, bpfi = 5.4, bsf = 2.36 }
[machines.pump.points.nde]
unit = "mm/s"
window = { length_s = 8.0 }
bearing = { elements = 8, element_diameter_mm = 6.0, pitch_diameter_mm = 30.0 }
[machines.bare]
"""


def test_a_point_overrides_its_machine_which_overrides_the_general_sections() -> None:
    config = resolved(MACHINES).config
    de, nde, other = config.machine("pump", "de"), config.machine("pump", "nde"), config.machine("other", "de")
    assert (de.area, de.speed_rpm, de.unit) == ("hall", 1500.0, "g")
    assert (nde.area, nde.speed_rpm, nde.unit) == ("hall", 1500.0, "mm/s")
    assert (other.area, other.speed_rpm, other.unit, other.bearing) == ("", None, None, None)
    windows = [(view.window.length_s, view.window.hop_s) for view in (de, nde, other)]
    assert windows == [(4.0, 0.25), (8.0, 0.25), (4.0, 0.5)]
    assert isinstance(de.bearing, BearingConfig)
    assert isinstance(nde.bearing, BearingConfig)
    assert (de.bearing.bpfo, nde.bearing.bpfo, nde.bearing.elements) == (3.6, None, 8)


def test_unknown_machines_are_accepted_unless_told_otherwise() -> None:
    config = resolved(MACHINES).config
    assert config.accepts("pump")
    assert config.accepts("other")
    strict = resolved("[mqtt]\naccept_unknown_machines = false\n" + MACHINES).config
    assert strict.accepts("pump")
    assert strict.accepts("bare"), "an empty table names the machine"
    assert not strict.accepts("other")


def test_the_orders_of_a_6205_bearing_follow_from_its_geometry() -> None:
    # SKF 6205-2RS, drive end of the CWRU rig, whose page gives these multiples of the running speed.
    bearing = BearingConfig(elements=9, element_diameter_mm=7.94, pitch_diameter_mm=39.04, contact_angle_deg=0.0)
    orders = bearing.orders()
    assert orders
    assert orders.bpfi == pytest.approx(5.4152, abs=1e-3)
    assert orders.bpfo == pytest.approx(3.5848, abs=1e-3)
    assert orders.ftf == pytest.approx(0.39828, abs=1e-3)
    assert orders.bsf * 2 == pytest.approx(4.7135, abs=1e-3)


@given(
    elements=st.integers(3, 60),
    element=st.floats(0.5, 90.0),
    share=st.floats(0.02, 0.8),
    angle=st.floats(0.0, 60.0),
)
def test_the_orders_of_any_bearing_obey_kinematics(elements: int, element: float, share: float, angle: float) -> None:
    assume(elements * math.asin(share) < 0.999 * math.pi)  # else they do not fit round the pitch circle
    orders = BearingConfig(
        elements=elements,
        element_diameter_mm=element,
        pitch_diameter_mm=element / share,
        contact_angle_deg=angle,
    ).orders()
    assert orders
    assert orders.bpfo + orders.bpfi == pytest.approx(elements)  # every element passes both races
    assert orders.bpfo == pytest.approx(elements * orders.ftf)
    assert 0 < orders.ftf < 0.5 < orders.bpfi


def test_orders_that_are_given_are_taken_as_they_are() -> None:
    orders = BearingConfig(ftf=0.4, bpfo=3.6, bpfi=5.4, bsf=2.36).orders()
    assert orders
    assert (orders.ftf, orders.bpfo, orders.bpfi, orders.bsf) == (0.4, 3.6, 5.4, 2.36)


@pytest.mark.parametrize(
    "bearing",
    [
        "{ bpfo = 3.6 }",
        "{ elements = 9, pitch_diameter_mm = 39.04 }",
        "{ contact_angle_deg = 0.0 }",
        "{ ftf = 0.4, bpfo = 3.6, bpfi = 5.4, bsf = 2.36, pitch_diameter_mm = 39.0 }",
        "{ ftf = 0.4, bpfo = 3.6, bpfi = 5.4, bsf = 2.36, elements = 8 }",
        "{ bpfo = 3.6, bpfi = 4.9 }",
        "{ elements = 9, element_diameter_mm = 40.0, pitch_diameter_mm = 39.0 }",
        "{ elements = 19, element_diameter_mm = 7.94, pitch_diameter_mm = 39.0 }",
        '"6299"',
        '""',
        "3",
    ],
)
@pytest.mark.parametrize("table", ["machines.p", 'machines.p.points."de.1"'])
def test_half_a_bearing_or_an_impossible_one_is_refused(table: str, bearing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(f"[{table}]\nbearing = {bearing}")
    assert caught.value.message.startswith(f"{table}.bearing")


def test_a_bearing_may_be_a_name_of_the_catalogue() -> None:
    config = resolved('[machines.p]\nbearing = "6205-2RS"\npoints.fan = { bearing = "6203" }').config
    assert config.machine("p", "de").orders() == find("6205").geometry.orders()
    assert config.machine("p", "fan").orders() == find("6203").geometry.orders()
    assert config.machine("q", "de").orders() is None


def test_a_bearing_can_be_named_in_the_environment_but_not_beside_a_table() -> None:
    name = {"THRUMCAST_MACHINES__P__BEARING": "6205"}
    assert load(environment=name).config.machine("p", "de").bearing == "6205"
    table = {"THRUMCAST_MACHINES__P__BEARING__BPFO": "3.58"}
    for both in (name | table, table | name):
        with pytest.raises(ConfigError, match=r"machines\.p\.bearing: expected a name or a table, found: both"):
            load(environment=both)


def test_an_unknown_bearing_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match=r"machines\.p\.bearing: a bearing of the catalogue expected") as caught:
        resolved('[machines.p]\nbearing = "6204"')
    assert caught.value.hint
    assert "6205" in caught.value.hint


LIMITS = """
[machines.p]
iso_group = 1
support = "flexible"
[machines.p.points.own]
limits_mm_s = [1.0, 2.0, 3.0]
limits_source = "maker"
[machines.p.points.other]
iso_group = 2
support = "rigid"
"""


def test_limits_come_from_the_point_then_the_machine_then_nowhere() -> None:
    config = resolved(LIMITS).config
    assert config.machine("p", "own").limits == Limits(1.0, 2.0, 3.0, "maker")
    assert config.machine("p", "other").limits == limits_of_class(2, "rigid")
    assert config.machine("p", "any").limits == limits_of_class(1, "flexible")
    assert config.machine("q", "any").limits is None
    assert stream_specs(config, {})(StreamKey("p", "own")).limits == Limits(1.0, 2.0, 3.0, "maker")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("iso_group = 1", "support"),
        ('support = "rigid"', "iso_group"),
        ('iso_group = 3\nsupport = "rigid"', "iso_group"),
        ('iso_group = 1\nsupport = "soft"', "support"),
        ("limits_mm_s = [1.0, 2.0, 3.0]", "limits_source"),
        ('limits_source = "maker"', "limits_mm_s"),
        ('limits_mm_s = [1.0, 3.0, 3.0]\nlimits_source = "maker"', "limits_mm_s"),
        ('limits_mm_s = [1.0, 3.0]\nlimits_source = "maker"', "limits_mm_s"),
        ('limits_mm_s = [0.0, 3.0, 4.0]\nlimits_source = "maker"', "limits_mm_s"),
    ],
)
def test_limits_that_are_not_whole_or_do_not_rise_are_refused(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(f"[machines.p]\n{text}")
    assert caught.value.message.startswith(f"machines.p.{key}")


def test_an_alias_stands_for_its_mode_and_other_names_for_themselves() -> None:
    modes = ModesConfig()
    assert modes.resolve("inner_race") == "bearing_inner"
    assert modes.resolve("bearing_inner") == "bearing_inner"
    assert modes.resolve("gremlins") == "gremlins"
    assert {modes.resolve(alias) for alias in modes.aliases} <= set(modes.names)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("names = []", "modes.names"),
        ('names = ["a", "a"]', "modes.names"),
        ('names = ["healthy", "unknown"]', "modes.names"),
        ('names = ["not ok"]', "modes.names"),
        ('names = ["healthy", "hot"]\n[modes.aliases]\nwarm = "burning"', "modes.aliases.warm"),
        ('names = ["healthy", "hot"]\n[modes.aliases]\nhot = "healthy"', "modes.aliases.hot"),
        ('aliases = { warm = 3 }', "modes.aliases"),
    ],
)  # fmt: skip
def test_modes_that_contradict_each_other_are_refused(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(f"[modes]\n{text}")
    assert caught.value.message.startswith(f"{key}: expected ")


def test_own_modes_replace_the_usual_ones() -> None:
    modes = resolved('[modes]\nnames = ["healthy", "hot"]\n[modes.aliases]\nwarm = "hot"').config.modes
    assert modes.names == ("healthy", "hot")
    assert (modes.resolve("warm"), modes.resolve("ball")) == ("hot", "ball")


def test_gears_speed_range_and_commissioning_reach_the_stream(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[features]\nmains_hz = 60.0\n[machines.pump-01]\ngear_teeth = [23, 61]\nspeed_min_rpm = 1400\n"
        "speed_max_rpm = 1500\ncommissioning_windows = 600\n"
    )
    spec = stream_specs(load(file, {}, environment={}).config, {})(StreamKey("pump-01", "de"))
    assert (spec.gear_teeth, spec.speed_range_rpm, spec.commissioning_windows) == ((23, 61), (1400.0, 1500.0), 600)
    assert spec.features.mains_hz == 60.0
    file.write_text("[machines.pump-01]\nspeed_min_rpm = 1500\nspeed_max_rpm = 1400\n")
    with pytest.raises(ConfigError, match="speed_max_rpm"):
        load(file, {}, environment={})
