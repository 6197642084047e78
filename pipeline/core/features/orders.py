"""Which lines become which features: shaft and gears in the power spectrum, the bearing in the envelope's."""

from __future__ import annotations

import numpy as np

from pipeline.core.features.compiled import kernel
from pipeline.core.features.envelope import Envelopes
from pipeline.core.features.lines import HARMONICS, family, line, sidebands
from pipeline.core.features.spectrum import Spectra
from pipeline.core.features.time_domain import Float64
from pipeline.core.records import Float32

SHARE_BINS = 1.5  # half the main lobe of the window: what belongs to the line of 1 x shaft
RESOLVED_BINS = 8.0  # between shaft harmonics, or there is nothing between them to look at
ENVELOPE_COLUMNS = 13
OUTER, INNER, ELEMENT, CAGE = range(4)  # columns of `lines`
STANDS_RATIO = 10.0  # 10 dB
COHERENT_HARMONICS = 2
QUARTER_TURN = 0.25  # of the shaft: a mesh line must not be mistaken for its sidebands


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
    """The `envelope` features that are lines -> out, from its first column on."""
    shaft = turns if turns >= RESOLVED_BINS else 0.0
    for i in range(4):
        level, high = family(e.power, e.logs, e.log_blocks, bins, lane, lines[i] * turns, tolerance, shaft)
        out[i] = level
        if complete:
            out[5 + i] = np.nan if np.isnan(level) else high
    if not complete:
        return
    out[4] = family(e.power, e.logs, e.log_blocks, bins, lane, turns, tolerance, 0.0)[0]
    out[9] = sidebands(e.power, e.logs, e.log_blocks, bins, lane, lines[INNER] * turns, turns, tolerance, HARMONICS, 1)
    out[10] = sidebands(
        e.power, e.logs, e.log_blocks, bins, lane, lines[ELEMENT] * turns, lines[CAGE] * turns, tolerance, HARMONICS, 1
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
