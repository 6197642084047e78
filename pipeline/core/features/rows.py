"""What is known of each window, as the arrays that the compiled kernel reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.bandwidth import Resampler
from pipeline.core.features.lanes import LANES
from pipeline.core.features.plan import Plan, Rows
from pipeline.core.features.spectral import M_S2
from pipeline.core.records import Window

WHEELS = 4  # gears on one shaft that are looked at
NAN = float("nan")
NO_PIECES = np.empty(0)


def rows_of(plan: Plan, resample: Resampler, windows: Sequence[Window], address: NDArray[np.int64]) -> Rows:
    """The rows of windows, channel by channel; address (rows,) of their samples, filled up to whole lanes."""
    seconds = 1 / plan.spectrum.delta_f_hz
    index = np.minimum(np.arange(-(-len(address) // LANES) * LANES), len(address) - 1)
    address, which = address[index], index % len(windows)
    known = _known(windows)[which]
    turns = known[:, 0] * seconds
    count = np.zeros(len(address), np.int64)
    first, at, turned = count, NO_PIECES, NO_PIECES
    if any(w.speed_trace is not None for w in windows):
        share = resample.length_in / resample.rate_in_hz / seconds
        traces = [_trace(w, resample.length_in, share) for w in windows]
        lengths = np.array([len(ends) for ends, _ in traces])
        count, first = lengths[which], (np.cumsum(lengths) - lengths)[which]
        at = np.array([x for ends, _ in traces for x in ends])
        turned = np.array([x * seconds for _, sums in traces for x in sums])
        traced = count > 0
        turns[traced] = turned[(first + count - 1)[traced]]
    return Rows(
        address=address,
        turns=turns,
        low_turns=known[:, 1] * seconds,
        high_turns=known[:, 2] * seconds,
        to_m_s2=known[:, 3].copy(),
        lines=known[:, 4:8].copy(),
        teeth=known[:, 8:].copy(),
        trace_first=first,
        trace_count=count,
        trace_at=at,
        trace_turns=turned,
    )


def _known(windows: Sequence[Window]) -> NDArray[np.float64]:
    """Speed and range in Hz, unit, orders and teeth of each window: (windows, 8 + WHEELS). Neighbours mostly agree."""
    distinct: list[tuple[float, ...]] = []
    which: list[int] = []
    before: tuple[object, ...] = ()
    for w in windows:
        said = (w.speed_rpm, w.orders, w.unit, w.gear_teeth, w.speed_range_rpm)
        if said != before:
            before = said
            distinct.append(_numbers(w))
        which.append(len(distinct) - 1)
    return np.array(distinct)[which]


def _numbers(window: Window) -> tuple[float, ...]:
    low, high = (NAN, NAN) if window.speed_range_rpm is None else window.speed_range_rpm
    orders = window.orders
    lines = (NAN,) * 4 if orders is None else (orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf)
    teeth = (*window.gear_teeth, *(NAN,) * WHEELS)[:WHEELS]
    speed = NAN if window.speed_rpm is None else window.speed_rpm / 60
    return (speed, low / 60, high / 60, M_S2.get(window.unit, NAN), *lines, *teeth)


def _trace(window: Window, length: int, share: float) -> tuple[list[float], list[float]]:
    """Where each piece of constant speed ends, 0 to 1, and the turns by then in units of (turns per second) x window.

    `share` is by how much the window was longer before it was resampled.
    """
    at: list[float] = []
    turned: list[float] = []
    if window.speed_trace is None:
        return at, turned
    total = 0.0
    ends = [*(start for start, _ in window.speed_trace[1:]), length]
    for (start, rpm), end in zip(window.speed_trace, ends, strict=True):
        begin, stop = min(start / length * share, 1.0), min(end / length * share, 1.0)
        if stop > begin:
            total += (stop - begin) * rpm / 60
            at.append(stop)
            turned.append(total)
    return at, turned
