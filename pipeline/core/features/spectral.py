"""Spectral features: what the shape of the power spectrum says, all from sums over bins, eight windows at a time."""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.lanes import LANES, absolute, greater, load, log2, splat, store
from pipeline.core.features.spectrum import BLOCK, Spectra, SpectrumPlan, log_range
from pipeline.core.features.table import columns
from pipeline.core.records import Float32

M_S2 = {"g": 9.80665, "m/s2": 1.0}  # units of acceleration that can be integrated to a velocity
LOG10_2 = np.float32(np.log10(2.0))
CENTROID, SPREAD, ENTROPY, FLATNESS, ROLLOFF_85, ROLLOFF_95, DOMINANT, TOTAL = range(8)  # what `shape` leaves, in rows
SHAPE = ("centroid", "spread", "entropy", "flatness", "rolloff_85", "rolloff_95", "dominant")  # ... and their features
SHAPE_COLUMNS = columns(*SHAPE)


@kernel
def shape(plan: SpectrumPlan, s: Spectra, moments: Float32, out: Float32) -> None:
    """Centroid, spread, entropy, flatness, roll-offs, dominant line, total power -> out [CENTROID to TOTAL, lane].

    moments and out: as `power_spectra` left them. Second moments are taken about the centroid block by block, so that
    a pure tone loses nothing to the difference of large numbers. Roll-offs are interpolated within their bin.
    """
    bins = plan.bins
    count = (bins + BLOCK - 1) // BLOCK
    whole, weighted = splat(0.0), splat(0.0)
    for b in range(count):
        m0 = load(moments, (3 * b) * LANES)
        whole = whole + m0
        weighted = weighted + (m0 * np.float32(b * BLOCK) + load(moments, (3 * b + 1) * LANES))
    centroid = weighted / whole
    level85, level95 = whole * 0.85, whole * 0.95
    second, below = splat(0.0), splat(0.0)
    b85, b95, before85, before95 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for b in range(count):
        i = 3 * b * LANES
        m0, m1, m2 = load(moments, i), load(moments, i + LANES), load(moments, i + 2 * LANES)
        away = splat(np.float32(b * BLOCK)) - centroid
        second = second + (m0 * away * away + away * m1 * 2.0 + m2)
        below = below + m0
        follows = splat(np.float32(b + 1))
        b85, before85 = greater(level85, below, follows, b85), greater(level85, below, below, before85)
        b95, before95 = greater(level95, below, follows, b95), greater(level95, below, below, before95)
    strongest, at, plogp = load(out, 0), load(out, LANES), load(out, 2 * LANES)
    store(out, CENTROID * LANES, centroid)
    store(out, SPREAD * LANES, second / whole)
    store(out, ENTROPY * LANES, plogp / whole)
    store(out, ROLLOFF_85 * LANES, b85)
    store(out, ROLLOFF_95 * LANES, b95)
    store(out, DOMINANT * LANES, at)
    store(out, TOTAL * LANES, whole)
    store(moments, 0, before85)
    store(moments, LANES, before95)
    store(moments, 2 * LANES, strongest)
    f = np.float32(plan.delta_f_hz)
    for lane in range(LANES):
        power = np.float64(out[TOTAL * LANES + lane])
        log_power = math.log2(power) if power > 0 else np.nan
        out[CENTROID * LANES + lane] *= f
        out[SPREAD * LANES + lane] = np.sqrt(out[SPREAD * LANES + lane]) * f
        out[ENTROPY * LANES + lane] = (log_power - out[ENTROPY * LANES + lane]) / math.log2(bins - 2)
        mean_log = log_range(s.logs, s.log_blocks, 2, bins, lane) / (bins - 2)
        out[FLATNESS * LANES + lane] = 10 * np.log10(2.0) * (mean_log - log_power + math.log2(bins - 2))
        for i, share in ((ROLLOFF_85, 0.85), (ROLLOFF_95, 0.95)):
            k = max(2, int(out[i * LANES + lane]) * BLOCK)
            cumulated = np.float64(moments[(i - ROLLOFF_85) * LANES + lane])
            while k < bins - 1 and cumulated + s.power[k * LANES + lane] < share * power:
                cumulated += s.power[k * LANES + lane]
                k += 1
            out[i * LANES + lane] = (k - 0.5 + (share * power - cumulated) / s.power[k * LANES + lane]) * f
        k = max(2, int(out[DOMINANT * LANES + lane]) * BLOCK)
        while k < bins - 1 and s.power[k * LANES + lane] != moments[2 * LANES + lane]:
            k += 1
        out[DOMINANT * LANES + lane] = k * f


@kernel
def bands(plan: SpectrumPlan, s: Spectra, total: Float32, sums: Float32, out: Float32) -> None:
    """Shares of the log bands, log10 -> out [bands, lane], and the flux -> out [bands]; sums is scratch.

    Multiplying a window by sin(2 pi t / T) makes of its spectrum Y_k = (X_(k-1) - X_(k+1)) / 2i, so the spectra
    under the windows hann (1 +- sin) / 2, which see the first and the second half, are (X +- Y) / 2: their
    powers need no transform of their own.
    """
    count = plan.band_bins.shape[0] - 1
    all_first, all_second = splat(0.0), splat(0.0)
    for b in range(count):
        low, high = max(2, plan.band_bins[b]), min(plan.band_bins[b + 1], plan.bins)
        power, other, both = splat(0.0), splat(0.0), splat(0.0)
        if low < high:
            before_r, before_i = load(s.re, (low - 1) * LANES), load(s.im, (low - 1) * LANES)
            re, im = load(s.re, low * LANES), load(s.im, low * LANES)
        else:
            before_r, before_i, re, im = power, power, power, power
        for k in range(low, high):
            after_r, after_i = load(s.re, (k + 1) * LANES), load(s.im, (k + 1) * LANES)
            dr, di = before_r - after_r, before_i - after_i
            power = power + load(s.power, k * LANES)
            other = other + (dr * dr + di * di)
            both = both + (re * di - im * dr)
            before_r, before_i, re, im = re, im, after_r, after_i
        power_sum = power + other * 0.25
        store(sums, (2 * b) * LANES, power_sum + both)
        store(sums, (2 * b + 1) * LANES, power_sum - both)
        all_first = all_first + (power_sum + both)
        all_second = all_second + (power_sum - both)
        store(out, b * LANES, power)
    changed = splat(0.0)
    for b in range(count):
        share = load(sums, (2 * b) * LANES) / all_first - load(sums, (2 * b + 1) * LANES) / all_second
        changed = changed + absolute(share)
    store(out, count * LANES, changed * 0.5)
    for b in range(count):
        inside = max(2, plan.band_bins[b]) < plan.band_bins[b + 1] <= plan.bins
        share = load(out, b * LANES) / load(total, 0) + 1e-12
        store(out, b * LANES, log2(share) * LOG10_2 if inside else splat(np.nan))


@kernel
def velocities(plan: SpectrumPlan, s: Spectra, out: Float32) -> None:
    """Mean square of the velocity from 10 Hz on, and what a slow machine has below -> out [2, lane]."""
    slow, low, last = plan.velocity_bins
    above, below = splat(0.0), splat(0.0)
    for k in range(slow, low if slow else 0):
        below = below + load(s.power, k * LANES) * plan.velocity_weight[k]
    for k in range(low, last + 1 if low else 0):
        above = above + load(s.power, k * LANES) * plan.velocity_weight[k]
    store(out, 0, above)
    store(out, LANES, below)


@kernel
def mains(plan: SpectrumPlan, s: Spectra, total: Float32, lane: int) -> float:
    """Share of the power within a bin of the mains lines."""
    if plan.mains_bins.shape[0] == 0:
        return np.nan
    found = 0.0
    for middle in plan.mains_bins:
        for k in range(middle - 1, middle + 2):
            found += s.power[k * LANES + lane]
    return found / total[lane]
