"""Makes the model that ships with thrumcast: `make model`, or `python -m models.pretrain`.

Simulated machines of every failure mode and severity -> the engine -> an archive in a temporary folder ->
`models.train` -> models/pretrained/. Same seed and packages, same weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from models import bundle, card, prior
from models.registry import Registry
from models.settings import TrainSettings
from models.train import TrainRequest, train
from pipeline.commands.sim_archive import fill
from pipeline.config import Config, DataConfig
from pipeline.edges.archive_read import read_features
from sim.recipe import training_plant

PRETRAINED = Path(__file__).with_name("pretrained")
MACHINES = 420
SECONDS_PER_MACHINE = 24.0
SEED = 20_260_101


def main() -> None:
    """Write models/pretrained/ anew."""
    say = partial(print, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="thrumcast-model-") as folder:
        config = Config(data=DataConfig(dir=folder))
        plant = training_plant(SEED, MACHINES, SECONDS_PER_MACHINE)
        workers = os.cpu_count() or 1
        for number, _ in enumerate(fill(plant, SECONDS_PER_MACHINE, config, workers=workers), 1):
            if number % 60 == 0:
                say(f"{number} of {MACHINES} machines")
        _keep_some(config)
        settings = TrainSettings(hidden=64, members=1, simulated=0.0, order_structure=0.0)
        trained = train(TrainRequest(config.data.path, config, settings, split="machine"), say=say, warn=say)
        say(trained.text)
        made = Registry(config.data.path).load(trained.version)
        made.data["source"] = f"{MACHINES} simulated machines of {SECONDS_PER_MACHINE:g} s each, seed {SEED}"
        shutil.rmtree(PRETRAINED, ignore_errors=True)
        PRETRAINED.mkdir()
        card.with_card(made.named("v0000")).save(PRETRAINED)
        bundle.load(PRETRAINED)


def _keep_some(config: Config) -> None:
    """Every third machine, for `models.prior`."""
    table = read_features(config.data.path)
    machines = sorted(set(table["machine"].to_pylist()))
    prior.keep(table.filter(pc.is_in(table["machine"], pa.array(machines[::3]))))


if __name__ == "__main__":
    main()
