"""Shaft speed from the spectrum, where nobody states it and a range is configured.

A candidate is as good as its first harmonics stand over their floor, the first counting most. The confidence is
how much better the best candidate is than the best of the others, its own multiples and parts among
them: noise and a single unexplained line leave it near 0.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.features.lanes import LANES, kernel
from pipeline.core.features.lines import line
from pipeline.core.records import Float32

HARMONICS = 5
STEP_BINS = 0.1  # of the candidates: the fifth harmonic moves half a bin
LARGEST_DB = 20.0  # one harmonic counts at most this much
STANDS_DB = 6.0


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
        if abs(place - best_place) > 1.0:
            second = max(second, _score(power, logs, log_blocks, bins, lane, place))
    return _refined(power, logs, log_blocks, bins, lane, best_place), (best - second) / best


@kernel
def _refined(power: Float32, logs: Float32, log_blocks: Float32, bins: int, lane: int, place: float) -> float:
    """Mean of where the harmonics that stand out really are, higher ones counting more."""
    weighted, weights = 0.0, 0.0
    for harmonic in range(1, HARMONICS + 1):
        at = harmonic * place
        ratio = line(power, logs, log_blocks, bins, lane, at, 0.0, 0.0)
        if not ratio > 10 ** (STANDS_DB / 10):
            continue
        k = int(at + 0.5)
        for near in (k - 1, k + 1):
            if power[near * LANES + lane] > power[k * LANES + lane]:
                k = near
        before, middle = np.log(power[(k - 1) * LANES + lane]), np.log(power[k * LANES + lane])
        after = np.log(power[(k + 1) * LANES + lane])
        bend = before - 2 * middle + after
        peak = k + 0.5 * (before - after) / bend if bend < 0 else float(k)
        weighted += harmonic * peak
        weights += harmonic * harmonic
    return weighted / weights if weights > 0 else place
