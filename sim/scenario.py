"""Scenarios: a plant, its events and its speed in one TOML file.

    [plant]      how many machines, sampling, length, speed        [recipe]   how they are drawn, `sim.recipe.Recipe`
    [transport]  chances of a bad network, `sim.channel`           [[events]] what happens to all machines
    [[machines]] one machine in particular: kind, speed, bearing, its own [[machines.faults]] and [[machines.events]]

Every key has a default. An unknown key is an error that names the nearest known key.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from pipeline.core.bearings import orders_from_geometry
from pipeline.errors import ConfigError
from sim.channel import Faults, Upsets
from sim.events import Event
from sim.fleet import EPOCH_NS, Plant, Snapshots
from sim.life import Life
from sim.machine import Machine
from sim.population import MakeUp, draw
from sim.recipe import RATE_HZ, Recipe, course, plant


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a scenario."""


class PlantTable(_Table, frozen=True):
    """[plant]."""

    machines: int = 6
    seed: int = 1
    rate_hz: float = RATE_HZ
    block_s: float = 0.25
    seconds: float | None = None  # of plant time
    speed: float = 1.0  # times real time, 0 = as fast as accepted
    record_s: float | None = None  # length of a snapshot; with every_s
    every_s: float | None = None  # time from snapshot to snapshot


class RecipeTable(_Table, frozen=True):
    """[recipe], with the fields of `Recipe`."""

    failing: float = 0.5
    life_s: float | None = None  # None: the length of the run
    onset: tuple[float, float] = (0.05, 0.95)
    combined: float = 0.0
    repaired: float = 0.0
    nuisances_per_day: float = 0.0
    sensor_faults_per_day: float = 0.0
    shift: float = 0.0
    kinds: tuple[str, ...] = Recipe().kinds
    modes: tuple[str, ...] = ()


class TransportTable(_Table, frozen=True):
    """[transport]: probabilities per message."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    clock_step: float = 0.0
    reboot: float = 0.0


class EventTable(_Table, frozen=True):
    """[[events]] and [[machines.events]]."""

    kind: str
    start_s: float
    end_s: float = math.inf
    size: float = math.nan

    def event(self) -> Event:
        """The event of the simulator."""
        return Event(self.kind, self.start_s, self.end_s, self.size)


class FaultTable(_Table, frozen=True):
    """[[machines.faults]], with fields of `sim.life.Course`."""

    mode: str
    end_s: float
    shape: str = "gradual"
    onset_s: float = 0.0
    final: float = 1.0
    until_s: float = math.inf
    growth: float = 4.0
    steps: int = 5


class BearingTable(_Table, frozen=True):
    """`bearing` of a machine: its geometry."""

    elements: int
    ratio: float  # d/D
    contact_deg: float = 0.0


class MachineTable(_Table, frozen=True):
    """[[machines]]: the first entry is the plant's first machine, and so on."""

    kind: str | None = None
    speed_rpm: float | None = None
    bearing: BearingTable | None = None
    faults: tuple[FaultTable, ...] | None = None  # None: the faults that were drawn
    events: tuple[EventTable, ...] = ()


class Scenario(_Table, frozen=True):
    """The document of a file."""

    title: str = ""
    plant: PlantTable = PlantTable()
    recipe: RecipeTable = RecipeTable()
    transport: TransportTable = TransportTable()
    machines: tuple[MachineTable, ...] = ()
    events: tuple[EventTable, ...] = ()

    def transport_faults(self) -> Faults:
        """The faults of the network."""
        t = self.transport
        return Faults(t.drop, t.duplicate, t.delay, t.reorder, t.corrupt)

    def upsets(self) -> Upsets:
        """Clock steps and reboots of the senders."""
        return Upsets(self.transport.clock_step, self.transport.reboot)


def read(path: Path) -> Scenario:
    """Reads a scenario.

    Raises:
        ConfigError: the file is unreadable, a key is unknown, or a value is invalid.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"expected a scenario in TOML, found: {path}: {error}"
        raise ConfigError(msg, hint="see examples/ for scenarios") from error
    return parse(document, str(path))


def parse(document: dict[str, Any], place: str = "scenario") -> Scenario:
    """A scenario from a TOML document; see `read`."""
    _check_keys(document, Scenario, place, "")
    try:
        return msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        msg = f"{place}: {error}"
        raise ConfigError(msg, hint="see docs/simulator.md for the keys") from error


def build(scenario: Scenario, *, start_ns: int = EPOCH_NS) -> Plant:
    """The plant of a scenario.

    Raises:
        ConfigError: an invalid geometry, rate or time, or a fault that the kind cannot have.
    """
    p = scenario.plant
    scenario.transport_faults(), scenario.upsets()  # check them even if no network is used
    if (p.record_s is None) != (p.every_s is None):
        msg = f"plant.record_s and plant.every_s go together, found: {p.record_s} and {p.every_s}"
        raise ConfigError(msg)
    if p.seconds is not None and not 0 < p.seconds < math.inf:
        msg = f"plant.seconds must be more than 0, found: {p.seconds:g}"
        raise ConfigError(msg)
    snapshots = None if p.record_s is None or p.every_s is None else Snapshots(p.record_s, p.every_s)
    r = scenario.recipe
    values = {field.name: getattr(r, field.name) for field in fields(Recipe)}
    recipe = Recipe(**(values | {"life_s": r.life_s or p.seconds or Recipe().life_s}))
    count = max(p.machines, len(scenario.machines))
    drawn = plant(count, p.seed, recipe, rate_hz=p.rate_hz, block_s=p.block_s, start_ns=start_ns, snapshots=snapshots)
    machines = list(drawn.machines)
    for number, table in enumerate(scenario.machines):
        machines[number] = _machine(machines[number], number, table, recipe.shift)
    shared = tuple(event.event() for event in scenario.events)
    machines = [replace(machine, events=(*machine.events, *shared)) for machine in machines]
    return replace(drawn, machines=tuple(machines))


def _machine(drawn: Machine, number: int, table: MachineTable, shift: float) -> Machine:
    """A drawn machine with the values of the scenario."""
    kind = table.kind or drawn.make.kind
    make: MakeUp = drawn.make
    if kind != drawn.make.kind:
        Recipe(kinds=(kind,))  # checks the kind
        make = draw(kind, np.random.default_rng(drawn.entropy), shift)
    if table.speed_rpm is not None:
        if not 60 <= table.speed_rpm <= 12_000:
            msg = f"machines[{number}].speed_rpm must be 60 to 12000, found: {table.speed_rpm:g}"
            raise ConfigError(msg)
        make = replace(make, speed_hz=table.speed_rpm / 60)
    if table.bearing is not None:
        b = table.bearing
        make = replace(make, orders=orders_from_geometry(b.elements, b.ratio, b.contact_deg))
    life = drawn.life if table.faults is None and kind == drawn.make.kind else Life()
    if table.faults is not None:
        life = Life(tuple(course(make, f.mode, drawn.rate_hz, **_given(f)) for f in table.faults))
    events = (*drawn.events, *(event.event() for event in table.events))
    return replace(drawn, id=f"{kind}-{number + 1:02d}", make=make, life=life, events=events)


def _given(fault: FaultTable) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in FaultTable.__struct_fields__ if name != "mode"}


def _check_keys(document: dict[str, Any], struct: type[_Table], place: str, prefix: str) -> None:
    """Refuses unknown keys and names the nearest known key."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in document.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            msg = f"{place}: {prefix}{key}: unknown key; known here: {', '.join(known)}"
            raise ConfigError(msg, hint=f"nearest known key: {prefix}{near[0]}" if near else None)
        inner = _inner(known[key])
        if inner is None:
            continue
        for at, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict):
                where = f"{prefix}{key}[{at}]." if isinstance(value, list) else f"{prefix}{key}."
                _check_keys(item, inner, place, where)


def _inner(kind: Any) -> type[_Table] | None:
    """The table in an annotated type, or None."""
    for part in (kind, *get_args(kind), *(p for outer in get_args(kind) for p in get_args(outer))):
        if isinstance(part, type) and issubclass(part, _Table):
            return part
    return None
