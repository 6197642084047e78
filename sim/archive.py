"""A simulated plant straight into a feature archive: no broker, no recordings, on all cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

from pipeline.config.specs import stream_specs
from pipeline.config.tables import Config
from pipeline.core.engine import Engine, Step
from pipeline.core.records import Block, FeatureRow, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts
from pipeline.edges.store.journal import Commit
from pipeline.service.compose import opened
from sim.fleet import Plant, about
from sim.machine import UNIT, Machine
from sim.recipe import CURRICULUM

BLOCKS_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class Filled:
    """How far it is."""

    machine: str
    rows: int
    seconds: float  # simulated


@dataclass(frozen=True, slots=True)
class Site:
    """A plant of one machine, and whether somebody has written down how many teeth its gears have."""

    plant: Plant
    nameplate: bool


def fill(
    plant: Plant,
    seconds: float,
    config: Config,
    *,
    workers: int,
    prefix: str = "",
    modest: bool = False,
) -> Iterator[Filled]:
    """Features of every machine's whole run into `config.data.dir`; yields machine after machine.

    Args:
        plant: the machines, and how they are sampled.
        seconds: of plant time, each.
        config: where to and which features.
        workers: processes.
        prefix: put before the ids, for plants that share an archive.
        modest: equip machines as differently as plants do, see `_site`; else all have all axes and a nameplate.
    """
    with opened(config) as (journal, archive):
        facts = MachinesFile(config.data.path / MACHINES_NAME)
        known = {StreamKey(prefix + machine.id, "de"): _facts(machine) for machine in plant.machines}
        facts.update_all(known)
        work = partial(rows_of, seconds=seconds, config=config, prefix=prefix)
        sites = [_site(plant, number, modest=modest) for number in range(len(plant.machines))]
        if workers == 1:
            for machine, site in zip(plant.machines, sites, strict=True):
                rows = work(site)
                journal.commit(Commit(features=rows))
                yield Filled(machine.id, len(rows), seconds)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for machine, rows in zip(plant.machines, pool.map(work, sites, chunksize=4), strict=True):
                    journal.commit(Commit(features=rows))
                    yield Filled(machine.id, len(rows), seconds)
        archive.roll()


def _site(plant: Plant, number: int, *, modest: bool) -> Site:
    """One machine of a plant and how it is watched; if `modest`, in turn with all axes, no nameplate, one axis."""
    alone = replace(plant, machines=(plant.machines[number],))
    third = number // len(CURRICULUM) % 3 if modest else 0
    return Site(alone if third < 2 else replace(alone, axes=plant.axes[:1]), nameplate=third != 1)


def rows_of(site: Site, *, seconds: float, config: Config, prefix: str = "") -> list[FeatureRow]:
    """Feature rows of one machine's whole run."""
    (machine,) = site.plant.machines
    known = {StreamKey(prefix + machine.id, "de"): about(machine)} if site.nameplate else {}
    engine = Engine(stream_specs(config, known))
    return [row for step in steps_of(machine, site.plant, seconds, engine, prefix=prefix) for row in step.features]


def steps_of(machine: Machine, plant: Plant, seconds: float, engine: Engine, *, prefix: str = "") -> Iterator[Step]:
    """One machine's whole run through an engine, as a driver would step it."""
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
        unit=UNIT,
        speed_rpm=60 * make.speed_hz,
        orders=make.orders,
    )
