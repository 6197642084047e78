"""A running plant: its machines as blocks in order of time, and their truth.

Machines are independent: the readings of a machine depend only on itself and on how it is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from pipeline.core.records import Block, Fact, StreamKey
from pipeline.errors import ConfigError
from sim.machine import Machine, MachineState, initial, later, step
from sim.population import AXES
from sim.signals import TURN_RAD

POINT = "de"  # drive end
EPOCH_NS = 1_767_225_600_000_000_000  # 2026-01-01: recordings of one seed are the same bytes whenever they are made
_FRAMES_PER_SNAPSHOT = 1 << 20  # so the random numbers of a snapshot depend on its number alone


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The logger records `record_s` every `every_s` and sleeps in between. Each record is a session."""

    record_s: float
    every_s: float

    def __post_init__(self) -> None:
        """Checks that records do not overlap."""
        if not 0 < self.record_s <= self.every_s < math.inf:
            msg = f"snapshots need 0 < record_s <= every_s, found: {self.record_s:g} and {self.every_s:g}"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Plant:
    """Machines and how they are sampled; `blocks` simulates them."""

    machines: tuple[Machine, ...]
    block_s: float = 0.25
    start_ns: int = EPOCH_NS
    snapshots: Snapshots | None = None
    axes: tuple[str, ...] = AXES  # the axes that are sent

    def __post_init__(self) -> None:
        """Checks that the plant can send blocks."""
        if not self.machines:
            msg = "a plant needs at least 1 machine, found: 0"
            raise ConfigError(msg)
        if not math.isfinite(self.block_s) or any(self.block_s * m.rate_hz < 2 for m in self.machines):
            msg = f"a block must hold at least 2 samples, found: {self.block_s:g} s"
            raise ConfigError(msg, hint="0.25 s is usual")
        if self.snapshots is not None and self.snapshots.record_s < self.block_s:
            msg = f"a snapshot must hold at least one block of {self.block_s:g} s, found: {self.snapshots.record_s:g} s"
            raise ConfigError(msg)

    def stream(self, machine: Machine) -> Iterator[Block]:
        """The endless readings of one machine."""
        return machine_blocks(machine, self.block_s, self.start_ns, self.snapshots, self.axes)

    def count(self, seconds: float) -> int:
        """Number of whole blocks that a machine sends in that time."""
        if self.snapshots is None:
            return int(seconds / self.block_s + 1e-9)
        return self.per_session * math.ceil(seconds / self.snapshots.every_s - 1e-9)

    @property
    def per_session(self) -> int:
        """Blocks per snapshot; 0 = all blocks are one session."""
        return 0 if self.snapshots is None else int(self.snapshots.record_s / self.block_s + 1e-9)

    def simulated_s(self, seconds: float) -> float:
        """The simulated part of that time, in s."""
        return self.count(seconds) * self.block_s

    def begins_s(self, machine: Machine, number: int) -> float:
        """Start of block `number` of a machine, in s since the start."""
        n = max(2, round(self.block_s * machine.rate_hz))
        if self.snapshots is None:
            return number * n / machine.rate_hz
        session, within = divmod(number, self.per_session)
        return session * self.snapshots.every_s + within * n / machine.rate_hz

    def blocks(self, seconds: float | None = None) -> Iterator[Block]:
        """The readings of all machines, oldest block first, for `seconds` (whole blocks) or without end."""
        streams = [self.stream(machine) for machine in self.machines]
        rounds = None if seconds is None else self.count(seconds)
        number = 0
        while rounds is None or number < rounds:
            for stream in streams:
                yield next(stream)
            number += 1


def machine_blocks(
    machine: Machine, block_s: float, start_ns: int, snapshots: Snapshots | None = None, axes: tuple[str, ...] = AXES
) -> Iterator[Block]:
    """The endless readings of one machine. The samples do not depend on the length of a block."""
    state = initial(machine)
    if snapshots is None:
        yield from _session(lambda: machine, state, block_s, start_ns, 0.0, axes)
    number = 0
    while snapshots is not None:
        begins_s = number * snapshots.every_s
        count = int(snapshots.record_s / block_s + 1e-9)
        begun = replace(later(state, begins_s), frame=number * _FRAMES_PER_SNAPSHOT)
        stream = _session(lambda: machine, begun, block_s, start_ns, begins_s, axes)
        for _ in range(count):
            yield next(stream)
        number += 1


def changing_blocks(
    now: Callable[[], Machine], block_s: float, start_ns: int, axes: tuple[str, ...] = AXES
) -> Iterator[Block]:
    """As `machine_blocks`, of a machine that may be another one from frame to frame: `now` says which."""
    return _session(now, initial(now()), block_s, start_ns, 0.0, axes)


def _session(
    now: Callable[[], Machine],
    state: MachineState,
    block_s: float,
    start_ns: int,
    begins_s: float,
    axes: tuple[str, ...],
) -> Iterator[Block]:
    machine = now()
    n = max(2, round(block_s * machine.rate_hz))
    key = StreamKey(machine.id, POINT)
    samples = np.empty((len(AXES), 0), np.float32)
    theta = np.empty(0)
    index = 0
    session_ns = start_ns + round(begins_s * 1e9)
    rows = [AXES.index(axis) for axis in axes]
    while True:
        machine = now()
        while theta.size < n:
            state, frame = step(machine, state)
            samples = np.concatenate((samples, frame.samples), axis=1)
            theta = np.concatenate((theta, frame.theta_rad))
        speed_hz = (theta[n - 1] - theta[0]) / TURN_RAD * machine.rate_hz / (n - 1)
        yield Block(
            key=key,
            session=session_ns,
            index=index,
            t0_ns=session_ns + round(index * 1e9 / machine.rate_hz),
            rate_hz=machine.rate_hz,
            channels=axes,
            unit=machine.unit,
            samples=np.ascontiguousarray(samples[rows, :n]),
            speed_rpm=float(60 * speed_hz),
            orders=machine.make.orders,
            truth=machine.life.truth(begins_s + index / machine.rate_hz).mode,
            about=about(machine) if index == 0 else None,
        )
        samples, theta, index = samples[:, n:], theta[n:], index + n


def about(machine: Machine) -> dict[str, Fact]:
    """The facts that a sender knows about its machine: nothing about its future."""
    gears: dict[str, Fact] = {"gear_teeth": machine.make.teeth[0]} if machine.make.mesh_g > 0 else {}
    return {"kind": machine.make.kind, "bearing_id": f"sim-{specimen(machine)}", "simulated": True, **gears}


def specimen(machine: Machine) -> str:
    """A name of the physical machine: unique, and the same in every run of one seed."""
    return "-".join(map(str, machine.entropy))


def truth_document(machine: Machine) -> dict[str, object]:
    """All present and future faults of a machine and its sensor, with times in s since the start."""
    return {
        "id": machine.id,
        "kind": machine.make.kind,
        "speed_rpm": round(60 * machine.make.speed_hz, 1),
        "faults": [
            {
                **{name: value for name, value in asdict(course).items() if name not in ("growth", "steps")},
                "until_s": course.until_s if math.isfinite(course.until_s) else None,
                "detectable_s": at_s if math.isfinite(at_s := course.detectable_s()) else None,
            }
            for course in machine.life.courses
        ],
        "events": [
            {
                "label": event.kind,
                "family": event.family,
                "start_s": event.start_s,
                "end_s": event.end_s if math.isfinite(event.end_s) else None,
                "size": event.size,
            }
            for event in machine.events
        ],
    }


def check_seed(seed: int) -> None:
    """Checks that numpy accepts the seed."""
    if seed < 0:
        msg = f"a seed must be 0 or more, found: {seed}"
        raise ConfigError(msg)
