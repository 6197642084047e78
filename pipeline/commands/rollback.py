"""`thrumcast rollback`: makes the previous champion serve again."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console


@click.command(name="rollback")
@click.option("--to", metavar="VERSION", help="Version to return to [default: the previous champion].")
@data_option
@click.option("--why", default="rolled back", help="The reason, kept in the history.")
@with_console
def command(console: Console, to: str | None, data_dir: Path | None, why: str) -> None:
    """Make the previous champion the champion again. Needs no training."""
    config = console.config(**{"data.dir": data_dir})

    from models.jobs.promotion import rollback

    old, new = rollback(config.data.path, to, why=why, key=config.model.signature_key())
    console.result({"champion": new, "before": old, "why": why}, f"champion: {old or 'none'} -> {new}")
