"""Sensor faults: the effect of a broken accelerometer, cable, amplifier or logger on good samples.

They are applied last, so the machine itself stays the same to the bit. Samples are (C, n) in g; `SensorState` carries
what lasts longer than a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from sim.events import Event
from sim.signals import TURN_RAD, Float32, Float64

FULL_SCALE_G = 16.0
LINE_HZ = 50.0
_RECOVERY_EVERY_S, _RECOVERY_TAU_S = 4.0, 0.35  # a saturated amplifier recovers over tenths of a second
_LOOSE_Q = 8.0  # quality factor of the resonance of a loose mount
_RATTLE = 0.4  # level of the chatter of a loose sensor / its own level


@dataclass(frozen=True, slots=True, eq=False)
class SensorState:
    """The state of the sensor: the piece that a frozen logger repeats, and the motion of a loose mount."""

    frozen: Float32 | None = None  # (C, n)
    mount: Float64 | None = None  # (C, 2)


def disturb(
    events: Sequence[Event],
    samples: Float32,
    start_s: float,
    rate_hz: float,
    state: SensorState,
    rng: np.random.Generator,
) -> tuple[Float32, SensorState]:
    """The samples of the broken sensor and its new state. Events apply in the order in which they are given."""
    n = samples.shape[1]
    middle_s = start_s + 0.5 * n / rate_hz
    active = {event.kind: event for event in events if event.on(middle_s)}
    if not active:
        return samples, SensorState()
    x, mount, frozen = samples, None, None
    if (event := active.get("loose_mount")) is not None:
        before = np.zeros((x.shape[0], 2)) if state.mount is None else state.mount
        x, mount = _resonate(x, math.exp(-math.pi * event.size / _LOOSE_Q / rate_hz), event.size / rate_hz, before)
        rms = x.std(axis=1, keepdims=True)
        x = x + np.float32(_RATTLE) * np.maximum(np.abs(x) - 2 * rms, 0) * np.sign(x)  # it chatters when it lifts
    t_s = (start_s + np.arange(n) / rate_hz).astype(np.float64)
    for event in active.values():
        x = _simple(event, x, t_s, rate_hz, rng)
    if "frozen_logger" in active:
        frozen = x if state.frozen is None else state.frozen
        x = frozen
    return np.ascontiguousarray(x, np.float32), SensorState(frozen, mount)


def _simple(event: Event, x: Float32, t_s: Float64, rate_hz: float, rng: np.random.Generator) -> Float32:
    """The faults without state."""
    size = np.float32(event.size)
    since_s = t_s - event.start_s
    match event.kind:
        case "drop_out":
            gone = np.repeat(rng.random(-(-t_s.size // 256)) < event.size, 256)[: t_s.size]
            return np.where(gone, np.float32(0), x)
        case "flatline":
            return np.full_like(x, size)
        case "drift":
            return x + (event.size * since_s / 60).astype(np.float32)
        case "bias":
            return x + size
        case "clipping":
            return np.clip(x, -size, size)
        case "gain_change":
            return size * x
        case "mains_hum":
            return x + size * np.sin(np.mod(TURN_RAD * LINE_HZ * t_s, TURN_RAD)).astype(np.float32)
        case "quantisation":
            step_g = np.float32(2 * FULL_SCALE_G / 2**event.size)
            return np.round(x / step_g) * step_g
        case "saturation":
            slope = np.exp(-np.mod(since_s, _RECOVERY_EVERY_S) / _RECOVERY_TAU_S)
            return x - (event.size * slope).astype(np.float32)
        case "swapped_axes":
            return np.roll(x, int(event.size), axis=0)
        case _:
            return x


@njit(cache=True)
def _resonate(x: Float32, radius: float, turns: float, state: Float64) -> tuple[Float32, Float64]:
    """A second-order mount: gain 1 at 0 Hz, a resonance at `turns` x rate, low gain above."""
    a1, a2 = 2 * radius * math.cos(2 * math.pi * turns), -radius * radius
    gain = 1 - a1 - a2
    out = np.empty_like(x)
    after = state.copy()
    for c in range(x.shape[0]):
        y1, y2 = state[c, 0], state[c, 1]
        for k in range(x.shape[1]):
            y = gain * x[c, k] + a1 * y1 + a2 * y2
            y2 = y1
            y1 = y
            out[c, k] = y
        after[c, 0], after[c, 1] = y1, y2
    return out, after
