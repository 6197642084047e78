"""One machine: a make-up and a life become samples and truth, frame by frame.

`step(machine, state) -> (state, frame)` is pure. A frame has FRAME samples whatever the caller wants, and its
randomness is drawn from (seed, machine number, frame number): the same machine gives the same bytes however they are
cut later, and neither the block length nor the other machines of a plant can change them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from sim import components, impacts, signals
from sim.components import BEARING_FAULTS, PASS
from sim.impacts import Complex128
from sim.life import HEALTHY, Life
from sim.population import AXES, MakeUp, faults_of
from sim.signals import TURN_RAD, Float32, Float64

FRAME = 4096  # samples: long enough to be fast, short enough that severity and speed may change in between
UNIT = "g"
_COUPLING_HZ = 0.5  # an accelerometer's amplifier blocks what is slower


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """Everything that is fixed: who it is, what it is made of, how it will fail, how it is sampled."""

    id: str
    entropy: tuple[int, ...]  # (seed, ..., machine number)
    make: MakeUp
    life: Life
    rate_hz: float

    def __post_init__(self) -> None:
        """Refuse a rate that cannot carry the structure, and a fault that the machine has no part for."""
        need_hz = float(self.make.modes_hz[0]) / PASS
        if not math.isfinite(self.rate_hz) or self.rate_hz < need_hz:
            msg = (
                f"rate_hz must be at least {need_hz:.0f} to carry the {self.make.modes_hz[0]:.0f} Hz resonance "
                f"of {self.id}, found: {self.rate_hz:g}"
            )
            raise ConfigError(msg, hint="12000 carries every machine and every feature")
        if self.life.mode not in (HEALTHY, *faults_of(self.make.kind)):
            msg = f"a {self.make.kind} can have {', '.join(faults_of(self.make.kind))}, found: {self.life.mode}"
            raise ConfigError(msg, hint="gears fail in a gearbox, cavitation needs a pump")

    @property
    def carried(self) -> int:
        """How many of the structure's modes lie below the anti-alias filter."""
        return int(np.sum(self.make.modes_hz < PASS * self.rate_hz))


@dataclass(frozen=True, slots=True, eq=False)
class MachineState:
    """All that one frame hands to the next."""

    frame: int
    theta_rad: float  # of the last sample
    speed: float  # relative deviation from nominal
    loose_level: float
    loose_phase_rad: float
    strike_rad: float  # shaft angle of the bearing's next strike
    strike_count: int
    tooth_rad: float  # shaft angle at which the cracked tooth meshes next
    ringing: Complex128  # (M,)
    floor: Float64  # (C,)
    bubbles: float
    hiss: Float64  # (1,)
    coupling: Float64  # (C,)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """FRAME samples of all axes in g, and the shaft angle at each of them."""

    samples: Float32  # (C, FRAME)
    theta_rad: Float64  # (FRAME,)


def initial(machine: Machine) -> MachineState:
    """A machine at rest in sound, running at nominal speed, at an angle of its own."""
    rng = np.random.default_rng((*machine.entropy, 0))
    return MachineState(
        frame=0,
        theta_rad=0.0,
        speed=0.0,
        loose_level=0.0,
        loose_phase_rad=0.0,
        strike_rad=rng.uniform(0, TURN_RAD),
        strike_count=0,
        tooth_rad=rng.uniform(0, TURN_RAD),
        ringing=np.zeros(machine.carried, np.complex128),
        floor=np.zeros(len(AXES)),
        bubbles=0.0,
        hiss=np.zeros(1),
        coupling=np.zeros(len(AXES)),
    )


def step(machine: Machine, state: MachineState) -> tuple[MachineState, Frame]:
    """The next FRAME samples."""
    make, rate_hz = machine.make, machine.rate_hz
    frame_s = FRAME / rate_hz
    rng = np.random.default_rng((*machine.entropy, state.frame + 1))
    fault = machine.life.fault((state.frame + 0.5) * frame_s)

    speed = signals.wander(state.speed, make.speed_sigma, make.speed_tau_s, frame_s, rng)
    from_hz, to_hz = make.speed_hz * (1 + state.speed), make.speed_hz * (1 + speed)
    theta = signals.shaft_angle(state.theta_rad, from_hz, to_hz, FRAME, rate_hz)
    loose_level = signals.wander(state.loose_level, 0.3, 1.0, frame_s, rng)
    loose_phase = signals.wander(state.loose_phase_rad, 1.0, 2.0, frame_s, rng)

    at, heights, tooth_rad = components.other_strikes(
        make, fault, state.tooth_rad, state.theta_rad, theta, rate_hz, rng
    )
    strike_rad, count = state.strike_rad, state.strike_count
    if fault.mode in BEARING_FAULTS:
        angles, hits, strike_rad, count = components.bearing_strikes(
            make, fault, strike_rad, count, float(theta[-1]), rng
        )
        at = np.concatenate((at, impacts.sample_positions(angles, state.theta_rad, theta)))
        heights = np.concatenate((heights, hits))
    order = np.argsort(at, kind="stable")
    drive = components.roughness(make, fault, theta, rng)
    poles = impacts.mode_poles(make.modes_hz[: machine.carried], make.damping[: machine.carried], rate_hz)
    modes, ringing = impacts.ring(drive, at[order], heights[order], poles, state.ringing)
    x = make.paths[:, : machine.carried] @ modes

    white = rng.standard_normal((len(AXES), FRAME), np.float32) * np.float32(math.sqrt(rate_hz / 2))
    pole = signals.pole_of(make.tilt_corner_hz, rate_hz)
    floor, floor_state = signals.colour(make.floor_g_per_rthz[:, None] * white, make.tilt, pole, state.floor)
    x += floor
    x += components.shaft(make, fault, theta, to_hz)
    if fault.of("looseness") > 0:
        x += components.loose(make, fault, theta, loose_level, loose_phase)
    if make.mesh_g > 0:
        x += components.gears(make, fault, theta, rate_hz)
    if make.line_mm_s > 0:
        x += components.mains(make, fault, state.frame * FRAME, FRAME, rate_hz)
    bubbles, hiss = state.bubbles, state.hiss
    if fault.of("cavitation") > 0:
        noise, bubbles, hiss = components.cavitation(make, fault, theta, rate_hz, bubbles, hiss, rng)
        x += noise
    slow, coupling = signals.low_pass(x, signals.pole_of(_COUPLING_HZ, rate_hz), state.coupling)
    after = MachineState(
        frame=state.frame + 1,
        theta_rad=float(theta[-1]),
        speed=speed,
        loose_level=loose_level,
        loose_phase_rad=loose_phase,
        strike_rad=strike_rad,
        strike_count=count,
        tooth_rad=tooth_rad,
        ringing=ringing,
        floor=floor_state,
        bubbles=bubbles,
        hiss=hiss,
        coupling=coupling,
    )
    return after, Frame(samples=make.gains[:, None] * (x - slow), theta_rad=theta)
