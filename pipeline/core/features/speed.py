"""Shaft speed from the spectrum, where nobody states it and a range is configured.

A candidate is as good as its first harmonics stand over their floor, the first counting most. The confidence is
how much better the best candidate is than the best of the others, its own multiples and parts among
them: noise and a single unexplained line leave it near 0.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.lanes import LANES
from pipeline.core.features.lines import line
from pipeline.core.records import Float32

HARMONICS = 5
STEP_BINS = 0.1  # of the candidates: the fifth harmonic moves half a bin
LARGEST_DB = 20.0  # one harmonic counts at most this much
APART_BINS = 3.0  # candidates closer than the main lobe of the window are the same one
STANDS_RATIO = 10.0  # a harmonic that says where it is: 10 dB


@kernel
def _score(power: Float32, logs: Float32, log_blocks: Float32, bins: int, lane: int, place: float) -> float:
    found = 0.0
    for harmonic in range(1, HARMONICS + 1):
        ratio = line(power, logs, log_blocks, bins, lane, harmonic * place, 0.0, 0.0)
        if ratio > 1.0:
            found += min(10 * np.log10(ratio), LARGEST_DB) / np.sqrt(harmonic)
    return found


@kernel
def estimate(
    power: Float32, logs: Float32, log_blocks: Float32, bins: int, lane: int, low: float, high: float
) -> tuple[float, float]:
    """Turns per window between low and high, and the confidence, 0 to 1; (NaN, 0) where nothing stands out."""
    steps = int((high - low) / STEP_BINS) + 1
    best, best_place = 0.0, np.nan
    for i in range(steps):
        place = low + i * STEP_BINS
        score = _score(power, logs, log_blocks, bins, lane, place)
        if score > best:
            best, best_place = score, place
    if not best > 0:
        return np.nan, 0.0
    second = 0.0
    for i in range(steps):
        place = low + i * STEP_BINS
        if abs(place - best_place) > APART_BINS:
            second = max(second, _score(power, logs, log_blocks, bins, lane, place))
    return _refined(power, logs, log_blocks, bins, lane, best_place), (best - second) / best


@kernel
def _refined(power: Float32, logs: Float32, log_blocks: Float32, bins: int, lane: int, place: float) -> float:
    """Harmonic by harmonic: where the peak really is tells where to look for the next; higher ones count more."""
    weighted, weights = 0.0, 0.0
    for harmonic in range(1, HARMONICS + 1):
        middle = int(harmonic * place + 0.5)
        if middle < 4 or middle + 4 >= bins:
            continue
        k = middle - 2
        for near in range(middle - 1, middle + 3):
            if power[near * LANES + lane] > power[k * LANES + lane]:
                k = near
        before, peak = np.log(power[(k - 1) * LANES + lane]), np.log(power[k * LANES + lane])
        after = np.log(power[(k + 1) * LANES + lane])
        stands = line(power, logs, log_blocks, bins, lane, float(k), 0.0, 0.0) > STANDS_RATIO
        if stands and peak >= before and peak >= after and before - 2 * peak + after < 0:
            weighted += harmonic * (k + 0.5 * (before - after) / (before - 2 * peak + after))
            weights += harmonic * harmonic
            place = weighted / weights
    return place
