"""`thrumcast promote`: let a version serve."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console


@click.command(name="promote")
@click.argument("version")
@data_option
@click.option("--why", default="promoted", help="The reason, kept in the history.")
@click.option("--force", is_flag=True, help="Promote a version that is worse; the history will say so.")
@click.option(
    "--recall-drop", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="What a mode's recall may lose."
)
@click.option("--yes", is_flag=True, help="Do not ask. Without a terminal, with --json or --quiet nobody is asked.")
@with_console
def command(
    console: Console, version: str, data_dir: Path | None, why: str, force: bool, recall_drop: float, yes: bool
) -> None:
    """Make VERSION (a version or an alias such as challenger) the champion.

    It must load, its checksums must be right and it must pass the self-test. Against the champion, on machines that
    both were not shown: the same task and split, no failure mode's recall down, and at most one false alarm more. What
    it was not tested on enough counts as not shown. Otherwise exit code 5. A running service takes it over.
    """
    config = console.config(**{"data.dir": data_dir})

    from models.jobs.promotion import promote

    def ask(old: str | None, new: str) -> None:
        click.confirm(f"champion: {old or 'none'} -> {new}. Shall it serve?", abort=True, err=True)

    silent = yes or console.json or console.quiet or not somebody_is_there()
    confirm = (lambda old, new: None) if silent else ask
    old, new = promote(
        config.data.path, version, why=why, force=force, recall_drop=recall_drop, warn=console.warn, confirm=confirm
    )
    text = f"{new} is champion already" if old == new else f"champion: {old or 'none'} -> {new}"
    console.result({"champion": new, "before": old, "why": why}, text)


def somebody_is_there() -> bool:
    """Whether a question can be answered."""
    return sys.stdin.isatty()
