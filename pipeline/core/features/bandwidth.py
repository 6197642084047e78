"""One bandwidth for all: windows of faster streams are brought down to a common rate.

A model that saw 48 kHz recordings of healthy machines and 12 kHz ones of faulty machines would learn
the sampling rate. So every window is low-pass filtered to `bandwidth_hz` and resampled to
2.4 x `bandwidth_hz` by one polyphase filter: pass band to the bandwidth, stop band from half the
new rate, 60 dB. A stream that is already at that rate gets the same low-pass. A slower stream keeps its rate;
what it cannot carry is NaN. Windows are filtered one by one (edges repeat the last sample), so nothing
is remembered between them and nothing depends on how the samples arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numba import njit
from scipy.fft import prev_fast_len

from pipeline.core.records import Float32

RATE_PER_BANDWIDTH = 2.4
STOP_BAND_DB = 60.0
LARGEST_FACTOR = 8192  # of the rational rate ratio; its error stays below 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Resampler:
    """Windows of `length_in` samples -> windows of `length` samples at `rate_hz`."""

    length_in: int
    length: int
    rate_hz: float
    up: int
    down: int
    taps: Float32 | None  # (up, taps per phase); None = the stream keeps its rate

    def __call__(self, x: Float32) -> Float32:
        """Windows x (C, length_in) -> (C, length), C-contiguous."""
        if self.taps is None:
            return np.ascontiguousarray(x)
        y = np.empty((x.shape[0], self.length), np.float32)
        for channel in range(x.shape[0]):
            _filter(np.ascontiguousarray(x[channel]), self.taps, self.up, self.down, y[channel])
        return y


@lru_cache(maxsize=64)
def resampler(rate_hz: float, length: int, bandwidth_hz: float) -> Resampler:
    """The resampler for windows of `length` samples at `rate_hz`; `bandwidth_hz` 0 keeps every rate."""
    target_hz = RATE_PER_BANDWIDTH * bandwidth_hz
    if bandwidth_hz <= 0 or rate_hz < target_hz * (1 - 1e-6):
        return Resampler(length, length, rate_hz, 1, 1, None)
    ratio = Fraction(target_hz / rate_hz).limit_denominator(LARGEST_FACTOR)
    up, down = ratio.numerator, ratio.denominator
    length_out = int(prev_fast_len(length * up // down, real=True))
    return Resampler(length, length_out, target_hz, up, down, _taps(rate_hz, up, bandwidth_hz, target_hz / 2))


def _taps(rate_hz: float, up: int, pass_hz: float, stop_hz: float) -> Float32:
    """Kaiser-windowed sinc, split into phases (Oppenheim & Schafer, Discrete-Time Signal Processing, 7.5.3)."""
    beta = 0.1102 * (STOP_BAND_DB - 8.7)
    half = int(np.ceil((STOP_BAND_DB - 7.95) / 14.36 * rate_hz / (stop_hz - pass_hz) / 2))  # in input samples
    per_phase = 2 * half + 1
    # Output m stands at input time m*down/up = centre + phase/up; tap j of that phase weighs input centre - half + j.
    offset = np.arange(per_phase) - half - np.arange(up)[:, None] / up  # (up, per_phase), in input samples
    cutoff = (pass_hz + stop_hz) / rate_hz  # of the Nyquist rate
    window = np.i0(beta * np.sqrt(np.clip(1 - (offset / (half + 1)) ** 2, 0, None))) / np.i0(beta)
    taps = cutoff * np.sinc(cutoff * offset) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)  # every phase passes a constant unchanged


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _filter(x: Float32, taps: Float32, up: int, down: int, y: Float32) -> None:
    half = taps.shape[1] // 2
    last = x.shape[0] - 1
    for m in range(y.shape[0]):
        centre, phase = divmod(m * down, up)
        total = np.float32(0.0)
        if centre >= half and centre + half <= last:
            begin = centre - half
            for j in range(taps.shape[1]):
                total += taps[phase, j] * x[begin + j]
        else:
            for j in range(taps.shape[1]):
                total += taps[phase, j] * x[min(max(centre - half + j, 0), last)]
        y[m] = total
