"""What each part of a machine adds to the reading, sound or damaged: make-up and fault -> g on three axes.

`signals` and `impacts` contain the physics; this module sets the amounts for each fault. Severity is 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.faults import MODES, family_of
from pipeline.core.features.table import FAMILIES
from sim import impacts, signals
from sim.events import Moment
from sim.life import Condition
from sim.population import MakeUp
from sim.signals import TURN_RAD, Float32, Float64

LINE_HZ = 50.0
PASS = 0.45  # share of the sampling rate up to which the anti-alias filter passes
_STRIKES = {  # mode -> how often per turn that part of a bearing strikes
    mode: family.order for family in FAMILIES for mode in MODES if family_of(mode) == family.feature
}
BEARING_FAULTS = tuple(_STRIKES)
_DISTRIBUTED_DEPTH = 0.6  # q: how deeply the passing elements modulate the noise of distributed damage
_AMPLITUDE_CV = 0.2  # coefficient of variation of the heights of strikes
_KNOCK, _BLOW = 8.0, 60.0  # height of a knock from outside and of a hammer blow / background of the structure
_GIANTS_FROM = 0.92  # severity from which pieces break loose
_SQUEAL_HZ = 0.55  # pitch of a dry seal over the first mode of the structure
_RADIAL = np.array([[1.0], [0.8], [0.25]], np.float32)


@dataclass(frozen=True, slots=True)
class Drive:
    """Mean speed and load of the shaft during a frame."""

    speed_hz: float
    speed: float  # / nominal speed; 0 = at rest
    load: float

    @property
    def force(self) -> float:
        """Relative force of rotating parts: it grows with the square of the speed."""
        return self.speed**2 * self.load


def drive_of(make: MakeUp, speed_hz: float, moment: Moment) -> Drive:
    """The drive of a frame with this mean speed."""
    return Drive(speed_hz, speed_hz / make.speed_hz, moment.load)


def amplification(make: MakeUp, speed: float) -> float:
    """Response of the rotor to 1x near its critical speed, relative to the nominal speed: visible in a run-up.

    |H| = 1 / sqrt((1 - r^2)^2 + (2 zeta r)^2), r = speed / critical speed, zeta 6 %.
    """

    def answer(r: float) -> float:
        return 1 / math.sqrt((1 - r * r) ** 2 + (2 * 0.06 * r) ** 2)

    return answer(speed / make.critical) / answer(1 / make.critical)


def shaft(make: MakeUp, fault: Condition, theta: Float64, drive: Drive, rate_hz: float) -> Float32:
    """1x to 3x from unbalance and misalignment; the force grows with the square of the speed. Returns: (3, n) in g."""
    unbalance = make.unbalance_mm_s + fault.of("unbalance") * make.unbalance_fault_mm_s
    twice, thrice = (ratio * make.unbalance_mm_s for ratio in make.shaft_ratios)
    velocity = _RADIAL * np.array([unbalance, twice, thrice])  # (C, K) mm/s rms
    skew = fault.of("misalignment") * make.misalignment_fault_mm_s
    pattern = np.array([0.7, 0.7 * make.misalignment_2x, 0.25])
    side, axial = (0.4, 1.1) if make.angular else (1.0, 0.2)  # angular shows axially, parallel radially
    velocity += skew * np.array([[side], [side], [axial]]) * pattern
    velocity[:, 0] *= amplification(make, drive.speed)
    peak_g = [drive.force * signals.velocity_to_g(1.0, (k + 1) * make.speed_hz) for k in range(3)]
    amplitudes = (velocity * peak_g * make.shaft_phase).astype(np.complex64)
    x = signals.harmonics(signals.unit_phasor(theta), amplitudes)
    if make.turn_g is not None:
        kept = max(1, int(PASS * rate_hz / max(make.speed_hz, drive.speed_hz)))
        turn_g = np.complex64(drive.force) * make.turn_g[:, :kept]
        x += signals.harmonics(signals.unit_phasor(theta), turn_g)
    return x


def loose(make: MakeUp, fault: Condition, theta: Float64, drive: Drive, level: float, phase_rad: float) -> Float32:
    """A foot or a fit that lifts once per turn. `level` and `phase_rad` vary slowly. Returns: (3, n) in g."""
    severity = fault.of("looseness")
    velocity = severity * make.looseness_fault_mm_s
    peak_g = drive.force * signals.velocity_to_g(velocity, make.speed_hz) * math.exp(level)
    return np.float32(peak_g) * _RADIAL[[1, 0, 2]] * signals.rattle(theta, math.sqrt(severity), phase_rad)


def surroundings(make: MakeUp, theta: Float64, first: int, n: int, rate_hz: float, neighbour: float) -> Float32:
    """Hard negatives: 1x and 2x of a neighbour machine at its own speed, and belt lines. Returns: (3, n) in g."""
    peak_g = neighbour * signals.velocity_to_g(make.neighbour_mm_s, make.neighbour_hz)
    turns = signals.tone(first, n, rate_hz, make.neighbour_hz)
    x = np.float32(peak_g) * (turns + np.float32(0.6) * (2 * turns * turns - 1))  # cos 2a = 2 cos^2 a - 1
    if make.belt_mm_s > 0:
        belt = signals.unit_phasor(theta * make.belt_order).real
        peak_g = signals.velocity_to_g(make.belt_mm_s, make.belt_order * make.speed_hz)
        x += np.float32(peak_g) * (belt + np.float32(0.5) * (2 * belt * belt - 1))
    return _RADIAL * x


def squeal(make: MakeUp, peak_g: float, first: int, n: int, rate_hz: float) -> Float32:
    """A dry seal: stick-slip at a pitch of its own, not locked to the shaft. Returns: (3, n) in g."""
    pitch_hz = min(_SQUEAL_HZ * float(make.modes_hz[0]), 0.14 * rate_hz)
    slip = signals.tone(first, n, rate_hz, pitch_hz)
    x = np.float32(peak_g) * (
        slip + np.float32(0.7) * (2 * slip * slip - 1) + np.float32(0.5) * (4 * slip**3 - 3 * slip)
    )
    return np.array([[1.0], [0.8], [1.2]], np.float32) * x


def gears(make: MakeUp, fault: Condition, theta: Float64, drive: Drive, rate_hz: float) -> Float32:
    """Mesh of one pair of wheels. Returns: (3, n) in g.

    Wear raises 2x and 3x mesh and the sidebands of both shafts. It also modulates at the hunting tooth frequency: the
    same pair of teeth meets every lcm(z1, z2) teeth. A cracked tooth dips amplitude and
    phase once per turn of its shaft.
    """
    wear, crack = fault.of("gear_wear"), fault.of("gear_tooth")
    driven = theta * (make.teeth[0] / make.teeth[1])
    both = signals.unit_phasor(theta).real + np.float32(0.5) * signals.unit_phasor(driven).real
    amplitude_mod = np.float32(0.05 + 0.35 * wear) * both
    phase_mod = np.float32(0.02 + 0.15 * wear) * both
    if wear > 0:
        hunting = theta * (math.gcd(*make.teeth) / make.teeth[1])
        amplitude_mod += np.float32(0.15 * wear) * signals.unit_phasor(hunting).real
    if crack > 0:
        wheel = (theta, driven)[make.cracked_wheel]
        dip = signals.tooth_dip(wheel, TURN_RAD / make.teeth[make.cracked_wheel])
        amplitude_mod -= np.float32(0.8 * crack) * dip
        phase_mod += np.float32(0.5 * crack) * dip
    grown = (1 + wear, 0.5 * (1 + 4 * wear), 0.25 * (1 + 6 * wear))
    room = int(PASS * rate_hz / (make.teeth[0] * max(make.speed_hz, drive.speed_hz) * 1.05))
    levels = tuple(make.mesh_g * drive.speed * drive.load * factor for factor in grown[: max(0, room)])
    mesh = signals.gear_mesh(theta, make.teeth[0], levels, amplitude_mod, phase_mod)
    return make.paths[:, :1] * mesh


def mains(make: MakeUp, fault: Condition, first: int, n: int, rate_hz: float) -> Float32:
    """Twice the line frequency; a loose stator (`other`) raises it and its sidebands. Returns: (3, n) in g."""
    stator = fault.of("other")
    peak_g = signals.velocity_to_g(make.line_mm_s + 5.0 * stator, 2 * LINE_HZ)
    tone = signals.line_tone(first, n, rate_hz, LINE_HZ, make.pole_pass_hz, 0.1 + 0.5 * stator)
    return np.float32(peak_g) * _RADIAL * tone


def cavitation(
    make: MakeUp,
    fault: Condition,
    theta: Float64,
    drive: Drive,
    rate_hz: float,
    bubbles: float,
    hiss: Float64,
    rng: np.random.Generator,
) -> tuple[Float32, float, Float64]:
    """Bursts of noise above 1.5 kHz from collapsing bubbles, modulated at blade pass. Returns: (3, n) in g, states."""
    n = theta.size
    at = signals.burst_positions(make.bubbles_hz, theta, make.blades, 0.6, rate_hz, rng)
    heights = np.exp(0.3 * rng.standard_normal(at.size))
    envelope, bubbles = signals.decay(at, heights, math.exp(-1 / (make.bubble_s * rate_hz)), n, bubbles)
    busy = make.bubbles_hz * make.bubble_s
    envelope *= np.float32(1 / math.sqrt(math.exp(0.18) / 2 * busy + math.exp(0.09) * busy**2))  # RMS 1 (Campbell)
    white = rng.standard_normal((1, n), np.float32) * np.float32(math.sqrt(rate_hz / 2))
    low, hiss = signals.low_pass(white, signals.pole_of(1500.0, rate_hz), hiss)
    envelope = np.float32(0.6) * (1 + envelope)  # the constant part is the noise of many small bubbles
    level = fault.of("cavitation") * drive.force * make.cavitation_fault * make.floor_g_per_rthz[:, None]
    return level * ((white - low) * envelope), bubbles, hiss


def friction(make: MakeUp, fault: Condition) -> float:
    """Temperature rise in K of a damaged bearing: severity^4, so it comes late."""
    return make.friction_k * max(fault.of(mode) for mode in BEARING_FAULTS) ** 4


def bearing_gap_rad(make: MakeUp, mode: str) -> float:
    """Shaft angle between two strikes of a bearing fault, with slip. A damaged element strikes both rings per turn."""
    return TURN_RAD / (_STRIKES[mode](make.orders) * (1 - make.slip))


def bearing_strikes(
    make: MakeUp,
    mode: str,
    severity: float,
    pending: tuple[float, int],
    span_rad: tuple[float, float],
    drive: Drive,
    rng: np.random.Generator,
) -> tuple[Float64, Float64, tuple[float, int]]:
    """Strikes of one damaged part: shaft angles, heights in g, and (angle of the next strike, strikes so far).

    Outer ring: constant load. Inner ring: passes the load zone once per turn, hence sidebands at f_r. Element: load
    turns with the cage, and differs between the two rings. Cage: few and irregular strikes, some missing, some twice as
    high. Near the end pieces break loose and a few strikes are very high. span_rad: shaft angle before the first sample
    and at the last one.
    """
    gap_rad = bearing_gap_rad(make, mode)
    pending_rad, count = pending
    pending_rad += gap_rad * max(0, math.ceil((span_rad[0] - pending_rad) / gap_rad))  # there was no fault until now
    jitter = make.jitter * (4.0 if mode == "bearing_cage" else 1.0)
    angles, pending_rad = impacts.strikes(pending_rad, gap_rad, jitter, span_rad[1], rng)
    heights = np.exp(_AMPLITUDE_CV * rng.standard_normal(angles.size)) * bearing_load(make, mode, angles)
    if mode == "bearing_ball":
        heights *= np.where((count + np.arange(angles.size)) % 2 == 0, 1.0, 0.6)
    elif mode == "bearing_cage":
        heights *= rng.choice((0.0, 1.0, 2.0), angles.size, p=(0.15, 0.75, 0.10))
    if severity > _GIANTS_FROM:
        heights *= np.where(rng.random(angles.size) < 0.002, 4.0, 1.0)
    heights *= make.impact_fault_g * impacts.impact_height(severity) * drive.speed * drive.load
    return angles, heights, (pending_rad, count + angles.size)


def bearing_load(make: MakeUp, mode: str, angle_rad: Float64) -> Float64:
    """Load on the damaged place at these shaft angles; 1 = the place with the highest load. (k,) -> (k,)."""
    match mode:
        case "bearing_outer":
            return np.full(angle_rad.size, impacts.outer_load(make.outer_position_rad))
        case "bearing_inner":
            return impacts.stribeck(angle_rad, make.load_epsilon)
        case "bearing_ball":
            return 0.3 + 0.7 * impacts.stribeck(angle_rad * make.orders.ftf * (1 - make.slip), make.load_epsilon)
        case _:
            return np.ones(angle_rad.size)


def other_strikes(
    make: MakeUp,
    fault: Condition,
    tooth_rad: float,
    before_rad: float,
    theta: Float64,
    drive: Drive,
    hammer_hz: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> tuple[Float64, Float64, float]:
    """Other strikes: the cracked tooth once per turn of its shaft, and knocks from outside.

    Returns: positions in samples, heights in g, the next angle at which the tooth meshes.
    """
    usual, blows = (int(rng.poisson(hz * theta.size / rate_hz)) for hz in (make.knocks_hz, hammer_hz))
    knocks = rng.uniform(0, theta.size - 1, usual + blows)
    heights = np.exp(0.5 * rng.standard_normal(knocks.size))
    heights *= make.structure_g * np.repeat((_KNOCK, _BLOW), (usual, blows))
    crack = fault.of("gear_tooth")
    if crack == 0:
        return knocks, heights, tooth_rad
    turn_rad = TURN_RAD * (1.0, make.teeth[1] / make.teeth[0])[make.cracked_wheel]
    tooth_rad += turn_rad * max(0, math.ceil((before_rad - tooth_rad) / turn_rad))  # there was no fault until now
    angles, tooth_rad = impacts.strikes(tooth_rad, turn_rad, 0.0, float(theta[-1]), rng)
    hit = make.tooth_fault_g * crack**2 * np.exp(_AMPLITUDE_CV * rng.standard_normal(angles.size))
    hit *= drive.speed * drive.load
    positions = impacts.sample_positions(angles, before_rad, theta)
    return np.concatenate((knocks, positions)), np.concatenate((heights, hit)), tooth_rad


def roughness(
    make: MakeUp,
    fault: Condition,
    theta: Float64,
    pending: Sequence[tuple[float, int]],
    drive: Drive,
    floor: float,
    rng: np.random.Generator,
) -> Float64:
    """Excitation of the structure besides strikes: background, and the modulated noise of distributed damage.

    [1 + q cos(o_f theta)] w + 0.1 cos(o_bpfo theta) + 0.1 cos theta, w white (sakana28/ma, after D'Elia): lines in the
    envelope with a kurtosis near 3. The noise peaks at the strikes (`pending`: the next one of every bearing fault),
    because both come from the same passing element. Damage all around depends less on the load zone than one spall. A
    broken cage modulates the background itself. Returns: (n,) in g.
    """
    total = (make.structure_g * drive.speed * floor) * rng.standard_normal(theta.size)
    if make.turn_depth > 0:
        total *= 1 + make.turn_depth * np.cos(theta)
    for number, mode in enumerate(BEARING_FAULTS):
        severity = fault.of(mode)
        if severity == 0:
            continue
        phase = (theta - pending[number][0]) * (TURN_RAD / bearing_gap_rad(make, mode))
        if mode == "bearing_cage":
            total *= 1 + 0.6 * severity * np.cos(phase)
        level_g = make.impact_fault_g * impacts.roughness(severity) * drive.speed * drive.load
        load = 0.6 + 0.4 * bearing_load(make, mode, theta)
        noise = (1 + _DISTRIBUTED_DEPTH * np.cos(phase)) * rng.standard_normal(theta.size) * load
        regular = 0.1 * np.cos(make.orders.bpfo * (1 - make.slip) * theta) + 0.1 * np.cos(theta)
        total += level_g * (noise + regular)
    return total
