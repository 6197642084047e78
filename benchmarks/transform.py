"""The transform inside the feature kernels, alone: eight windows at a time, Hann window and real spectrum included.

Also the work that would surround another library's transform in its place: writing windows out under the Hann window,
and interleaving eight spectra with real and imaginary parts apart, as the kernels need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import entry
from pipeline.core.features.lanes import LANES
from pipeline.core.features.spectrum import SpectrumPlan, load_windows, spectrum_plan, transform
from pipeline.core.records import Float32, Window

Complex64 = NDArray[np.complex64]


@entry
def _transform_all(
    plan: SpectrumPlan, rows: NDArray[np.int64], mean: Float32, re: Float32, im: Float32, re2: Float32, im2: Float32
) -> None:
    for first in range(0, rows.shape[0], LANES):
        load_windows(plan, rows, first, mean, re, im)
        transform(plan, re, im, re2, im2)


@entry
def _windowed(x: Float32, first: int, hop: int, hann: Float32, out: Float32) -> None:
    for row in range(out.shape[0]):
        start = (first + row) * hop
        for i in range(out.shape[1]):
            out[row, i] = x[start + i] * hann[i]


@entry
def _side_by_side(spectra: Complex64, re: Float32, im: Float32) -> None:
    for k in range(spectra.shape[1]):
        for lane in range(LANES):
            value = spectra[lane, k]
            re[k * LANES + lane] = value.real
            im[k * LANES + lane] = value.imag


@dataclass(frozen=True, slots=True, eq=False)
class WrappedTransform:
    """Calling it transforms all windows of a signal with another library, into the layout of our kernels."""

    rfft: Callable[..., object]  # (x, out=)
    signal: Float32
    hop: int
    hann: Float32
    windows: Float32  # (rows at a time, length)
    spectra: Complex64
    buffers: tuple[Float32, Float32]

    def __call__(self) -> None:
        rows, length = self.windows.shape
        for first in range(0, (len(self.signal) - length) // self.hop + 1, rows):
            _windowed(self.signal, first, self.hop, self.hann, self.windows)
            self.rfft(self.windows, out=self.spectra)
            for row in range(0, rows, LANES):
                _side_by_side(self.spectra[row : row + LANES], *self.buffers)


def wrapped_transform(
    rfft: Callable[..., object], signal: Float32, length: int, hop: int, rows: int
) -> WrappedTransform:
    """Of a signal whose number of windows is a multiple of `rows`, itself a multiple of eight."""
    bins = length // 2 + 1
    return WrappedTransform(
        rfft=rfft,
        signal=signal,
        hop=hop,
        hann=(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32),
        windows=np.empty((rows, length), np.float32),
        spectra=np.empty((rows, bins), np.complex64),
        buffers=(np.empty(bins * LANES, np.float32), np.empty(bins * LANES, np.float32)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class BareTransform:
    """Calling it transforms all the windows."""

    plan: SpectrumPlan
    samples: Sequence[Float32]  # held here: the kernel is given their addresses only
    rows: NDArray[np.int64]
    mean: Float32
    buffers: tuple[Float32, Float32, Float32, Float32]

    def __call__(self) -> None:
        _transform_all(self.plan, self.rows, self.mean, *self.buffers)


def bare_transform(windows: Sequence[Window]) -> BareTransform:
    """Of windows of one length and channel, a multiple of eight of them."""
    samples = [w.samples for w in windows if w.samples is not None]
    length = samples[0].shape[1]
    if len(samples) % LANES:
        msg = f"a multiple of {LANES} windows expected, found: {len(samples)}"
        raise ValueError(msg)
    size = (length // 2 + 1) * LANES
    re, im, re2, im2 = (np.zeros(size, np.float32) for _ in range(4))
    return BareTransform(
        plan=spectrum_plan(length, windows[0].rate_hz, 0.0, 50.0),
        samples=samples,
        rows=np.array([x.ctypes.data for x in samples], np.int64),
        mean=np.zeros(LANES, np.float32),
        buffers=(re, im, re2, im2),
    )
