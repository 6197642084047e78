"""Streams as the page knows them, made without any signal: for views of many machines and of every state."""

from __future__ import annotations

import time

import numpy as np

from harness.live import schema
from pipeline.core.features.table import COLUMN, FEATURES
from pipeline.core.quality import Quality
from pipeline.core.records import FeatureRow, Prediction, StreamKey
from pipeline.page.live import Turn

STATES = ("normal", "warning", "alarm", "unknown", "warming_up", "not_running", "sensor_fault", "stale", "no_model")
QUALITY = {"not_running": Quality.NOT_RUNNING, "sensor_fault": Quality.FLATLINE}
MODES = ("healthy", "bearing_outer", "unbalance")


def key_of(number: int) -> StreamKey:
    return StreamKey(f"motor-{number:04d}", "de")


def turn(numbers: range, states: list[str], window: int, seed: int = 0) -> Turn:
    """One new window of each of these streams, in these states in turn."""
    rng, now_s = np.random.default_rng(seed + window), time.time()
    rows, predictions = [], []
    for number in numbers:
        state = states[number % len(states)]
        start = int((now_s - 1.0) * 1e9)
        values = np.full((1, len(FEATURES)), np.nan, np.float32)
        values[0, COLUMN["velocity_rms"]] = 1.5 + number % 7 + rng.normal(0, 0.2)
        quality = int(QUALITY.get(state, Quality.GOOD))
        rows.append(
            FeatureRow(
                key_of(number), 1, window, start, start + 10**9, 12e3, 1500.0, 1.0, quality, None, ("x",), values,
                schema().name,
            )
        )  # fmt: skip
        if state == "no_model":
            continue
        mode = None if quality else MODES[1 if state in ("warning", "alarm") else 0]
        p = float("nan") if mode is None else 0.9 + 0.09 * float(rng.random())
        predictions.append(
            Prediction(
                key_of(number), 1, window, start, start + 10**9, mode, p, np.full(3, p / 3, np.float32), state, window,
                "tiny", schema().name,
            )
        )  # fmt: skip
    heard_s = now_s - 3600.0 if states == ["stale"] else now_s
    return Turn(
        rows, predictions, [], [], [], [f"plant/hall-{n % 9}/motor-{n:04d}/de/vibration" for n in numbers], heard_s
    )
