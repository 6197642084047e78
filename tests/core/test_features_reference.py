"""Every feature against tests/reference.py, at many lengths and rates; and the same bits in whatever company."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
import reference_lines as lines
import scipy.fft
import scipy.signal
import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numba import njit

from pipeline.core import features
from pipeline.core.features.fft import fft, fft_plan
from pipeline.core.features.lanes import LANES, exp2, load, log2, store
from pipeline.core.features.table import FEATURES, NAMES
from pipeline.core.records import BearingOrders, StreamKey, Window

ORDERS = BearingOrders(ftf=0.4, bpfo=3.6, bpfi=5.4, bsf=2.4)
HERE = [f.name for f in FEATURES if f.stage != "baseline"]


def signal(n: int, channels: int, seed: int) -> np.ndarray:
    """Noise, two tones and a bias."""
    k = np.arange(n)
    tones = np.sin(2 * np.pi * 0.0021 * k) + 0.5 * np.sin(2 * np.pi * 0.08 * k)
    return (np.random.default_rng(seed).standard_normal((channels, n)) + tones + 3).astype(np.float32)


def window(x: np.ndarray, rate_hz: float, speed_rpm: float | None, **changes: object) -> Window:
    channels = tuple(f"c{i}" for i in range(len(x)))
    made = Window(StreamKey("m", "p"), 1, 0, 0, 0, rate_hz, channels, "g", x, 1.0, speed_rpm, ORDERS, None)
    return replace(made, **changes)  # type: ignore[arg-type]


def differences(
    found: np.ndarray, expected: dict[str, float], tolerance: float = 2e-4
) -> dict[str, tuple[float, float]]:
    """What is not the same, by name; empty is good."""
    wrong = {}
    for i, name in enumerate(NAMES):
        if name in HERE:
            a, b = float(found[i]), float(expected.get(name, np.nan))
            same = np.isnan(a) and np.isnan(b) if np.isnan(b) else abs(a - b) <= tolerance * (1 + abs(b))
            if not same:
                wrong[name] = (a, b)
    return wrong


@pytest.mark.parametrize(
    ("n", "rate_hz", "bandwidth_hz", "low_hz", "high_hz", "speed_rpm", "teeth"),
    [
        (16, 1000.0, 0.0, 100.0, 400.0, 1797.0, ()),
        (100, 6000.0, 0.0, 1000.0, 2500.0, 1797.0, ()),
        (256, 1000.0, 150.0, 20.0, 150.0, 1234.0, ()),
        (1350, 6000.0, 0.0, 1000.0, 2500.0, 1797.0, (19,)),
        (3375, 12_000.0, 0.0, 1000.0, 5000.0, 1797.0, ()),  # odd
        (4096, 12_800.0, 0.0, 1000.0, 5000.0, 1797.0, (23, 31)),
        (4096, 25_600.0, 0.0, 1000.0, 5000.0, None, (23,)),
        (12_000, 12_000.0, 0.0, 1000.0, 5000.0, 1797.0, (23,)),
        (12_000, 12_000.0, 5000.0, 500.0, 5000.0, 1797.0, ()),
        (25_600, 25_600.0, 5000.0, 500.0, 5000.0, 480.0, (17,)),
    ],
)
def test_every_feature_equals_the_reference(
    n: int,
    rate_hz: float,
    bandwidth_hz: float,
    low_hz: float,
    high_hz: float,
    speed_rpm: float | None,
    teeth: tuple[int, ...],
) -> None:
    x = signal(n, 2, seed=n)
    spec = specs.features(bandwidth_hz=bandwidth_hz, envelope_low_hz=low_hz, envelope_high_hz=high_hz)
    found = features.compute(spec, [window(x, rate_hz, speed_rpm, gear_teeth=teeth)])[0]
    orders = (ORDERS.bpfo, ORDERS.bpfi, 2 * ORDERS.bsf, ORDERS.ftf)
    known = reference.Recording(x, rate_hz, 0, "g", speed_rpm, orders, teeth)
    same_settings = reference.Settings(n / rate_hz, n / rate_hz, bandwidth_hz, low_hz, high_hz, spec.slip_tolerance)
    for channel in range(2):
        assert differences(found[channel], reference.features(x[channel], known, same_settings)) == {}


def test_the_core_vector_is_the_complete_one_with_columns_left_out() -> None:
    x = signal(4096, 3, seed=1)
    complete = features.compute(specs.features(), [window(x, 12_800.0, 1797.0)])[0]
    core = features.compute(specs.features(vector="core"), [window(x, 12_800.0, 1797.0)])[0]
    kept = [i for i, f in enumerate(FEATURES) if f.core or f.stage == "speed"]
    assert np.isnan(np.delete(core, kept, axis=1)).all()
    np.testing.assert_array_equal(core[:, kept], complete[:, kept])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 3),
    hop=st.sampled_from([64, 100, 128, 192, 256, 300]),
    order=st.randoms(use_true_random=False),
    bandwidth_hz=st.sampled_from([0.0, 300.0]),
)
def test_overlapping_windows_share_work_and_no_bit_changes(
    seed: int, channels: int, hop: int, order: object, bandwidth_hz: float
) -> None:
    spec = specs.features(bandwidth_hz=bandwidth_hz, envelope_low_hz=50.0, envelope_high_hz=300.0)
    x = signal(256 + 12 * hop, channels, seed)
    views = [window(x[:, k * hop : k * hop + 256], 1000.0, 1234.0) for k in range(12)]
    alone = [features.compute(spec, [replace(w, samples=np.array(w.samples))])[0] for w in views]
    shuffled = list(range(12))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for arrangement in (range(12), shuffled):
        together = features.compute(spec, [views[i] for i in arrangement])
        for i, found in zip(arrangement, together, strict=True):
            assert found.tobytes() == alone[i].tobytes()


@pytest.mark.parametrize("pieces", [((0.5, 900.0), (0.5, 1500.0)), ((0.2, 1200.0), (0.1, 1500.0), (0.7, 1000.0))])
def test_where_the_speed_changes_the_envelope_is_looked_at_per_turn(pieces: tuple[tuple[float, float], ...]) -> None:
    n, rate_hz = 12_000, 12_000.0
    x = signal(n, 1, seed=4)
    starts = np.concatenate([[0], np.cumsum([share for share, _ in pieces])[:-1]])
    trace = tuple((round(s * n), rpm) for s, (_, rpm) in zip(starts, pieces, strict=True))
    mean_rpm = sum(share * rpm for share, rpm in pieces)
    w = window(x, rate_hz, mean_rpm, speed_trace=trace)
    found = features.compute(specs.features(bandwidth_hz=0.0), [w])[0][0]

    d = x[0].astype(float) - x[0].mean(dtype=float)
    hann = scipy.signal.windows.hann(n, sym=False)
    spectrum = np.sqrt(2 / (n * (hann**2).sum())) * np.fft.rfft(d * hann)
    power = abs(spectrum[: round(n / 2.4) + 1]) ** 2
    shaft = lines.Shaft(
        turns=mean_rpm / 60,
        orders=(ORDERS.bpfo, ORDERS.bpfi, 2 * ORDERS.bsf, ORDERS.ftf),
        pieces=tuple((share, share * rpm / 60) for share, rpm in pieces),
    )
    expected = lines.envelope(spectrum, power, 1.0, shaft, (1000, 5000), 0.02)
    wrong = differences(found, dict(zip(NAMES, found.tolist(), strict=True)) | expected, tolerance=2e-3)
    assert wrong == {}


def test_the_sharpest_band_is_used_only_where_a_family_stands_in_it() -> None:
    n, rate_hz = 12_000, 12_000.0
    spec = specs.features(bandwidth_hz=0.0, envelope_band="kurtogram")
    fixed = dataclasses.replace(spec, envelope_band="fixed")
    noise = np.random.default_rng(0).standard_normal(n)
    knock = noise.copy()
    knock[5000:5040] += 60 * np.sin(2 * np.pi * 0.3 * np.arange(40))  # one knock: sharp, and no family
    faulty = noise.copy()
    for at in np.arange(0.0, 0.97, 1 / (3.6 * 30)):
        faulty[round(at * n) : round(at * n) + 60] += (
            4 * np.sin(2 * np.pi * 0.35 * np.arange(60)) * 0.9 ** np.arange(60)
        )
    for x, changes in ((noise, False), (knock, False), (faulty, True)):
        w = window(x[None].astype(np.float32), rate_hz, 1800.0)
        sharp, plain = features.compute(spec, [w])[0], features.compute(fixed, [w])[0]
        assert (sharp[0, NAMES.index("env_bpfo")] != plain[0, NAMES.index("env_bpfo")]) == changes


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 9, 15, 25, 30, 64, 135, 640, 2048, 6000])
def test_the_transform_of_eight_agrees_with_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    z = rng.standard_normal((n, LANES)) + 1j * rng.standard_normal((n, LANES))
    buffers = [np.ascontiguousarray(part, np.float32).ravel() for part in (z.real, z.imag, z.real, z.imag)]
    where = 2 * transform(fft_plan(n), *buffers)
    found = (buffers[where] + 1j * buffers[where + 1]).reshape(n, LANES)
    expected = scipy.fft.fft(z, axis=0)
    assert abs(found - expected).max() <= 5e-7 * abs(expected).max()


@njit
def transform(plan: object, re: np.ndarray, im: np.ndarray, re2: np.ndarray, im2: np.ndarray) -> int:
    return fft(plan, re, im, re2, im2)


@njit
def logs_and_powers(x: np.ndarray, y: np.ndarray) -> None:
    store(y, 0, log2(load(x, 0)))
    store(y, LANES, exp2(load(x, LANES)))


@settings(deadline=None)
@given(
    a=st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=LANES, max_size=LANES),
    b=st.lists(st.floats(-100, 100, width=32), min_size=LANES, max_size=LANES),
)
def test_logarithms_and_powers_of_two_are_good_to_a_millionth(a: list[float], b: list[float]) -> None:
    x, y = np.array(a + b, np.float32), np.zeros(2 * LANES, np.float32)
    logs_and_powers(x, y)
    np.testing.assert_allclose(y[:LANES], np.log2(x[:LANES].astype(float)), rtol=3e-7, atol=3e-6)
    np.testing.assert_allclose(y[LANES:], 2.0 ** x[LANES:].astype(float), rtol=3e-6)


@pytest.mark.parametrize("bandwidth_hz", [0.0, 5000.0])
@pytest.mark.parametrize("fill", [0.0, 9.81, np.nan, np.inf, -np.inf, 1e15])
def test_a_broken_window_gives_no_number_and_leaves_its_neighbours_alone(fill: float, bandwidth_hz: float) -> None:
    spec = specs.features(bandwidth_hz=bandwidth_hz)
    good, bad = signal(4096, 1, seed=1), np.full((1, 4096), fill, np.float32)
    half = good.copy()
    half[0, 2000:2100] = fill
    said = {"speed_range_rpm": (600.0, 3000.0), "gear_teeth": (23,)}
    windows = [window(x, 12_800.0, None, **said) for x in (good, bad, half, good)]
    alone = features.compute(spec, windows[:1])[0]
    together = features.compute(spec, windows)
    assert together[0].tobytes() == together[3].tobytes() == alone.tobytes()
    for values in together:
        assert not np.isinf(values).any()
    known = [name for name, value in zip(NAMES, together[1][0], strict=True) if not np.isnan(value)]
    level = ["mean", "rms", "peak", "p2p"] if np.isfinite(fill) else []
    assert [name for name in known if not name.startswith("speed_")] == level


def test_two_threads_at_once_compute_what_one_does() -> None:
    from concurrent.futures import ThreadPoolExecutor

    spec = specs.features(bandwidth_hz=0.0)
    windows = [window(signal(4096, 2, seed=i), 12_800.0, 1797.0) for i in range(64)]
    one = [values.tobytes() for values in features.compute(spec, windows)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: features.compute(spec, windows), range(12)):
            assert [values.tobytes() for values in found] == one
