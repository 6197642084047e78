"""Makes the model that ships with thrumcast: `make model`, or `python -m models.pretrain`.

Simulated machines of every failure mode and severity -> the engine -> an archive in a temporary folder ->
`models.train` -> models/pretrained/. Same seed and packages, same weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from models import bundle, card
from models.registry import Registry
from models.settings import TrainSettings
from models.train import TrainRequest, train
from pipeline.commands.compose import opened
from pipeline.config import Config, DataConfig
from pipeline.core.engine import Engine
from pipeline.core.records import FeatureRow
from pipeline.edges.journal import Commit
from pipeline.specs import stream_specs
from sim.fleet import machine_blocks, training_plant

PRETRAINED = Path(__file__).with_name("pretrained")
MACHINES = 420
SECONDS_PER_MACHINE = 24.0
SEED = 20_260_101


def rows_of(number: int, config: Config) -> list[FeatureRow]:
    """Feature rows of one simulated machine's whole run."""
    plant = training_plant(SEED, MACHINES, SECONDS_PER_MACHINE)
    blocks = machine_blocks(plant.machines[number], plant.block_s, plant.start_ns)
    run = [next(blocks) for _ in range(round(SECONDS_PER_MACHINE / plant.block_s))]
    engine = Engine(stream_specs(config, {}))
    step = engine.step({}, run)
    return [*step.features, *engine.flush(step.states).features]


def simulate(config: Config) -> Iterator[list[FeatureRow]]:
    """Rows of machine after machine, on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(rows_of, config=config), range(MACHINES), chunksize=4)


def main() -> None:
    """Write models/pretrained/ anew."""
    say = partial(print, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="thrumcast-model-") as folder:
        config = Config(data=DataConfig(dir=folder))
        with opened(config) as (journal, archive):
            for number, rows in enumerate(simulate(config), 1):
                journal.commit(Commit(features=rows))
                if number % 60 == 0:
                    say(f"{number} of {MACHINES} machines")
            archive.roll()
        trained = train(
            TrainRequest(config.data.path, config, TrainSettings(hidden=64), split="machine"), say=say, warn=say
        )
        say(trained.text)
        made = Registry(config.data.path).load(trained.version)
        made.data["source"] = f"{MACHINES} simulated machines of {SECONDS_PER_MACHINE:g} s each, seed {SEED}"
        shutil.rmtree(PRETRAINED, ignore_errors=True)
        PRETRAINED.mkdir()
        card.with_card(made.named("v0000")).save(PRETRAINED)
        bundle.load(PRETRAINED)


if __name__ == "__main__":
    main()
