"""What a machine is made of: every machine draws its own make-up from a population.

Two machines of a kind differ in level by two to three times, as they do in a plant; the structure, the bearing,
the mounting and the colour of the noise are their own. All numbers are typical ranges, none is a standard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.core.bearings import orders_from_geometry
from pipeline.core.records import BearingOrders
from sim.signals import TURN_RAD, Complex64, Float32, Float64

AXES = ("x", "y", "z")  # radial horizontal, radial vertical, axial
KINDS = ("pump", "fan", "motor", "gearbox")
COMMON_FAULTS = (
    "unbalance", "misalignment", "looseness", "bearing_inner", "bearing_outer", "bearing_ball", "bearing_cage",
)  # fmt: skip
KIND_FAULTS = {
    "gearbox": ("gear_wear", "gear_tooth"),
    "pump": ("cavitation",),
    "motor": ("other",),
}
_SPEED_HZ = {"pump": (20.0, 55.0), "fan": (10.0, 45.0), "motor": (15.0, 60.0), "gearbox": (10.0, 30.0)}
_BEARINGS = ((9, 0.2034), (8, 0.2367), (8, 0.2292), (13, 0.1367), (7, 0.2800), (10, 0.1900), (11, 0.1720))  # Z, d/D
_MODES_HZ = ((1500.0, 2800.0), (2800.0, 4500.0), (4500.0, 9500.0))
_LEVEL_SIGMA = math.log(2.5) / 1.28  # eight machines of ten lie between 1/2.5 and 2.5 times the typical level


@dataclass(frozen=True, slots=True, eq=False)
class MakeUp:
    """One machine. Levels are those of the sound machine, `*_fault_*` is what full severity adds. C axes, M modes."""

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


def faults_of(kind: str) -> tuple[str, ...]:
    """The failure modes that machines of this kind can have."""
    return COMMON_FAULTS + KIND_FAULTS.get(kind, ())


def draw(kind: str, rng: np.random.Generator) -> MakeUp:
    """Draw one machine of that kind; everything is drawn for every kind, so that one draw never shifts another."""
    level, floor = _spread(_LEVEL_SIGMA, rng), _spread(_LEVEL_SIGMA, rng)
    elements, ratio = _BEARINGS[rng.integers(len(_BEARINGS))]
    paths = _spreads(0.5, rng, (3, 3)) * np.array([[1.0], [1.0], [0.5]])
    phase = rng.uniform(0, TURN_RAD, (3, 3))
    phase[1] = phase[0] + math.pi / 2  # the two radial directions see a turning force a quarter turn apart
    teeth = (int(rng.integers(17, 45)), int(rng.integers(31, 61)))
    mesh_g, line_mm_s = 0.06 * level * _spread(0.4, rng), 0.15 * _spread(0.6, rng)
    return MakeUp(
        kind=kind,
        speed_hz=rng.uniform(*_SPEED_HZ[kind]),
        speed_sigma=rng.uniform(0.003, 0.012),
        speed_tau_s=rng.uniform(2.0, 10.0),
        orders=orders_from_geometry(elements, ratio),
        slip=rng.uniform(0.005, 0.015),
        jitter=rng.uniform(0.004, 0.015),
        load_epsilon=rng.uniform(0.3, 0.5),
        outer_position_rad=rng.normal(0.0, 0.7),
        modes_hz=np.array([rng.uniform(*hz) for hz in _MODES_HZ]),
        damping=rng.uniform(0.01, 0.05, 3),
        paths=paths.astype(np.float32),
        gains=_spreads(0.15, rng, (3,)).astype(np.float32),
        floor_g_per_rthz=(4e-4 * floor * _spreads(0.15, rng, (3,))).astype(np.float32),
        tilt=rng.uniform(0.5, 4.0),
        tilt_corner_hz=rng.uniform(100.0, 600.0),
        structure_g=0.012 * floor * _spread(0.3, rng),
        knocks_hz=rng.uniform(0.0, 0.04),
        unbalance_mm_s=0.7 * level,
        shaft_ratios=(rng.uniform(0.05, 0.4), rng.uniform(0.03, 0.2)),
        shaft_phase=np.exp(1j * phase).astype(np.complex64),
        unbalance_fault_mm_s=rng.uniform(4.0, 12.0),
        misalignment_fault_mm_s=rng.uniform(3.0, 8.0),
        misalignment_2x=rng.uniform(0.5, 1.5),
        angular=bool(rng.random() < 0.5),
        looseness_fault_mm_s=rng.uniform(5.0, 14.0),
        impact_fault_g=1.2 * _spread(0.45, rng),
        teeth=teeth,
        mesh_g=mesh_g if kind == "gearbox" else 0.0,
        tooth_fault_g=1.6 * _spread(0.4, rng),
        cracked_wheel=int(rng.integers(2)),
        blades=int(rng.integers(4, 8)),
        bubbles_hz=rng.uniform(200.0, 500.0),
        bubble_s=rng.uniform(4e-4, 1.5e-3),
        cavitation_fault=rng.uniform(2.5, 6.0),
        line_mm_s=line_mm_s if kind in ("motor", "pump", "fan") else 0.0,
        pole_pass_hz=rng.uniform(0.5, 3.0),
    )


def _spread(sigma: float, rng: np.random.Generator) -> float:
    """A log-normal factor around 1."""
    return math.exp(sigma * rng.standard_normal())


def _spreads(sigma: float, rng: np.random.Generator, shape: tuple[int, ...]) -> Float64:
    """Log-normal factors around 1."""
    factors: Float64 = np.exp(sigma * rng.standard_normal(shape))
    return factors
