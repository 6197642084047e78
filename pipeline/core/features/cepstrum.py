"""Cepstrum: sidebands of one spacing make one peak at the inverse of that spacing, whatever line they surround."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.fft import FftPlan, fft, fft_plan
from pipeline.core.features.lanes import LANES, load, log2, splat, store
from pipeline.core.features.spectrum import Spectra, SpectrumPlan, log_sums, unpack
from pipeline.core.records import Float32

FIRST_BIN = 2


class CepstrumPlan(NamedTuple):
    """What all windows of one length and rate share."""

    length: int  # bins of the log spectrum that are transformed; even
    fft: FftPlan  # of length / 2
    window: Float32  # (length,) Hann: keeps the slope of the spectrum from covering its ripples
    turn_re: Float32
    turn_im: Float32


def cepstrum_plan(spectrum: SpectrumPlan) -> CepstrumPlan:
    """Plan for the bins of a spectrum."""
    length = longest(spectrum.bins - FIRST_BIN)
    turn = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return CepstrumPlan(
        length=length,
        fft=fft_plan(length // 2),
        window=hann.astype(np.float32),
        turn_re=turn.real.astype(np.float32),
        turn_im=turn.imag.astype(np.float32),
    )


def longest(bins: int) -> int:
    """The largest 2^k, 3 x 2^k or 5 x 2^k up to `bins`: nearly all bins, and the fastest transforms."""
    return max(odd << (bins // odd).bit_length() - 1 for odd in (1, 3, 5) if odd <= bins)


@kernel
def cepstra(
    plan: CepstrumPlan,
    s: Spectra,
    re: Float32,
    im: Float32,
    re2: Float32,
    im2: Float32,
    power: Float32,
    logs: Float32,
    log_blocks: Float32,
) -> None:
    """Squared cepstra [quefrency, lane] -> power, and their log sums; the other arrays are scratch."""
    running = splat(0.0)
    for k in range(plan.length):
        value = log2(load(s.power, (FIRST_BIN + k) * LANES))
        running = running + value
        store(re if k % 2 == 0 else im, k // 2 * LANES, value)
    mean = running * np.float32(1.0 / plan.length)
    for k in range(0, plan.length, 2):
        i = k // 2 * LANES
        store(re, i, (load(re, i) - mean) * plan.window[k])
        store(im, i, (load(im, i) - mean) * plan.window[k + 1])
    where = fft(plan.fft, re, im, re2, im2)
    zr, zi, yr, yi = (re, im, re2, im2) if where == 0 else (re2, im2, re, im)
    unpack(plan.length, plan.turn_re, plan.turn_im, zr, zi, yr, yi)
    for k in range(plan.length // 2):
        cr, ci = load(yr, k * LANES), load(yi, k * LANES)
        store(power, k * LANES, cr * cr + ci * ci)
    log_sums(power, plan.length // 2, logs, log_blocks)
