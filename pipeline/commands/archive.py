"""`thrumcast archive`: what the archive holds, whether all of it is whole, and its upkeep."""

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
    """List, verify, compact, prune or snapshot the Parquet archive; all of it also while the service runs."""


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
        raise ArchiveError(msg, hint="restore the files named above from a backup; the others stay readable")


@command.command(name="compact")
@_DATA
@with_console
def compact_(console: Console, data_dir: Path | None) -> None:
    """Merge the small files of each day into few. The rows stay the same, for every reader, at every moment."""
    from pipeline.commands.archive_upkeep import compacted

    directory = console.config(**{"data.dir": data_dir}).data.path
    done = compacted(directory)
    before, after = sum(one["bytes_before"] for one in done), sum(one["bytes_after"] for one in done)
    parts = sum(one["parts"] for one in done)
    text = f"{parts} files -> {len(done)}, {before:,} -> {after:,} bytes" if done else "nothing to merge"
    console.result({"data": str(directory), "compacted": done}, text)


@command.command()
@_DATA
@click.option("--keep", required=True, metavar="DAYS", help="How much to keep, such as 90d: whole UTC days go.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@click.option("--yes", is_flag=True, help="Do it; without --yes nothing is removed.")
@with_console
def prune(console: Console, data_dir: Path | None, keep: str, dry_run: bool, yes: bool) -> None:
    """Remove days that are older than that, of every kind. Snapshots keep theirs."""
    from pipeline.commands.archive_upkeep import cutoff, prunable, pruned

    directory, before = console.config(**{"data.dir": data_dir}).data.path, cutoff(keep)
    if not (yes or dry_run):
        msg = "expected --yes or --dry-run: pruned rows do not come back"
        raise click.UsageError(msg)
    done = prunable(directory, before) if dry_run else pruned(directory, before)
    rows, size = sum(one["rows"] for one in done), sum(one["bytes"] for one in done)
    verb = "would remove" if dry_run else "removed"
    lines = [f"{one['kind']} {one['date']}: {one['rows']:,} rows" for one in done]
    summary = f"{verb} {rows:,} rows, {size:,} bytes before {before}"
    document = {"data": str(directory), "before": before.isoformat(), "dry_run": dry_run, "pruned": done}
    console.result(document, "\n".join([*lines, summary]))


@command.command()
@_DATA
@click.argument("name", required=False)
@with_console
def snapshot(console: Console, data_dir: Path | None, name: str | None) -> None:
    """Keep the archive as it is now under a NAME [default: the time]; costs no space until parts are replaced."""
    from pipeline.edges.archive_snapshot import snapshot as keep

    made = keep(console.config(**{"data.dir": data_dir}).data.path, name)
    rows = ", ".join(f"{n:,} {kind}" for kind, n in made.rows.items()) or "no rows"
    if made.pending_rows:
        console.say(f"{made.pending_rows} rows are still in the journal and not in the snapshot")
    console.result(
        asdict(made) | {"path": str(made.path)}, f"{made.path}: {rows}\nnext: thrumcast train --data {made.path}"
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
