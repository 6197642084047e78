"""The transform inside the feature kernels, alone: eight windows at a time, Hann window and real spectrum included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import entry
from pipeline.core.features.lanes import LANES
from pipeline.core.features.spectrum import SpectrumPlan, load_windows, spectrum_plan, transform
from pipeline.core.records import Float32, Window


@entry
def _transform_all(
    plan: SpectrumPlan, rows: NDArray[np.int64], mean: Float32, re: Float32, im: Float32, re2: Float32, im2: Float32
) -> None:
    for first in range(0, rows.shape[0], LANES):
        load_windows(plan, rows, first, mean, re, im)
        transform(plan, re, im, re2, im2)


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
