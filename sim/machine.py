"""One machine: a make-up and a life become samples and truth, frame by frame.

`step(machine, state) -> (state, frame)` is pure. The length of a frame depends on the machine alone, and its random
numbers follow from (seed, machine number, frame number). So neither the block length nor the other machines of a plant
change the samples of a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.faults import MODES
from pipeline.errors import ConfigError
from sim import components, impacts, sensors, signals
from sim.components import BEARING_FAULTS, PASS, Drive
from sim.events import Event, Moment, moment
from sim.impacts import Complex128
from sim.life import Condition, Life
from sim.population import AXES, MakeUp, faults_of
from sim.sensors import SensorState
from sim.signals import TURN_RAD, Float32, Float64

FRAME = 4096  # most samples: long enough to be fast, short enough for severity and speed to be constant in a frame
FRAME_S = 0.35  # longest frame
UNIT = "g"
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000.0, 51_200.0
_COUPLING_HZ = 0.5  # high-pass of the amplifier of an accelerometer
_SOFTER_PER_K = 4e-4  # relative drop of the resonances
_THINNER_PER_K = 0.01  # relative rise of the background of a bearing
_STANDING = 0.01  # share of the nominal speed below which the shaft is at rest


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """The constants of a machine: its id, its make-up, its life and how it is sampled."""

    id: str
    entropy: tuple[int, ...]  # (seed, ..., machine number)
    make: MakeUp
    life: Life
    rate_hz: float
    events: tuple[Event, ...] = ()
    unit: str = UNIT  # as the sender states it

    def __post_init__(self) -> None:
        """Checks that the rate can carry the faults and that the machine can have them."""
        check_rate(self.rate_hz)
        for mode in self.life.modes:
            if mode not in faults_of(self.make.kind):
                msg = f"a {self.make.kind} can have {', '.join(faults_of(self.make.kind))}, found: {mode}"
                raise ConfigError(msg, hint="gears fail in a gearbox, cavitation needs a pump, `other` a motor")
            if self.rate_hz < (need_hz := needs_rate_hz(self.make, mode)):
                msg = f"rate_hz must be at least {need_hz:.0f} for {mode} of {self.id}, found: {self.rate_hz:g}"
                raise ConfigError(msg, hint="12000 carries every machine and every feature")

    @property
    def carried(self) -> int:
        """Number of modes of the structure below the anti-alias filter."""
        return int(np.sum(self.make.modes_hz < PASS * self.rate_hz))

    @property
    def frame(self) -> int:
        """Samples per frame: a power of two, at most FRAME and about FRAME_S."""
        return int(min(FRAME, 2 ** round(math.log2(FRAME_S * self.rate_hz))))


def check_rate(rate_hz: float) -> None:
    """Checks that the sampling rate is one of an accelerometer."""
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        msg = f"rate_hz must be {LOWEST_RATE_HZ:.0f} to {HIGHEST_RATE_HZ:.0f}, found: {rate_hz:g}"
        raise ConfigError(msg, hint="12000 carries every machine and every feature")


def needs_rate_hz(make: MakeUp, mode: str) -> float:
    """The lowest sampling rate that carries a fault of this machine."""
    if mode in MODES and MODES[mode].line is None:
        return float(make.modes_hz[0]) / PASS
    if mode == "gear_wear":
        return 2.1 * make.teeth[0] * make.speed_hz / PASS  # twice the mesh, with a margin for the speed
    return LOWEST_RATE_HZ


@dataclass(frozen=True, slots=True, eq=False)
class MachineState:
    """The state between two frames."""

    frame: int
    time_s: float  # of the machine's life, at the start of the next frame
    theta_rad: float  # of the last sample
    speed: float  # relative deviation from nominal
    loose_level: float
    loose_phase_rad: float
    strikes: tuple[tuple[float, int], ...]  # per bearing fault: shaft angle of the next strike, strikes so far
    tooth_rad: float  # shaft angle at which the cracked tooth meshes next
    ringing: Complex128  # (M,)
    floor: Float64  # (C,)
    bubbles: float
    hiss: Float64  # (1,)
    coupling: Float64  # (C,)
    sensor: SensorState


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Samples of all axes in g, and the shaft angle at each of them."""

    samples: Float32  # (C, n)
    theta_rad: Float64  # (n,)


def initial(machine: Machine) -> MachineState:
    """The state of a silent machine that runs at nominal speed."""
    rng = np.random.default_rng((*machine.entropy, 0))
    return MachineState(
        frame=0,
        time_s=0.0,
        theta_rad=0.0,
        speed=0.0,
        loose_level=0.0,
        loose_phase_rad=0.0,
        strikes=tuple((float(rng.uniform(0, TURN_RAD)), 0) for _ in BEARING_FAULTS),
        tooth_rad=rng.uniform(0, TURN_RAD),
        ringing=np.zeros(machine.carried, np.complex128),
        floor=np.zeros(len(AXES)),
        bubbles=0.0,
        hiss=np.zeros(1),
        coupling=np.zeros(len(AXES)),
        sensor=SensorState(),
    )


def later(state: MachineState, time_s: float) -> MachineState:
    """The state at a later time of life, without a simulation in between: the logger slept."""
    return replace(state, time_s=time_s, sensor=SensorState())


def step(machine: Machine, state: MachineState) -> tuple[MachineState, Frame]:
    """The next `machine.frame` samples."""
    make, rate_hz, n = machine.make, machine.rate_hz, machine.frame
    frame_s = n / rate_hz
    rng = np.random.default_rng((*machine.entropy, state.frame + 1))
    middle_s = state.time_s + 0.5 * frame_s
    fault, now = machine.life.condition(middle_s), moment(machine.events, middle_s)

    speed = signals.wander(state.speed, make.speed_sigma, make.speed_tau_s, frame_s, rng)
    from_hz = make.speed_hz * (1 + state.speed) * moment(machine.events, state.time_s).speed
    to_hz = make.speed_hz * (1 + speed) * moment(machine.events, state.time_s + frame_s).speed
    theta = signals.shaft_angle(state.theta_rad, from_hz, to_hz, n, rate_hz)
    drive = components.drive_of(make, 0.5 * (from_hz + to_hz), now)
    loose_level = signals.wander(state.loose_level, 0.3, 1.0, frame_s, rng)
    loose_phase = signals.wander(state.loose_phase_rad, 1.0, 2.0, frame_s, rng)

    worn = Condition((*fault.faults, *make.weak)) if make.weak else fault
    x, strikes, tooth_rad, ringing = _structure(machine, state, worn, now, drive, theta, rng)
    white = rng.standard_normal((len(AXES), n), np.float32) * np.float32(math.sqrt(rate_hz / 2))
    pole = signals.pole_of(make.tilt_corner_hz, rate_hz)
    level = (now.floor * make.floor_g_per_rthz[:, None]).astype(np.float32)
    floor, floor_state = signals.colour(level * white, make.tilt, pole, state.floor)
    x += floor
    x += components.surroundings(make, theta, state.frame * n, n, rate_hz, now.neighbour)
    if now.squeal_g > 0:
        x += components.squeal(make, now.squeal_g, state.frame * n, n, rate_hz)
    bubbles, hiss = state.bubbles, state.hiss
    if drive.speed > _STANDING:
        x += components.shaft(make, fault, theta, drive, rate_hz)
        if fault.of("looseness") > 0:
            x += components.loose(make, fault, theta, drive, loose_level, loose_phase)
        if make.mesh_g > 0:
            x += components.gears(make, fault, theta, drive, rate_hz)
        if make.line_mm_s > 0:
            x += components.mains(make, fault, state.frame * n, n, rate_hz)
        if fault.of("cavitation") > 0:
            noise, bubbles, hiss = components.cavitation(make, fault, theta, drive, rate_hz, bubbles, hiss, rng)
            x += noise
    slow, coupling = signals.low_pass(x, signals.pole_of(_COUPLING_HZ, rate_hz), state.coupling)
    samples, sensor = make.gains[:, None] * np.float32(now.mounting) * (x - slow), state.sensor
    if machine.events:
        own = np.random.default_rng((*machine.entropy, state.frame + 1, 1))  # sensor faults leave the machine alone
        faults = tuple(event for event in machine.events if event.family == "sensor")
        samples, sensor = sensors.disturb(faults, samples, state.time_s, rate_hz, sensor, own)
    after = MachineState(
        frame=state.frame + 1,
        time_s=state.time_s + frame_s,
        theta_rad=float(theta[-1]),
        speed=speed,
        loose_level=loose_level,
        loose_phase_rad=loose_phase,
        strikes=strikes,
        tooth_rad=tooth_rad,
        ringing=ringing,
        floor=floor_state,
        bubbles=bubbles,
        hiss=hiss,
        coupling=coupling,
        sensor=sensor,
    )
    return after, Frame(samples=samples, theta_rad=theta)


def _structure(
    machine: Machine,
    state: MachineState,
    fault: Condition,
    now: Moment,
    drive: Drive,
    theta: Float64,
    rng: np.random.Generator,
) -> tuple[Float32, tuple[tuple[float, int], ...], float, Complex128]:
    """The structure under strikes and roughness, through modes and paths. Returns: (C, n) in g, and the new states."""
    make, rate_hz, carried = machine.make, machine.rate_hz, machine.carried
    at, heights, tooth_rad = components.other_strikes(
        make, fault, state.tooth_rad, state.theta_rad, theta, drive, now.knocks_hz, rate_hz, rng
    )
    strikes = list(state.strikes)
    for number, mode in enumerate(BEARING_FAULTS):
        severity = fault.of(mode)
        if severity > 0 and drive.speed > _STANDING:
            span_rad = (state.theta_rad, float(theta[-1]))
            angles, hits, strikes[number] = components.bearing_strikes(
                make, mode, severity, strikes[number], span_rad, drive, rng
            )
            at = np.concatenate((at, impacts.sample_positions(angles, state.theta_rad, theta)))
            heights = np.concatenate((heights, hits))
    order = np.argsort(at, kind="stable")
    warmth_k = now.warmth_k + components.friction(make, fault)
    warm = 1 + _THINNER_PER_K * max(0.0, warmth_k)
    shaken = components.roughness(make, fault, theta, strikes, drive, now.floor * warm, rng)
    modes_hz = make.modes_hz[:carried] * (1 - _SOFTER_PER_K * warmth_k)
    poles = impacts.mode_poles(modes_hz, make.damping[:carried], rate_hz)
    modes, ringing = impacts.ring(shaken, at[order], heights[order], poles, state.ringing)
    paths = make.paths[:, :carried]
    if now.remounted:  # each place has its own paths
        own = np.random.default_rng((*machine.entropy, 0, now.remounted))
        paths = paths * np.exp(0.4 * own.standard_normal(paths.shape)).astype(np.float32)
    return paths @ modes, tuple(strikes), tooth_rad, ringing
