"""From windows to the rows of the compiled kernel, and back.

Windows of one rate, length and number of channels are computed together. Their rows are sorted by channel, so that a
window follows the one that it overlaps with. The samples of windows that keep their rate are not copied: the kernel
gets their addresses, the plan of their rate and length, and what is known of each window as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.bandwidth import Resampler, resampler
from pipeline.core.features.cepstrum import cepstrum_plan
from pipeline.core.features.envelope import Envelopes, envelope_plan, no_envelope
from pipeline.core.features.kernel import Plan, Rows, Work, address_of, compute_rows
from pipeline.core.features.lanes import LANES
from pipeline.core.features.spectral import M_S2
from pipeline.core.features.spectrum import BLOCK, Spectra, spectrum_plan
from pipeline.core.features.speed import MOST_PEAKS
from pipeline.core.features.table import FAMILIES, FEATURES, NAMES, FeatureSpec
from pipeline.core.features.time_domain import PARTIALS, QUARTERS
from pipeline.core.records import Float32, Window
from pipeline.core.speed import look

WHEELS = 4  # gears on one shaft that are looked at
NAN = float("nan")
NO_PIECES = np.empty(0)
STAGGER = 80  # float32 between buffers: arrays that lie a whole page apart evict each other from the cache
ROWS_AT_A_TIME = 96  # rows that are resampled together: bounds the memory for them
LEAST_CEPSTRUM_BINS = 64
STAGES_KEPT = 16
NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """Windows of one rate and shape, the addresses of their samples, and their features."""

    members: list[int]  # numbers of the windows
    length: int
    rate_hz: float
    samples: list[Float32]  # (C, length) each
    address: NDArray[np.int64]  # (C * windows,) of the first sample of every row, channel by channel
    values: Float32  # (windows, C, F)
    found_rpm: NDArray[np.float64]  # (windows, C) speed of the shaft's harmonics; NaN = none stand, or nobody looked


def compute(spec: FeatureSpec, windows: Sequence[Window]) -> list[Float32]:
    """Features (C, F) of each window; all NaN where a window has no samples."""
    results = [no_features(window) if window.samples is None else NOTHING for window in windows]
    for alike in compute_alike(spec, windows):
        for i, value in zip(alike.members, alike.values, strict=True):
            results[i] = value
    return results


def no_features(window: Window) -> Float32:
    """The row of a window without samples: all NaN."""
    return np.full((len(window.channels), len(NAMES)), np.nan, np.float32)


def compute_alike(spec: FeatureSpec, windows: Sequence[Window]) -> Iterator[Alike]:
    """Features of all windows that have samples, in batches of windows of one rate and shape.

    Windows of any rates, lengths and channels may come together. A window's numbers do not depend on the others.
    """
    alike: dict[tuple[float, tuple[int, ...]], list[int]] = {}
    for i, window in enumerate(windows):
        if window.samples is not None:
            alike.setdefault((window.rate_hz, window.samples.shape), []).append(i)
    for (rate_hz, (channels, length)), members in alike.items():
        stage = _stage(spec, rate_hz, length)
        size = len(members) if stage.resample.taps is None else max(1, ROWS_AT_A_TIME // channels)
        for first in range(0, len(members), size):
            some = members[first : first + size]
            chosen = [windows[i] for i in some]
            samples = [_readable(w.samples) for w in chosen if w.samples is not None]
            at = np.array([address_of(x) for x in samples], np.int64)
            step = np.array([x.strides[0] for x in samples], np.int64)
            address = (at + step * np.arange(channels)[:, None]).ravel()
            values, found_rpm = _compute_rows(stage, chosen, channels, address)
            yield Alike(some, length, rate_hz, samples, address, values, found_rpm)


def _compute_rows(
    stage: _Stage, windows: Sequence[Window], channels: int, address: NDArray[np.int64]
) -> tuple[Float32, NDArray[np.float64]]:
    """Windows of one rate and shape -> (windows, channels, F), and the speed that was found, (windows, channels)."""
    count = len(address)
    resampled = stage.resample.at(address)  # kept alive until its rows are read
    if resampled is not None:
        address = address_of(resampled) + resampled.strides[0] * np.arange(count)
    out = np.full((count, len(NAMES)), np.nan, np.float32)
    rows = rows_of(stage.plan, stage.resample, windows, address)
    try:
        work = stage.scratch.pop()
    except IndexError:
        work = _work(stage.plan)
    compute_rows(stage.plan, rows, count, work, out)
    stage.scratch.append(work)
    found_rpm = (rows.found[:count] * (60 * stage.plan.spectrum.delta_f_hz)).reshape(channels, len(windows)).T
    if channels == 1:
        return out[:, None], found_rpm
    return np.ascontiguousarray(out.reshape(channels, len(windows), len(NAMES)).swapaxes(0, 1)), found_rpm


def _readable(x: Float32) -> Float32:
    """Each channel in one piece; where it is not, a copy."""
    return x if x.strides[1] == 4 and x.dtype == np.float32 else np.ascontiguousarray(x, np.float32)


def rows_of(plan: Plan, resample: Resampler, windows: Sequence[Window], address: NDArray[np.int64]) -> Rows:
    """The rows of windows, channel by channel, filled up to whole lanes; address (rows,) of their samples."""
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
        used=known[:, 3] > 0,
        found=np.full(len(address), np.nan),
        to_m_s2=known[:, 4].copy(),
        lines=known[:, 5:9].copy(),
        teeth=known[:, 9:].copy(),
        trace_first=first,
        trace_count=count,
        trace_at=at,
        trace_turns=turned,
    )


def _known(windows: Sequence[Window]) -> NDArray[np.float64]:
    """Speed and range in Hz, use of what is found, unit, orders and teeth of each window: (windows, 9 + WHEELS).

    Neighbours mostly agree, so numbers are made once per change.
    """
    distinct: list[tuple[float, ...]] = []
    which: list[int] = []
    before: tuple[object, ...] = ()
    for w in windows:
        within = (0.0, False) if w.speed_rpm is None else look(w.speed_source, w.number)
        said = (w.speed_rpm, w.orders, w.unit, w.gear_teeth, w.speed_range_rpm, within)
        if said != before:
            before = said
            distinct.append(_numbers(w, *within))
        which.append(len(distinct) - 1)
    return np.array(distinct)[which]


def _numbers(window: Window, within: float, used: bool) -> tuple[float, ...]:
    low, high = NAN, NAN
    if window.speed_rpm is None:
        low, high = window.speed_range_rpm or (NAN, NAN)
    elif within > 0:
        low, high = (1 - within) * window.speed_rpm, (1 + within) * window.speed_rpm
    orders = window.orders
    lines = [NAN if orders is None else family.order(orders) for family in FAMILIES]
    teeth = (*window.gear_teeth, *(NAN,) * WHEELS)[:WHEELS]
    speed = NAN if window.speed_rpm is None else window.speed_rpm / 60
    return (speed, low / 60, high / 60, used, M_S2.get(window.unit, NAN), *lines, *teeth)


def _trace(window: Window, length: int, share: float) -> tuple[list[float], list[float]]:
    """Where each piece of constant speed ends, 0 to 1, and the shaft's turns by then, per second of the window.

    `share`: the window's duration before resampling over that after it.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Everything about windows of one rate and length."""

    resample: Resampler
    plan: Plan
    scratch: list[Work]  # free ones; a thread takes and returns one by a single list operation each


@lru_cache(maxsize=STAGES_KEPT)
def _stage(spec: FeatureSpec, rate_hz: float, length: int) -> _Stage:
    resample = resampler(rate_hz, length, spec.bandwidth_hz)
    spectrum = spectrum_plan(resample.length, resample.rate_hz, spec.bandwidth_hz, spec.mains_hz)
    complete = spec.vector == "complete"
    low_hz, high_hz = spec.envelope_low_hz, spec.envelope_high_hz
    envelope = envelope_plan(spectrum, low_hz, high_hz, kurtogram=spec.envelope_band == "kurtogram")
    plan = Plan(
        spectrum=spectrum,
        envelope=envelope or no_envelope(),
        cepstrum=cepstrum_plan(spectrum),
        has_envelope=envelope is not None,
        has_cepstrum=complete and spectrum.bins >= LEAST_CEPSTRUM_BINS,
        complete=complete,
        slip_tolerance=spec.slip_tolerance,
        least_confidence=spec.speed_confidence,
        wanted=np.array([complete or feature.core or feature.stage == "speed" for feature in FEATURES]),
    )
    return _Stage(resample, plan, [])


def _work(plan: Plan) -> Work:
    spectrum, envelope = plan.spectrum, plan.envelope
    n, bins, m = spectrum.length, spectrum.bins, max(envelope.length, plan.cepstrum.length)
    points = n if n % 2 else n // 2 + 1
    blocks = bins // BLOCK + 1
    scratch = LANES * max(3 * blocks, m + 2, 32)
    sizes = {
        **dict.fromkeys(("re", "im", "re2", "im2"), points * LANES),
        "power": bins * LANES,
        "logs": (bins + 1) * LANES,
        "log_blocks": (blocks + 1) * LANES,
        **dict.fromkeys(("e_re", "e_im", "e_re2", "e_im2"), (envelope.length + 1) * LANES),
        "e_power": (m + 1) * LANES,
        "e_logs": (m + 1) * LANES,
        "e_log_blocks": (m // BLOCK + 2) * LANES,
        "gains": (bins + 1) * LANES,
        "sums": 2 * LANES,
        "found": 32 * LANES,
        "blocks": scratch,
        "mean": LANES,
        "total": LANES,
        "psi": n // QUARTERS + 2,
    }
    part = _carved(sizes)
    return Work(
        spectra=Spectra(part["re"], part["im"], part["power"], part["logs"], part["log_blocks"]),
        re2=part["re2"],
        im2=part["im2"],
        envelopes=Envelopes(
            re=part["e_re"],
            im=part["e_im"],
            re2=part["e_re2"],
            im2=part["e_im2"],
            power=part["e_power"],
            logs=part["e_logs"],
            log_blocks=part["e_log_blocks"],
            gains=part["gains"],
            sums=part["sums"],
        ),
        found=part["found"],
        blocks=part["blocks"],
        mean=part["mean"],
        total=part["total"],
        turns=np.zeros(LANES),
        peaks=np.zeros((3, MOST_PEAKS)),
        parts=np.zeros((2, QUARTERS, PARTIALS)),
        merged=np.zeros(PARTIALS),
        psi=part["psi"],
    )


def _carved(sizes: dict[str, int]) -> dict[str, Float32]:
    """Arrays of these sizes out of one piece of memory, each on a cache line, no two a whole page apart."""
    line = 16  # float32
    starts, end = {}, 0
    for name, size in sizes.items():
        starts[name] = end
        end += -(-size // line) * line + STAGGER
    memory = np.zeros(end + line, np.float32)
    offset = (-memory.ctypes.data // 4) % line
    return {name: memory[offset + starts[name] : offset + starts[name] + size] for name, size in sizes.items()}
