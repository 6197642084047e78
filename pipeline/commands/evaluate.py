"""`thrumcast evaluate`: scores of a model version on machines that it was not trained on."""

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
    help="Retrain per fold, holding out by a field of machines.jsonl, `machine` or `time`; `none` scores the version"
    " itself on all windows [default: the split it was trained with].",
)
@click.option(
    "--alarms",
    multiple=True,
    metavar="KEY=VALUE[,...]",
    help="Replay the archived predictions with other alarm settings (keys of [alarm]) and show false alarms against"
    " delay; may be repeated.",
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

    Scores use held-out machines: the recipe of the version (settings, schedule) is retrained without the machines
    under test. On an unchanged archive these are the numbers that `train` printed.

    Event scores come first: faults detected and missed, delays, false alarms per machine-day.
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
