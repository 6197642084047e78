"""Upkeep from the command line: done here where nobody holds the data directory, else by the service that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.drivers.upkeep import ask
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.compact import compact, older, prune
from pipeline.edges.store.database import JOURNAL_NAME, DirectoryHeld, view_journal
from pipeline.edges.store.journal import Journal
from pipeline.errors import ArchiveError

Done = list[dict[str, Any]]


def compacted(directory: Path) -> Done:
    """Merges every day's small parts."""
    return _done(directory, {"action": "compact"}, lambda archive: [asdict(one) for one in compact(archive)])


def pruned(directory: Path, before: date) -> Done:
    """Removes the days before a date."""
    request = {"action": "prune", "before": before.isoformat()}
    return _done(directory, request, lambda archive: [asdict(one) for one in prune(archive, before)])


def prunable(directory: Path, before: date) -> Done:
    """What `pruned` would remove."""
    _check(directory)
    view = view_journal(directory, ())
    days = {} if view is None else older(view.parts, before)
    return [
        {"kind": kind, "date": day, "parts": len(parts), "rows": sum(p.rows for p in parts),
         "bytes": sum(p.bytes for p in parts)}
        for (kind, day), parts in days.items()
    ]  # fmt: skip


def _done(directory: Path, request: dict[str, Any], work: Callable[[Archive], Done]) -> Done:
    _check(directory)
    try:
        with Journal(directory) as journal:
            schema = journal.view(()).schema
            if schema is None:
                return []  # nothing was ever written
            return work(Archive(directory, journal, schema))
    except DirectoryHeld:
        return ask(directory, request)


def _check(directory: Path) -> None:
    if not (directory / JOURNAL_NAME).exists():
        msg = f"expected a data directory with a journal, found none in: {directory}"
        raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")
