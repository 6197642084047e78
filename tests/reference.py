"""The whole pipeline again: offline, slow, obvious, in double precision. Law 5 compares with this.

It knows a recording as one array with NaN where samples are missing, and it shares no code with
pipeline/core beyond the names of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import reference_lines as lines
import scipy.fft
import scipy.signal
import scipy.stats

BANDS = 14
NAN = float("nan")


@dataclass(frozen=True)
class Recording:
    """One session of one stream. samples: (C, n), NaN = never came."""

    samples: np.ndarray
    rate_hz: float
    t0_ns: int
    unit: str = "g"
    speed_rpm: float | None = None
    orders: tuple[float, float, float, float] | None = None  # bpfo, bpfi, 2bsf, ftf
    teeth: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    length_s: float
    hop_s: float
    bandwidth_hz: float
    envelope_low_hz: float
    envelope_high_hz: float
    slip_tolerance: float
    mains_hz: float = 50.0


def records(blocks: Sequence[Any]) -> list[Recording]:
    """What blocks of one stream are by their clock alone: a pause of more than half a block ends a record.

    It reads neither session nor index, so it is right for every sender that has a good clock and loses nothing.
    """
    found: list[list[Any]] = []
    for block in sorted(blocks, key=lambda b: b.t0_ns):
        n = block.samples.shape[1]
        end_ns = found[-1][-1].t0_ns + n / block.rate_hz * 1e9 if found else None
        if end_ns is None or abs(block.t0_ns - end_ns) > n / block.rate_hz * 0.5e9:
            found.append([])
        found[-1].append(block)
    return [
        Recording(np.concatenate([b.samples for b in some], axis=1).astype(float), some[0].rate_hz, some[0].t0_ns)
        for some in found
    ]


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
    df = rate_hz / len(d)
    bins = min(round(min(settings.bandwidth_hz or np.inf, rate_hz / 2.4) / df) + 1, len(d) // 2)
    scale = np.sqrt(2 / (len(d) * (hann**2).sum()))
    power = abs(scale * spectrum[:bins]) ** 2
    f_hz = NAN if recording.speed_rpm is None else recording.speed_rpm / 60
    shaft = lines.Shaft(f_hz / df, recording.orders or (NAN,) * 4, recording.teeth)
    high_hz = settings.bandwidth_hz or rate_hz / 2.4
    found |= spectral(power, df, high_hz, recording)
    found |= {"flux": flux(d, df, high_hz, bins), "mains_hum": mains(power, df, settings.mains_hz)}
    found |= lines.orders(power, df, shaft, settings.slip_tolerance)
    found |= {"cepstrum_shaft": lines.cepstrum(power, shaft, settings.slip_tolerance)}
    found |= {"speed_used": 60 * f_hz, "speed_confidence": NAN if np.isnan(f_hz) else 1.0}
    band = lines.band_of(df, rate_hz, bins, settings.envelope_low_hz, settings.envelope_high_hz)
    if band is not None:
        found |= lines.envelope(scale * spectrum, power, df, shaft, band, settings.slip_tolerance)
    return found


def to_bandwidth(x: np.ndarray, rate_hz: float, bandwidth_hz: float) -> tuple[np.ndarray, float]:
    """Band-limited interpolation, one tap of the filter after the other (Smith, Digital Audio Resampling)."""
    target_hz = 2.4 * bandwidth_hz
    if bandwidth_hz == 0 or rate_hz < target_hz:
        return x, rate_hz
    stop_hz = target_hz / 2
    half = int(np.ceil((60 - 7.95) / 14.36 * rate_hz / (stop_hz - bandwidth_hz) / 2))
    beta = scipy.signal.kaiser_beta(60)
    n = scipy.fft.prev_fast_len(int(len(x) * target_hz / rate_hz + 1e-9), real=True)
    t = np.arange(n) * rate_hz / target_hz
    y = np.zeros(n)
    total = np.zeros(n)
    for tap in range(-half, half + 1):  # for all output samples at once
        at = (t + 1e-9).astype(int) + tap
        u = at - t
        window = np.i0(beta * np.sqrt(np.clip(1 - (u / (half + 1)) ** 2, 0, 1))) / np.i0(beta)
        weight = np.sinc((bandwidth_hz + stop_hz) / rate_hz * u) * window
        y += weight * x[at.clip(0, len(x) - 1)]
        total += weight
    return y / total, target_hz


def time_domain(x: np.ndarray, rate_hz: float) -> dict[str, float]:
    d = x - x.mean()
    quarters = [x[i * len(x) // 4 : (i + 1) * len(x) // 4] for i in range(4)]
    q = np.concatenate([quarter - quarter.mean() for quarter in quarters])
    psi = np.concatenate([(p := x - x.mean())[1:-1] ** 2 - p[:-2] * p[2:] for x in quarters])
    size = abs(q)
    rms, peak = d.std(), abs(d).max()
    return {
        "mean": x.mean(),
        "rms": rms,
        "peak": peak,
        "p2p": np.ptp(x),
        "crest": peak / rms,
        "kurtosis": scipy.stats.kurtosis(d, fisher=False),
        "skewness": scipy.stats.skew(d),
        "shape": rms / size.mean(),
        "impulse": peak / size.mean(),
        "clearance": peak / np.sqrt(size).mean() ** 2,
        "zero_crossing": np.count_nonzero(np.diff(q > 0)) / ((len(d) - 1) / rate_hz) / 2,
        "tkeo_kurtosis": scipy.stats.kurtosis(psi, fisher=False),
    }


def spectral(power: np.ndarray, df: float, high_hz: float, recording: Recording) -> dict[str, float]:
    k = np.arange(2, len(power))
    p, f = power[2:], k * df
    share = p / p.sum()
    centroid = (f * share).sum()
    found = {}
    edges = np.round(np.geomspace(10, high_hz, BANDS + 1) / df).astype(int)
    for b in range(BANDS):
        low, high = max(2, edges[b]), edges[b + 1]
        inside = low < high <= len(power)
        found[f"band_{b:02d}"] = np.log10(power[low:high].sum() / p.sum() + 1e-12) if inside else NAN
    found["centroid"] = centroid
    found["spread"] = np.sqrt(((f - centroid) ** 2 * share).sum())
    found["entropy"] = scipy.stats.entropy(share) / np.log(len(p))
    found["flatness"] = 10 * np.log10(scipy.stats.gmean(p) / p.mean())
    edges_hz, cumulated = np.append(f - df / 2, f[-1] + df / 2), np.append(0, np.cumsum(share))
    found["rolloff_85"], found["rolloff_95"] = np.interp([0.85, 0.95], cumulated, edges_hz)
    found["dominant"] = f[p.argmax()]
    slow = recording.speed_rpm is not None and recording.speed_rpm < 600
    low, high = round((2 if slow else 10) / df), round(1000 / df)
    to_m_s2 = {"g": 9.80665, "m/s2": 1.0}.get(recording.unit, NAN)
    known = low >= 2 and high < len(power)
    velocity = power[low : high + 1] / (2 * np.pi * df * np.arange(low, high + 1)) ** 2 if known else np.array([NAN])
    found["velocity_rms"] = 1000 * to_m_s2 * np.sqrt(velocity.sum())
    return found


def flux(d: np.ndarray, df: float, high_hz: float, bins: int) -> float:
    """Difference of the band shares between two windows, each over one half."""
    t = np.arange(len(d)) / len(d)
    hann = scipy.signal.windows.hann(len(d), sym=False)
    edges = np.clip(np.round(np.geomspace(10, high_hz, BANDS + 1) / df).astype(int), 2, bins)
    shares = []
    for sign in (1, -1):
        power = abs(np.fft.rfft(d * hann * (1 + sign * np.sin(2 * np.pi * t)))) ** 2
        sums = np.array([power[low:high].sum() for low, high in pairwise(edges)])
        shares.append(sums / sums.sum())
    return abs(shares[0] - shares[1]).sum() / 2


def mains(power: np.ndarray, df: float, mains_hz: float) -> float:
    middles = [round(h * mains_hz / df) for h in range(1, 7)] if mains_hz >= 4 * df else []
    known = [power[m - 1 : m + 2].sum() for m in middles if m + 1 < len(power)]
    return sum(known) / power[2:].sum() if known else NAN
