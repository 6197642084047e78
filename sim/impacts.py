"""Rolling bearings: when a damaged surface is struck, how hard, and how the structure rings.

Strikes are placed in shaft angle with accumulated gaps (a random walk: lines of higher order smear more, Randall and
Antoni 2011). They ring the structure in time: each mode is a complex number that turns and decays. A strike adds to it
at its exact position between two samples, so the result does not depend on the length of a frame. The roughness of
distributed damage drives the same recursion.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.signals import TURN_RAD, Float32, Float64

Complex128 = NDArray[np.complex128]

LOCALISED_EXPONENT = 2.0  # impact amplitude grows as severity^2
DISTRIBUTED_FROM = 0.55  # severity at which spalls begin to run into each other


def strikes(
    pending_rad: float, gap_rad: float, jitter: float, until_rad: float, rng: np.random.Generator
) -> tuple[Float64, float]:
    """Shaft angles of the strikes up to `until_rad`: theta_(i+1) = theta_i + gap (1 + sigma eps), accumulated.

    `pending_rad` is the next strike. Returns the strikes, rising, and the strike after them
    (D'Elia and Cocconcelli 2018: sigma 0.01 to 0.04).
    """
    found = []
    while pending_rad <= until_rad:
        count = int((until_rad - pending_rad) / gap_rad * 1.1) + 8
        gaps = gap_rad * np.maximum(0.2, 1 + jitter * rng.standard_normal(count))
        angles = pending_rad + np.concatenate(([0.0], np.cumsum(gaps)))
        inside = int(np.searchsorted(angles, until_rad, side="right"))
        found.append(angles[: min(inside, count)])
        pending_rad = float(angles[min(inside, count)])
    return (np.concatenate(found) if found else np.empty(0)), pending_rad


def stribeck(psi_rad: Float64, epsilon: float, exponent: float = 1.5) -> Float64:
    """Load on an element at angle psi from the load: (1 - (1 - cos psi) / (2 eps))^n inside the zone, else 0.

    A tenth remains outside, from preload and the weight of the element. n = 1.5 for balls, 10/9 for rollers (Harris).
    """
    inside = np.maximum(0.0, 1 - (1 - np.cos(psi_rad)) / (2 * epsilon))
    return 0.1 + 0.9 * inside**exponent


def outer_load(position_rad: float) -> float:
    """Load at a fixed place of the outer ring: 1 at 6 o'clock (0 rad), 0.5 at 3 and 0.15 at 12 o'clock."""
    return 0.15 + 0.85 * ((1 + math.cos(position_rad)) / 2) ** 1.28


def distributed_share(severity: float) -> float:
    """Distributed share of the damage, 0 to 1: 3u^2 - 2u^3, u = (s - DISTRIBUTED_FROM) / (1 - DISTRIBUTED_FROM)."""
    u = min(1.0, max(0.0, (severity - DISTRIBUTED_FROM) / (1 - DISTRIBUTED_FROM)))
    return u * u * (3 - 2 * u)


def impact_height(severity: float) -> float:
    """Height of one strike, full damage = 1: s^2, reduced once the edges of the spalls wear off.

    Together with `roughness` it makes kurtosis rise and then fall while RMS keeps rising (El-Thalji and Jantunen 2014).
    """
    return severity**LOCALISED_EXPONENT * (1 - 0.85 * distributed_share(severity))


def roughness(severity: float) -> float:
    """RMS of the modulated noise of distributed damage / height of a strike at full damage."""
    return float(0.01 * severity**2 + 0.3 * distributed_share(severity))


def sample_positions(angles_rad: Float64, before_rad: float, theta: Float64) -> Float64:
    """Positions in samples at which the shaft passes these angles, in (-1, n - 1]; 0 = first sample of theta (n,)."""
    grid = np.concatenate(([before_rad], theta))
    return np.interp(angles_rad, grid, np.arange(-1.0, theta.size))


def mode_poles(modes_hz: Float64, damping: Float64, rate_hz: float) -> Complex128:
    """Poles e^((-zeta w_n + i w_d) / rate) of ring-downs e^(-zeta w_n t) sin(w_d t). (M,), (M,) -> (M,)."""
    natural = TURN_RAD * modes_hz
    poles: Complex128 = np.exp((-damping * natural + 1j * natural * np.sqrt(1 - damping**2)) / rate_hz)
    return poles


@njit(cache=True)
def ring(
    drive: Float64, at: Float64, heights: Float64, poles: Complex128, state: Complex128
) -> tuple[Float32, Complex128]:
    """Ring-down of M modes under strikes and noise: z <- p z + drive + sum_i h_i p^(k - t_i); out = Im z.

    A strike of height h at t_i gives exactly h e^(-zeta w t) sin(w_d t) at the samples after it. Noise of RMS 1
    in `drive` gives RMS 1 in every mode, whatever its damping and the rate.
    drive (n,); at, heights (strikes,) rising positions in (-1, n - 1]; poles, state (M,). Returns: (M, n), new state.
    """
    n = drive.size
    out = np.empty((poles.size, n), np.float32)
    after = state.copy()
    for m in range(poles.size):
        pole = poles[m]
        gain = math.sqrt(2 * (1 - abs(pole) ** 2))
        z = state[m]
        next_strike = 0
        for k in range(n):
            z = pole * z + gain * drive[k]
            while next_strike < at.size and at[next_strike] <= k:
                z += heights[next_strike] * pole ** (k - at[next_strike])
                next_strike += 1
            out[m, k] = z.imag
        after[m] = z
    return out, after
