"""Simulated and recorded machines as archives and data sets, for what is trained on one and tested on another."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from models.data.dataset import Dataset, DatasetSpec, build, read
from models.settings import TrainSettings
from pipeline.config.specs import stream_specs
from pipeline.config.tables import Config, DataConfig
from pipeline.core.features.table import FEATURES
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings.recording import find_recordings, parse_channels
from pipeline.service.compose import MakeWorker, opened
from sim.archive import fill
from sim.fleet import Plant
from sim.population import AXES
from sim.recipe import training_machine

BEARING = ("healthy", "bearing_inner", "bearing_outer", "bearing_ball")
REAL = (  # folder, channel, what it is called here
    ("cwru/12k_drive_end", "drive_end=x"),
    ("cwru/12k_fan_end", "fan_end=x"),
    ("cwru/normal", "drive_end=x"),
    ("hit_sm", "vibration=x"),
)
DISTURBED = 0.35  # of the machines to learn from: share that meets a nuisance
# How to learn every mode from hundreds of machines. They are of many structures already, so hardly another is made up;
# and the velocity is an input: without a level, a little unbalance cannot be told from none.
PLANT_SETTINGS = TrainSettings(
    aim="new",
    inputs=",".join(f.name for f in FEATURES if f.gain_free or f.name == "velocity_rms"),
    hidden=96,
    members=1,
    gain=0.15,
    weight_decay=0.2,
    structure_offset=0.5,
    structure_drop=0.1,
    order_structure=0.0,
    epochs=28,  # hundreds of machines are not so soon learned by heart as a few
    simulated=0.0,
)

say = partial(print, file=sys.stderr, flush=True)


def simulated(
    folder: Path,
    machines: int,
    seconds: float,
    *,
    seed: int,
    modes: Sequence[str],
    shift: float = 0.0,
    axes: Sequence[str] = AXES,
    disturbed: float = 0.0,
    modest: bool = False,
    found: float = 0.0,
) -> Config:
    """Features of simulated machines of these modes; what is there already is kept. See `sim.archive.fill`."""
    config = Config(data=DataConfig(dir=str(folder)))
    if (folder / "archive").exists():
        return config
    drawn: list[Any] = []
    number = 0
    while len(drawn) < machines:
        machine = training_machine(seed, number, seconds, shift=shift, disturbed=disturbed, found=found)
        if {*machine.life.modes} <= set(modes):
            drawn.append(machine)
        number += 1
    plant = Plant(tuple(drawn), axes=tuple(axes))
    specs, workers = partial(stream_specs, config), os.cpu_count() or 1
    with opened(config) as (journal, archive):
        runs = fill(plant, seconds, folder, journal, archive, specs, workers=workers, modest=modest)
        for done, _ in enumerate(runs, 1):
            if done % 60 == 0:
                say(f"{folder.name}: {done} of {machines} machines")
    return config


def recorded(folder: Path, source: Path) -> Config:
    """Features of the real recordings; what is there already is kept."""
    config = Config(data=DataConfig(dir=str(folder)))
    with opened(config) as (journal, archive):
        for name, channels in REAL:
            jobs = [Job(p, parse_channels(channels), None, "sim_to_real") for p in find_recordings([source / name])]
            make = MakeWorker(config, None, journal.inputs_done())
            report = backfill(jobs, make, archive, workers=os.cpu_count() or 1)
            say(f"{name}: {report.windows} windows, {len(report.skipped)} skipped")
    return config


def dataset(
    config: Config, modes: Sequence[str], *, inputs: str = "gain_free", like: Sequence[str] | None = None
) -> Dataset:
    """Sequences with these classes, and with the columns `like` if they are given."""
    spec = DatasetSpec(config.modes.names, config.modes.resolve, config.model.max_gap_s, inputs)
    columns = None if like is None else tuple(like)
    return build(read(config.data.path), replace(spec, exact_classes=tuple(modes), exact_inputs=columns))
