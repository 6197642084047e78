"""The shaft speed, refined on the shaft's own harmonics within the uncertainty of the stated one.

spectrum -> peaks near harmonics 1 to 5 -> combs -> the strongest comb, and how far it stands above the second

A peak is a local maximum that stands PEAK_RATIO over the bins around it; three points of log P give its place to a
twentieth of a bin. Every peak near harmonic h proposes a speed: its place / h. The peaks that agree with a proposal
within AGREE_BINS are its comb, and the weighted least squares of their places over h is the refined speed. A comb
scores the levels of its peaks, LARGEST_DB each at most.

A comb counts if it has the first harmonic and another one, or the second and two others. One line alone may be any
machine's. Lines of the mains are left out, those of 50 and of 60 Hz: 25 Hz would stand at two harmonics of 50 Hz.
The confidence is (best - second) / best, where `second` is the best comb of another speed, at least CHANCE_DB: two
peaks of noise make such a comb. So two machines side by side leave it near 0, and noise too.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.lanes import LANES
from pipeline.core.features.lines import line
from pipeline.core.features.spectrum import Spectra
from pipeline.core.features.time_domain import Float64

HARMONICS = 5
MOST_PEAKS = 128  # near the harmonics; a spectrum with more has no comb to be found
PEAK_RATIO = 10.0**0.8  # 8 dB
LARGEST_DB = 18.0  # of a peak: a strong line and a peak of noise together make no comb
AGREE_BINS = 0.2
OTHER_SHARE = 0.004  # combs whose speeds differ by more are different ones
CHANCE_DB = 24.0
LEAST_BIN = 3.0  # below it stands what the window leaks from a drift
MAINS_HZ = np.array([50.0, 60.0])
MAINS_BINS, MAINS_SHARE = 0.3, 0.001  # how far a line of the mains may be off


@kernel
def refine(
    s: Spectra, bins: int, lane: int, delta_f_hz: float, low: float, high: float, peaks: Float64
) -> tuple[float, float]:
    """Turns per window between low and high, and the confidence, 0 to 1; (NaN, 0) where no comb counts.

    peaks: (3, MOST_PEAKS) scratch: place in bins, level in dB, number of the harmonic.
    """
    if not low >= LEAST_BIN:
        return np.nan, 0.0
    count = _peaks(s, bins, lane, delta_f_hz, low, high, peaks)
    best, best_place = 0.0, np.nan
    for i in range(count):
        score, place = _comb(peaks, count, peaks[0, i] / peaks[2, i])
        if score > best and low <= place <= high:
            best, best_place = score, place
    if not best > CHANCE_DB:
        return np.nan, 0.0
    second = CHANCE_DB
    for i in range(count):
        score, place = _comb(peaks, count, peaks[0, i] / peaks[2, i])
        if abs(place / best_place - 1) > OTHER_SHARE and low <= place <= high:
            second = max(second, score)
    return best_place, (best - second) / best


@kernel
def _peaks(s: Spectra, bins: int, lane: int, delta_f_hz: float, low: float, high: float, peaks: Float64) -> int:
    """Fill in the peaks near the harmonics. Returns how many there are; 0 if there are too many."""
    count = 0
    for harmonic in range(1, HARMONICS + 1):
        first, last = int(np.floor(harmonic * low)), int(np.ceil(harmonic * high))
        for k in range(first, min(last, bins - 4) + 1):
            before, peak, after = (
                s.power[(k - 1) * LANES + lane],
                s.power[k * LANES + lane],
                s.power[(k + 1) * LANES + lane],
            )
            if not (peak >= before and peak > after and before > 0 and after > 0):
                continue
            ratio = line(s.power, s.logs, s.log_blocks, bins, lane, float(k), 0.0, 0.0)
            if not ratio > PEAK_RATIO:
                continue
            a, b, c = np.log(np.float64(before)), np.log(np.float64(peak)), np.log(np.float64(after))
            place = k + 0.5 * (a - c) / (a - 2 * b + c)
            if _of_the_mains(place, delta_f_hz) or not harmonic * low <= place <= harmonic * high:
                continue
            if count == MOST_PEAKS:
                return 0
            peaks[0, count], peaks[1, count] = place, min(10 * np.log10(ratio), LARGEST_DB)
            peaks[2, count] = harmonic
            count += 1
    return count


@kernel
def _of_the_mains(place: float, delta_f_hz: float) -> bool:
    for i in range(MAINS_HZ.shape[0]):
        spacing = MAINS_HZ[i] / delta_f_hz
        nearest = np.floor(place / spacing + 0.5) * spacing
        if nearest > 0 and abs(place - nearest) < MAINS_BINS + MAINS_SHARE * place:
            return True
    return False


@kernel
def _comb(peaks: Float64, count: int, place: float) -> tuple[float, float]:
    """Score and refined place of the comb at `place`; score 0 where it does not count.

    The first pass takes the peaks that agree with the proposal, the second those that agree with their mean.
    """
    score = 0.0
    for turn in range(2):
        weighted, weights, score, found = 0.0, 0.0, 0.0, 0
        first = second = False
        i = 0
        while i < count:
            harmonic = peaks[2, i]
            level, at = 0.0, 0.0
            while i < count and peaks[2, i] == harmonic:  # peaks stand in the order of their harmonics
                near = AGREE_BINS if turn == 1 else AGREE_BINS * max(1.0, harmonic / 2)
                if abs(peaks[0, i] - harmonic * place) <= near and peaks[1, i] > level:
                    level, at = peaks[1, i], peaks[0, i]
                i += 1
            if level > 0:
                score += level
                found += 1
                weighted += harmonic * at
                weights += harmonic * harmonic
                first |= harmonic == 1
                second |= harmonic == 2
        if found == 0:
            return 0.0, np.nan
        place = weighted / weights
    if (first and found >= 2) or (second and found >= 3):
        return score, place
    return 0.0, place
