"""Features: windows -> one row of numbers per channel, the same numbers however the windows came together.

window -> common bandwidth -> time domain -> one FFT -> spectrum -> squared envelope -> (C, F)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.core.features.bandwidth import Resampler, resampler
from pipeline.core.features.envelope import (
    LINES,
    EnvelopePlan,
    envelope,
    envelope_plan,
    envelope_spectra,
    line_orders,
)
from pipeline.core.features.spectral import M_S2, SpectrumPlan, spectra, spectral, spectrum_plan
from pipeline.core.features.table import BAND_COUNT, COLUMN, NAMES, schema_name
from pipeline.core.features.time_domain import time_domain
from pipeline.core.records import Float32, Window

IN_TIME = (
    *("mean", "rms", "peak", "crest", "kurtosis", "skewness"),
    *("shape", "impulse", "clearance", "zero_crossing"),
)
IN_SPECTRUM = (
    *(f"band_{k:02d}" for k in range(BAND_COUNT)),
    *("centroid", "spread", "entropy", "dominant", "velocity_rms"),
)
IN_ENVELOPE = ("env_bpfo", "env_bpfi", "env_2bsf", "env_ftf", "env_shaft")

BATCH = 16  # windows at a time: their spectra stay in the processor's cache


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """The settings that decide what the numbers mean; all of them are part of the schema's name."""

    bandwidth_hz: float = 5000.0
    envelope_low_hz: float = 1000.0
    envelope_high_hz: float = 5000.0
    slip_tolerance: float = 0.02

    @property
    def schema(self) -> str:
        """Name of the feature schema under these settings."""
        return schema_name(repr(self))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    resample: Resampler
    spectrum: SpectrumPlan
    envelope: EnvelopePlan | None


@lru_cache(maxsize=64)
def _plan(spec: FeatureSpec, rate_hz: float, length: int) -> _Plan:
    resample = resampler(rate_hz, length, spec.bandwidth_hz)
    shape = resample.length, resample.rate_hz
    return _Plan(
        resample=resample,
        spectrum=spectrum_plan(*shape, spec.bandwidth_hz),
        envelope=envelope_plan(*shape, spec.envelope_low_hz, spec.envelope_high_hz),
    )


def compute(spec: FeatureSpec, windows: Sequence[Window]) -> list[Float32]:
    """Features (C, F) of each window; all NaN where a window has no samples.

    Windows of any rates, lengths and channels may come together: those of one rate and length are
    computed in one batch, and a window's numbers do not depend on its company.
    """
    results = [np.full((len(window.channels), len(NAMES)), np.nan, np.float32) for window in windows]
    alike: dict[tuple[float, int], list[int]] = {}
    for i, window in enumerate(windows):
        if window.samples is not None:
            alike.setdefault((window.rate_hz, window.samples.shape[1]), []).append(i)
    for (rate_hz, length), members in alike.items():
        plan = _plan(spec, rate_hz, length)
        for first in range(0, len(members), BATCH):
            batch = members[first : first + BATCH]
            values = _compute_alike(spec, plan, [windows[i] for i in batch])
            row = 0
            for i in batch:
                channels = len(windows[i].channels)
                results[i][:] = values[row : row + channels]
                row += channels
    return results


def _compute_alike(spec: FeatureSpec, plan: _Plan, windows: Sequence[Window]) -> Float32:
    """Windows of one rate and length -> (all their channels, F)."""
    x = np.concatenate([plan.resample(w.samples) for w in windows if w.samples is not None])
    channels = [len(w.channels) for w in windows]
    in_time = time_domain(x, plan.resample.rate_hz)
    spectrum = spectra(x, in_time[:, 0], plan.spectrum)
    to_m_s2 = np.repeat(np.array([M_S2.get(w.unit, np.nan) for w in windows], np.float32), channels)
    in_spectrum = spectral(spectrum, plan.spectrum, to_m_s2)
    if plan.envelope is None:
        in_envelope = np.full((len(x), LINES), np.nan, np.float32)
    else:
        shaft_hz = [np.nan if w.speed_rpm is None else w.speed_rpm / 60 for w in windows]
        lines_hz = np.stack([f * line_orders(w.orders) for f, w in zip(shaft_hz, windows, strict=True)])
        lines_hz = np.repeat(lines_hz.astype(np.float32), channels, axis=0)
        ses = envelope_spectra(spectrum, plan.envelope)
        in_envelope = envelope(ses, plan.envelope, lines_hz, spec.slip_tolerance)
    values = np.full((len(x), len(NAMES)), np.nan, np.float32)
    for names, columns in ((IN_TIME, in_time), (IN_SPECTRUM, in_spectrum), (IN_ENVELOPE, in_envelope)):
        values[:, [COLUMN[name] for name in names]] = columns
    return values
