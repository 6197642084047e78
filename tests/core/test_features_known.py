"""Orders, gears, cepstrum, mains, flux, speed and severity against signals whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import specs
from msgspec.structs import replace

from pipeline.core import features
from pipeline.core.features import FeatureSpec
from pipeline.core.features.table import NAMES
from pipeline.core.records import BearingOrders, StreamKey, Window

RATE_HZ = 12_000.0
SPEC = specs.features()
T = np.arange(12_000) / RATE_HZ
ORDER_NAMES = [name for name in NAMES if name.startswith("ord_") and name != "ord_1_velocity_share"]
ORDERS = BearingOrders(ftf=0.39828, bpfo=3.5848, bpfi=5.4152, bsf=2.35675)


def of(
    x: np.ndarray, spec: FeatureSpec = SPEC, speed_rpm: float | None = 1800.0, **changes: object
) -> dict[str, float]:
    made = Window(
        StreamKey("m", "p"), 1, 0, 0, 0, RATE_HZ, ("x",), "m/s2", x[None].astype(np.float32), 1.0, speed_rpm, None, None
    )
    values = features.compute(spec, [replace(made, **changes)])[0][0]  # type: ignore[arg-type]
    return dict(zip(NAMES, values.tolist(), strict=True))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(len(T))


def tone(f_hz: float, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * f_hz * T + 0.7)


@pytest.mark.parametrize("order", [0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 10.0])
def test_a_line_at_an_order_stands_in_that_order_alone(order: float) -> None:
    found = of(noise() + tone(30 * order))
    orders = {
        name: value for name, value in found.items() if name.startswith("ord_") and name != "ord_1_velocity_share"
    }
    name = f"ord_{order:g}".replace(".", "_")
    assert max(orders, key=orders.__getitem__) == name
    assert found[name] == pytest.approx(10 * np.log10(0.25 * 12_000 / 1.5) + 2.5, abs=5.0)  # line / floor of the noise
    assert all(value < 13 for other, value in orders.items() if other != name)


def test_unbalance_is_most_of_the_velocity() -> None:
    assert of(tone(30.0) + 0.05 * noise())["ord_1_velocity_share"] > 0.95
    mixed = of(tone(30.0, 30.0) + tone(60.0, 60.0))  # equal velocities
    assert mixed["ord_1_velocity_share"] == pytest.approx(0.5, abs=0.01)


def test_below_600_rpm_the_velocity_begins_at_2_hz() -> None:
    x = tone(5.0, 0.2) + tone(100.0)
    slow, fast = of(x, speed_rpm=300.0), of(x, speed_rpm=900.0)
    assert fast["velocity_rms"] == pytest.approx(1000 / (2 * np.pi * 100) / np.sqrt(2), rel=1e-2)
    whole = np.hypot(0.2 / (2 * np.pi * 5), 1 / (2 * np.pi * 100)) * 1000 / np.sqrt(2)
    assert slow["velocity_rms"] == pytest.approx(whole, rel=0.03)  # the window smears 5 Hz over 4 to 6


def test_a_gear_shows_its_mesh_and_a_worn_one_its_sidebands() -> None:
    mesh = tone(23 * 30.0, 2.0)
    worn = (1 + 0.6 * np.sin(2 * np.pi * 30 * T)) * mesh
    good, bad = of(noise() + mesh, gear_teeth=(23,)), of(noise() + worn, gear_teeth=(23,))
    assert good["gmf"] > 10
    assert bad["gmf_sidebands"] > good["gmf_sidebands"] + 8
    assert np.isnan(of(noise() + mesh)["gmf"])
    assert of(noise() + mesh, gear_teeth=(23, 41)) == pytest.approx(good, nan_ok=True)  # the wheel that is heard


def test_sidebands_anywhere_are_one_peak_of_the_cepstrum() -> None:
    rng = np.random.default_rng(1)
    clicks = np.zeros(len(T))
    clicks[(np.arange(0, 1, 1 / 30) * RATE_HZ).astype(int)] = 12 * rng.uniform(0.8, 1.2, 30)
    assert of(noise() + clicks)["cepstrum_shaft"] > of(noise())["cepstrum_shaft"] + 4


def test_hum_is_the_share_of_the_mains_lines_of_the_configured_mains() -> None:
    x = tone(50.0, 2.0) + tone(100.0, 1.0) + noise()
    assert of(x)["mains_hum"] == pytest.approx(2.5 / (2.5 + 5 / 6), abs=0.02)  # of the noise, what lies within 5 kHz
    assert of(x, dataclasses.replace(SPEC, mains_hz=60.0))["mains_hum"] < 0.02
    assert np.isnan(of(x, dataclasses.replace(SPEC, mains_hz=0.0))["mains_hum"])


def test_flux_tells_a_change_from_none() -> None:
    steady, change = noise() + tone(40.0), np.where(T < 0.5, tone(40.0, 3.0), tone(3000.0, 3.0)) + 0.1 * noise()
    assert of(steady)["flux"] < 0.1
    assert of(change)["flux"] > 0.8


def test_flatness_and_roll_off_of_noise_and_of_a_tone() -> None:
    white = of(noise(), dataclasses.replace(SPEC, bandwidth_hz=0.0))
    assert white["flatness"] == pytest.approx(-10 * np.log10(np.e) * 0.5772, abs=0.15)  # chi-squared, 2 degrees
    assert white["rolloff_85"] == pytest.approx(0.85 * 5000, rel=0.02)
    assert white["rolloff_95"] == pytest.approx(0.95 * 5000, rel=0.02)
    one = of(tone(1000.0) + 1e-3 * noise())
    assert one["flatness"] < -40
    assert one["rolloff_85"] == pytest.approx(1000.0, abs=1.5)
    assert one["spread"] < 20


def test_knocks_stand_out_in_the_energy_operator_more_than_in_the_kurtosis() -> None:
    knocks = 3 * np.sin(2 * np.pi * 30 * T)
    knocks[::400] += 2.0
    found = of(knocks + 0.1 * noise(), dataclasses.replace(SPEC, bandwidth_hz=0.0))
    assert found["kurtosis"] < 2
    assert found["tkeo_kurtosis"] > 8


def test_the_envelope_of_gaussian_noise_has_kurtosis_two_and_its_share_of_the_power() -> None:
    found = [of(noise(seed), dataclasses.replace(SPEC, bandwidth_hz=0.0)) for seed in range(5)]
    assert np.mean([f["env_kurtosis"] for f in found]) == pytest.approx(2.0, abs=0.05)
    assert np.mean([f["env_rms"] for f in found]) == pytest.approx(10 * np.log10(4000 / 5000), abs=0.1)


@pytest.mark.parametrize("f_hz", [14.3, 24.9, 29.95, 48.0])
def test_a_speed_that_nobody_states_is_found_in_the_spectrum(f_hz: float) -> None:
    x = tone(f_hz, 1.0) + tone(2 * f_hz, 0.6) + tone(3 * f_hz, 0.4) + noise()
    unknown = of(x, speed_rpm=None)
    assert np.isnan(unknown["speed_used"])
    assert np.isnan(unknown["ord_1"])
    found = of(x, speed_rpm=None, speed_range_rpm=(600.0, 3600.0))
    assert found["speed_used"] == pytest.approx(60 * f_hz, rel=0.005)
    assert found["speed_confidence"] > SPEC.speed_confidence
    assert found["ord_1"] > 20


@pytest.mark.parametrize("seed", range(5))
def test_in_noise_no_speed_is_found(seed: int) -> None:
    found = of(noise(seed), speed_rpm=None, speed_range_rpm=(600.0, 3600.0))
    assert found["speed_confidence"] < SPEC.speed_confidence
    assert np.isnan(found["speed_used"])


def test_lines_are_smeared_in_time_and_sharp_in_angle_when_the_speed_changes() -> None:
    rng = np.random.default_rng(3)
    rpm = np.where(T < 0.5, 1200.0, 2400.0)
    angle = np.cumsum(rpm / 60) / RATE_HZ
    struck = np.flatnonzero(np.diff(np.floor(angle * ORDERS.bpfo)))
    x = 0.2 * rng.standard_normal(len(T))
    ring = 3 * np.exp(-500 * T[:200]) * np.sin(2 * np.pi * 3200 * T[:200])
    for at in struck[struck < 11_700]:
        x[at : at + 200] += ring
    blind = of(x, speed_rpm=1800.0, orders=ORDERS)
    follows = of(x, speed_rpm=1800.0, orders=ORDERS, speed_trace=((0, 1200.0), (6000, 2400.0)))
    assert follows["env_bpfo"] > blind["env_bpfo"] + 6
    assert follows["env_bpfo"] > max(follows[n] for n in ("env_bpfi", "env_2bsf", "env_ftf", "env_shaft")) + 6


def test_a_line_on_a_shaft_harmonic_says_nothing_about_the_bearing() -> None:
    shaft = np.zeros(len(T))
    ring = np.exp(-500 * T[:200]) * np.sin(2 * np.pi * 3200 * T[:200])
    for at in (np.arange(0, 0.97, 1 / 90) * RATE_HZ).astype(int):  # three knocks a turn
        shaft[at : at + 200] += 3 * ring
    near = BearingOrders(ftf=0.3816, bpfo=3.0531, bpfi=4.9469, bsf=1.9938)  # a 6203: 1.8 % from the third harmonic
    found = of(shaft + 0.2 * noise(), orders=near)
    assert found["env_shaft"] > 20
    assert found["env_bpfo"] < 12
