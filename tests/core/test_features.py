"""Features against signals whose answer is known, and against SciPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.stats
import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from quality_of import judge

from pipeline.core import features
from pipeline.core.features import FeatureSpec
from pipeline.core.features.bandwidth import resampler
from pipeline.core.features.table import COLUMN, FEATURES, NAMES
from pipeline.core.quality import Quality
from pipeline.core.records import BearingOrders, StreamKey, Window

STAGES = ("time", "spectrum", "orders", "cepstrum", "envelope", "speed", "baseline")
RATE_HZ = 12_000.0
NEVER_HERE = [f.name for f in FEATURES if {"gear", "baseline"} & set(f.needs)]  # the windows below have neither
ORDERS = BearingOrders(ftf=0.39828, bpfo=3.5848, bpfi=5.4152, bsf=2.35675)
SPEC = specs.features()


def window(x: np.ndarray, **changes: object) -> Window:
    x = np.atleast_2d(np.asarray(x, np.float32))
    made = Window(
        key=StreamKey("m", "p"),
        session=1,
        number=0,
        start_ns=0,
        end_ns=10**9,
        rate_hz=RATE_HZ,
        channels=tuple(f"c{i}" for i in range(len(x))),
        unit="m/s2",
        samples=x,
        coverage=1.0,
        speed_rpm=1800.0,
        orders=ORDERS,
        truth=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def of(x: np.ndarray, spec: FeatureSpec = SPEC, **changes: object) -> dict[str, float]:
    return dict(zip(NAMES, features.compute(spec, [window(x, **changes)])[0][0].tolist(), strict=True))


def time_s(rate_hz: float = RATE_HZ, seconds: float = 1.0) -> np.ndarray:
    return np.arange(round(rate_hz * seconds)) / rate_hz


def test_the_table_names_every_column_once_and_says_all_about_it() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(f.formula and f.source and f.stage in STAGES for f in FEATURES)
    assert features.compute(SPEC, [window(np.ones((2, 12_000)))])[0].shape == (2, len(NAMES))


def test_the_schema_changes_with_every_setting() -> None:
    specs = [
        SPEC,
        dataclasses.replace(SPEC, bandwidth_hz=4000.0),
        dataclasses.replace(SPEC, envelope_low_hz=900.0),
        dataclasses.replace(SPEC, envelope_high_hz=4000.0),
        dataclasses.replace(SPEC, slip_tolerance=0.01),
    ]
    assert len({spec.schema for spec in specs}) == len(specs)


@pytest.mark.parametrize("f_hz", [20.0, 100.0, 333.0, 800.0])
def test_a_sine_has_the_statistics_and_the_velocity_of_a_sine(f_hz: float) -> None:
    found = of(10.0 * np.sin(2 * np.pi * f_hz * time_s()))
    assert found["rms"] == pytest.approx(10 / np.sqrt(2), rel=1e-3)
    assert found["crest"] == pytest.approx(np.sqrt(2), rel=2e-2)
    assert found["kurtosis"] == pytest.approx(1.5, rel=1e-2)
    assert found["skewness"] == pytest.approx(0.0, abs=1e-2)
    assert found["zero_crossing"] == pytest.approx(f_hz, abs=1.0)
    assert found["dominant"] == f_hz
    assert found["velocity_rms"] == pytest.approx(1000 * 10 / (2 * np.pi * f_hz) / np.sqrt(2), rel=5e-3)


def test_velocity_knows_its_units_and_says_nothing_without_one(rng: np.random.Generator) -> None:
    x = rng.standard_normal(12_000)
    assert of(x, unit="g")["velocity_rms"] == pytest.approx(9.80665 * of(x)["velocity_rms"], rel=1e-5)
    assert np.isnan(of(x, unit="V")["velocity_rms"])
    assert np.isnan(of(x[:1000], rate_hz=1000.0)["velocity_rms"])


def test_statistics_agree_with_scipy_beside_a_large_bias(rng: np.random.Generator) -> None:
    x = (rng.laplace(size=12_000) * 0.3 + 9.81).astype(np.float32)
    found = of(x, dataclasses.replace(SPEC, bandwidth_hz=0.0))
    assert found["mean"] == pytest.approx(x.mean(dtype=float), rel=1e-6)
    assert found["kurtosis"] == pytest.approx(scipy.stats.kurtosis(x.astype(float), fisher=False), rel=1e-5)
    assert found["skewness"] == pytest.approx(scipy.stats.skew(x.astype(float)), abs=1e-4)


def test_band_powers_add_up_and_white_noise_is_flat(rng: np.random.Generator) -> None:
    found = of(rng.standard_normal(12_000), dataclasses.replace(SPEC, bandwidth_hz=0.0))
    bands = [found[name] for name in NAMES if name.startswith("band_")]
    assert np.sum(10.0 ** np.array(bands)) == pytest.approx(1.0, abs=0.01)
    assert found["entropy"] > 0.9
    assert found["centroid"] == pytest.approx(2500, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(1e-4, 1e4), seed=st.integers(0, 2**32 - 1))
def test_gain_free_features_do_not_change_with_the_gain(gain: float, seed: int) -> None:
    x = np.random.default_rng(seed).laplace(size=12_000)
    one, other = of(x), of(gain * x)
    for feature in FEATURES:
        if feature.gain_free and feature.name not in ("dominant", "zero_crossing") and np.isfinite(one[feature.name]):
            assert other[feature.name] == pytest.approx(one[feature.name], rel=1e-3, abs=2e-3), feature.name


def impacts(order: float, *, speed_hz: float = 30.0, slip: float = 0.01, seed: int = 0) -> np.ndarray:
    """Ring-downs at 3.2 kHz struck `order` times a turn with accumulated jitter, in noise."""
    rng = np.random.default_rng(seed)
    x = 0.2 * rng.standard_normal(12_000)
    at = np.cumsum((1 + slip * rng.standard_normal(400)) / (order * speed_hz))
    ring_s = np.arange(240) / RATE_HZ
    ring = np.exp(-400 * ring_s) * np.sin(2 * np.pi * 3200 * ring_s)
    for t in at[at < 0.97]:
        first = round(t * RATE_HZ)
        x[first : first + 240] += 2.0 * ring
    return x


@pytest.mark.parametrize(
    ("name", "order"), [("env_bpfo", ORDERS.bpfo), ("env_bpfi", ORDERS.bpfi), ("env_2bsf", 2 * ORDERS.bsf)]
)
def test_an_impact_train_with_slip_stands_in_its_own_family(name: str, order: float) -> None:
    found = of(impacts(order))
    families = {n: found[n] for n in ("env_bpfo", "env_bpfi", "env_2bsf", "env_ftf", "env_shaft")}
    assert max(families, key=families.__getitem__) == name
    assert found[name] > 12.0


def test_what_cannot_be_computed_is_nan_and_nothing_else() -> None:
    x = impacts(ORDERS.bpfo)
    for missing, need in (({"orders": None}, "bearing"), ({"speed_rpm": None}, "speed"), ({"unit": "V"}, "unit")):
        found, known = of(x, **missing), of(x)
        gone = {n for n in NAMES if np.isnan(found[n]) and not np.isnan(known[n])}
        assert gone == {f.name for f in FEATURES if need in f.needs} - set(NEVER_HERE) | (
            {"speed_confidence"} if need == "speed" else set()
        )
    assert all(np.isnan(v) for v in features.compute(SPEC, [replace(window(x), samples=None)])[0][0])


@pytest.mark.parametrize("rate_hz", [12_000.0, 25_600.0, 48_000.0, 51_200.0, 97_656.25])
def test_at_one_bandwidth_the_rate_cannot_be_told(rate_hz: float, rng: np.random.Generator) -> None:
    t = time_s(rate_hz)
    x = sum(np.sin(2 * np.pi * f * t + p) for f, p in ((130.0, 0.3), (1111.0, 1.0), (4321.0, 2.0)))
    far = np.sin(2 * np.pi * min(9_000.0, 0.45 * rate_hz) * t) if rate_hz > 12_000 else 0.0
    length = scipy.fft.next_fast_len(len(t), real=True)
    whole = np.pad(x + 3 * far, (0, length - len(t)), mode="reflect")
    found, expected = (
        of(whole, rate_hz=rate_hz),
        of(sum(np.sin(2 * np.pi * f * time_s() + p) for f, p in ((130.0, 0.3), (1111.0, 1.0), (4321.0, 2.0)))),
    )
    for name in ("rms", "kurtosis", "crest", "centroid", "spread", "zero_crossing", "velocity_rms"):
        assert found[name] == pytest.approx(expected[name], rel=0.02), name


def test_the_resampler_is_flat_in_its_pass_band_and_silent_in_its_stop_band() -> None:
    rate_hz = 51_200.0
    down = resampler(rate_hz, 51_200, 5000.0)
    assert (down.rate_hz, down.length) == (12_000.0, 12_000)
    t = time_s(rate_hz)
    for f_hz, low_db, high_db in (
        (100.0, -0.02, 0.02),
        (4900.0, -0.1, 0.1),
        (7100.0, -200, -55),
        (20_000.0, -200, -55),
    ):
        y = down(np.sin(2 * np.pi * f_hz * t)[None].astype(np.float32))[0, 200:-200]
        assert low_db < 20 * np.log10(y.std() * np.sqrt(2) + 1e-12) < high_db, f_hz


def test_quality_names_what_is_wrong() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 1200)).astype(np.float32)
    holed, flat = x.copy(), x.copy()
    holed[1, 7] = np.nan
    flat[0] = 9.81
    assert judge(window(x)) == Quality.GOOD
    assert judge(window(holed)) == Quality.NON_FINITE
    assert judge(window(flat)) == Quality.FLATLINE
    assert judge(window(x, speed_rpm=3.0)) == Quality.NOT_RUNNING
    assert judge(window(x, samples=None)) == Quality.INCOMPLETE


@pytest.mark.parametrize(("recording", "line", "f_hz"), [("IR007_0", "bpfi", 162.2), ("OR007@6_0", "bpfo", 107.4)])
def test_recordings_with_a_known_fault_show_its_line(shared_data: Path, recording: str, line: str, f_hz: float) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(shared_data / "cwru" / "12k_drive_end" / f"{recording}.parquet", columns=["drive_end"])
    x = table["drive_end"].to_numpy()[:12_000]
    assert getattr(ORDERS, line) * 1797 / 60 == pytest.approx(f_hz, abs=0.3)
    found = of(x, speed_rpm=1797.0)
    families = {n: found[n] for n in ("env_bpfo", "env_bpfi", "env_2bsf", "env_ftf")}
    assert max(families, key=families.__getitem__) == f"env_{line}"
    assert set(COLUMN) == set(NAMES)
