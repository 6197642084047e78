"""Machines as they are found in the field: what recorded machines have and a clean test stand does not.

Sound machines of recorded rigs have shaft harmonics up to high orders, broad-band noise far above their 1x, weak lines
of every bearing family, knocks that are not locked to the shaft, any speed, any sampling rate, and often no unit.
`benchmarks.studies.discriminator` compares them with simulated ones column by column. The ranges here come from that
physics. They are wide on purpose and are no fit to one rig.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.core.faults import HEALTHY
from sim.components import BEARING_FAULTS
from sim.detectable import detectable
from sim.life import Fault
from sim.machine import needs_rate_hz
from sim.population import MakeUp
from sim.signals import velocity_to_g

HARMONICS = 48  # of the shaft, beside the 1x to 3x that unbalance and misalignment raise
SHARE_UNKNOWN_UNIT = 0.6  # raw volts, scaled values: no velocity is known
_SPEED_HZ = (8.0, 60.0)  # gears keep their own range: their mesh must stay below the anti-alias filter
_RATES_HZ = (1000.0, 1600.0, 3200.0, 6400.0)
_SLOW_SHARE = 0.35  # of the machines sampled slower than 12 kHz, where the rate carries the fault
_WEAK_SHARE = 0.5  # of the bearing families of a machine that show weak lines
_TURN_DB = (-10.0, 36.0)  # of the harmonics over the noise around them
_MOST_UNBALANCE_MM_S, _MOST_TURN_MM_S = 1.8, 1.2
_MOST_FLOOR_G = 4e-3  # per root Hz; more would be 2 mm/s of noise


def as_found(make: MakeUp, rng: np.random.Generator, rate_hz: float) -> MakeUp:
    """The same machine on its real foundation, with its real sensor."""

    def spread(sigma: float) -> float:
        return math.exp(sigma * rng.standard_normal())

    noise = 1.8 * spread(0.9)
    sound = min(_MOST_UNBALANCE_MM_S, make.unbalance_mm_s * 0.7 * spread(0.9))
    speed_hz = make.speed_hz if make.mesh_g > 0 else rng.uniform(*_SPEED_HZ)
    orders = np.arange(1, HARMONICS + 1)
    tilt, floor = rng.uniform(0.0, 6.0), make.floor_g_per_rthz * noise * spread(0.8)
    floor = np.minimum(floor, _MOST_FLOOR_G / (1 + tilt))
    over_floor = 10 ** (rng.uniform(*_TURN_DB) / 10)  # of a line in one second under a Hann window: A^2 / (3 N)
    peaks = np.sqrt(3 * over_floor) * (floor * (1 + tilt))[:, None] * orders ** -rng.uniform(-0.1, 0.6)
    peaks = peaks * np.exp(0.6 * rng.standard_normal(peaks.shape))
    peaks *= min(
        1.0, _MOST_TURN_MM_S / float(np.linalg.norm(peaks[0] / [velocity_to_g(1.0, k * speed_hz) for k in orders]))
    )
    phases = np.exp(1j * rng.uniform(0, 2 * math.pi, peaks.shape))
    found = replace(
        make,
        speed_hz=float(speed_hz),
        paths=(make.paths * np.exp(0.5 * rng.standard_normal(make.paths.shape))).astype(np.float32),
        floor_g_per_rthz=floor.astype(np.float32),
        tilt=float(tilt),
        structure_g=make.structure_g * noise,
        knocks_hz=0.3 * spread(2.0),
        unbalance_mm_s=sound,
        shaft_ratios=(min(1.2, 0.25 * spread(0.9)), min(0.8, 0.12 * spread(0.9))),
        unbalance_fault_mm_s=make.unbalance_fault_mm_s * spread(0.4),
        cavitation_fault=make.cavitation_fault * spread(0.3),
        line_mm_s=make.line_mm_s * spread(0.8),
        neighbour_mm_s=make.neighbour_mm_s * spread(0.8),
        impact_fault_g=make.impact_fault_g * max(1.0, noise),  # damage that stands out of its own machine
        tooth_fault_g=make.tooth_fault_g * max(1.0, noise),
        turn_g=(peaks * phases).astype(np.complex64),
        turn_depth=float(rng.uniform(0.0, 0.5) ** 1.5),
    )
    weak = []
    for mode in BEARING_FAULTS:
        if rng.random() < _WEAK_SHARE:
            weak.append(Fault(mode, float(detectable(found, mode, rate_hz) * rng.uniform(0.3, 1.6))))
    return replace(found, weak=tuple(weak))


def rate_of(make: MakeUp, mode: str, rng: np.random.Generator, rate_hz: float) -> float:
    """A sampling rate that carries the fault; most loggers sample at `rate_hz`."""
    needed = 0.0 if mode == HEALTHY else needs_rate_hz(make, mode)
    able = [rate for rate in _RATES_HZ if rate >= needed]
    return float(rng.choice(able)) if able and rng.random() < _SLOW_SHARE else rate_hz


def least_of(make: MakeUp, mode: str, least: float) -> float:
    """The severity from which a fault stands out of what the same machine shows while it is sound."""
    own = max((fault.severity for fault in make.weak if fault.mode == mode), default=0.0)
    return min(0.9, max(least, 1.5 * own))
