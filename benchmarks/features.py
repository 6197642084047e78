"""The feature stage beside one bare FFT of the same windows.

Both vectors as the pipeline calls them: Window objects in, rows out. `core` leaves two thirds of the columns NaN.
Nothing here knows the list of features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import rfft

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section
from benchmarks.vibration import ORDERS, SPEED_RPM, T0_NS, vibration
from pipeline.config.specs import default_spec
from pipeline.core import features
from pipeline.core.features.table import NAMES
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


def run(effort: Effort) -> Section:
    """Core and complete vector beside the bare rfft."""
    spec = replace(default_spec().features, bandwidth_hz=0.0)
    core_spec = replace(spec, vector="core")
    signal = vibration(1, LENGTH + (COUNT - 1) * HOP, RATE_HZ)
    windows = windows_of(signal, RATE_HZ, LENGTH, HOP)
    whole = np.ascontiguousarray(sliding_window_view(signal[0], LENGTH)[::HOP])  # (COUNT, LENGTH)

    def bare() -> None:
        for i in range(0, COUNT, CHUNK):
            rfft(whole[i : i + CHUNK], axis=1, workers=1)

    cases: dict[str, Callable[[], object]] = {
        "rfft": bare,
        "core": lambda: features.compute(core_spec, windows),
        "full": lambda: features.compute(spec, windows),
    }
    times = interleaved(cases, effort.samples)
    floor = times["rfft"]
    per_window = {name: t.us / COUNT for name, t in times.items()}
    floor_us = per_window["rfft"]
    beside = f"scipy.fft.rfft of the same windows ({floor_us:.3g} us)"
    rows = [
        Row(title, per_window[name], "us/window", beside, per_window[name] / floor_us, times[name].dirty or floor.dirty)
        for name, title in (
            ("core", "core vector, Window objects to rows"),
            ("full", "complete vector, Window objects to rows"),
        )
    ]
    document = {
        "features": {
            "core_ratio_to_rfft": per_window["core"] / floor_us,
            "full_ratio_to_rfft": per_window["full"] / floor_us,
            "windows_per_s": 1e6 / per_window["full"],
            "rfft_us": floor_us,
            "count": len(NAMES),
        }
    }
    title = f"features: {len(NAMES)} per channel, windows of {LENGTH} float32, hop {HOP}, {COUNT} of one channel"
    return Section(title, rows, document)
