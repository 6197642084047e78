"""`thrumcast archive`: what the archive holds, and whether all of it is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, with_console

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.drivers.parity import Parity
    from pipeline.edges.archive_check import Stock

_DATA = click.option(
    "--data", "data_dir", type=click.Path(path_type=Path), default=None, help="Data directory [default: data.dir]."
)


@click.group(name="archive")
def command() -> None:
    """List or verify the Parquet archive."""


@command.command(name="ls")
@_DATA
@with_console
def list_(console: Console, data_dir: Path | None) -> None:
    """Per kind and date: files, rows, bytes, machines and the time they span."""
    from pipeline.edges.archive_check import survey

    directory = Path(console.config(**{"data.dir": data_dir}).data.dir)
    stocks, pending = survey(directory)
    document = {
        "data": str(directory),
        "archive": [
            asdict(stock) | {"first": stock.first.isoformat(), "last": stock.last.isoformat()} for stock in stocks
        ],
        "pending_rows": pending,
    }
    console.result(document, _table(stocks, pending))


@command.command()
@_DATA
@click.option("--parity", is_flag=True, help="Also compute the features again from archive/readings.")
@with_console
def verify(console: Console, data_dir: Path | None, parity: bool) -> None:
    """Read every file and compare it with the manifest; exit code 1 if something is wrong.

    With --parity, features are computed again from the readings that `thrumcast record` kept, and the largest
    difference is shown with its window: there should be none.
    """
    from pipeline.edges.archive_check import verify as look_through
    from pipeline.errors import ArchiveError

    config = console.config(**{"data.dir": data_dir})
    directory = Path(config.data.dir)
    report = look_through(directory)
    whole = f"{report.files} files, {report.rows} rows, {report.pending_rows} more in the journal"
    lines = [*report.problems, *(f"note: {note}" for note in report.notes)]
    lines.append(f"{'damaged' if report.problems else 'ok'}: {whole}")
    document = {"ok": not report.problems, **asdict(report)}
    compared = _parity(config) if parity else None
    if compared is not None:
        document["parity"] = compared.document()
        document["ok"] = document["ok"] and not compared.differing_windows
        lines += _parity_text(compared)
    console.result(document, "\n".join(lines))
    if report.problems:
        msg = f"expected a whole archive in {directory}, found problems: {len(report.problems)}"
        hint = "restore the files named above from a backup; the others stay readable"
        raise ArchiveError(msg, hint=hint, reported=True)
    if compared is not None and compared.differing_windows:
        differ = compared.differing_windows
        msg = f"expected archived and recomputed features to be equal, found windows that differ: {differ}"
        hint = "another version, machine or library computed them; see the features named above"
        raise ArchiveError(msg, hint=hint, reported=True)


def _parity(config: Config) -> Parity:
    """Compares archived features with those of archived readings.

    Raises:
        ArchiveError: there is nothing to compare.
    """
    from pipeline.drivers.parity import compare
    from pipeline.edges.archive_read import read_features
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.recordings_readings import READINGS_NAME, find_readings, read_readings
    from pipeline.errors import ArchiveError
    from pipeline.specs import stream_specs

    paths = find_readings(config.data.path / READINGS_NAME)
    if not paths:
        msg = f"expected readings in {config.data.path / READINGS_NAME}, found none"
        raise ArchiveError(msg, hint="`thrumcast record` keeps them while the service runs")
    known = MachinesFile(config.data.path / MACHINES_NAME).load()
    blocks = (block for path in paths for block in read_readings(path))
    return compare(blocks, read_features(config.data.path), stream_specs(config, known))


def _parity_text(found: Parity) -> list[str]:
    lines = [f"parity: {found.windows} windows, {found.values} values computed again, {found.differing_windows} differ"]
    if found.not_archived or found.other_schema:
        lines.append(f"note: {found.not_archived} windows are not archived, {found.other_schema} under another schema")
    worst = found.largest
    if worst is not None:
        where = f"{worst.machine}/{worst.point} session {worst.session} window {worst.window}"
        lines.append(f"largest difference: {worst.size:g} in {worst.column} of {where}: ")
        lines[-1] += f"archived {worst.archived:g}, computed {worst.computed:g}"
        lines.append(f"features that differ: {', '.join(f'{name} ({n})' for name, n in found.columns.items())}")
    return lines


def _table(stocks: list[Stock], pending: dict[str, int]) -> str:
    rows = [("kind", "date", "files", "rows", "bytes", "machines", "from", "to")]
    for s in stocks:
        span = (f"{s.first:%H:%M:%S}", f"{s.last:%H:%M:%S}")
        rows.append((s.kind, s.date, f"{s.files:,}", f"{s.rows:,}", f"{s.bytes:,}", f"{s.machines:,}", *span))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if not stocks:
        lines = ["no files yet"]
    waiting = ", ".join(f"{rows:,} {kind}" for kind, rows in pending.items() if rows)
    return "\n".join([*lines, f"still in the journal: {waiting or 'nothing'}"])
