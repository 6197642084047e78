"""Lines: how far the lines of shaft, gears and bearing stand out of the bins around them, and the shaft speed.

A line is the largest power within max(1/2 bin, tolerance x its place) of where it should be. Its floor is the geometric
mean of the bins around it, which a few strong neighbours hardly lift. All places are in bins. Bins at multiples of the
shaft speed say nothing about a bearing, so the largest is taken from the others. Shaft and gears are looked for in the
power spectrum, the bearing in the spectrum of the envelope.

An unknown shaft speed is estimated where a range is configured. A candidate is as good as its first
harmonics stand over their floor; the first counts most. The confidence is how much better the best candidate is than
the best of the others, its own multiples and parts among them: noise or a single unexplained line leaves it near 0.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.features.compiled import inlined, kernel
from pipeline.core.features.envelope import Envelopes
from pipeline.core.features.lanes import LANES
from pipeline.core.features.spectrum import Spectra, log_range
from pipeline.core.features.table import AT, FAMILIES, columns
from pipeline.core.features.time_domain import Float64
from pipeline.core.records import Float32

FLOOR_BINS = 24  # on each side of a line
SHAFT_BINS = 2.5  # on each side of a shaft harmonic: the main lobe of the window, squared as the envelope is
HARMONICS, SHORT_HARMONICS = 3, 5  # of a family; the second where the window does not resolve its slip
RATIO_6_DB = 10.0**0.6
SHARE_BINS = 1.5  # half the main lobe of the window: what belongs to the line of 1 x shaft
RESOLVED_BINS = 8.0  # between shaft harmonics, or there is nothing between them to look at
_FAMILY_IDS = [family.id for family in FAMILIES]
OUTER, INNER, ELEMENT, CAGE = map(_FAMILY_IDS.index, ("bpfo", "bpfi", "2bsf", "ftf"))  # columns of `lines`
FAMILY_COLUMNS = columns(*(family.feature for family in FAMILIES))
HARMONICS_COLUMNS = columns(*(f"{family.feature}_harmonics" for family in FAMILIES))
STANDS_RATIO = 10.0  # 10 dB over the floor: the harmonic is there
COHERENT_HARMONICS = 2
QUARTER_TURN = 0.25  # of the shaft: a mesh line must not be mistaken for its sidebands
SPEED_HARMONICS = 5  # that make a candidate for the shaft speed
STEP_BINS = 0.1  # of the candidates: the fifth harmonic moves half a bin
LARGEST_DB = 20.0  # one harmonic counts at most this much
APART_BINS = 3.0  # candidates closer than the main lobe of the window are the same one


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
    """Power of the line at bin `place` over its floor; NaN where it is outside the spectrum or cannot be separated.

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
    Returns: (dB, count); (NaN, 0) where no harmonic can be measured.
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


@kernel
def order_line(s: Spectra, bins: int, lane: int, place: float, tolerance: float) -> float:
    """One shaft order over its floor, in dB."""
    return 10 * np.log10(line(s.power, s.logs, s.log_blocks, bins, lane, place, tolerance, 0.0))


@kernel
def gear_mesh(s: Spectra, bins: int, lane: int, turns: float, teeth: Float64, tolerance: float) -> tuple[float, float]:
    """Mesh and sidebands (+-1, +-2 x shaft) in dB, of the wheel on this shaft whose mesh stands out most."""
    mesh, side = np.nan, np.nan
    for wheel in teeth:
        place = wheel * turns
        if not place > 0:
            continue
        found = 0.0
        heard = 0
        for harmonic in range(1, HARMONICS + 1):
            ratio = line(
                s.power, s.logs, s.log_blocks, bins, lane, harmonic * place, min(tolerance, QUARTER_TURN / wheel), 0.0
            )
            if not np.isnan(ratio):
                found += np.sqrt(ratio)
                heard += 1
        level = 20 * np.log10(found / heard) if heard else np.nan
        if heard and not level <= mesh:
            mesh = level
            side = sidebands(
                s.power, s.logs, s.log_blocks, bins, lane, place, turns, min(tolerance, QUARTER_TURN / wheel), 1, 2
            )
    return mesh, side


@kernel
def envelope_lines(
    bins: int, e: Envelopes, lane: int, turns: float, lines: Float64, tolerance: float, complete: bool, out: Float32
) -> None:
    """The `envelope` features that are lines -> out (F,)."""
    shaft = turns if turns >= RESOLVED_BINS else 0.0
    for i in range(FAMILY_COLUMNS.shape[0]):
        level, high = family(e.power, e.logs, e.log_blocks, bins, lane, lines[i] * turns, tolerance, shaft)
        out[FAMILY_COLUMNS[i]] = level
        out[HARMONICS_COLUMNS[i]] = np.nan if np.isnan(level) else high
    if not complete:
        return
    out[AT.env_shaft] = family(e.power, e.logs, e.log_blocks, bins, lane, turns, tolerance, 0.0)[0]
    inner, element, cage = lines[INNER] * turns, lines[ELEMENT] * turns, lines[CAGE] * turns
    out[AT.env_bpfi_sidebands] = sidebands(
        e.power, e.logs, e.log_blocks, bins, lane, inner, turns, tolerance, HARMONICS, 1
    )
    out[AT.env_2bsf_sidebands] = sidebands(
        e.power, e.logs, e.log_blocks, bins, lane, element, cage, tolerance, HARMONICS, 1
    )


@kernel
def coherent(bins: int, e: Envelopes, lane: int, turns: float, lines: Float64, tolerance: float) -> bool:
    """Whether the envelope shows a family of the bearing: two of its first three harmonics 10 dB over the floor."""
    shaft = turns if turns >= RESOLVED_BINS else 0.0
    for i in (OUTER, INNER, ELEMENT):
        standing = 0
        for harmonic in range(1, HARMONICS + 1):
            place = harmonic * lines[i] * turns
            standing += line(e.power, e.logs, e.log_blocks, bins, lane, place, tolerance, shaft) > STANDS_RATIO
        if standing >= COHERENT_HARMONICS:
            return True
    return False


@kernel
def _score(power: Float32, logs: Float32, log_blocks: Float32, bins: int, lane: int, place: float) -> float:
    found = 0.0
    for harmonic in range(1, SPEED_HARMONICS + 1):
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
    """A better place, harmonic by harmonic: each peak says where to look for the next, and higher ones count more."""
    weighted, weights = 0.0, 0.0
    for harmonic in range(1, SPEED_HARMONICS + 1):
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
