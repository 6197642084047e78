"""`thrumcast promote`: makes a version the champion, which serves."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console


@click.command(name="promote")
@click.argument("version")
@data_option
@click.option("--why", default="promoted", help="The reason, kept in the history.")
@click.option("--force", is_flag=True, help="Promote even a worse version; the history records it.")
@click.option(
    "--recall-drop", type=click.FloatRange(0, 1), default=0.05, help="Largest allowed drop of the recall of a mode."
)
@click.option(
    "--yes", is_flag=True, help="Do not ask. There is no question without a terminal, or with --json or --quiet."
)
@with_console
def command(
    console: Console, version: str, data_dir: Path | None, why: str, force: bool, recall_drop: float, yes: bool
) -> None:
    """Make VERSION (a version or an alias such as challenger) the champion.

    It must load, have correct checksums and pass the self-test. Compared with the champion on machines that neither
    was trained on, it must have the same task and split, no lower recall of any failure mode (see --recall-drop), and
    at most one more false alarm. A mode with too few test windows does not pass. Otherwise exit code 5. A running
    service loads the new champion by itself.
    """
    config = console.config(**{"data.dir": data_dir})

    from models.jobs.promotion import promote

    def ask(old: str | None, new: str) -> None:
        click.confirm(f"champion: {old or 'none'} -> {new}. Continue?", abort=True, err=True)

    silent = yes or console.json or console.quiet or not somebody_is_there()
    confirm = (lambda old, new: None) if silent else ask
    old, new = promote(
        config.data.path,
        version,
        why=why,
        force=force,
        recall_drop=recall_drop,
        warn=console.warn,
        confirm=confirm,
        key=config.model.signature_key(),
    )
    text = f"{new} already is the champion" if old == new else f"champion: {old or 'none'} -> {new}"
    console.result({"champion": new, "before": old, "why": why}, text)


def somebody_is_there() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()
