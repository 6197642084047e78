"""The whole feature vector of many rows in one compiled call, eight rows at a time, without any allocation.

A row is one channel of one window, given by the address of its first sample, so rows are read where they lie. A row
that begins one, two or three quarters of a window after the row before takes the sums of the shared quarters from
there. The kernel gets a plan for rows of one rate and length, the rows, and scratch memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.cepstrum import CepstrumPlan, cepstra
from pipeline.core.features.compiled import entry, kernel
from pipeline.core.features.envelope import (
    EnvelopePlan,
    Envelopes,
    demodulate,
    envelope_kurtosis,
    envelope_spectrum,
    resample_to_angle,
    sharpest_bands,
    sharpest_spectrum,
    whiten,
)
from pipeline.core.features.lanes import LANES, load, splat, store
from pipeline.core.features.lines import (
    SHARE_BINS,
    coherent,
    envelope_lines,
    estimate,
    family,
    gear_mesh,
    order_line,
)
from pipeline.core.features.spectral import SHAPE_COLUMNS, TOTAL, bands, mains, shape, velocities
from pipeline.core.features.spectrum import SLOW_RPM, Spectra, SpectrumPlan, load_windows, power_spectra, transform
from pipeline.core.features.speed import refine
from pipeline.core.features.table import (
    AT,
    BANDS,
    FEATURES,
    LEVELS,
    ORDERS,
    columns,
    order_name,
)
from pipeline.core.features.time_domain import (
    MEAN,
    PARTIALS,
    QUARTERS,
    Float64,
    quarter,
    samples_at,
    shared_quarters,
    time_domain,
)
from pipeline.core.records import Float32


class Plan(NamedTuple):
    """What all rows of one rate, length and setting share."""

    spectrum: SpectrumPlan
    envelope: EnvelopePlan
    cepstrum: CepstrumPlan
    has_envelope: bool
    has_cepstrum: bool
    complete: bool  # False = the core vector only
    slip_tolerance: float
    least_confidence: float
    wanted: NDArray[np.bool_]  # (F,) columns that are computed: all of them, or the core vector


class Rows(NamedTuple):
    """What is known of each row. n is a multiple of LANES; the last row is repeated to fill it up."""

    address: NDArray[np.int64]  # (n,) of the first sample
    turns: Float64  # (n,) of the shaft during the window; NaN = not known
    low_turns: Float64  # (n,) range in which they are estimated or refined; NaN = neither is wanted
    high_turns: Float64
    used: NDArray[np.bool_]  # (n,) whether a refined speed is used; else it is only found
    found: Float64  # (n,) result: the turns of the shaft's harmonics; NaN = none stand, or nobody looked
    to_m_s2: Float64  # (n,) factor from the row's unit; NaN = not an acceleration
    lines: Float64  # (n, 4) orders of outer race, inner race, twice the spin, cage; NaN = not known
    teeth: Float64  # (n, wheels) on this shaft; NaN = none
    trace_first: NDArray[np.int64]  # (n,) pieces [first, first + count) of the traces below
    trace_count: NDArray[np.int64]  # (n,) 0 = the speed does not change within the window
    trace_at: Float64
    trace_turns: Float64


class Work(NamedTuple):
    """Scratch, made once per plan and thread."""

    spectra: Spectra
    re2: Float32
    im2: Float32
    envelopes: Envelopes
    found: Float32  # (32 * LANES,)
    blocks: Float32
    mean: Float32  # (LANES,)
    total: Float32  # (LANES,)
    turns: Float64  # (LANES,) of the shaft, stated, refined or estimated
    peaks: Float64  # (3, MOST_PEAKS) near the shaft's harmonics
    parts: Float64  # (2, QUARTERS, PARTIALS)
    merged: Float64  # (PARTIALS,)
    psi: Float32


FLAT_RATIO = 1e-6  # a peak-to-peak below this share of the largest value is rounding
SHAFT_ORDERS = np.array(ORDERS)
ORDER_COLUMNS = columns(*(order_name(order) for order in ORDERS))
BAND_COLUMNS = columns(*BANDS)
MOVING_COLUMNS = columns(  # features of a window in which something moves
    *(f.name for f in FEATURES if f.name not in LEVELS and f.stage not in ("speed", "baseline"))
)


@entry
def address_of(x: Float32) -> int:
    """Address of an array's first element; ten times faster than asking NumPy."""
    return x.ctypes.data


@entry
def compute_rows(plan: Plan, rows: Rows, count: int, work: Work, out: Float32) -> None:
    """Features of rows [0, count) -> out (count, F), which is full of NaN before."""
    for first in range(0, count, LANES):
        last = min(first + LANES, count)
        for row in range(first, last):
            _time_row(plan, rows, row, work, out)
            work.mean[row - first] = work.merged[MEAN]
        work.mean[last - first :] = work.mean[last - first - 1]
        _spectrum_rows(plan, rows, first, last, work, out)
        for row in range(first, last):
            _only_what_is_known(plan, out[row])


@kernel
def _only_what_is_known(plan: Plan, out: Float32) -> None:
    """Sets to NaN what is infinite or not wanted, and all but the levels of a window that does not move.

    A window does not move if its values differ by no more than rounding.
    """
    largest = abs(out[AT.mean]) + out[AT.peak]
    if not out[AT.p2p] > FLAT_RATIO * largest:  # NaN is not
        for i in range(MOVING_COLUMNS.shape[0]):
            out[MOVING_COLUMNS[i]] = np.nan
    for i in range(out.shape[0]):
        if np.isinf(out[i]):
            out[i] = np.nan
    if not plan.complete:
        for i in range(out.shape[0]):
            if not plan.wanted[i]:
                out[i] = np.nan


@kernel
def _time_row(plan: Plan, rows: Rows, row: int, work: Work, out: Float32) -> None:
    """Time-domain features; quarters that the row before has summed are taken from there."""
    n = plan.spectrum.length
    current, before = row % 2, (row + 1) % 2
    shared = shared_quarters(rows.address, row, n)
    for i in range(QUARTERS):
        if i < shared:
            for j in range(PARTIALS):
                work.parts[current, i, j] = work.parts[before, i + QUARTERS - shared, j]
        else:
            begin, end = i * n // QUARTERS, (i + 1) * n // QUARTERS
            x = samples_at(rows.address[row] + 4 * begin, end - begin)
            quarter(x, plan.complete, work.psi, work.found[:LANES], work.parts[current, i])
    time_domain(work.parts[current], plan.spectrum.rate_hz, plan.complete, work.merged, out[row])


@kernel
def _spectrum_rows(plan: Plan, rows: Rows, first: int, last: int, work: Work, out: Float32) -> None:
    p, s = plan.spectrum, work.spectra
    load_windows(p, rows.address, first, work.mean, s.re, s.im)
    if transform(p, s.re, s.im, work.re2, work.im2) == 1:
        s = Spectra(work.re2, work.im2, s.power, s.logs, s.log_blocks)
        free_re, free_im = work.spectra.re, work.spectra.im
    else:
        free_re, free_im = work.re2, work.im2
    power_spectra(p, s, work.blocks, work.found)
    shape(p, s, work.blocks, work.found)
    store(work.total, 0, load(work.found, TOTAL * LANES))
    for lane in range(last - first):
        for i in range(SHAPE_COLUMNS.shape[0]):
            out[first + lane, SHAPE_COLUMNS[i]] = work.found[i * LANES + lane]
    bands(p, s, work.total, work.blocks, work.found)
    count = BAND_COLUMNS.shape[0]
    for lane in range(last - first):
        for i in range(count):
            out[first + lane, BAND_COLUMNS[i]] = work.found[i * LANES + lane]
        if plan.complete:
            out[first + lane, AT.flux] = work.found[count * LANES + lane]
            out[first + lane, AT.mains_hum] = mains(p, s, work.total, lane)
    velocities(p, s, work.found)
    for lane in range(last - first):
        _order_row(plan, rows, s, first + lane, lane, work, out)
    if plan.has_cepstrum:
        _cepstrum_rows(plan, s, first, last, free_re, free_im, work, out)
    if plan.has_envelope:
        _envelope_rows(plan, rows, s, first, last, work, out)


@kernel
def _order_row(plan: Plan, rows: Rows, s: Spectra, row: int, lane: int, work: Work, out: Float32) -> None:
    """The shaft speed, and the features that follow from it in the power spectrum."""
    p = plan.spectrum
    turns, confidence = rows.turns[row], 1.0
    if np.isnan(turns):
        confidence = np.nan
        if rows.low_turns[row] > 0:
            turns, confidence = estimate(
                s.power, s.logs, s.log_blocks, p.bins, lane, rows.low_turns[row], rows.high_turns[row]
            )
            if not confidence >= plan.least_confidence:
                turns = np.nan
    elif rows.low_turns[row] > 0 and rows.trace_count[row] == 0:
        low, high = rows.low_turns[row], rows.high_turns[row]
        found, sure = refine(s, p.bins, lane, p.delta_f_hz, low, high, work.peaks)
        if sure >= plan.least_confidence:
            rows.found[row] = found
            if rows.used[row]:
                turns, confidence = found, sure
    work.turns[lane] = turns
    rpm = turns * p.delta_f_hz * 60
    out[row, AT.speed_used], out[row, AT.speed_confidence] = rpm, confidence

    slow, low, last = p.velocity_bins
    edge = slow if rpm < SLOW_RPM else low
    square = np.nan
    if edge > 0 and not np.isnan(rows.to_m_s2[row]):
        square = np.float64(work.found[lane]) + (np.float64(work.found[LANES + lane]) if rpm < SLOW_RPM else 0.0)
    out[row, AT.velocity_rms] = 1000 * rows.to_m_s2[row] * np.sqrt(square)

    for i in range(ORDER_COLUMNS.shape[0]):
        if plan.wanted[ORDER_COLUMNS[i]]:
            place = SHAFT_ORDERS[i] * turns
            out[row, ORDER_COLUMNS[i]] = order_line(s, p.bins, lane, place, plan.slip_tolerance)
    if not plan.complete:
        return
    if edge > 0 and turns > 0:
        half = max(SHARE_BINS, plan.slip_tolerance * turns)
        begin, end = int(np.ceil(turns - half)), int(np.floor(turns + half))
        if begin >= edge and end <= last:
            share = 0.0
            for k in range(begin, end + 1):
                share += s.power[k * LANES + lane] * p.velocity_weight[k]
            square = np.float64(work.found[lane]) + (np.float64(work.found[LANES + lane]) if rpm < SLOW_RPM else 0.0)
            out[row, AT.ord_1_velocity_share] = share / square
    mesh, side = gear_mesh(s, p.bins, lane, turns, rows.teeth[row], plan.slip_tolerance)
    out[row, AT.gmf], out[row, AT.gmf_sidebands] = mesh, side


@kernel
def _cepstrum_rows(
    plan: Plan, s: Spectra, first: int, last: int, re: Float32, im: Float32, work: Work, out: Float32
) -> None:
    length, e = plan.cepstrum.length, work.envelopes
    needed = False
    for row in range(first, last):
        needed |= work.turns[row - first] > 0
    if not needed:
        return
    # The envelope still needs s.re and s.im; the halves of the free pair serve as four buffers here.
    middle = (length // 2 + 1) * LANES
    cepstra(plan.cepstrum, s, re[:middle], im[:middle], re[middle:], im[middle:], work.blocks, e.logs, e.log_blocks)
    for row in range(first, last):
        lane = row - first
        if work.turns[lane] > 0:
            place = length / work.turns[lane]
            out[row, AT.cepstrum_shaft] = family(
                work.blocks, e.logs, e.log_blocks, length // 2, lane, place, plan.slip_tolerance, 0.0
            )[0]


@kernel
def _envelope_rows(plan: Plan, rows: Rows, s: Spectra, first: int, last: int, work: Work, out: Float32) -> None:
    p, e = plan.envelope, work.envelopes
    whiten(p, plan.spectrum.bins, s, e.gains)
    where = demodulate(p, s, e, p.low, p.high)
    inside = splat(0.0)
    for k in range(p.low, p.high):
        inside = inside + load(s.power, k * LANES)
    store(work.found, 0, inside)
    even, odd = (e.re, e.im) if where == 0 else (e.re2, e.im2)
    for row in range(first, last):
        lane = row - first
        if plan.complete:
            out[row, AT.env_kurtosis] = envelope_kurtosis(p, e, lane)
            out[row, AT.env_rms] = 10 * np.log10(work.found[lane] / work.total[lane])
        if rows.trace_count[row] > 0:
            begin = rows.trace_first[row]
            end = begin + rows.trace_count[row]
            resample_to_angle(
                even,
                odd,
                p.length,
                lane,
                e.sums[lane],
                rows.trace_at[begin:end],
                rows.trace_turns[begin:end],
                work.blocks,
            )
            e.sums[lane] = 0.0
    envelope_spectrum(p, e, where)
    for row in range(first, last):
        lane = row - first
        turns, lines = work.turns[lane], rows.lines[row]
        envelope_lines(p.bins, e, lane, turns, lines, plan.slip_tolerance, plan.complete, out[row])
    if p.bands.shape[0] > 0:
        sharpest_bands(p, s, e, work.blocks)
        sharpest_spectrum(p, s, e, work.blocks)
        for row in range(first, last):
            lane = row - first
            turns, bins, lines = work.turns[lane], int(work.blocks[lane]), rows.lines[row]
            if rows.trace_count[row] == 0 and coherent(bins, e, lane, turns, lines, plan.slip_tolerance):
                envelope_lines(bins, e, lane, turns, lines, plan.slip_tolerance, plan.complete, out[row])
