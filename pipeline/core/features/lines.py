"""Lines: how far the lines of a family stand out of what is around them.

A line is the largest power within max(1/2 bin, tolerance x its place) of where it should be, its floor the
geometric mean of the bins around, which a few strong neighbours hardly lift. All places are in bins.
Bins at multiples of the shaft speed say nothing about a bearing: the largest is taken from the others.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.features.compiled import inlined, kernel
from pipeline.core.features.lanes import LANES
from pipeline.core.features.spectrum import log_range
from pipeline.core.records import Float32

FLOOR_BINS = 24  # on each side of a line
SHAFT_BINS = 2.5  # on each side of a shaft harmonic: the main lobe of the window, squared as the envelope is
HARMONICS, SHORT_HARMONICS = 3, 5  # of a family; the second where the window does not resolve its slip
RATIO_6_DB = 10.0**0.6


@inlined
def line(
    power: Float32,
    logs: Float32,
    log_blocks: Float32,
    bins: int,
    lane: int,
    place: float,
    tolerance: float,
    shaft: float,
) -> float:
    """Power of the line at bin `place` over its floor; NaN where it is not within the spectrum or not separable.

    power, logs, log_blocks: [k, lane] of `bins` bins; shaft: bins per shaft turn, 0 = leave nothing out.
    """
    if not place > 0:
        return np.nan
    half = max(0.5, tolerance * place)
    first, last = int(np.ceil(place - half)), int(np.floor(place + half))
    if first < 2 or last >= bins - 2:
        return np.nan
    out_first, out_last = last + 1, last
    if shaft > 0:
        harmonic = np.floor(place / shaft + 0.5) * shaft
        out_first, out_last = int(np.ceil(harmonic - SHAFT_BINS)), int(np.floor(harmonic + SHAFT_BINS))
    peak = np.float32(-1.0)
    for k in range(first, min(last, out_first - 1) + 1):
        peak = max(peak, power[k * LANES + lane])
    for k in range(max(first, out_last + 1), last + 1):
        peak = max(peak, power[k * LANES + lane])
    if peak < 0:
        return np.nan
    begin, end = max(2, first - FLOOR_BINS), min(last + 1 + FLOOR_BINS, bins)
    around = log_range(logs, log_blocks, begin, first, lane) + log_range(logs, log_blocks, last + 1, end, lane)
    return np.float64(peak) * math.exp2(-around / (first - begin + end - last - 1))


@kernel
def family(
    power: Float32,
    logs: Float32,
    log_blocks: Float32,
    bins: int,
    lane: int,
    place: float,
    tolerance: float,
    shaft: float,
) -> tuple[float, int]:
    """Mean of the amplitude ratios of a family's harmonics in dB, and how many of five stand over 6 dB.

    Three harmonics make the mean, five where the window is too short for the slip of the first.
    Returns: (dB, count); (NaN, 0) where no harmonic is to be had.
    """
    wanted = HARMONICS if tolerance * place >= 1.0 else SHORT_HARMONICS
    ratios, found, high = 0.0, 0, 0
    for harmonic in range(1, SHORT_HARMONICS + 1):
        ratio = line(power, logs, log_blocks, bins, lane, harmonic * place, tolerance, shaft)
        if not np.isnan(ratio):
            high += ratio > RATIO_6_DB
            if harmonic <= wanted:
                ratios += np.sqrt(ratio)
                found += 1
    if found == 0:
        return np.nan, 0
    return 20.0 * np.log10(ratios / found), high


@kernel
def sidebands(
    power: Float32,
    logs: Float32,
    log_blocks: Float32,
    bins: int,
    lane: int,
    place: float,
    spacing: float,
    tolerance: float,
    harmonics: int,
    orders: int,
) -> float:
    """Mean of the amplitude ratios of the lines at +-1 .. orders x spacing around a family's harmonics, in dB."""
    ratios, found = 0.0, 0
    for harmonic in range(1, harmonics + 1):
        middle = harmonic * place
        half = max(0.5, tolerance * middle)
        for order in range(1, orders + 1):
            for sign in (-1, 1):
                at = middle + sign * order * spacing
                ratio = line(power, logs, log_blocks, bins, lane, at, half / at, 0.0) if at > 0 else np.nan
                if not np.isnan(ratio):
                    ratios += np.sqrt(ratio)
                    found += 1
    return 20.0 * np.log10(ratios / found) if found else np.nan
