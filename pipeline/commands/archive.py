"""`thrumcast archive`: lists, verifies and maintains the archive."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, data_option, table, with_console

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.drivers.parity import Parity
    from pipeline.edges.store.check import Stock


@click.group(name="archive")
def command() -> None:
    """List, verify, compact, prune, snapshot or mirror the Parquet archive, or make its history.

    All of it works while the service runs.
    """


@command.command(name="ls")
@data_option
@with_console
def list_(console: Console, data_dir: Path | None) -> None:
    """Show files, rows, bytes, machines and time span per kind and date."""
    from pipeline.edges.store.check import survey

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
@data_option
@click.option("--parity", is_flag=True, help="Also recompute the features from archive/readings.")
@with_console
def verify(console: Console, data_dir: Path | None, parity: bool) -> None:
    """Read every file and compare it with the manifest. Exit code 1: something is wrong.

    With --parity, recompute the features from the readings that `thrumcast record` has stored, and show the largest
    difference with its window. There should be none.
    """
    from pipeline.edges.store.check import verify as look_through
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
        hint = "restore the files named above from a backup; all other files are readable"
        raise ArchiveError(msg, hint=hint, reported=True)
    if compared is not None and compared.differing_windows:
        differ = compared.differing_windows
        msg = f"expected equal archived and recomputed features, found windows that differ: {differ}"
        hint = "another version of thrumcast, numpy or the CPU may have computed them; see the features named above"
        raise ArchiveError(msg, hint=hint, reported=True)


def _parity(config: Config) -> Parity:
    """Compares archived features with features recomputed from archived readings.

    Raises:
        ArchiveError: there are no readings.
    """
    from pipeline.config.specs import stream_specs
    from pipeline.drivers.parity import compare
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.recordings.readings import READINGS_NAME, find_readings, read_readings
    from pipeline.edges.store.read import read_features
    from pipeline.errors import ArchiveError

    paths = find_readings(config.data.path / READINGS_NAME)
    if not paths:
        msg = f"expected readings in {config.data.path / READINGS_NAME}, found none"
        raise ArchiveError(msg, hint="`thrumcast record` stores them while the service runs")
    known = MachinesFile(config.data.path / MACHINES_NAME).load()
    blocks = (block for path in paths for block in read_readings(path))
    return compare(blocks, read_features(config.data.path), stream_specs(config, known))


def _parity_text(found: Parity) -> list[str]:
    lines = [
        f"parity: {found.windows} windows, {found.values} values recomputed, {found.differing_windows} windows differ"
    ]
    if found.not_archived or found.other_schema:
        lines.append(f"note: {found.not_archived} windows are not archived, {found.other_schema} have another schema")
    worst = found.largest
    if worst is not None:
        where = f"{worst.machine}/{worst.point} session {worst.session} window {worst.window}"
        lines.append(f"largest difference: {worst.size:g} in {worst.column} of {where}: ")
        lines[-1] += f"archived {worst.archived:g}, recomputed {worst.computed:g}"
        lines.append(f"features that differ: {', '.join(f'{name} ({n})' for name, n in found.columns.items())}")
    return lines


@command.command(name="compact")
@data_option
@with_console
def compact_(console: Console, data_dir: Path | None) -> None:
    """Merge the small files of each day. Every reader sees the same rows at every moment."""
    from pipeline.service.upkeep import compacted

    directory = console.config(**{"data.dir": data_dir}).data.path
    done = compacted(directory)
    before, after = sum(one["bytes_before"] for one in done), sum(one["bytes_after"] for one in done)
    parts = sum(one["parts"] for one in done)
    text = f"{parts} files -> {len(done)}, {before:,} -> {after:,} bytes" if done else "nothing to merge"
    console.result({"data": str(directory), "compacted": done}, text)


@command.command()
@data_option
@click.option(
    "--keep", required=True, metavar="DAYS", help="Keep this many days, such as 90d; older UTC days are removed."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Confirm; nothing is removed without it.")
@with_console
def prune(console: Console, data_dir: Path | None, keep: str, dry_run: bool, yes: bool) -> None:
    """Remove days older than --keep, of every kind. Snapshots keep their files."""
    from pipeline.service.upkeep import prunable, pruned

    directory, before = console.config(**{"data.dir": data_dir}).data.path, cutoff(keep)
    if not (yes or dry_run):
        msg = "expected --yes or --dry-run: pruned rows cannot be restored"
        raise click.UsageError(msg)
    done = prunable(directory, before) if dry_run else pruned(directory, before)
    rows, size = sum(one["rows"] for one in done), sum(one["bytes"] for one in done)
    verb = "would remove" if dry_run else "removed"
    lines = [f"{one['kind']} {one['date']}: {one['rows']:,} rows" for one in done]
    summary = f"{verb} {rows:,} rows, {size:,} bytes before {before}"
    document = {"data": str(directory), "before": before.isoformat(), "dry_run": dry_run, "pruned": done}
    console.result(document, "\n".join([*lines, summary]))


@command.command()
@data_option
@click.argument("name", required=False)
@with_console
def snapshot(console: Console, data_dir: Path | None, name: str | None) -> None:
    """Keep the present archive under a NAME [default: the time]. It takes no space until parts are replaced."""
    from pipeline.edges.store.snapshot import snapshot as keep

    data = console.config(**{"data.dir": data_dir}).data.path
    made = keep(data, name)
    rows = ", ".join(f"{n:,} {kind}" for kind, n in made.rows.items()) or "no rows"
    if made.pending_rows:
        console.say(f"{made.pending_rows} rows are still in the journal and not in the snapshot")
    following = f"next: thrumcast train --snapshot {made.path.name} --data {data}"
    console.result(asdict(made) | {"path": str(made.path)}, f"{made.path}: {rows}\n{following}")


@command.command()
@data_option
@click.argument("url")
@click.option("--check", is_flag=True, help="Read every file of the mirror again and compare its checksum.")
@with_console
def mirror(console: Console, data_dir: Path | None, url: str, check: bool) -> None:
    """Copy the archive to URL, another disk or an object store; only what is new, and every copy is read back.

    The copy is a data directory that every reader accepts. A run that was cut off is taken up by the next one.
    """
    from pipeline.edges.store.mirror import mirror as copy

    data = console.config(**{"data.dir": data_dir}).data.path
    done = copy(data, url, check=check)
    if done.pending_rows:
        console.say(f"{done.pending_rows} rows are still in the journal and not in the mirror")
    text = f"{url}: {done.files} files, {done.copied} copied ({done.copied_bytes:,} bytes), {done.removed} removed"
    console.result(asdict(done), text)


@command.command(name="history")
@data_option
@click.option("--rebuild", is_flag=True, help="Make the buckets of all days again.")
@with_console
def history_(console: Console, data_dir: Path | None, rebuild: bool) -> None:
    """Make the buckets of finished days that long trends on the page are drawn from. A running service does it too."""
    from pipeline.edges.store.history import build

    directory, today = console.config(**{"data.dir": data_dir}).data.path, datetime.now(UTC).date()
    done = [asdict(built) for built in build(directory, today, again=rebuild)]
    lines = [f"{one['kind']} {one['date']}: {one['rows']:,} rows in {one['bytes']:,} bytes" for one in done]
    console.result({"data": str(directory), "built": done}, "\n".join(lines) or "nothing to make")


def _table(stocks: list[Stock], pending: dict[str, int]) -> str:
    head, rows = ("kind", "date", "files", "rows", "bytes", "machines", "from", "to"), []
    for s in stocks:
        span = (f"{s.first:%H:%M:%S}", f"{s.last:%H:%M:%S}")
        rows.append((s.kind, s.date, f"{s.files:,}", f"{s.rows:,}", f"{s.bytes:,}", f"{s.machines:,}", *span))
    text = table(head, rows, left=2) if stocks else "no files yet"
    waiting = ", ".join(f"{rows:,} {kind}" for kind, rows in pending.items() if rows)
    return f"{text}\nstill in the journal: {waiting or 'nothing'}"


def cutoff(keep: str) -> date:
    """`90d` -> the first UTC day to keep."""
    match = re.fullmatch(r"(\d{1,5})d?", keep.strip())
    if match is None or int(match[1]) < 1:
        msg = f"expected a number of days such as 90d, found: {keep!r}"
        raise click.BadParameter(msg, param_hint="--keep")
    return (datetime.now(UTC) - timedelta(days=int(match[1]))).date()
