"""`thrumcast evaluate`: honest numbers about a model version."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console


@click.command(name="evaluate")
@click.argument("version", required=False)
@data_option
@click.option("--against", metavar="ALIAS", help="Another version or alias to compare with.")
@click.option(
    "--split",
    metavar="FIELD",
    help="Train again per fold, holding back a field of machines.jsonl, `machine` or `time`; `none` scores the version"
    " as it is over everything [default: the split it was trained with].",
)
@click.option(
    "--alarms",
    multiple=True,
    metavar="KEY=VALUE[,...]",
    help="Replay the archived predictions under other alarm settings (keys of [alarm]) and show false alarms against"
    " delay; may be given several times.",
)
@with_console
def command(
    console: Console,
    version: str | None,
    data_dir: Path | None,
    against: str | None,
    split: str | None,
    alarms: tuple[str, ...],
) -> None:
    """Score VERSION (a version or an alias; default: the champion, else the newest) on the archive.

    What is scored was held out: the version's recipe (settings, schedule) is trained again without the machines
    under test. On an archive that has not changed since, these are the numbers that `train` has printed.

    Event numbers come first: faults detected and missed, delays, false alarms per machine-day.
    """
    config = console.config(**{"data.dir": data_dir})

    from models.jobs.evaluate import EvaluateRequest, evaluate, replay_alarms

    request = EvaluateRequest(config.data.path, config, version, against, split)
    if alarms:
        replayed = replay_alarms(request, alarms, say=console.say, warn=console.warn)
        console.result(replayed.document, replayed.text)
        return
    evaluated = evaluate(request, say=console.say, warn=console.warn, status=console.status)
    console.result(evaluated.document, evaluated.text)
