"""Views: the spectrum and envelope spectrum of a piece of signal for people to look at, and where lines should be.

These are not the features. They show one window in full, in double precision, and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, rfft

from pipeline.core.features.table import FAMILIES
from pipeline.core.records import BearingOrders, Float32

Float64 = NDArray[np.float64]

SHAFT_HARMONICS = 3


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a line should be. `near` names another line that it cannot be told from, or is empty."""

    label: str
    family: str
    hz: float
    near: str = ""


def spectrum(x: Float32, rate_hz: float) -> tuple[Float64, Float64]:
    """Frequencies and amplitudes (n//2 + 1,) of x (n,): a sine of amplitude a on a bin shows a. Hann, mean removed."""
    n = len(x)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    amplitude = 2 * np.abs(rfft((x - np.mean(x, dtype=np.float64)) * hann)) / hann.sum()
    return np.arange(len(amplitude)) * rate_hz / n, amplitude


def envelope_spectrum(x: Float32, rate_hz: float, low_hz: float, high_hz: float) -> tuple[Float64, Float64]:
    """Frequencies and amplitudes of the squared envelope of x (n,) in the band; Randall & Antoni, MSSP 25 (2011) 485.

    Band-pass and Hilbert transform in one: the one-sided spectrum of the band, back to time, squared, mean removed.
    """
    n = len(x)
    bins = np.fft.fftfreq(n, 1 / rate_hz)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    half = rfft(x - np.mean(x, dtype=np.float64))
    whole = np.zeros(n, np.complex128)
    whole[: len(half)] = half
    whole[(bins < low_hz) | (bins > min(high_hz, rate_hz / 2))] = 0.0
    squared = np.abs(2 * ifft(whole)) ** 2
    amplitude = 2 * np.abs(rfft((squared - squared.mean()) * hann)) / hann.sum()
    hz = np.arange(len(amplitude)) * rate_hz / n
    keep = hz <= (min(high_hz, rate_hz / 2) - low_hz)  # a squared envelope reaches no further than the band is wide
    return hz[keep], amplitude[keep]


def shaft_cursors(speed_rpm: float) -> list[Cursor]:
    """1x, 2x, 3x."""
    return [Cursor(f"{k}x", "shaft", k * speed_rpm / 60) for k in range(1, SHAFT_HARMONICS + 1)]


def bearing_cursors(
    orders: BearingOrders, speed_rpm: float, resolution_hz: float, slip: float, harmonics: int = 3
) -> list[Cursor]:
    """The four families of lines and their harmonics.

    Two lines can be told apart if they are max(2 bins, slip x f) apart. If not, `near` names the other line (a shaft
    harmonic or one of another family) and how far this one is above it.
    """
    shaft_hz = speed_rpm / 60
    families = tuple((family.id.upper(), family.order(orders)) for family in FAMILIES)
    lines = [(name, k, k * order * shaft_hz) for name, order in families for k in range(1, harmonics + 1)]
    found = []
    for family, k, hz in lines:
        turns = max(1, round(hz / shaft_hz))
        others = [(_label(name, n), other_hz) for name, n, other_hz in lines if name != family]
        label, nearest_hz = min([(f"{turns}x", turns * shaft_hz), *others], key=lambda other: abs(hz - other[1]))
        collides = abs(hz - nearest_hz) < max(2 * resolution_hz, slip * hz)
        near = f"{label} {hz - nearest_hz:+.1f} Hz" if collides else ""
        found.append(Cursor(_label(family, k), family, hz, near))
    return found


def _label(family: str, harmonic: int) -> str:
    return family if harmonic == 1 else f"{family} x{harmonic}"
