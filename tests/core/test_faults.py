"""The table of failure modes: it is complete, it names what exists, and a line in it is enough to be spoken of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import specs
from harness.streams import SPEC, recording

from pipeline.config.specs import stream_specs
from pipeline.config.tables import Config, ModesConfig
from pipeline.core import faults
from pipeline.core.engine import Engine
from pipeline.core.evidence import UNCONFIRMED, confirms, evidence, shown_mode
from pipeline.core.faults import MODES, FailureMode, Line, Sign, family_of, impossible
from pipeline.core.features.table import COLUMN, FAMILIES, NAMES
from pipeline.core.records import FeatureRow, StreamKey


def row(**values: float) -> FeatureRow:
    array = np.full((1, len(NAMES)), np.nan, np.float32)
    for name, value in values.items():
        array[0, COLUMN[name]] = value
    key = StreamKey("m", "p")
    return FeatureRow(key, 1, 0, 0, 10**9, 12_000.0, 1800.0, 1.0, 0, None, ("x",), array, "test")


def test_every_mode_of_the_default_configuration_is_in_the_table() -> None:
    assert set(ModesConfig().names) - {faults.HEALTHY} == set(MODES)


def test_every_feature_that_the_table_names_exists() -> None:
    assert {name for mode in MODES.values() for name in mode.features} <= set(NAMES)
    assert all(f"{family_of(mode)}_harmonics" in NAMES for mode in MODES if family_of(mode))


def test_every_mode_but_other_has_a_sign_and_every_family_of_a_bearing_is_that_of_one_mode() -> None:
    assert [name for name, mode in MODES.items() if not mode.signs] == ["other"]
    assert sorted(filter(None, map(family_of, MODES))) == sorted(family.feature for family in FAMILIES)
    labels = {sign.features[0]: sign.text for mode in MODES.values() if (sign := mode.family)}
    assert labels == {family.feature: family.label for family in FAMILIES}


def test_every_mode_is_one_that_the_simulator_can_draw_and_place() -> None:
    from sim.analyst import told_by
    from sim.components import BEARING_FAULTS
    from sim.life import FAULTS
    from sim.population import KINDS, draw, faults_of, location

    assert tuple(MODES) == FAULTS
    assert {mode for kind in KINDS for mode in faults_of(kind)} == set(MODES)
    assert BEARING_FAULTS == ("bearing_outer", "bearing_inner", "bearing_ball", "bearing_cage")  # their random numbers
    make = draw("gearbox", np.random.default_rng(0))
    assert all(location(make, mode).startswith(MODES[mode].part.split()[0]) for mode in MODES)
    turn_hz = make.speed_hz
    assert {mode: told_by(make, mode) for mode in MODES if MODES[mode].line} == {
        "unbalance": ("1x", turn_hz),
        "misalignment": ("2x", 2 * turn_hz),
        "looseness": ("1.5x", 1.5 * turn_hz),
        "gear_wear": ("2x mesh", 2 * make.teeth[0] * turn_hz),
        "other": ("2x mains", 100.0),
    }


@pytest.mark.parametrize(
    ("sign", "values", "text"),
    [
        (Sign(("rel_band_13",), 6.0, 26.0, "hiss"), {"rel_band_13": 9.0}, "hiss 9 dB over floor"),
        (
            Sign(("env_bpfo",), 15.0, 31.0, "belt", "family"),
            {"env_bpfo": 20.0, "env_bpfo_harmonics": 2.0},
            "envelope belt with 2 of 5 harmonics, 20 dB over floor",
        ),
    ],
)
def test_a_line_in_the_table_is_enough_for_evidence_to_speak_of_a_new_mode(
    monkeypatch: pytest.MonkeyPatch, sign: Sign, values: dict[str, float], text: str
) -> None:
    shown = row(**values)
    quiet = row(**dict.fromkeys(values, 1.0))
    assert confirms("belt_wear", shown) is None
    assert text not in [one.text for one in evidence(shown)]
    monkeypatch.setitem(MODES, "belt_wear", FailureMode("belt_wear", "belt", Line(0.5), (sign,)))
    assert text in [one.text for one in evidence(shown)]
    assert confirms("belt_wear", shown) is True
    assert confirms("belt_wear", quiet) is False
    assert confirms("belt_wear", row()) is None
    assert shown_mode("belt_wear", quiet) == (UNCONFIRMED if sign.rule == "family" else "belt_wear")


@pytest.mark.parametrize(
    ("kind", "gears", "cannot"),
    [
        ("fan", False, {"gear_wear", "gear_tooth", "cavitation"}),
        ("fan", True, {"cavitation"}),
        ("pump", False, {"gear_wear", "gear_tooth"}),
        ("gearbox", False, {"cavitation"}),
        ("", False, {"gear_wear", "gear_tooth", "cavitation"}),
        ("", True, {"cavitation"}),
        ("crusher", False, set()),
    ],
)
def test_the_nameplate_says_what_a_machine_cannot_have(kind: str, gears: bool, cannot: set[str]) -> None:
    assert set(impossible(kind, has_gears=gears)) == cannot
    spec = stream_specs(Config(), {StreamKey("m", "p"): {"kind": kind} | ({"gear_teeth": 21} if gears else {})})
    assert set(spec(StreamKey("m", "p")).impossible) == cannot


class Oracle:
    """A network that says the same of every window."""

    version = "oracle"
    classes = ("healthy", "unbalance", "gear_tooth", "cavitation")
    inputs = ("x.rms",)
    hidden_shape = (1, 1)

    def __init__(self, *p: float) -> None:
        self.p = np.array(p, np.float32)

    def step(self, x: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(self.p, (len(x), 1)), h


@pytest.mark.parametrize("gears", [0.0, 0.3, 0.7, 0.9])
def test_a_fan_has_no_gears_and_what_is_left_sums_to_one(gears: float) -> None:
    rest = 1 - gears
    network = Oracle(0.1 * rest, 0.9 * rest, 0.6 * gears, 0.4 * gears)
    found = {}
    for kind in ("fan", "crusher"):
        spec = dataclasses.replace(
            SPEC, impossible=impossible(kind, has_gears=False), warm_up_windows=0, alarm=specs.alarm(enter_s=0.0)
        )
        step = Engine(lambda key, spec=spec: spec, network).step({}, recording(1))
        found[kind] = step.predictions
    for plain, fan in zip(found["crusher"], found["fan"], strict=True):
        np.testing.assert_array_equal(plain.probabilities, network.p)
        assert fan.mode == "unbalance"
        np.testing.assert_allclose(fan.probabilities, [0.1, 0.9, 0.0, 0.0], rtol=1e-5)
        assert (fan.state == "unknown") == (gears == 0.9), "nearly everything was on what it cannot have"


def test_a_machine_of_which_the_network_sees_nothing_is_unknown_and_not_healthy() -> None:
    """A recording with the channel `drive_end`, and a model that looks at x: every input is missing."""
    spec = dataclasses.replace(SPEC, warm_up_windows=0, alarm=specs.alarm(enter_s=0.0))
    network = Oracle(0.9, 0.1, 0.0, 0.0)
    seen = Engine(lambda key: spec, network).step({}, recording(1)).predictions
    blind = Engine(lambda key: spec, network).step({}, recording(1, channels="ab")).predictions
    assert {one.state for one in seen} == {"normal"}
    assert {one.state for one in blind} == {"unknown"}
