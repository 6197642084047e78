"""The spectra of one window for people to look at, as the feature kernel itself computes them.

`pipeline.core.views` draws pictures in double precision. Here the numbers on the screen are those that the features
are made of: the kernel runs once over one window, and what it leaves in its buffers is copied out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.features.batch import _readable, _stage, _work, rows_of
from pipeline.core.features.kernel import address_of, compute_rows
from pipeline.core.features.lanes import LANES
from pipeline.core.features.lines import FLOOR_BINS, SHAFT_BINS
from pipeline.core.features.table import NAMES, FeatureSpec
from pipeline.core.records import Float32, Window


@dataclass(frozen=True, slots=True, eq=False)
class WindowSpectra:
    """What the kernel computes from one channel of one window."""

    delta_f_hz: float  # of both spectra
    power: Float32  # (bins,) one-sided power P_k: its sum is the mean square of the samples
    envelope: Float32  # (bins,) power of the whitened squared envelope; empty where the rate does not carry the band
    values: Float32  # (F,) the features of this channel


def spectra(spec: FeatureSpec, window: Window, channel: int = 0) -> WindowSpectra:
    """The spectra and features of one channel of a whole window.

    Raises:
        ValueError: samples of the window are missing.
    """
    if window.samples is None:
        msg = "expected a window without gaps, found one without samples"
        raise ValueError(msg)
    samples = _readable(window.samples[channel : channel + 1])
    stage = _stage(spec, window.rate_hz, samples.shape[1])
    address = np.array([address_of(samples)], np.int64)
    resampled = stage.resample.at(address)  # kept alive until it is read
    if resampled is not None:
        address = np.array([address_of(resampled)], np.int64)
    out = np.full((1, len(NAMES)), np.nan, np.float32)
    work = _work(stage.plan)
    compute_rows(stage.plan, rows_of(stage.plan, stage.resample, [window], address), 1, work, out)
    plan = stage.plan
    bins = plan.envelope.bins if plan.has_envelope else 0
    return WindowSpectra(
        delta_f_hz=plan.spectrum.delta_f_hz,
        power=work.spectra.power.reshape(-1, LANES)[: plan.spectrum.bins, 0].copy(),
        envelope=work.envelopes.power[: bins * LANES].reshape(-1, LANES)[:, 0].copy(),
        values=out[0],
    )


def line_db(power: Float32, place: float, tolerance: float, shaft: float = 0.0) -> float:
    """How far a line at bin `place` stands over its floor, in dB; NaN where it cannot be measured.

    The rule of `pipeline.core.features.lines.line`, for a cursor that people put anywhere. `shaft`: bins per turn,
    whose multiples say nothing about a bearing; 0 = leave nothing out.
    """
    bins, half = len(power), max(0.5, tolerance * place)
    first, last = int(np.ceil(place - half)), int(np.floor(place + half))
    if not place > 0 or first < 2 or last >= bins - 2:
        return float("nan")
    k = np.arange(first, last + 1)
    if shaft > 0:
        harmonic = np.floor(place / shaft + 0.5) * shaft
        k = k[(k < np.ceil(harmonic - SHAFT_BINS)) | (k > np.floor(harmonic + SHAFT_BINS))]
    if not len(k):
        return float("nan")
    begin, end = max(2, first - FLOOR_BINS), min(last + 1 + FLOOR_BINS, bins)
    around = np.concatenate([power[begin:first], power[last + 1 : end]]).astype(np.float64)
    return float(10 * (np.log10(np.float64(power[k].max())) - np.log10(around).mean()))
