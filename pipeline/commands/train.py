"""`thrumcast train`: trains a model on the archive and registers it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console

DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@click.command(name="train")
@data_option
@click.option("--from", "start", type=click.DateTime(DATES), help="Only windows from this time on (UTC).")
@click.option("--to", "end", type=click.DateTime(DATES), help="Only windows before this time (UTC).")
@click.option(
    "--split",
    metavar="FIELD",
    help="What training and test data must not share: machine, time, or a field of machines.jsonl; `none` holds out"
    " nothing [default: specimen].",
)
@click.option(
    "--compare", metavar="CELL,...", help="Train these cells on the same split and print a table; registers nothing."
)
@click.option("--leaky", is_flag=True, help="Also score a leaky split, for comparison.")
@click.option(
    "--snapshot",
    metavar="NAME",
    help="Train on this snapshot (`thrumcast archive snapshot`) instead of the present archive.",
)
@click.option("--resume", metavar="RUN", help="Continue an interrupted run of DIR/runs, or `last`.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a field of models/settings.py.")
@with_console
def command(
    console: Console,
    data_dir: Path | None,
    start: datetime | None,
    end: datetime | None,
    split: str | None,
    compare: str | None,
    leaky: bool,
    snapshot: str | None,
    resume: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Train a model on the archive and register it as challenger.

    Prints facts about the data, then scores on held-out machines, then the new version. The first version also becomes
    champion. Ctrl-C keeps a checkpoint, and --resume continues from it. With --set task=next or task=life the model
    predicts values instead of failure modes.
    """
    from models.bundle import VALUE_TASKS
    from models.settings import TrainSettings

    if start is not None and end is not None and start >= end:
        msg = f"expected --from before --to, found: {start:%Y-%m-%dT%H:%M:%S} and {end:%Y-%m-%dT%H:%M:%S}"
        raise click.UsageError(msg)
    settings = TrainSettings.parse(assignments)

    for option, there in (("--resume", resume is not None), ("--leaky", leaky)):
        for with_, asked in (
            ("--compare", compare is not None),
            (f"task={settings.task}", settings.task in VALUE_TASKS),
        ):
            if there and asked:
                msg = f"{option} does not go together with {with_}: drop one of them"
                raise click.UsageError(msg)
    config = console.config(**{"data.dir": data_dir})

    if snapshot is not None:
        from pipeline.edges.store.snapshot import check_there

        check_there(config.data.path, snapshot)

    from models.jobs.train import TrainRequest, train

    given = (("split", split), ("snapshot", snapshot))
    typed = ["thrumcast", "train", *(f"--{name} {value}" for name, value in given if value is not None)]
    request = TrainRequest(
        data_dir=config.data.path,
        config=config,
        settings=settings,
        split=split,
        start=start and start.replace(tzinfo=UTC),
        end=end and end.replace(tzinfo=UTC),
        command=" ".join([*typed, *(f"--set {word}" for word in assignments)]),
        leaky=leaky,
        resume=resume,
        snapshot=snapshot,
    )
    if compare is not None:
        from models.jobs.compare import compare_cells

        compared = compare_cells(request, compare.split(","), say=console.say, warn=console.warn)
        console.result(compared.document, compared.text)
        return
    if settings.task in VALUE_TASKS:
        from models.jobs.values import train_values

        trained = train_values(request, say=console.say, warn=console.warn, status=console.status)
    else:
        trained = train(request, say=console.say, warn=console.warn, status=console.status)
    console.result(trained.document, trained.text)
