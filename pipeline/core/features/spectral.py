"""Spectral features: one Hann-windowed FFT per window serves these and the envelope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import rfft

from pipeline.core.features.bandwidth import RATE_PER_BANDWIDTH
from pipeline.core.features.table import BAND_COUNT, band_edges_hz
from pipeline.core.records import Float32

Complex64 = NDArray[np.complex64]

FFT_LANES = 4  # batches are padded to a multiple, so that every window goes through the same vector code
VELOCITY_BAND_HZ = (10.0, 1000.0)
M_S2 = {"g": 9.80665, "m/s2": 1.0}  # units of acceleration that can be integrated to a velocity


@dataclass(frozen=True, slots=True, eq=False)
class SpectrumPlan:
    """What every window of one length and rate shares."""

    hann: Float32  # (n,)
    scale: float  # |X|^2 -> power per bin, one-sided
    delta_f_hz: float
    bins: int  # [0, bins) lie within the bandwidth
    band_bins: NDArray[np.int64]  # (BAND_COUNT + 1,)
    velocity_bins: tuple[int, int]


def spectrum_plan(length: int, rate_hz: float, bandwidth_hz: float) -> SpectrumPlan:
    """Plan for windows of `length` samples; `bandwidth_hz` 0 means up to what the rate carries."""
    carried_hz = rate_hz / RATE_PER_BANDWIDTH
    high_hz = bandwidth_hz if bandwidth_hz > 0 else carried_hz
    delta_f_hz = rate_hz / length
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    return SpectrumPlan(
        hann=hann,
        scale=2.0 / (length * float((hann.astype(np.float64) ** 2).sum())),
        delta_f_hz=delta_f_hz,
        bins=round(min(high_hz, carried_hz) / delta_f_hz) + 1,
        band_bins=np.round(band_edges_hz(high_hz) / delta_f_hz).astype(np.int64),
        velocity_bins=(round(VELOCITY_BAND_HZ[0] / delta_f_hz), round(VELOCITY_BAND_HZ[1] / delta_f_hz)),
    )


def spectra(x: Float32, mean: Float32, plan: SpectrumPlan) -> Complex64:
    """Hann-windowed spectra X_k of x (B, n) less its means (B,) -> (B, n//2 + 1)."""
    batch = x.shape[0]
    padded = np.zeros((-(-batch // FFT_LANES) * FFT_LANES, x.shape[1]), np.float32)
    np.subtract(x, mean[:, None], out=padded[:batch])
    padded[:batch] *= plan.hann
    return rfft(padded, axis=1)[:batch]


def spectral(spectrum: Complex64, plan: SpectrumPlan, to_m_s2: Float32) -> Float32:
    """All `spectrum` features.

    spectrum: (B, bins of the FFT) from `spectra`; to_m_s2: (B,) factor from the window's unit to m/s2, NaN = unknown.
    Power P_k = 2 |X_k|^2 / (n sum w^2), so that its sum is the mean square. The lowest two bins hold what
    the Hann window leaks from a bias and are left out. Bands that are not within the stream's own rate are NaN.
    Returns: (B, BAND_COUNT + 5) in table order.
    """
    out = np.empty((spectrum.shape[0], BAND_COUNT + 5), np.float32)
    for row in range(spectrum.shape[0]):
        _shape(spectrum[row], plan.scale, plan.delta_f_hz, plan.bins, plan.band_bins, plan.velocity_bins, out[row])
    out[:, -1] *= 1000.0 * to_m_s2
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _shape(
    spectrum: Complex64,
    scale: float,
    delta_f_hz: float,
    bins: int,
    band_bins: NDArray[np.int64],
    velocity_bins: tuple[int, int],
    out: Float32,
) -> None:
    power = np.empty(bins, np.float64)
    total = first = second = 0.0
    strongest = 2
    for k in range(bins):
        power[k] = scale * (spectrum[k].real ** 2 + spectrum[k].imag ** 2)
    for k in range(2, bins):
        total += power[k]
        first += k * power[k]
        second += k * k * power[k]
        if power[k] > power[strongest]:
            strongest = k
    entropy = 0.0
    for k in range(2, bins):
        p = power[k] / total
        if p > 0.0:
            entropy -= p * np.log(p)
    bands = band_bins.shape[0] - 1
    for b in range(bands):
        low, high = max(2, band_bins[b]), band_bins[b + 1]
        energy = 0.0
        for k in range(low, min(high, bins)):
            energy += power[k]
        out[b] = np.log10(energy / total + 1e-12) if low < high <= bins else np.nan
    centroid = first / total
    out[bands] = centroid * delta_f_hz
    out[bands + 1] = np.sqrt(max(second / total - centroid * centroid, 0.0)) * delta_f_hz
    out[bands + 2] = entropy / np.log(bins - 2)
    out[bands + 3] = strongest * delta_f_hz
    velocity = 0.0
    low, high = velocity_bins
    for k in range(max(low, 2), min(high + 1, bins)):
        velocity += power[k] / (2 * np.pi * k * delta_f_hz) ** 2
    out[bands + 4] = np.sqrt(velocity) if high < bins and low >= 2 else np.nan
