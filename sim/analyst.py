"""The instruments of a vibration analyst for a simulated machine: samples, spectra and trend values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.signal import butter, hilbert, sosfiltfilt
from scipy.stats import kurtosis

from pipeline.core.faults import MODES
from sim.components import BEARING_FAULTS, LINE_HZ, PASS, bearing_gap_rad
from sim.machine import Machine, initial, later, step
from sim.population import MakeUp
from sim.signals import G_MM_S2, TURN_RAD, Float32, Float64


def run(machine: Machine, axis: int, seconds: float, from_s: float = 0.0) -> tuple[Float32, Float64]:
    """Samples (n,) of one axis and the shaft angle, without the first frame at constant speed: filters settle in it."""
    # Each time has its own random numbers, so that neighbouring points of a life differ as they do on a real machine.
    state = replace(later(initial(machine), from_s), frame=round(from_s / 60))
    parts, angles = [], []
    skip = 0 if machine.events else 1
    for number in range(skip + math.ceil(seconds * machine.rate_hz / machine.frame)):
        state, frame = step(machine, state)
        if number >= skip:
            parts.append(frame.samples[axis])
            angles.append(frame.theta_rad)
    n = round(seconds * machine.rate_hz)
    return np.concatenate(parts)[:n], np.concatenate(angles)[:n]


def amplitudes(x: Float32, rate_hz: float) -> tuple[Float64, Float64]:
    """Frequencies and peak amplitudes of the Hann-windowed signal."""
    window = np.hanning(x.size)
    peaks: Float64 = 2 * np.abs(np.fft.rfft(x * window)) / window.sum()
    return _bins(x, rate_hz), peaks


def squared_envelope(x: Float32, machine: Machine) -> tuple[Float64, Float64]:
    """Frequencies and power of the squared envelope, above 1 kHz where the rate allows it."""
    low_hz, high_hz = min(1000.0, 0.1 * machine.rate_hz), min(9000.0, PASS * machine.rate_hz)
    band = sosfiltfilt(butter(4, (low_hz, high_hz), "band", fs=machine.rate_hz, output="sos"), x)
    envelope = np.abs(hilbert(band)) ** 2
    power: Float64 = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(x.size))) ** 2
    return _bins(x, machine.rate_hz), power


def envelope_order(make: MakeUp, mode: str) -> float:
    """The order of the first envelope line of a fault."""
    if mode in BEARING_FAULTS:
        return TURN_RAD / bearing_gap_rad(make, mode)
    if mode == "gear_tooth" and make.cracked_wheel:
        return make.teeth[0] / make.teeth[1]
    return float(make.blades) if mode == "cavitation" else 1.0


def told_by(make: MakeUp, mode: str) -> tuple[str, float] | None:
    """The line in velocity by which a fault of shaft, mesh or mains is told, and its Hz; None: by the envelope."""
    line = MODES[mode].line if mode in MODES else None
    if line is None:
        return None
    unit_hz = {"shaft": make.speed_hz, "mesh": make.teeth[0] * make.speed_hz, "mains": LINE_HZ}[line.of]
    return line.label, line.multiple * unit_hz


def features(x: Float32, machine: Machine, mode: str) -> tuple[float, float, float, float, float]:
    """Velocity in mm/s rms, acceleration in g rms, kurtosis, crest factor, and the line of the fault in dB."""
    hz, g = amplitudes(x, machine.rate_hz)
    mm_s = g[1:] * G_MM_S2 / (TURN_RAD * hz[1:] * math.sqrt(2))
    band = (hz[1:] >= 10) & (hz[1:] <= 1000)
    velocity = math.sqrt(float(np.sum(mm_s[band] ** 2)) / 1.5)  # 1.5: the window
    if (shaft := told_by(machine.make, mode)) is not None:
        line_db = 20 * math.log10(float(mm_s[np.abs(hz[1:] - shaft[1]) < 0.03 * shaft[1] + 0.5].max()))
    else:
        hz, power = squared_envelope(x, machine)
        at_hz = envelope_order(machine.make, mode) * machine.make.speed_hz
        near, around = np.abs(hz - at_hz) < 0.015 * at_hz + 0.5, np.abs(hz - at_hz) < 0.4 * at_hz + 3
        line_db = 10 * math.log10(float(power[near].max() / np.median(power[around])))
    rms = float(np.std(x))
    return velocity, rms, float(kurtosis(x, fisher=False)), float(np.abs(x - x.mean()).max()) / rms, line_db


def _bins(x: Float32, rate_hz: float) -> Float64:
    hz: Float64 = np.fft.rfftfreq(x.size, 1 / rate_hz).astype(np.float64)
    return hz
