"""The spectra that people see are those that the features were computed from."""

from __future__ import annotations

import numpy as np
import pytest
import specs
from msgspec.structs import replace

from pipeline.core import features
from pipeline.core.features.display import line_db, spectra
from pipeline.core.features.table import COLUMN
from pipeline.core.records import BearingOrders, StreamKey, Window

RATE_HZ = 12_000.0
SPEED_RPM = 1800.0
ORDERS = BearingOrders(ftf=0.39828, bpfo=3.5848, bpfi=5.4152, bsf=2.35675)
SPEC = specs.features()

pytestmark = pytest.mark.usefixtures("compiled")


def damaged(rng: np.random.Generator, channels: int = 2) -> Window:
    """Noise, a shaft line, and impacts of an outer race that ring at 3 kHz."""
    t = np.arange(int(RATE_HZ)) / RATE_HZ
    since = np.mod(t, 1 / (ORDERS.bpfo * SPEED_RPM / 60))
    impacts = np.exp(-800 * since) * np.sin(2 * np.pi * 3000 * since)
    x = 0.1 * rng.standard_normal((channels, len(t))) + 0.3 * np.sin(2 * np.pi * SPEED_RPM / 60 * t) + impacts
    return Window(
        StreamKey("m", "p"), 1, 0, 0, 10**9, RATE_HZ, ("x", "y")[:channels], "g", x.astype(np.float32), 1.0,
        SPEED_RPM, ORDERS, None,
    )  # fmt: skip


def test_the_features_beside_a_spectrum_are_those_of_the_archive(rng: np.random.Generator) -> None:
    window = damaged(rng)
    (archived,) = features.compute(SPEC, [window])
    for channel in (0, 1):
        assert np.array_equal(spectra(SPEC, window, channel).values, archived[channel], equal_nan=True)


def test_a_cursor_on_a_line_reads_the_feature_of_that_line(rng: np.random.Generator) -> None:
    found = spectra(SPEC, damaged(rng))
    shaft = SPEED_RPM / 60 / found.delta_f_hz
    for order in (1, 2, 3):
        assert line_db(found.power, order * shaft, SPEC.slip_tolerance) == pytest.approx(
            found.values[COLUMN[f"ord_{order}"]], abs=1e-3
        )
    bpfo = ORDERS.bpfo * shaft
    harmonics = [line_db(found.envelope, k * bpfo, SPEC.slip_tolerance, shaft) for k in (1, 2, 3)]
    family = 20 * np.log10(np.mean([10 ** (db / 20) for db in harmonics]))
    assert family == pytest.approx(found.values[COLUMN["env_bpfo"]], abs=1e-2)
    assert family > 15.0  # the outer race is seen
    assert np.argmax(found.envelope[3:]) + 3 == pytest.approx(bpfo, abs=2)


def test_the_power_of_a_line_is_the_mean_square_under_a_hann_window(rng: np.random.Generator) -> None:
    window = damaged(rng, channels=1)
    assert window.samples is not None
    found = spectra(SPEC, window)
    x = window.samples[0].astype(float)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(len(x)) / len(x))
    power = 2 * np.abs(np.fft.rfft((x - x.mean()) * hann)) ** 2 / (len(x) * (hann**2).sum())
    assert np.allclose(found.power, power[: len(found.power)], rtol=1e-3, atol=1e-6 * power.max())


def test_a_window_with_a_hole_has_no_spectrum(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        spectra(SPEC, replace(damaged(rng), samples=None))


def test_a_line_outside_the_spectrum_is_no_number() -> None:
    power = np.ones(100, np.float32)
    assert all(np.isnan(line_db(power, place, 0.02)) for place in (0.0, 1.0, 99.0, 500.0))
