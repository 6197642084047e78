"""Signals of shaft, gears, flow and mains: pure functions of shaft angle and time.

Signals of rotating parts are functions of the shaft angle theta(t) = 2 pi int f_r dt, so they follow the speed; signals
of the structure or the mains are functions of time. Where a signal has a memory (a filter, a random walk), the state is
an argument and a result. Random numbers come from the Generator argument. Angles in rad, accelerations in g, n samples,
C axes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]

TURN_RAD = 2 * math.pi
G_MM_S2 = 9806.65  # standard gravity, mm/s2
_STOP_SOFTNESS = 0.08  # eps / 1x displacement: a foot and its shim are elastic


def wander(value: float, sigma: float, tau_s: float, dt_s: float, rng: np.random.Generator) -> float:
    """One step of an Ornstein-Uhlenbeck process with mean 0: x' = x e^(-dt/tau) + sigma sqrt(1 - e^(-2 dt/tau)) eps.

    Exact for any dt: the standard deviation is `sigma` and the correlation time `tau_s` at every step (Gillespie 1996).
    """
    keep = math.exp(-dt_s / tau_s)
    return keep * value + sigma * math.sqrt(1 - keep * keep) * rng.standard_normal()


def shaft_angle(before_rad: float, from_hz: float, to_hz: float, n: int, rate_hz: float) -> Float64:
    """Angle of n samples while the speed changes linearly.

    theta_k = theta_before + 2 pi (f_a t + (f_b - f_a) t^2 / 2T), t = k / rate, k = 1..n, T = n / rate.
    The last angle is `before_rad` of the next piece. Returns: (n,), rising.
    """
    t_s = np.arange(1, n + 1) / rate_hz
    return before_rad + TURN_RAD * t_s * (from_hz + (to_hz - from_hz) * t_s * (rate_hz / (2 * n)))


def unit_phasor(angle_rad: Float64) -> Complex64:
    """e^(i angle) in single precision; the angle is wrapped first, to keep its digits. (n,) -> (n,)."""
    wrapped = np.mod(angle_rad, TURN_RAD).astype(np.float32)
    phasor = np.empty(wrapped.shape, np.complex64)
    phasor.real = np.cos(wrapped)
    phasor.imag = np.sin(wrapped)
    return phasor


def harmonics(phasor: Complex64, amplitudes: Complex64) -> Float32:
    """Shaft harmonics: x_c = Re sum_k A_ck e^(i k theta), k = 1..K.

    Unbalance is 1x with its two radial axes 90 degrees apart, misalignment 1x to 3x (fault charts, e.g. ISO 13373-1).
    phasor: (n,) of the shaft; amplitudes: (C, K) complex peak values in g. Returns: (C, n).
    """
    powers = np.cumprod(np.broadcast_to(phasor, (amplitudes.shape[1], phasor.size)), axis=0)  # (K, n)
    return np.ascontiguousarray((amplitudes @ powers).real)


def velocity_to_g(velocity_rms_mm_s: float, hz: float) -> float:
    """Peak acceleration in g of a tone of that velocity: sqrt(2) v 2 pi f / 9806.65."""
    return math.sqrt(2) * velocity_rms_mm_s * TURN_RAD * hz / G_MM_S2


def rattle(angle_rad: Float64, looseness: float, phase_rad: float) -> Float32:
    """Mechanical looseness: the 1x displacement against a one-sided stop, with alternating turns.

    u = cos theta + 0.5 l cos(theta/2 + phase); y = a soft max(u, -(1 - 0.9 l)), l in [0, 1]; the acceleration is
    y'' = S u'' + S (1 - S) u'^2 / eps, S = 1 / (1 + e^(-(u + stop) / eps)), in units of a free 1x (fault charts:
    rotating looseness, 2x..10x and half orders 0.5x, 1.5x, 2.5x). (n,) -> (n,).
    """
    half = np.mod(angle_rad, 2 * TURN_RAD).astype(np.float32) / 2
    beat, share = half + np.float32(phase_rad), np.float32(0.5 * looseness)
    motion = np.cos(2 * half) + share * np.cos(beat)
    speed = np.sin(2 * half) + share / 2 * np.sin(beat)  # -u'
    pull = np.cos(2 * half) + share / 4 * np.cos(beat)  # -u''
    free = 1 / (1 + np.exp(-(motion + np.float32(1 - 0.9 * looseness)) / np.float32(_STOP_SOFTNESS)))
    return free * pull - free * (1 - free) * speed**2 / np.float32(_STOP_SOFTNESS)


def gear_mesh(
    angle_rad: Float64, teeth: int, amplitudes_g: tuple[float, ...], amplitude_mod: Float32, phase_mod_rad: Float32
) -> Float32:
    """Gear mesh: x = sum_k A_k [1 + a(theta)] cos(k (z theta + b(theta))), k = 1..K.

    Modulation by the shafts gives sidebands at k GMF +- m f_r (McFadden 1986). Only harmonics below Nyquist.
    angle_rad (n,) of the wheel with `teeth` teeth; both modulations (n,). Returns: (n,) in g.
    """
    mesh = np.mod(angle_rad * teeth, TURN_RAD).astype(np.float32) + phase_mod_rad
    total = np.zeros(mesh.size, np.float32)
    for k, amplitude_g in enumerate(amplitudes_g, start=1):
        total += np.float32(amplitude_g) * np.cos(np.float32(k) * mesh)
    return (1 + amplitude_mod) * total


def tooth_dip(angle_rad: Float64, width_rad: float) -> Float32:
    """Mesh of a cracked tooth: exp((cos theta - 1) / width^2), one bump per turn of its shaft. (n,) -> (n,)."""
    return np.exp((np.cos(np.mod(angle_rad, TURN_RAD).astype(np.float32)) - 1) / np.float32(width_rad**2))


def burst_positions(
    mean_hz: float, angle_rad: Float64, blades: int, depth: float, rate_hz: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sample numbers of collapsing bubbles: a Poisson process of mean rate f [1 + m cos(z_b theta)], by thinning.

    Cavitation is modulated at blade pass (Brennen, Hydrodynamics of Pumps). angle_rad: (n,). Returns: (bursts,).
    """
    n = angle_rad.size
    at = np.sort(rng.integers(0, n, rng.poisson(mean_hz * (1 + depth) * n / rate_hz)))
    chance = (1 + depth * np.cos(blades * angle_rad[at])) / (1 + depth)
    return at[rng.random(at.size) < chance]


def tone(first: int, n: int, rate_hz: float, hz: float) -> Float32:
    """cos(2 pi f t), t = (first + k) / rate; the angle is wrapped to keep its digits. Returns: (n,)."""
    t_s = np.arange(first, first + n) / rate_hz
    return np.cos(np.mod(TURN_RAD * hz * t_s, TURN_RAD).astype(np.float32))


def line_tone(first: int, n: int, rate_hz: float, line_hz: float, sideband_hz: float, depth: float) -> Float32:
    """Magnetic pull at twice the line frequency, modulated at pole pass: [1 + m cos(2 pi f_p t)] cos(4 pi f_l t).

    Its frequency is constant while the speed varies (motor fault charts). `first` counts from the start. Returns: (n,).
    """
    beat = 1 + np.float32(depth) * tone(first, n, rate_hz, sideband_hz)
    return beat * tone(first, n, rate_hz, 2 * line_hz)


def pole_of(corner_hz: float, rate_hz: float) -> float:
    """Coefficient of a one-pole filter: e^(-2 pi f / rate), f = corner frequency."""
    return math.exp(-TURN_RAD * corner_hz / rate_hz)


@njit(cache=True)
def low_pass(x: Float32, pole: float, state: Float64) -> tuple[Float32, Float64]:
    """One-pole low-pass: y = p y + (1 - p) x, per row. x (C, n), state (C,) = last y. Returns: (C, n), new state."""
    out = np.empty_like(x)
    after = state.copy()
    for c in range(x.shape[0]):
        y = state[c]
        for k in range(x.shape[1]):
            y = pole * y + (1 - pole) * x[c, k]
            out[c, k] = y
        after[c] = y
    return out, after


def colour(white: Float32, tilt: float, pole: float, state: Float64) -> tuple[Float32, Float64]:
    """Coloured noise: white plus `tilt` times itself low-passed, so the floor is higher by 1 + tilt below the corner.

    white (C, n); state (C,) as in `low_pass`. Returns: (C, n), new state.
    """
    low, after = low_pass(white, pole, state)
    return white + np.float32(tilt) * low, after


@njit(cache=True)
def decay(at: NDArray[np.int64], heights: Float64, pole: float, n: int, state: float) -> tuple[Float32, float]:
    """Envelope of bursts: each adds its height at its sample and decays as p^k. Returns: (n,), new state."""
    out = np.empty(n, np.float32)
    next_burst = 0
    for k in range(n):
        state *= pole
        while next_burst < at.size and at[next_burst] == k:
            state += heights[next_burst]
            next_burst += 1
        out[k] = state
    return out, state
