"""A simulated plant straight into a feature archive: no broker, no recordings, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.core.engine import Engine, Step
from pipeline.core.records import Block, FeatureRow, StreamKey
from pipeline.core.state import StreamSpec, StreamState
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from sim.fleet import POINT, Plant, about
from sim.machine import Machine
from sim.recipe import CURRICULUM

BLOCKS_PER_STEP = 64

# Facts of machines -> the spec of each stream: `partial(pipeline.config.specs.stream_specs, config)`. It is pickled.
Specs = Callable[[Mapping[StreamKey, Mapping[str, Any]]], Callable[[StreamKey], StreamSpec]]


@dataclass(frozen=True, slots=True)
class MachineRun:
    """A machine whose whole run is in the archive."""

    machine: str
    rows: int
    seconds: float  # of plant time


@dataclass(frozen=True, slots=True)
class Installation:
    """A plant of one machine, and whether its nameplate (the teeth of its gears) is known."""

    plant: Plant
    nameplate: bool


def fill(
    plant: Plant,
    seconds: float,
    data_dir: Path,
    journal: Journal,
    archive: Archive,
    specs: Specs,
    *,
    workers: int,
    prefix: str = "",
    modest: bool = False,
) -> Iterator[MachineRun]:
    """Writes the features of every machine's whole run into an archive; yields machine after machine.

    Args:
        plant: the machines and how they are sampled.
        seconds: plant time of each run.
        data_dir: the directory of `journal` and `archive`; the facts of the machines are written there too.
        journal: takes the rows.
        archive: rolls them into Parquet parts at the end.
        specs: gives the specs of the streams.
        workers: number of processes.
        prefix: is put before the ids of machines, for plants that share an archive.
        modest: equip the machines as differently as real plants do, see `installation`. Default: every machine has all
            axes and a nameplate.
    """
    known = {StreamKey(prefix + machine.id, POINT): _facts(machine) for machine in plant.machines}
    MachinesFile(data_dir / MACHINES_NAME).update_all(known)
    work = partial(rows_of, seconds=seconds, specs=specs, prefix=prefix)
    installations = [installation(plant, number, modest=modest) for number in range(len(plant.machines))]
    if workers == 1:
        for machine, one in zip(plant.machines, installations, strict=True):
            rows = work(one)
            journal.commit(Commit(features=rows))
            yield MachineRun(machine.id, len(rows), seconds)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for machine, rows in zip(plant.machines, pool.map(work, installations, chunksize=4), strict=True):
                journal.commit(Commit(features=rows))
                yield MachineRun(machine.id, len(rows), seconds)
    archive.roll()


def installation(plant: Plant, number: int, *, modest: bool) -> Installation:
    """Machine `number` of a plant with its equipment; if `modest`: all axes, no nameplate, or one axis, in turn."""
    alone = replace(plant, machines=(plant.machines[number],))
    third = number // len(CURRICULUM) % 3 if modest else 0
    return Installation(alone if third < 2 else replace(alone, axes=plant.axes[:1]), nameplate=third != 1)


def rows_of(one: Installation, *, seconds: float, specs: Specs, prefix: str = "") -> list[FeatureRow]:
    """Feature rows of one machine's whole run."""
    (machine,) = one.plant.machines
    known = {StreamKey(prefix + machine.id, POINT): about(machine)} if one.nameplate else {}
    engine = Engine(specs(known))
    return [row for step in steps_of(machine, one.plant, seconds, engine, prefix=prefix) for row in step.features]


def steps_of(machine: Machine, plant: Plant, seconds: float, engine: Engine, *, prefix: str = "") -> Iterator[Step]:
    """The steps of an engine over one machine's whole run, as a driver would make them."""
    states: dict[StreamKey, StreamState] = {}
    run: list[Block] = []
    count = plant.count(seconds)
    for number, block in enumerate(plant.stream(machine), 1):
        run.append(replace(block, key=StreamKey(prefix + block.key.machine, block.key.point)))
        if len(run) == BLOCKS_PER_STEP or number == count:
            step = engine.step(states, run)
            states = {**states, **step.states}
            yield step
            run = []
        if number == count:
            break
    yield engine.flush(states)


def _facts(machine: Machine) -> dict[str, object]:
    make = machine.make
    return recording_facts(
        about(machine),
        machine.id,
        rate_hz=machine.rate_hz,
        unit=machine.unit,
        speed_rpm=60 * make.speed_hz,
        orders=make.orders,
    )
