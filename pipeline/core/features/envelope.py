"""Envelope analysis: how strongly the lines of a damaged bearing modulate the structure's resonances.

Squared-envelope spectrum (Randall & Antoni, MSSP 25 (2011) 485): keep the band's one-sided spectrum,
go back to time (band-pass and Hilbert transform in one), square, and look at the spectrum of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import ifft, next_fast_len, rfft

from pipeline.core.features.spectral import FFT_LANES, Complex64
from pipeline.core.records import BearingOrders, Float32

HARMONICS = 3
FLOOR_BINS = 24  # on each side of a line, from which the local floor is taken
LINES = 5  # bpfo, bpfi, 2bsf, ftf, shaft


@dataclass(frozen=True, slots=True, eq=False)
class EnvelopePlan:
    """What every window of one length and rate shares."""

    low: int  # bins [low, high) are the demodulated band
    high: int
    length: int  # of the complex envelope
    delta_f_hz: float
    bins: int  # of the squared-envelope spectrum that lie within the band's width


def envelope_plan(length: int, rate_hz: float, low_hz: float, high_hz: float) -> EnvelopePlan | None:
    """Plan for windows of `length` samples, or None where the rate does not carry the band's lower half."""
    delta_f_hz = rate_hz / length
    low, high = round(low_hz / delta_f_hz), min(round(high_hz / delta_f_hz), round(0.45 * rate_hz / delta_f_hz))
    if (high - low) * delta_f_hz < (high_hz - low_hz) / 2:
        return None
    return EnvelopePlan(low, high, int(next_fast_len(high - low)), delta_f_hz, (high - low) // 2)


def envelope_spectra(spectrum: Complex64, plan: EnvelopePlan) -> Float32:
    """Amplitude spectra of the squared envelope: spectrum (B, FFT bins) -> (B, bins of the plan)."""
    batch = spectrum.shape[0]
    band = np.zeros((-(-batch // FFT_LANES) * FFT_LANES, plan.length), np.complex64)
    band[:batch, : plan.high - plan.low] = spectrum[:, plan.low : plan.high]
    analytic = ifft(band, axis=1, overwrite_x=True)
    squared = analytic.real**2 + analytic.imag**2
    squared -= squared.mean(axis=1, keepdims=True)  # the skirt of the mean would bury the cage line
    return np.abs(rfft(squared, axis=1)[:batch, : plan.bins])


def line_orders(orders: BearingOrders | None) -> Float32:
    """Orders (LINES,) of the lines, NaN where the bearing is not known."""
    if orders is None:
        return np.array([np.nan] * (LINES - 1) + [1.0], np.float32)
    return np.array([orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf, 1.0], np.float32)


def envelope(ses: Float32, plan: EnvelopePlan, lines_hz: Float32, slip_tolerance: float) -> Float32:
    """All `envelope` features.

    ses: (B, bins) from `envelope_spectra`; lines_hz: (B, LINES), NaN = unknown. A harmonic is the largest
    amplitude within max(delta_f / 2, slip_tolerance * f) of where it should be, its floor the median of
    the bins around; the feature is 20 log10 of the mean of their ratios over the first harmonics.
    Returns: (B, LINES) in dB.
    """
    out = np.empty((ses.shape[0], LINES), np.float32)
    for row in range(ses.shape[0]):
        _families(ses[row], lines_hz[row], plan.delta_f_hz, slip_tolerance, out[row])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _families(
    ses: Float32, lines_hz: NDArray[np.float32], delta_f_hz: float, slip_tolerance: float, out: Float32
) -> None:
    floor = np.empty(2 * FLOOR_BINS, np.float32)
    for line in range(lines_hz.shape[0]):
        ratios = 0.0
        found = 0
        for harmonic in range(1, HARMONICS + 1):
            f_hz = lines_hz[line] * harmonic
            half_hz = max(0.5 * delta_f_hz, slip_tolerance * f_hz)
            first = int(np.ceil((f_hz - half_hz) / delta_f_hz)) if f_hz > 0 else 0
            last = int(np.floor((f_hz + half_hz) / delta_f_hz)) if f_hz > 0 else 0
            if first < 2 or last >= ses.shape[0] - 2:
                continue
            peak = ses[first]
            for k in range(first, last + 1):
                peak = max(peak, ses[k])
            count = 0
            for k in range(max(2, first - FLOOR_BINS), first):
                floor[count] = ses[k]
                count += 1
            for k in range(last + 1, min(last + 1 + FLOOR_BINS, ses.shape[0])):
                floor[count] = ses[k]
                count += 1
            ratios += peak / np.median(floor[:count])
            found += 1
        out[line] = 20.0 * np.log10(ratios / found) if found > 0 else np.nan
