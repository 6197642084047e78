"""One bandwidth for all: windows of faster streams are resampled to a common rate.

A model that saw 48 kHz recordings of healthy machines and 12 kHz recordings of faulty ones would learn the sampling
rate. So one polyphase filter brings every window to `bandwidth_hz` and 2.4 x `bandwidth_hz` samples a second: the
pass band ends at the bandwidth, the stop band begins at half the new rate, 60 dB. A stream that already has that rate
gets the same low-pass. A slower stream keeps its rate, and what it cannot carry is NaN. Windows are filtered one by
one (edges repeat the last sample), so nothing is remembered between them and nothing depends on how the samples
arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import entry, kernel
from pipeline.core.features.lanes import LANES, load, splat, store, sums
from pipeline.core.features.lengths import previous_fast_length
from pipeline.core.features.spectrum import RATE_PER_BANDWIDTH
from pipeline.core.features.time_domain import samples_at
from pipeline.core.records import Float32

STOP_BAND_DB = 60.0
LARGEST_FACTOR = 8192  # of the rational rate ratio; its error stays below 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Resampler:
    """Windows of `length_in` samples at `rate_in_hz` -> windows of `length` samples at `rate_hz`."""

    length_in: int
    rate_in_hz: float
    length: int
    rate_hz: float
    up: int
    down: int
    half: int  # taps before the middle one
    taps: Float32 | None  # (up, taps per phase), padded to whole vectors; None = the stream keeps its rate

    def __call__(self, x: Float32) -> Float32:
        """Windows x (C, length_in) -> (C, length)."""
        x = np.ascontiguousarray(x, np.float32)
        y = self.at(x.ctypes.data + x.strides[0] * np.arange(len(x), dtype=np.int64))
        return x if y is None else y

    def at(self, address: NDArray[np.int64]) -> Float32 | None:
        """The windows that begin at these addresses (rows,) -> (rows, length), or None where they stay as they are."""
        if self.taps is None:
            return None
        y = np.empty((len(address), self.length), np.float32)
        _filter(address, self.length_in, self.taps, self.up, self.down, self.half, y)
        return y


@lru_cache(maxsize=64)
def resampler(rate_hz: float, length: int, bandwidth_hz: float) -> Resampler:
    """The resampler for windows of `length` samples at `rate_hz`; `bandwidth_hz` 0 keeps every rate."""
    target_hz = RATE_PER_BANDWIDTH * bandwidth_hz
    if bandwidth_hz <= 0 or rate_hz < target_hz * (1 - 1e-6):
        return Resampler(length, rate_hz, length, rate_hz, 1, 1, 0, None)
    ratio = Fraction(target_hz / rate_hz).limit_denominator(LARGEST_FACTOR)
    up, down = ratio.numerator, ratio.denominator
    length_out = previous_fast_length(length * up // down)
    taps = _taps(rate_hz, up, bandwidth_hz, target_hz / 2)
    half = taps.shape[1] // 2
    padded = np.pad(taps, ((0, 0), (0, -taps.shape[1] % LANES)))
    return Resampler(length, rate_hz, length_out, target_hz, up, down, half, padded)


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


@entry
def _filter(address: NDArray[np.int64], n: int, taps: Float32, up: int, down: int, half: int, y: Float32) -> None:
    """Eight outputs at a time, each a product of vectors; where the window ends, sample by sample."""
    width = taps.shape[1]
    flat = taps.ravel()
    count = y.shape[1]
    begin = min((half * up + down - 1) // down, count)  # first output whose samples are all there
    end = max(begin, min(((n - width + half) * up + up - 1) // down + 1, count))
    while end > begin and (end - 1) * down // up - half + width > n:
        end -= 1
    for row in range(address.shape[0]):
        x = samples_at(address[row], n)
        out = y[row]
        for m in range(begin):
            out[m] = _one(x, taps, up, down, half, m)
        m = begin
        while up == down and m + 4 * LANES <= end:  # every output has the same taps: 32 of them side by side
            a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            for j in range(2 * half + 1):
                tap, i = flat[j], m - half + j
                a = a + load(x, i) * tap
                b = b + load(x, i + LANES) * tap
                c = c + load(x, i + 2 * LANES) * tap
                d = d + load(x, i + 3 * LANES) * tap
            store(out, m, a)
            store(out, m + LANES, b)
            store(out, m + 2 * LANES, c)
            store(out, m + 3 * LANES, d)
            m += 4 * LANES
        while m + LANES <= end:
            a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            e, f, g, h = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            i0, p0 = (m * down) // up - half, (m * down) % up * width
            i1, p1 = ((m + 1) * down) // up - half, ((m + 1) * down) % up * width
            i2, p2 = ((m + 2) * down) // up - half, ((m + 2) * down) % up * width
            i3, p3 = ((m + 3) * down) // up - half, ((m + 3) * down) % up * width
            i4, p4 = ((m + 4) * down) // up - half, ((m + 4) * down) % up * width
            i5, p5 = ((m + 5) * down) // up - half, ((m + 5) * down) % up * width
            i6, p6 = ((m + 6) * down) // up - half, ((m + 6) * down) % up * width
            i7, p7 = ((m + 7) * down) // up - half, ((m + 7) * down) % up * width
            for j in range(0, width, LANES):
                a = a + load(x, i0 + j) * load(flat, p0 + j)
                b = b + load(x, i1 + j) * load(flat, p1 + j)
                c = c + load(x, i2 + j) * load(flat, p2 + j)
                d = d + load(x, i3 + j) * load(flat, p3 + j)
                e = e + load(x, i4 + j) * load(flat, p4 + j)
                f = f + load(x, i5 + j) * load(flat, p5 + j)
                g = g + load(x, i6 + j) * load(flat, p6 + j)
                h = h + load(x, i7 + j) * load(flat, p7 + j)
            store(out, m, sums(a, b, c, d, e, f, g, h))
            m += LANES
        for rest in range(m, count):
            out[rest] = _one(x, taps, up, down, half, rest)


@kernel
def _one(x: Float32, taps: Float32, up: int, down: int, half: int, m: int) -> np.float32:
    """Output m where the filter reaches over the window's ends, which repeat their last sample."""
    centre, phase = (m * down) // up, (m * down) % up
    total = np.float32(0.0)
    for j in range(2 * half + 1):
        total += taps[phase, j] * x[min(max(centre - half + j, 0), x.shape[0] - 1)]
    return total
