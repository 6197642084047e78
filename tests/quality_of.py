"""The quality of one window, or of one channel, by itself; the pipeline judges batches."""

from __future__ import annotations

import numpy as np

from pipeline.core.features.kernel import address_of
from pipeline.core.features.table import COLUMN
from pipeline.core.quality import Quality, incomplete, judge_alike, scan_rows
from pipeline.core.records import Float32, Window


def judge(window: Window, *, values: Float32 | None = None) -> Quality:
    """The quality of a window; `values` are its features (C, F), for the rules that need a spectrum."""
    if window.samples is None:
        return Quality(incomplete(window))
    samples = np.ascontiguousarray(window.samples, np.float32)
    address = address_of(samples) + samples.strides[0] * np.arange(len(samples))
    spectral = np.full((len(samples), len(COLUMN)), np.nan, np.float32) if values is None else values
    return Quality(judge_alike([window], samples.shape[1], address, spectral[None])[0])


def scan(x: Float32, rate_hz: float) -> int:
    """Bits of `Quality` of one channel x (n,), C-contiguous."""
    found = np.zeros(1, np.int64)
    scan_rows(np.array([address_of(x)]), x.shape[0], rate_hz, found)
    return int(found[0])
