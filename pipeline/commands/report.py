"""`thrumcast report`: an alarm on one page."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, data_option, with_console


@click.command(name="report")
@click.argument("alarm_id", metavar="ALARM")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write [default: ALARM.html].")
@data_option
@with_console
def command(console: Console, alarm_id: str, out: Path | None, data_dir: Path | None) -> None:
    """Write an alarm with its evidence, trends and changed features as one HTML file. ALARM is its id."""
    from pipeline.config.specs import stream_specs
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.errors import ThrumcastError
    from pipeline.page.report import alarm_report

    config = console.config(**{"data.dir": data_dir})
    path = config.data.path
    content = alarm_report(path, alarm_id, stream_specs(config, MachinesFile(path / MACHINES_NAME).load()))
    file = out or Path(f"{alarm_id.replace('/', '-')}.html")
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        msg = f"expected a file that can be written, found {file}: {error}"
        raise ThrumcastError(msg, hint="choose another with --out") from error
    console.result({"alarm": alarm_id, "file": str(file), "bytes": len(content)}, str(file))
