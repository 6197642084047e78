"""From windows to the rows of the compiled kernel, and back.

Windows of one rate, length and number of channels are computed together. Their rows are sorted by channel, so that a
window stands behind the one that it overlaps with. Windows that keep their rate are read where they lie; only
their addresses are passed on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.bandwidth import Resampler, resampler
from pipeline.core.features.cepstrum import cepstrum_plan
from pipeline.core.features.envelope import Envelopes, envelope_plan, no_envelope
from pipeline.core.features.kernel import compute_rows
from pipeline.core.features.lanes import LANES
from pipeline.core.features.plan import Plan, Rows, Work
from pipeline.core.features.spec import FeatureSpec
from pipeline.core.features.spectral import M_S2
from pipeline.core.features.spectrum import BLOCK, Spectra, spectrum_plan
from pipeline.core.features.table import COLUMN, FEATURES, NAMES, ORDERS, stage_columns
from pipeline.core.features.time_domain import PARTIALS, QUARTERS
from pipeline.core.records import Float32, Window

STAGES = ("time", "spectrum", "orders", "cepstrum", "envelope", "speed")
WHEELS = 4  # gears on one shaft that are looked at
STAGGER = 80  # float32 between buffers: arrays a whole page apart would evict each other from the cache
ROWS_AT_A_TIME = 96  # of those that are brought to the common bandwidth: bounds the memory for them
LEAST_CEPSTRUM_BINS = 64
WORKS_KEPT = 8  # per thread


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Everything about windows of one rate and length."""

    resample: Resampler
    plan: Plan


@lru_cache(maxsize=64)
def _stage(spec: FeatureSpec, rate_hz: float, length: int) -> _Stage:
    resample = resampler(rate_hz, length, spec.bandwidth_hz)
    spectrum = spectrum_plan(resample.length, resample.rate_hz, spec.bandwidth_hz, spec.mains_hz)
    complete = spec.vector == "complete"
    low_hz, high_hz = spec.envelope_low_hz, spec.envelope_high_hz
    envelope = envelope_plan(spectrum, low_hz, high_hz, kurtogram=spec.envelope_band == "kurtogram")
    core = {feature.name for feature in FEATURES if feature.core}
    plan = Plan(
        spectrum=spectrum,
        envelope=envelope or no_envelope(),
        cepstrum=cepstrum_plan(spectrum),
        has_envelope=envelope is not None,
        has_cepstrum=complete and spectrum.bins >= LEAST_CEPSTRUM_BINS,
        complete=complete,
        slip_tolerance=spec.slip_tolerance,
        least_confidence=spec.speed_confidence,
        columns=np.array([stage_columns(stage).start for stage in STAGES], np.int64),
        orders=np.array(ORDERS),
        core_orders=np.array([name in core for name in NAMES[COLUMN["ord_0_5"] :][: len(ORDERS)]]),
    )
    return _Stage(resample, plan)


class _Works(threading.local):
    """Scratch of each plan, one set a thread, the least recently used dropped first."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[_Stage, Work]] = {}

    def get(self, stage: _Stage) -> Work:
        kept = self.of.pop(id(stage), None) or (stage, _work(stage.plan))
        self.of[id(stage)] = kept
        while len(self.of) > WORKS_KEPT:
            del self.of[next(iter(self.of))]
        return kept[1]


_works = _Works()


def _work(plan: Plan) -> Work:
    spectrum, envelope = plan.spectrum, plan.envelope
    n, bins, m = spectrum.length, spectrum.bins, max(envelope.length, plan.cepstrum.length)
    points = n if n % 2 else n // 2 + 1
    blocks = bins // BLOCK + 1
    scratch = LANES * max(4 * blocks, m + 2, 32)
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


def compute(spec: FeatureSpec, windows: Sequence[Window]) -> list[Float32]:
    """Features (C, F) of each window; all NaN where a window has no samples.

    Windows of any rates, lengths and channels may come together; a window's numbers do not depend on its company.
    """
    alike: dict[tuple[float, tuple[int, ...]], list[int]] = {}
    results: list[Float32] = [np.empty(0, np.float32)] * len(windows)
    for i, window in enumerate(windows):
        if window.samples is None:
            results[i] = np.full((len(window.channels), len(NAMES)), np.nan, np.float32)
        else:
            alike.setdefault((window.rate_hz, window.samples.shape), []).append(i)
    for (rate_hz, (channels, length)), members in alike.items():
        stage = _stage(spec, rate_hz, length)
        size = len(members) if stage.resample.taps is None else max(1, ROWS_AT_A_TIME // channels)
        for first in range(0, len(members), size):
            some = members[first : first + size]
            values = _compute_alike(stage, [windows[i] for i in some], channels)
            for i, value in zip(some, values, strict=True):
                results[i] = value
    return results


def _compute_alike(stage: _Stage, windows: Sequence[Window], channels: int) -> Float32:
    """Windows of one rate and shape -> (windows, channels, F)."""
    samples = [np.ascontiguousarray(w.samples, np.float32) if _scattered(w) else w.samples for w in windows]
    first = np.array([x.__array_interface__["data"][0] for x in samples if x is not None], np.int64)
    step = np.array([x.strides[0] for x in samples if x is not None], np.int64)
    address = (first + step * np.arange(channels)[:, None]).ravel()  # channel by channel
    count = len(address)
    padded = np.concatenate([address, np.full(-count % LANES, address[-1])])
    resampled = stage.resample.at(padded)  # kept alive until its rows are read
    out = np.full((count, len(NAMES)), np.nan, np.float32)
    rows = _rows(stage, windows, channels, padded if resampled is None else _addresses(resampled))
    compute_rows(stage.plan, rows, count, _works.get(stage), out)
    return np.ascontiguousarray(out.reshape(channels, len(windows), len(NAMES)).swapaxes(0, 1))


def _scattered(window: Window) -> bool:
    x = window.samples
    return x is not None and (x.strides[1] != 4 or x.dtype != np.float32)


def _addresses(x: Float32) -> NDArray[np.int64]:
    return x.ctypes.data + x.strides[0] * np.arange(x.shape[0], dtype=np.int64)


def _rows(stage: _Stage, windows: Sequence[Window], channels: int, address: NDArray[np.int64]) -> Rows:
    seconds = 1 / stage.plan.spectrum.delta_f_hz
    share = stage.resample.length_in / stage.resample.rate_in_hz / seconds

    def rows_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
        tiled = np.tile(values, (channels, *([1] * (values.ndim - 1))))
        return np.concatenate([tiled, np.repeat(tiled[-1:], len(address) - len(tiled), axis=0)])

    known = np.array(
        [
            (
                np.nan if w.speed_rpm is None else w.speed_rpm / 60,
                *((np.nan, np.nan) if w.speed_range_rpm is None else np.divide(w.speed_range_rpm, 60)),
                *(
                    (np.nan,) * 4
                    if w.orders is None
                    else (w.orders.bpfo, w.orders.bpfi, 2 * w.orders.bsf, w.orders.ftf)
                ),
                M_S2.get(w.unit, np.nan),
                *(*w.gear_teeth, *(np.nan,) * WHEELS)[:WHEELS],
            )
            for w in windows
        ],
        np.float64,
    )
    by_row = rows_of(known)
    traces = [_trace(w, stage.resample.length_in, share) for w in windows]
    lengths = np.array([len(at) for at, _ in traces])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    turns = by_row[:, 0] * seconds
    for i in np.flatnonzero(lengths):
        turns[i + len(windows) * np.arange(channels)] = traces[i][1][-1] * seconds
    return Rows(
        address=address,
        turns=turns,
        low_turns=by_row[:, 1] * seconds,
        high_turns=by_row[:, 2] * seconds,
        lines=np.ascontiguousarray(by_row[:, 3:7]),
        teeth=np.ascontiguousarray(by_row[:, 8:]),
        to_m_s2=np.ascontiguousarray(by_row[:, 7]),
        trace_first=rows_of(starts).astype(np.int64),
        trace_count=rows_of(lengths).astype(np.int64),
        trace_at=np.array([x for at, _ in traces for x in at], np.float64),
        trace_turns=np.array([x * seconds for _, turned in traces for x in turned], np.float64),
    )


def _trace(window: Window, length: int, share: float) -> tuple[list[float], list[float]]:
    """Where each piece of constant speed ends, 0 to 1, and the turns by then in units of (turns per second) x window.

    `share` is by how much the window was longer before it was resampled.
    """
    if window.speed_trace is None:
        return [], []
    at, turned, total = [], [], 0.0
    ends = [*(start for start, _ in window.speed_trace[1:]), length]
    for (start, rpm), end in zip(window.speed_trace, ends, strict=True):
        begin, stop = min(start / length * share, 1.0), min(end / length * share, 1.0)
        if stop > begin:
            total += (stop - begin) * rpm / 60
            at.append(stop)
            turned.append(total)
    return at, turned
