"""Power spectra: one Hann-windowed FFT per window serves the bands, the orders, the cepstrum and the envelope.

rows of samples -> less their means, times Hann, eight side by side -> FFT of half the length -> X_k, and
P_k = 2 |X_k|^2 / (n sum w^2), whose sum is the mean square. The lowest two bins are left out: they hold what the Hann
window leaks from a bias. The logarithms of P_k are summed in the same pass, so that the geometric mean over any range
of bins is a difference of two sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import inlined, kernel
from pipeline.core.features.fft import FftPlan, fft, fft_plan
from pipeline.core.features.lanes import LANES, greater, load, load_rows, log2, splat, store
from pipeline.core.features.table import band_edges_hz
from pipeline.core.features.time_domain import samples_at
from pipeline.core.records import Float32

RATE_PER_BANDWIDTH = 2.4
BLOCK_BITS = 5
BLOCK = 1 << BLOCK_BITS  # bins whose sums are kept
VELOCITY_BAND_HZ = (10.0, 1000.0)
SLOW_RPM, SLOW_VELOCITY_LOW_HZ = 600.0, 2.0
MAINS_HARMONICS = 6
MAINS_BINS = 4  # the mains frequency must be this many bins, or its lines run into one another


class SpectrumPlan(NamedTuple):
    """What all windows of one length and rate share."""

    length: int
    rate_hz: float
    delta_f_hz: float
    bins: int  # [0, bins) lie within the bandwidth
    fft: FftPlan  # of length / 2 where the length is even
    window: Float32  # (length,) Hann, scaled so that |X_k|^2 is P_k
    turn_re: Float32  # exp(-2 pi i k / length), that puts the spectra of even and odd samples together
    turn_im: Float32
    band_bins: NDArray[np.int64]  # (bands + 1,)
    mains_bins: NDArray[np.int64]  # middles of the mains lines; none where they cannot be told apart
    velocity_weight: Float32  # (bins,) 1 / (2 pi f)^2
    velocity_bins: tuple[int, int, int]  # low edge of a slow machine, low edge, last bin; 0 = not within the spectrum


def spectrum_plan(length: int, rate_hz: float, bandwidth_hz: float, mains_hz: float) -> SpectrumPlan:
    """Plan for windows of `length` samples; `bandwidth_hz` 0 means up to what the rate carries."""
    carried_hz = rate_hz / RATE_PER_BANDWIDTH
    high_hz = bandwidth_hz if bandwidth_hz > 0 else carried_hz
    delta_f_hz = rate_hz / length
    bins = min(round(min(high_hz, carried_hz) / delta_f_hz) + 1, length // 2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    half = 0.5 if length % 2 == 0 else 1.0  # the packed transform gives twice the spectrum
    k = np.arange(length // 2 + 1)
    turn = np.exp(-2j * np.pi * k / length)
    mains = np.round(np.arange(1, MAINS_HARMONICS + 1) * mains_hz / delta_f_hz).astype(np.int64)
    told_apart = mains_hz >= MAINS_BINS * delta_f_hz
    with np.errstate(divide="ignore"):
        weight = 1 / (2 * np.pi * np.arange(bins) * delta_f_hz) ** 2
    slow, low, last = (round(f / delta_f_hz) for f in (SLOW_VELOCITY_LOW_HZ, *VELOCITY_BAND_HZ))
    return SpectrumPlan(
        length=length,
        rate_hz=rate_hz,
        delta_f_hz=delta_f_hz,
        bins=bins,
        fft=fft_plan(length // 2 if length % 2 == 0 else length),
        window=(hann * half * np.sqrt(2.0 / (length * (hann**2).sum()))).astype(np.float32),
        turn_re=turn.real.astype(np.float32),
        turn_im=turn.imag.astype(np.float32),
        band_bins=np.round(band_edges_hz(high_hz) / delta_f_hz).astype(np.int64),
        mains_bins=mains[mains + 1 < bins] if told_apart else mains[:0],
        velocity_weight=weight.astype(np.float32),
        velocity_bins=(slow if slow >= 2 else 0, low if low >= 2 else 0, last) if last < bins else (0, 0, 0),
    )


class Spectra(NamedTuple):
    """Eight spectra side by side, [k, lane]."""

    re: Float32  # X_k
    im: Float32
    power: Float32  # P_k
    logs: Float32  # sum of log2 P from the block's first bin to k - 1
    log_blocks: Float32  # sum of log2 P over each block


@kernel
def load_windows(
    plan: SpectrumPlan, rows: NDArray[np.int64], first: int, mean: Float32, re: Float32, im: Float32
) -> None:
    """The windows at the addresses rows[first:first + 8], less mean (8,), times Hann; even samples re, odd ones im."""
    n = plan.length
    middle = load(mean, 0)
    window = plan.window
    packed = n % 2 == 0
    even = n - n % LANES
    for i in range(0, even, LANES):
        c0, c1, c2, c3, c4, c5, c6, c7 = load_rows(rows, first, i)
        if packed:
            o = i // 2 * LANES
            store(re, o, (c0 - middle) * window[i])
            store(im, o, (c1 - middle) * window[i + 1])
            store(re, o + LANES, (c2 - middle) * window[i + 2])
            store(im, o + LANES, (c3 - middle) * window[i + 3])
            store(re, o + 2 * LANES, (c4 - middle) * window[i + 4])
            store(im, o + 2 * LANES, (c5 - middle) * window[i + 5])
            store(re, o + 3 * LANES, (c6 - middle) * window[i + 6])
            store(im, o + 3 * LANES, (c7 - middle) * window[i + 7])
        else:
            o = i * LANES
            store(re, o, (c0 - middle) * window[i])
            store(re, o + LANES, (c1 - middle) * window[i + 1])
            store(re, o + 2 * LANES, (c2 - middle) * window[i + 2])
            store(re, o + 3 * LANES, (c3 - middle) * window[i + 3])
            store(re, o + 4 * LANES, (c4 - middle) * window[i + 4])
            store(re, o + 5 * LANES, (c5 - middle) * window[i + 5])
            store(re, o + 6 * LANES, (c6 - middle) * window[i + 6])
            store(re, o + 7 * LANES, (c7 - middle) * window[i + 7])
    for lane in range(LANES):
        x = samples_at(rows[first + lane], n)
        for i in range(even, n):
            value = (x[i] - mean[lane]) * window[i]
            if not packed:
                re[i * LANES + lane] = value
            elif i % 2 == 0:
                re[i // 2 * LANES + lane] = value
            else:
                im[i // 2 * LANES + lane] = value
    if not packed:
        im[: n * LANES] = 0.0


@kernel
def unpack(plan_n: int, turn_re: Float32, turn_im: Float32, zr: Float32, zi: Float32, xr: Float32, xi: Float32) -> None:
    """Twice the spectrum X_k, k = 0 .. n/2, of n real samples from the spectrum Z of even + i odd samples."""
    h = plan_n // 2
    ar, ai = load(zr, 0), load(zi, 0)
    store(xr, 0, (ar + ai) * 2.0)
    store(xi, 0, splat(0.0))
    store(xr, h * LANES, (ar - ai) * 2.0)
    store(xi, h * LANES, splat(0.0))
    for k in range(1, h // 2 + 1):
        i, j = k * LANES, (h - k) * LANES
        ar, ai, br, bi = load(zr, i), load(zi, i), load(zr, j), load(zi, j)
        er, ei = ar + br, ai - bi  # of the even samples
        dr, di = ai + bi, br - ar  # of the odd ones
        tr, ti = dr * turn_re[k] - di * turn_im[k], dr * turn_im[k] + di * turn_re[k]
        store(xr, i, er + tr)
        store(xi, i, ei + ti)
        store(xr, j, er - tr)
        store(xi, j, ti - ei)


@kernel
def log_sums(power: Float32, bins: int, logs: Float32, log_blocks: Float32) -> None:
    """Fill `logs` and `log_blocks` of power [0, bins): sums of log2 within blocks of BLOCK bins."""
    running = splat(0.0)
    for block in range((bins + BLOCK - 1) // BLOCK):
        running = splat(0.0)
        for k in range(block * BLOCK, min(bins, (block + 1) * BLOCK)):
            store(logs, k * LANES, running)
            running = running + log2(load(power, k * LANES))
        store(log_blocks, block * LANES, running)
    store(logs, bins * LANES, splat(0.0) if bins % BLOCK == 0 else running)


@inlined
def log_range(logs: Float32, log_blocks: Float32, first: int, end: int, lane: int) -> float:
    """Sum of log2 over bins [first, end) of one lane."""
    found = np.float64(logs[end * LANES + lane]) - np.float64(logs[first * LANES + lane])
    for block in range(first >> BLOCK_BITS, end >> BLOCK_BITS):
        found += log_blocks[block * LANES + lane]
    return found


@kernel
def power_spectra(plan: SpectrumPlan, s: Spectra, moments: Float32, out: Float32) -> None:
    """P_k of all bins and the sums of its logarithms; in the same pass what `shape` needs.

    moments: [3 per block, lane], sums of P, P j and P j^2 over the bins j of each block; out: [0] the largest P,
    [1] the block in which it stands, [2] sum of P log2 P. The lowest two bins do not count in these.
    """
    bins = plan.bins
    strongest, at, plogp, running = splat(-1.0), splat(0.0), splat(0.0), splat(0.0)
    for block in range((bins + BLOCK - 1) // BLOCK):
        m0, m1, m2, top, running = splat(0.0), splat(0.0), splat(0.0), splat(-1.0), splat(0.0)
        begin = block * BLOCK
        if block == 0:
            for k in range(2):
                re, im = load(s.re, k * LANES), load(s.im, k * LANES)
                p = re * re + im * im
                store(s.power, k * LANES, p)
                store(s.logs, k * LANES, running)
                running = running + log2(p)
        for k in range(max(2, begin), min(bins, begin + BLOCK)):
            i, j = k * LANES, np.float32(k - begin)
            re, im = load(s.re, i), load(s.im, i)
            p = re * re + im * im
            level = log2(p)
            store(s.power, i, p)
            store(s.logs, i, running)
            running = running + level
            plogp = plogp + p * level
            weighted = p * j
            m0, m1, m2 = m0 + p, m1 + weighted, m2 + weighted * j
            top = greater(p, top, p, top)
        store(s.log_blocks, block * LANES, running)
        store(moments, (3 * block) * LANES, m0)
        store(moments, (3 * block + 1) * LANES, m1)
        store(moments, (3 * block + 2) * LANES, m2)
        at = greater(top, strongest, splat(np.float32(block)), at)
        strongest = greater(top, strongest, top, strongest)
    store(s.logs, bins * LANES, splat(0.0) if bins % BLOCK == 0 else running)
    store(out, 0, strongest)
    store(out, LANES, at)
    store(out, 2 * LANES, plogp)


@kernel
def transform(plan: SpectrumPlan, re: Float32, im: Float32, re2: Float32, im2: Float32) -> int:
    """Spectra of the loaded windows. Returns 0 if they stand in the first pair, else 1."""
    where = fft(plan.fft, re, im, re2, im2)
    if plan.length % 2:
        return where
    if where == 0:
        unpack(plan.length, plan.turn_re, plan.turn_im, re, im, re2, im2)
    else:
        unpack(plan.length, plan.turn_re, plan.turn_im, re2, im2, re, im)
    return 1 - where
