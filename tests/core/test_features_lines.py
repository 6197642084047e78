"""Lines at the edges: the first and last bins, places between shaft harmonics, and wheels whose teeth are unknown."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from pipeline.core.features import batch
from pipeline.core.features.envelope import Envelopes
from pipeline.core.features.lanes import LANES
from pipeline.core.features.lines import RESOLVED_BINS, _refined, coherent, gear_mesh
from pipeline.core.features.spectrum import BLOCK, Spectra

LANE = 3
NOTHING = np.zeros(1, np.float32)


@njit(error_model="numpy")
def mesh(s: Spectra, bins: int, turns: float, teeth: np.ndarray) -> tuple[float, float]:
    return gear_mesh(s, bins, LANE, turns, teeth, 0.01)


@njit(error_model="numpy")
def is_coherent(bins: int, e: Envelopes, turns: float, lines: np.ndarray) -> bool:
    return coherent(bins, e, LANE, turns, lines, 0.001)


@njit(error_model="numpy")
def refined(power: np.ndarray, logs: np.ndarray, log_blocks: np.ndarray, bins: int, place: float) -> float:
    return _refined(power, logs, log_blocks, bins, LANE, place)


def spectrum(bins: int, peaks: dict[int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power, running logarithms and sums per block of one lane; all powers are 1 but for the peaks."""
    blocks = -(-bins // BLOCK) + 1
    p = np.ones(blocks * BLOCK)
    p[list(peaks)] = list(peaks.values())
    log2 = np.log2(p).reshape(blocks, BLOCK)
    running = np.cumsum(log2, axis=1) - log2
    flat = [np.zeros(len(x) * LANES, np.float32) for x in (p, p, log2)]
    for lanes, x in zip(flat, (p, running.ravel(), log2.sum(axis=1)), strict=True):
        lanes[LANE::LANES] = x
    return flat[0], flat[1], flat[2]


@pytest.mark.parametrize("unknown", [np.nan, 0.0, -7.0])
def test_a_wheel_without_teeth_does_not_hide_the_next_one(unknown: float) -> None:
    s = Spectra(NOTHING, NOTHING, *spectrum(1000, {200: 1e4, 400: 1e4, 190: 30.0, 210: 30.0}))
    alone = mesh(s, 1000, 10.0, np.array([20.0]))
    assert np.isfinite(alone).all()
    assert mesh(s, 1000, 10.0, np.array([unknown, 20.0])) == alone


@pytest.mark.parametrize(
    ("turns", "expected"), [(RESOLVED_BINS - 0.5, True), (RESOLVED_BINS, False), (5 * RESOLVED_BINS, False)]
)
def test_lines_on_shaft_harmonics_say_nothing_of_a_bearing_where_these_are_resolved(
    turns: float, expected: bool
) -> None:
    order = 3.0  # every harmonic of the bearing stands on one of the shaft
    peaks = {round(n * order * turns): 1e4 for n in (1, 2, 3)}
    e = Envelopes(*(NOTHING,) * 4, *spectrum(1000, peaks), NOTHING, NOTHING)
    assert is_coherent(1000, e, turns, np.array([order, 1e6, 1e6, 1e6])) == expected


@pytest.mark.parametrize(
    ("peak", "is_used"), [(3, False), (4, True), (5, True), (250, True), (251, True), (252, False)]
)
def test_a_speed_is_refined_by_peaks_with_room_on_both_sides_and_by_no_others(peak: int, is_used: bool) -> None:
    bins = 256
    place = peak + 0.2
    found = refined(*spectrum(bins, {peak: 1e4, peak + 1: 10.0}), bins, place)
    assert (found != place) == is_used
    assert abs(found - peak) < 0.5


def test_samples_are_copied_unless_they_are_float32_in_one_piece() -> None:
    whole = np.arange(16, dtype=np.float32).reshape(2, 8)
    assert batch._readable(whole) is whole
    for other in (whole[:, ::2], whole.T, whole.astype(np.int32), whole.astype(np.float64), whole.view(np.int32)):
        found = batch._readable(other)
        assert found is not other
        assert (found.dtype, found.strides[1]) == (np.float32, 4)
        assert (found == other).all()
