"""`thrumcast archive`: what the archive holds, and whether all of it is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, with_console

if TYPE_CHECKING:
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
@with_console
def verify(console: Console, data_dir: Path | None) -> None:
    """Read every file and compare it with the manifest; exit code 1 if something is wrong."""
    from pipeline.edges.archive_check import verify as look_through
    from pipeline.errors import ArchiveError

    directory = Path(console.config(**{"data.dir": data_dir}).data.dir)
    report = look_through(directory)
    whole = f"{report.files} files, {report.rows} rows, {report.pending_rows} more in the journal"
    text = "\n".join([*report.problems, *(f"note: {note}" for note in report.notes)])
    lines = [text] if text else []
    console.result(
        {"ok": not report.problems, **asdict(report)},
        "\n".join([*lines, f"{'damaged' if report.problems else 'ok'}: {whole}"]),
    )
    if report.problems:
        msg = f"expected a whole archive in {directory}, found problems: {len(report.problems)}"
        raise ArchiveError(
            msg, hint="restore the files named above from a backup; the others stay readable", reported=True
        )


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
