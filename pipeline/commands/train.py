"""`thrumcast train`: archive -> a new registry version."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.commands.common import Console, with_console

DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@click.command(name="train")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Data directory [default: data.dir].")
@click.option("--from", "start", type=click.DateTime(DATES), help="Only windows from this time on (UTC).")
@click.option("--to", "end", type=click.DateTime(DATES), help="Only windows before this time (UTC).")
@click.option(
    "--split",
    metavar="FIELD",
    help="What train and test must not share: machine, time, or a field of machines.jsonl; `none` holds nothing back"
    " [default: specimen].",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A choice of models/settings.py.")
@with_console
def command(
    console: Console,
    data_dir: Path | None,
    start: datetime | None,
    end: datetime | None,
    split: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Train a model on the archive and register it as challenger.

    Prints the data facts, then numbers on machines that were held back, then the new version. The first version
    becomes champion too. Ctrl-C keeps what is learned so far.
    """
    from models.settings import TrainSettings

    settings = TrainSettings.parse(assignments)
    config = console.config(**{"data.dir": data_dir and str(data_dir)})

    from models.train import TrainRequest, train

    typed = ["thrumcast", "train", *(f"--split {split}" for _ in range(split is not None))]
    request = TrainRequest(
        data_dir=config.data.path,
        config=config,
        settings=settings,
        split=split,
        start=start and start.replace(tzinfo=UTC),
        end=end and end.replace(tzinfo=UTC),
        command=" ".join([*typed, *(f"--set {word}" for word in assignments)]),
    )
    trained = train(request, say=console.say, warn=console.warn)
    console.result(trained.document, trained.text)
