"""`thrumcast promote`: let a version serve."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, with_console


@click.command(name="promote")
@click.argument("version")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Data directory [default: data.dir].")
@click.option("--why", default="promoted", help="The reason, kept in the history.")
@with_console
def command(console: Console, version: str, data_dir: Path | None, why: str) -> None:
    """Make VERSION (a version or an alias such as challenger) the champion.

    It must load, its checksums must be right, and it must pass the self-test; otherwise exit code 5.
    """
    config = console.config(**{"data.dir": data_dir and str(data_dir)})

    from models.promotion import promote

    old, new = promote(config.data.path, version, why=why)
    console.result({"champion": new, "before": old, "why": why}, f"champion: {old or 'none'} -> {new}")
