"""A stage: a plant whose machines are broken and repaired while it runs, and the plant of the demo.

`changing` gives the blocks of a plant. Before each round it asks for orders, such as `damage pump-05`, and gives the
machine another life or other events from that moment on. Orders come as lines of JSON in a file, which any process may
append to (`Orders`): {"machine": "pump-05", "do": "damage"}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.records import Block
from pipeline.errors import ConfigError
from sim.events import Event
from sim.fleet import Plant, changing_blocks
from sim.life import Course, Life
from sim.machine import Machine
from sim.recipe import course

GROWS_S = 40.0  # how long a fault that was ordered takes to its full severity
SEED = 11

DEMO = """\
# The plant of `thrumcast demo`: eight machines, four of which have something. Times in s since the start.
title = "demo"

[plant]
machines = 8
seed = 11

[recipe]
failing = 0.0

[[machines]]
kind = "pump"
faults = [{ mode = "bearing_outer", onset_s = 25, end_s = 75 }]

[[machines]]
kind = "fan"
faults = []

[[machines]]
kind = "motor"
faults = []
events = [{ kind = "flatline", start_s = 50, end_s = 100, size = 0 }]   # a cable comes off, and is put on again

[[machines]]
kind = "gearbox"
faults = []

[[machines]]
kind = "pump"
faults = []

[[machines]]
kind = "fan"
faults = []
events = [{ kind = "stop", start_s = 20, end_s = 60 }]

[[machines]]
kind = "motor"
faults = []

[[machines]]
kind = "fan"
faults = []
events = [{ kind = "squeal", start_s = 80, end_s = 100000, size = 6 }]   # a dry seal: no mode of the taxonomy
"""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens in the demo: where, when, and the state of the stream that follows from it."""

    id: str
    machine: str
    at_s: float
    state: str
    mode: str | None = None


ACTS = (
    Act("stop", "fan-06", 20.0, "not_running"),
    Act("bearing", "pump-01", 25.0, "alarm", "bearing_outer"),
    Act("sensor", "motor-03", 50.0, "sensor_fault"),
    Act("unknown", "fan-08", 80.0, "unknown"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to happen to a machine: damage, unbalance, cut or repair."""

    machine: str
    do: str

    def __post_init__(self) -> None:
        """Checks the order."""
        if self.do not in DOINGS:
            msg = f"expected one of {', '.join(DOINGS)}, found: {self.do!r}"
            raise ConfigError(msg)


def _damage(machine: Machine, now_s: float) -> Machine:
    return _with_fault(machine, "bearing_inner", now_s)


def _unbalance(machine: Machine, now_s: float) -> Machine:
    return _with_fault(machine, "unbalance", now_s)


def _cut(machine: Machine, now_s: float) -> Machine:
    return replace(machine, events=(*machine.events, Event("flatline", now_s, math.inf, 0.0)))


def _repair(machine: Machine, now_s: float) -> Machine:
    return replace(machine, life=Life(), events=())


def _with_fault(machine: Machine, mode: str, now_s: float) -> Machine:
    fault: Course = course(machine.make, mode, machine.rate_hz, onset_s=now_s, end_s=now_s + GROWS_S)
    others = tuple(one for one in machine.life.courses if one.mode != mode)
    return replace(machine, life=Life((*others, fault)))


DOINGS: dict[str, Callable[[Machine, float], Machine]] = {
    "damage": _damage,
    "unbalance": _unbalance,
    "cut": _cut,
    "repair": _repair,
}


@dataclass(slots=True)
class Orders:
    """The orders in a file, as they are appended."""

    path: Path
    _read: int = field(default=0)

    def __call__(self) -> list[Order]:
        """What is new. A line that is not whole yet waits; one that is no order is an error.

        Raises:
            ConfigError: a line is no order.
        """
        if not self.path.exists() or self.path.stat().st_size == self._read:
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        try:
            return [Order(str(d["machine"]), str(d["do"])) for d in map(json.loads, whole.splitlines())]
        except (ValueError, KeyError, TypeError) as error:
            msg = f'expected lines such as {{"machine": "pump-05", "do": "damage"}}, found: {whole[:200]!r}'
            raise ConfigError(msg, hint=f"the file is {self.path}") from error


def changing(plant: Plant, orders: Callable[[], list[Order]], seconds: float | None = None) -> Iterator[Block]:
    """The readings of a plant as `Plant.blocks`, with its machines as they are ordered to be.

    An order for a machine that the plant does not have is left out. The plant must not sleep between snapshots.
    """
    machines = {machine.id: machine for machine in plant.machines}

    def stream(name: str) -> Iterator[Block]:
        return changing_blocks(lambda: machines[name], plant.block_s, plant.start_ns, plant.axes)

    streams = [stream(name) for name in machines]
    rounds = None if seconds is None else plant.count(seconds)
    number = 0
    while rounds is None or number < rounds:
        for order in orders():
            if (machine := machines.get(order.machine)) is not None:
                machines[order.machine] = DOINGS[order.do](machine, number * plant.block_s)
        for one in streams:
            yield next(one)
        number += 1
