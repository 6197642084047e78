"""The whole pipeline again: offline, slow, obvious, in double precision. Law 5 compares with this.

It knows a recording as one array with NaN where samples are missing, and it shares no code with
pipeline/core beyond the names of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal
import scipy.stats

BANDS = 14


@dataclass(frozen=True)
class Recording:
    """One session of one stream. samples: (C, n), NaN = never came."""

    samples: np.ndarray
    rate_hz: float
    t0_ns: int
    unit: str = "g"
    speed_rpm: float | None = None
    orders: tuple[float, float, float, float] | None = None  # bpfo, bpfi, 2bsf, ftf


@dataclass(frozen=True)
class Settings:
    length_s: float
    hop_s: float
    bandwidth_hz: float
    envelope_low_hz: float
    envelope_high_hz: float
    slip_tolerance: float


def windows(recording: Recording, settings: Settings) -> list[tuple[int, float, np.ndarray]]:
    """(number, coverage, samples) of every window of which something came and whose end was reached."""
    length = scipy.fft.next_fast_len(round(settings.length_s * recording.rate_hz), real=True)
    hop = round(settings.hop_s * recording.rate_hz)
    found = []
    number = 0
    while number * hop + length <= recording.samples.shape[1]:
        samples = recording.samples[:, number * hop : number * hop + length]
        coverage = float(np.isfinite(samples[0]).mean())
        if coverage > 0:
            found.append((number, coverage, samples))
        number += 1
    return found


def features(x: np.ndarray, recording: Recording, settings: Settings) -> dict[str, float]:
    """All features of one channel of one whole window x (n,)."""
    x, rate_hz = to_bandwidth(np.asarray(x, np.float64), recording.rate_hz, settings.bandwidth_hz)
    found = time_domain(x, rate_hz)
    d = x - x.mean()
    hann = scipy.signal.windows.hann(len(d), sym=False)
    spectrum = np.fft.rfft(d * hann)
    f = np.fft.rfftfreq(len(d), 1 / rate_hz)
    power = 2 * abs(spectrum) ** 2 / (len(d) * (hann**2).sum())
    found |= spectral(power, f, settings.bandwidth_hz or rate_hz / 2.4, rate_hz, recording.unit)
    return found | envelope(spectrum, f, recording, settings)


def to_bandwidth(x: np.ndarray, rate_hz: float, bandwidth_hz: float) -> tuple[np.ndarray, float]:
    """Band-limited interpolation, one output sample at a time (Smith, Digital Audio Resampling)."""
    target_hz = 2.4 * bandwidth_hz
    if bandwidth_hz == 0 or rate_hz < target_hz:
        return x, rate_hz
    stop_hz = target_hz / 2
    half = int(np.ceil((60 - 7.95) / 14.36 * rate_hz / (stop_hz - bandwidth_hz) / 2))
    beta = scipy.signal.kaiser_beta(60)
    n = scipy.fft.prev_fast_len(int(len(x) * target_hz / rate_hz + 1e-9), real=True)
    y = np.empty(n)
    for m in range(n):
        t = m * rate_hz / target_hz
        at = np.arange(int(t + 1e-9) - half, int(t + 1e-9) + half + 1)
        u = at - t
        window = np.i0(beta * np.sqrt(np.clip(1 - (u / (half + 1)) ** 2, 0, 1))) / np.i0(beta)
        taps = np.sinc((bandwidth_hz + stop_hz) / rate_hz * u) * window
        y[m] = (taps * x[at.clip(0, len(x) - 1)]).sum() / taps.sum()
    return y, target_hz


def time_domain(x: np.ndarray, rate_hz: float) -> dict[str, float]:
    d = x - x.mean()
    size = abs(d)
    rms = d.std()
    return {
        "mean": x.mean(),
        "rms": rms,
        "peak": size.max(),
        "crest": size.max() / rms,
        "kurtosis": scipy.stats.kurtosis(d, fisher=False),
        "skewness": scipy.stats.skew(d),
        "shape": rms / size.mean(),
        "impulse": size.max() / size.mean(),
        "clearance": size.max() / np.sqrt(size).mean() ** 2,
        "zero_crossing": np.count_nonzero(np.diff(d > 0)) / ((len(d) - 1) / rate_hz) / 2,
    }


def spectral(power: np.ndarray, f: np.ndarray, high_hz: float, rate_hz: float, unit: str) -> dict[str, float]:
    df = f[1]
    last = round(min(high_hz, rate_hz / 2.4) / df)
    p, fp = power[2 : last + 1], f[2 : last + 1]
    share = p / p.sum()
    centroid = (fp * share).sum()
    found = {}
    edges = np.round(np.geomspace(10, high_hz, BANDS + 1) / df).astype(int)
    for b in range(BANDS):
        low, high = max(2, edges[b]), edges[b + 1]
        inside = low < high <= last + 1
        found[f"band_{b:02d}"] = np.log10(power[low:high].sum() / p.sum() + 1e-12) if inside else np.nan
    found["centroid"] = centroid
    found["spread"] = np.sqrt((fp**2 * share).sum() - centroid**2)
    found["entropy"] = scipy.stats.entropy(share) / np.log(len(p))
    found["dominant"] = fp[p.argmax()]
    low, high = round(10 / df), round(1000 / df)
    to_m_s2 = {"g": 9.80665, "m/s2": 1.0}.get(unit, np.nan)
    known = low >= 2 and high <= last
    velocity = power[low : high + 1] / (2 * np.pi * f[low : high + 1]) ** 2 if known else np.array([np.nan])
    found["velocity_rms"] = 1000 * to_m_s2 * np.sqrt(velocity.sum())
    return found


def envelope(spectrum: np.ndarray, f: np.ndarray, recording: Recording, settings: Settings) -> dict[str, float]:
    df = f[1]
    rate_hz = 2 * f[-1]
    low = round(settings.envelope_low_hz / df)
    high = min(round(settings.envelope_high_hz / df), round(0.45 * rate_hz / df))
    names = ("env_bpfo", "env_bpfi", "env_2bsf", "env_ftf", "env_shaft")
    if (high - low) * df < (settings.envelope_high_hz - settings.envelope_low_hz) / 2:
        return dict.fromkeys(names, np.nan)
    band = np.zeros(scipy.fft.next_fast_len(high - low), complex)
    band[: high - low] = spectrum[low:high]
    squared = abs(np.fft.ifft(band)) ** 2
    ses = abs(np.fft.rfft(squared - squared.mean()))[: (high - low) // 2]
    orders = (*(recording.orders or (np.nan,) * 4), 1.0)
    shaft_hz = np.nan if recording.speed_rpm is None else recording.speed_rpm / 60
    return {
        name: family(ses, df, shaft_hz * order, settings.slip_tolerance)
        for name, order in zip(names, orders, strict=True)
    }


def family(ses: np.ndarray, df: float, line_hz: float, tolerance: float) -> float:
    ratios = []
    for harmonic in (1, 2, 3):
        f = harmonic * line_hz
        if not np.isfinite(f):
            continue
        half = max(df / 2, tolerance * f)
        near = [k for k in range(len(ses)) if f - half <= k * df <= f + half]
        if not near or near[0] < 2 or near[-1] >= len(ses) - 2:
            continue
        around = [*ses[max(2, near[0] - 24) : near[0]], *ses[near[-1] + 1 : near[-1] + 25]]
        ratios.append(max(ses[near]) / np.median(around))
    return 20 * np.log10(np.mean(ratios)) if ratios else np.nan
