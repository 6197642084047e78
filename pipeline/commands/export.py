"""`thrumcast export`: rows and readings of a data directory for other programs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from pipeline.commands.common import PATH, Console, data_option, with_console

ROWS = ("features", "predictions", "forecast", "alarms", "quarantine")


@click.command(name="export")
@click.argument("what", type=click.Choice([*ROWS, "readings"]))
@click.argument("out", type=PATH)
@data_option
@click.option("--machine", "machines", multiple=True, help="Only this machine; may be repeated.")
@click.option("--point", "points", multiple=True, help="Only this point; may be repeated.")
@click.option("--from", "start", type=click.DateTime(), help="From this time on, UTC.")
@click.option("--to", "end", type=click.DateTime(), help="Before this time, UTC.")
@click.option("--columns", metavar="NAME,...", help="Columns of the rows [default: all].")
@click.option("--format", "kind", type=click.Choice(["csv", "parquet", "uff", "wav"]), help="Format of the readings.")
@click.option("--readings", type=PATH, help="Folder of the readings [default: archive/readings of --data].")
@with_console
def command(
    console: Console,
    what: str,
    out: Path,
    data_dir: Path | None,
    machines: tuple[str, ...],
    points: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
    columns: str | None,
    kind: str | None,
    readings: Path | None,
) -> None:
    """Write rows to the file OUT (.csv or .parquet), or readings as files into the folder OUT.

    Works while the service runs. Readings come as Parquet unless --format says csv, uff (UFF58) or wav, a file per
    stretch without a gap; `thrumcast backfill OUT` reads them again.
    """
    from pipeline.errors import UsageError

    directory = console.config(**{"data.dir": data_dir}).data.path
    if what != "readings":
        from pipeline.edges.store.export import FORMATS, export_rows
        from pipeline.edges.store.read import Selection

        if kind is not None or readings is not None:
            msg = f"expected no --format and no --readings with {what}, found one"
            raise UsageError(msg, hint="the suffix of OUT says the format: .csv or .parquet")
        if out.suffix.lstrip(".") not in FORMATS:
            msg = f"expected a file .csv or .parquet, found: {out}"
            raise UsageError(msg, hint=f"thrumcast export {what} {what}.parquet")
        names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
        written = 0

        def count(rows: int) -> None:
            nonlocal written
            written += rows
            console.status(f"{written} rows")

        rows = export_rows(
            directory, what, out, columns=names, selection=Selection(machines or None, start, end), points=points,
            on_piece=count,
        )  # fmt: skip
        console.result({"kind": what, "file": str(out), "rows": rows}, f"{rows} rows in {out}")
        return

    from pipeline.edges.recordings.export import export_readings
    from pipeline.edges.recordings.readings import READINGS_NAME

    if columns is not None:
        msg = "expected no --columns with readings, found one"
        raise UsageError(msg, hint="all channels are written")
    done = export_readings(
        readings or directory / READINGS_NAME, out, kind or "parquet", machines=machines, points=points, start=start,
        end=end, on_file=lambda path: console.status(str(path)),
    )  # fmt: skip
    document = {"kind": what, "folder": str(out), "files": [str(path) for path in done.files], "samples": done.samples}
    console.result(document, f"{done.samples} samples in {len(done.files)} files in {out}")
    if kind == "wav" and done.files:
        console.say("WAV states no unit: thrumcast backfill --unit UNIT reads them again")
