"""The severity from which a fault of a machine is detectable in principle: 6 dB above the sound machine.

It is calculated from the make-up, without samples. For faults that strike, the line at the strike rate in the envelope
spectrum of one second must be 6 dB above its floor. For faults of the shaft, the velocity must have doubled and exceed
that of sound machines of the population.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sim import impacts, signals
from sim.components import BEARING_FAULTS, PASS, bearing_gap_rad
from sim.population import MakeUp
from sim.signals import TURN_RAD

SECONDS = 1.0  # length of the signal
NOTICED_MM_S = 1.8  # velocity from which 1x is noticed; sound machines have 0.3 to 1.5
NOTICED_HARMONIC_MM_S = 0.9
_LIMITS = (0.04, 0.9)
_LOOSENESS_TURNS = 2 * TURN_RAD * np.arange(256) / 256  # two turns


def detectable(make: MakeUp, mode: str, rate_hz: float) -> float:
    """The severity, 0.04 to 0.9, from which a fault of this machine is detectable."""
    return min(_LIMITS[1], max(_LIMITS[0], _threshold(make, mode, rate_hz)))


def _threshold(make: MakeUp, mode: str, rate_hz: float) -> float:
    sound = make.unbalance_mm_s
    match mode:
        case "unbalance":
            return max(sound, NOTICED_MM_S - sound) / make.unbalance_fault_mm_s
        case "misalignment":
            own = make.shaft_ratios[0] * sound
            strongest = 0.7 * make.misalignment_2x * (1.1 if make.angular else 1.0)
            return max(own, NOTICED_HARMONIC_MM_S - own) / (make.misalignment_fault_mm_s * strongest)
        case "looseness":
            return _first(lambda s: _loose_harmonics(make, s) > max(make.shaft_ratios[1] * sound, 0.5))
        case "gear_wear":
            return 0.2  # 2x mesh has risen by 5 dB, the sidebands by 8
        case "cavitation":
            return _floor(make, rate_hz) / make.cavitation_fault  # as strong as the sound machine above 1.5 kHz
        case "other":
            return max(make.line_mm_s, 1.0 - make.line_mm_s) / 5.0
        case "gear_tooth":
            per_turn = (1.0, make.teeth[0] / make.teeth[1])[make.cracked_wheel]
            rate = per_turn * make.speed_hz
            return _first(lambda s: _line_db(make, make.tooth_fault_g * s * s, rate, 0.0, rate_hz) > 6)
        case _ if mode in BEARING_FAULTS:
            rate = TURN_RAD / bearing_gap_rad(make, mode) * make.speed_hz
            load = _mean_square_load(make, mode)
            return _first(
                lambda s: (
                    _line_db(
                        make,
                        make.impact_fault_g * impacts.impact_height(s) * load,
                        rate,
                        make.impact_fault_g * impacts.roughness(s),
                        rate_hz,
                    )
                    > 6
                )
            )
        case _:
            return _LIMITS[0]


def _floor(make: MakeUp, rate_hz: float) -> float:
    """RMS of a sound machine up to the anti-alias filter, in units of its white floor."""
    white = float(make.floor_g_per_rthz[0]) * math.sqrt(PASS * rate_hz)
    rung = make.structure_g * float(np.linalg.norm(make.paths[0, make.modes_hz < PASS * rate_hz]))
    return math.hypot(white, rung) / white


def _line_db(make: MakeUp, height_g: float, strikes_hz: float, rough_g: float, rate_hz: float) -> float:
    """Line at the strike rate over the floor of the squared envelope of one second, in dB, in the best mode.

    A strike of height h rings with energy h^2 / (4 zeta w); at a rate f that is a power P = f h^2 / (4 zeta w), nearly
    all of it at f and its harmonics: a line of 2 P. Noise of power N in the mode's band B = pi zeta f_n has an envelope
    whose fluctuation is N sqrt(2 / (B T)) per bin of 1 / T. Distributed damage adds noise that beats at f.
    """
    best = -math.inf
    for mode, (natural_hz, zeta) in enumerate(zip(make.modes_hz, make.damping, strict=True)):
        if natural_hz >= PASS * rate_hz:
            continue
        path = float(make.paths[0, mode])
        power = path**2 * strikes_hz * height_g**2 / (4 * zeta * TURN_RAD * natural_hz)
        band_hz = math.pi * zeta * natural_hz
        floor = float(make.floor_g_per_rthz[0]) ** 2 * band_hz
        noise = floor + path**2 * (make.structure_g**2 + rough_g**2)
        line = 2 * power + 0.6 * path**2 * rough_g**2
        best = max(best, 20 * math.log10(line / (noise * math.sqrt(2 / (band_hz * SECONDS))) + 1e-12))
    return best


def _mean_square_load(make: MakeUp, mode: str) -> float:
    """RMS of the load on the damaged place at the strikes."""
    turn = np.linspace(0, TURN_RAD, 64, endpoint=False)
    match mode:
        case "bearing_outer":
            return impacts.outer_load(make.outer_position_rad)
        case "bearing_inner":
            return float(np.sqrt(np.mean(impacts.stribeck(turn, make.load_epsilon) ** 2)))
        case "bearing_ball":
            return 0.8 * float(np.sqrt(np.mean((0.3 + 0.7 * impacts.stribeck(turn, make.load_epsilon)) ** 2)))
        case _:
            return 1.0


def _loose_harmonics(make: MakeUp, severity: float) -> float:
    """Velocity in mm/s rms of a loose foot without 1x and 2x."""
    waveform = signals.rattle(_LOOSENESS_TURNS, math.sqrt(severity), 0.0)
    peaks = 2 * np.abs(np.fft.rfft(waveform)) / waveform.size  # bin k is order k / 2
    orders = np.arange(peaks.size) / 2
    velocity = np.divide(peaks, orders, out=np.zeros_like(peaks), where=orders > 0)
    velocity[[2, 4]] = 0
    return float(severity * make.looseness_fault_mm_s * np.sqrt(np.sum(velocity**2)))


def _first(enough: Callable[[float], bool]) -> float:
    """The lowest severity, in steps of 0.01, for which `enough(severity)` holds; 1 if there is none."""
    return next((float(s) for s in np.arange(0.04, 1.0, 0.01) if enough(float(s))), 1.0)
