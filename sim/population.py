"""What a machine is made of: every machine draws its make-up from a population.

The levels of two machines of a kind differ by a factor of two to three, as in a real plant. Structure, bearing,
mounting and the colour of the noise differ too. All numbers are typical ranges, not standards. A `shift`
moves every range up or down by that share of its width, raises the noise and uses other bearings: machines that no
model was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.core.bearings import orders_from_geometry
from pipeline.core.faults import MODES
from pipeline.core.records import BearingOrders
from pipeline.errors import ConfigError
from sim.life import Fault
from sim.signals import TURN_RAD, Complex64, Float32, Float64

AXES = ("x", "y", "z")  # radial horizontal, radial vertical, axial
KINDS = ("pump", "fan", "motor", "gearbox")
KIND_FAULTS = {
    "gearbox": ("gear_wear", "gear_tooth"),
    "pump": ("cavitation",),
    "motor": ("other",),
}
COMMON_FAULTS = tuple(mode for mode in MODES if not any(mode in own for own in KIND_FAULTS.values()))
_SPEED_HZ = {"pump": (20.0, 55.0), "fan": (10.0, 45.0), "motor": (15.0, 60.0), "gearbox": (10.0, 30.0)}
_BEARINGS = (
    (9, 0.2034), (8, 0.2367), (8, 0.2292), (13, 0.1367), (7, 0.2800), (10, 0.1900), (11, 0.1720), (7, 0.2550),
    (8, 0.2120), (9, 0.2240), (10, 0.2040), (11, 0.1840), (12, 0.1580), (13, 0.1480), (14, 0.1330), (16, 0.1120),
)  # elements, d/D  # fmt: skip
_OTHER_BEARINGS = ((12, 0.1700), (8, 0.2600), (10, 0.2150), (15, 0.1200), (9, 0.1850))  # of a shifted population
_MODES_HZ = ((1500.0, 2800.0), (2800.0, 4500.0), (4500.0, 9500.0))
_LEVEL_SIGMA = math.log(2.5) / 1.28  # 80 % of the machines are between 1/2.5 and 2.5 times the typical level
_LEVEL_LIMIT = 1.6  # sigmas: a machine beyond 0.3 to 3 times the typical level would not count as sound


@dataclass(frozen=True, slots=True, eq=False)
class MakeUp:
    """One machine. Levels are of the sound machine; `*_fault_*` is added at full severity. C axes, M modes."""

    kind: str
    speed_hz: float
    speed_sigma: float  # relative
    speed_tau_s: float
    orders: BearingOrders  # nominal; the bearing slips by `slip`
    slip: float
    jitter: float  # of the gap between strikes, relative, accumulated
    load_epsilon: float
    outer_position_rad: float  # of a spall on the outer ring, 0 = 6 o'clock
    modes_hz: Float64  # (M,)
    damping: Float64  # (M,)
    paths: Float32  # (C, M) from structure to sensor
    gains: Float32  # (C,) mounting and sensor
    floor_g_per_rthz: Float32  # (C,)
    tilt: float
    tilt_corner_hz: float
    structure_g: float  # RMS of background noise in each mode
    knocks_hz: float  # from the neighbourhood, not locked to the shaft
    unbalance_mm_s: float
    shaft_ratios: tuple[float, float]  # 2x and 3x of a sound machine, to its 1x
    shaft_phase: Complex64  # (C, 3) of 1x, 2x, 3x; unit length
    unbalance_fault_mm_s: float
    misalignment_fault_mm_s: float
    misalignment_2x: float  # to its 1x
    angular: bool
    looseness_fault_mm_s: float
    impact_fault_g: float
    teeth: tuple[int, int]  # of the wheel on this shaft and the one it drives
    mesh_g: float  # 0 = no gears
    tooth_fault_g: float
    cracked_wheel: int  # 0 this shaft's, 1 the driven one's
    blades: int
    bubbles_hz: float
    bubble_s: float
    cavitation_fault: float  # RMS, in units of the noise floor
    line_mm_s: float  # 0 = nothing electrical near
    pole_pass_hz: float
    neighbour_hz: float  # shaft speed of the machine beside it
    neighbour_mm_s: float  # what leaks through of its 1x
    belt_order: float  # turns of the belt per turn of the shaft
    belt_mm_s: float  # 0 = no belt
    critical: float  # first critical speed over the nominal speed
    friction_k: float  # how much warmer a bearing is at the end of its life
    turn_g: Complex64 | None = None  # (C, K) further harmonics of the shaft, peak in g; see sim.field
    turn_depth: float = 0.0  # how far the shaft modulates the background of the structure
    weak: tuple[Fault, ...] = ()  # lines of a bearing that is still sound


def location(make: MakeUp, mode: str) -> str:
    """The place of a fault on this machine, in the words of a mechanic."""
    match mode:
        case "bearing_outer":
            hour = round(6 + 6 * make.outer_position_rad / math.pi) % 12 or 12
            return f"outer ring, {hour} o'clock"
        case "misalignment":
            return f"coupling, {'angular' if make.angular else 'parallel'}"
        case "gear_tooth":
            return "one tooth of the wheel" if make.cracked_wheel else "one tooth of the pinion"
        case _:
            return MODES[mode].part


def faults_of(kind: str) -> tuple[str, ...]:
    """The failure modes that machines of this kind can have."""
    return COMMON_FAULTS + KIND_FAULTS.get(kind, ())


def draw(kind: str, rng: np.random.Generator, shift: float = 0.0) -> MakeUp:
    """Draws one machine. Every value is drawn for every kind, so that random numbers do not depend on the kind."""
    if not 0 <= shift <= 1:
        msg = f"the shift of a population must be 0 to 1, found: {shift:g}"
        raise ConfigError(msg, hint="0.3 moves every range by 30 % of its width")
    dice = _Dice(rng, shift)
    noisier = 1 + shift * 2 / 3  # 1.2 times at a shift of 0.3
    level, floor = dice.level(), dice.level() * noisier
    bearings = _OTHER_BEARINGS if shift > 0 else _BEARINGS
    elements, ratio = bearings[rng.integers(len(bearings))]
    paths = dice.spreads(0.5, (3, 3)) * np.array([[1.0], [1.0], [0.5]])
    phase = rng.uniform(0, TURN_RAD, (3, 3))
    phase[1] = phase[0] + math.pi / 2  # a rotating force reaches the two radial axes a quarter turn apart
    teeth = (round(dice.between(17, 44)), round(dice.between(31, 60)))
    floor_g, structure_g = 1.5e-4 * floor, 0.02 * floor * dice.spread(0.3)
    hiss = math.hypot(1, 2.2 * structure_g / (floor_g * math.sqrt(5400.0)))  # RMS of a sound machine / its white floor
    mesh_g, line_mm_s = 0.06 * level * dice.spread(0.4), 0.15 * dice.spread(0.6)
    return MakeUp(
        kind=kind,
        speed_hz=dice.between(*_SPEED_HZ[kind]),
        speed_sigma=dice.between(0.003, 0.012),
        speed_tau_s=dice.between(2.0, 10.0),
        orders=orders_from_geometry(elements, ratio),
        slip=dice.between(0.005, 0.015),
        jitter=dice.between(0.004, 0.015),
        load_epsilon=dice.between(0.3, 0.5),
        outer_position_rad=rng.normal(0.0, 0.7),
        modes_hz=np.array([dice.between(*hz) for hz in _MODES_HZ]),
        damping=np.array([dice.between(0.01, 0.05) for _ in _MODES_HZ]),
        paths=paths.astype(np.float32),
        gains=dice.spreads(0.15, (3,)).astype(np.float32),
        floor_g_per_rthz=(floor_g * dice.spreads(0.15, (3,))).astype(np.float32),
        tilt=dice.between(0.5, 4.0),
        tilt_corner_hz=dice.between(100.0, 600.0),
        structure_g=structure_g,
        knocks_hz=dice.between(0.0, 0.04),
        unbalance_mm_s=0.7 * level,
        shaft_ratios=(dice.between(0.05, 0.4), dice.between(0.03, 0.2)),
        shaft_phase=np.exp(1j * phase).astype(np.complex64),
        unbalance_fault_mm_s=dice.between(4.0, 12.0),
        misalignment_fault_mm_s=dice.between(4.0, 12.0),
        misalignment_2x=dice.between(0.6, 1.5),
        angular=bool(rng.random() < 0.5),
        looseness_fault_mm_s=dice.between(5.0, 14.0),
        impact_fault_g=1.5 * dice.spread(0.45),
        teeth=teeth,
        mesh_g=mesh_g if kind == "gearbox" else 0.0,
        tooth_fault_g=1.6 * dice.spread(0.4),
        cracked_wheel=int(rng.integers(2)),
        blades=int(rng.integers(4, 8)),
        bubbles_hz=dice.between(250.0, 500.0),
        bubble_s=dice.between(1e-3, 2e-3),
        cavitation_fault=hiss * dice.between(3.0, 7.0),
        line_mm_s=line_mm_s if kind in ("motor", "pump", "fan") else 0.0,
        pole_pass_hz=dice.between(0.5, 3.0),
        neighbour_hz=dice.between(10.0, 50.0),
        neighbour_mm_s=0.12 * dice.spread(0.6),
        belt_order=dice.between(0.2, 0.6),
        belt_mm_s=0.25 * dice.spread(0.5) * (kind == "fan" and rng.random() < 0.5),
        critical=(dice.between(0.5, 0.8), dice.between(1.4, 2.5))[int(rng.integers(2))],
        friction_k=dice.between(5.0, 30.0),
    )


class _Dice:
    """Draws from the ranges of the population, or from shifted ones."""

    def __init__(self, rng: np.random.Generator, shift: float) -> None:
        self.rng = rng
        self.shift = shift

    def between(self, low: float, high: float) -> float:
        """Uniform, shifted up or down by `shift` times the width; at least half of `low`."""
        value = self.rng.uniform(low, high)
        if self.shift > 0:
            value += self.rng.choice((-1.0, 1.0)) * self.shift * (high - low)
        return float(max(value, 0.5 * low))

    def spread(self, sigma: float) -> float:
        """A log-normal factor around 1; a shift widens it."""
        return math.exp(sigma * (1 + self.shift) * self.rng.standard_normal())

    def spreads(self, sigma: float, shape: tuple[int, ...]) -> Float64:
        """Log-normal factors around 1."""
        factors: Float64 = np.exp(sigma * (1 + self.shift) * self.rng.standard_normal(shape))
        return factors

    def level(self) -> float:
        """Level of a sound machine / typical level: log-normal, truncated at levels that would not be sound."""
        number = self.rng.standard_normal()
        while abs(number) > _LEVEL_LIMIT:
            number = self.rng.standard_normal()
        return math.exp(_LEVEL_SIGMA * number)
