"""The feature stage beside one bare FFT of the same windows.

`full` is what the pipeline calls: Window objects in, rows out. `core` is the arithmetic alone: the same stages on the
bare samples, chunk by chunk. What the stages compute is their business; nothing here knows the list of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import rfft

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section
from benchmarks.vibration import ORDERS, SPEED_RPM, T0_NS, vibration
from pipeline.core import features
from pipeline.core.features import FeatureSpec
from pipeline.core.features.envelope import EnvelopePlan, envelope, envelope_plan, envelope_spectra, line_orders
from pipeline.core.features.spectral import M_S2, SpectrumPlan, spectra, spectral, spectrum_plan
from pipeline.core.features.table import NAMES
from pipeline.core.features.time_domain import time_domain
from pipeline.core.records import Float32, StreamKey, Window

RATE_HZ = 25_600.0
LENGTH = 4096
HOP = 1024
COUNT = 192
CHUNK = 16


def windows_of(signal: Float32, rate_hz: float, length: int, hop: int) -> list[Window]:
    """Overlapping windows cut from one stream (1, n), as views of it."""
    return [
        Window(
            key=StreamKey("bench", "de"),
            session=1,
            number=number,
            start_ns=T0_NS + round(start * 1e9 / rate_hz),
            end_ns=T0_NS + round((start + length) * 1e9 / rate_hz),
            rate_hz=rate_hz,
            channels=("x",),
            unit="g",
            samples=signal[:, start : start + length],
            coverage=1.0,
            speed_rpm=SPEED_RPM,
            orders=ORDERS,
            truth=None,
        )
        for number, start in enumerate(range(0, signal.shape[1] - length + 1, hop))
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of `pipeline.core.features` one by one, on chunks of bare samples."""

    spec: FeatureSpec
    spectrum_plan: SpectrumPlan
    envelope_plan: EnvelopePlan
    lines_hz: Float32  # (CHUNK, LINES)
    to_m_s2: Float32  # (CHUNK,)

    @classmethod
    def of(cls, spec: FeatureSpec) -> Stages:
        """For the windows of this benchmark."""
        plan = envelope_plan(LENGTH, RATE_HZ, spec.envelope_low_hz, spec.envelope_high_hz)
        if plan is None:
            msg = f"an envelope band within {RATE_HZ} Hz expected, found: {spec}"
            raise ValueError(msg)
        lines_hz = (SPEED_RPM / 60 * line_orders(ORDERS)).astype(np.float32)
        return cls(
            spec,
            spectrum_plan(LENGTH, RATE_HZ, spec.bandwidth_hz),
            plan,
            np.repeat(lines_hz[None], CHUNK, axis=0),
            np.full(CHUNK, M_S2["g"], np.float32),
        )

    def core(self, x: Float32) -> Float32:
        """Samples (CHUNK, LENGTH), strided or not -> features (CHUNK, F)."""
        x = np.ascontiguousarray(x)
        in_time = time_domain(x, RATE_HZ)
        spectrum = spectra(x, in_time[:, 0], self.spectrum_plan)
        in_spectrum = spectral(spectrum, self.spectrum_plan, self.to_m_s2)
        ses = envelope_spectra(spectrum, self.envelope_plan)
        in_envelope = envelope(ses, self.envelope_plan, self.lines_hz, self.spec.slip_tolerance)
        return np.concatenate([in_time, in_spectrum, in_envelope], axis=1)

    def cases(self, chunks: Sequence[Float32]) -> dict[str, Callable[[], object]]:
        """Each stage alone on all chunks, its inputs made beforehand."""
        whole = [np.ascontiguousarray(x) for x in chunks]
        means = [time_domain(x, RATE_HZ)[:, 0].copy() for x in whole]
        spectrums = [spectra(x, mean, self.spectrum_plan) for x, mean in zip(whole, means, strict=True)]
        all_ses = [envelope_spectra(spectrum, self.envelope_plan) for spectrum in spectrums]
        lines = (self.envelope_plan, self.lines_hz, self.spec.slip_tolerance)
        return {
            "gather windows": lambda: _each(np.ascontiguousarray, chunks),
            "time domain": lambda: _each(lambda x: time_domain(x, RATE_HZ), whole),
            "window and rfft": lambda: _each(lambda x, mean: spectra(x, mean, self.spectrum_plan), whole, means),
            "spectrum": lambda: _each(lambda s: spectral(s, self.spectrum_plan, self.to_m_s2), spectrums),
            "envelope transforms": lambda: _each(lambda s: envelope_spectra(s, self.envelope_plan), spectrums),
            "envelope lines": lambda: _each(lambda ses: envelope(ses, *lines), all_ses),
        }


def _each(stage: Callable[..., object], *inputs: Sequence[object]) -> None:
    """One chunk after the other; nothing is kept, as in the pipeline, where the next chunk takes the same memory."""
    for chunk in zip(*inputs, strict=True):
        stage(*chunk)


def run(effort: Effort) -> Section:
    """Core, full and every stage, all beside the bare rfft."""
    spec = FeatureSpec(bandwidth_hz=0.0)
    signal = vibration(1, LENGTH + (COUNT - 1) * HOP, RATE_HZ)
    windows = windows_of(signal, RATE_HZ, LENGTH, HOP)
    strided = sliding_window_view(signal[0], LENGTH)[::HOP]  # (COUNT, LENGTH), overlapping
    whole = np.ascontiguousarray(strided)
    stages = Stages.of(spec)
    starts = range(0, COUNT, CHUNK)
    chunks = [strided[i : i + CHUNK] for i in starts]

    def bare() -> None:
        for i in starts:
            rfft(whole[i : i + CHUNK], axis=1, workers=1)

    def core() -> list[Float32]:
        return [stages.core(x) for x in chunks]

    def full() -> list[Float32]:
        return features.compute(spec, windows)

    if not np.array_equal(np.concatenate(core()), np.concatenate(full()), equal_nan=True):
        msg = "the stages of this benchmark and `features.compute` to give the same numbers expected, found: others"
        raise RuntimeError(msg)  # then `core` measures something else than the pipeline runs
    alone = stages.cases(chunks)
    times = interleaved({"rfft": bare, "core": core, "full": full, **alone}, effort.samples)
    floor = times["rfft"]
    per_window = {name: t.us / COUNT for name, t in times.items()}
    per_stage = {name: per_window[name] for name in alone}
    floor_us = per_window["rfft"]
    beside = f"scipy.fft.rfft of the same windows ({floor_us:.3g} us)"
    rows = [
        Row(title, per_window[name], "us/window", beside, per_window[name] / floor_us, times[name].dirty or floor.dirty)
        for name, title in (("core", "core: the stages alone"), ("full", "full: Window objects to rows"))
    ]
    rows += [Row(f"  {n}", us, "us/window", beside, us / floor_us, times[n].dirty) for n, us in per_stage.items()]
    document = {
        "features": {
            "core_ratio_to_rfft": per_window["core"] / floor_us,
            "full_ratio_to_rfft": per_window["full"] / floor_us,
            "windows_per_s": 1e6 / per_window["full"],
            "rfft_us": floor_us,
            "stages_us": {name.replace(" ", "_"): us for name, us in per_stage.items()},
            "count": len(NAMES),
        }
    }
    title = f"features: {len(NAMES)} per channel, windows of {LENGTH} float32, hop {HOP}, {COUNT} of one channel"
    return Section(title, rows, document)
