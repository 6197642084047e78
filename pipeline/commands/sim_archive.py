"""A simulated plant straight into a feature archive: no broker, no recordings, on all cores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

from pipeline.commands.compose import opened
from pipeline.config import Config
from pipeline.core.engine import Engine
from pipeline.core.records import Block, FeatureRow, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges.journal import Commit
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts
from pipeline.specs import stream_specs
from sim.fleet import Plant, about
from sim.machine import UNIT, Machine

BLOCKS_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class Filled:
    """How far it is."""

    machine: str
    rows: int
    seconds: float  # simulated


def fill(
    plant: Plant,
    seconds: float,
    config: Config,
    *,
    workers: int,
    prefix: str = "",
) -> Iterator[Filled]:
    """Features of every machine's whole run into `config.data.dir`; yields machine after machine.

    Args:
        plant: the machines, and how they are sampled.
        seconds: of plant time, each.
        config: where to and which features.
        workers: processes.
        prefix: put before the ids, for plants that share an archive.
    """
    with opened(config) as (journal, archive):
        facts = MachinesFile(config.data.path / MACHINES_NAME)
        facts.update_all({StreamKey(prefix + machine.id, "de"): _facts(machine) for machine in plant.machines})
        work = partial(
            rows_of, plant=replace(plant, machines=plant.machines[:1]), seconds=seconds, config=config, prefix=prefix
        )
        if workers == 1:
            for machine in plant.machines:
                rows = work(machine)
                journal.commit(Commit(features=rows))
                yield Filled(machine.id, len(rows), seconds)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for machine, rows in zip(plant.machines, pool.map(work, plant.machines, chunksize=4), strict=True):
                    journal.commit(Commit(features=rows))
                    yield Filled(machine.id, len(rows), seconds)
        archive.roll()


def rows_of(
    machine: Machine,
    *,
    plant: Plant,
    seconds: float,
    config: Config,
    prefix: str = "",
) -> list[FeatureRow]:
    """Feature rows of one machine's whole run."""
    engine = Engine(stream_specs(config, {}))
    states: dict[StreamKey, StreamState] = {}
    rows: list[FeatureRow] = []
    run: list[Block] = []
    count = plant.count(seconds)
    for number, block in enumerate(plant.stream(machine), 1):
        run.append(replace(block, key=StreamKey(prefix + block.key.machine, block.key.point)))
        if len(run) == BLOCKS_PER_STEP or number == count:
            step = engine.step(states, run)
            states = {**states, **step.states}
            rows.extend(step.features)
            run = []
        if number == count:
            break
    rows.extend(engine.flush(states).features)
    return rows


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
