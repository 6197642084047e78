"""A distributed run's archive, and a batch that tests kill."""

from __future__ import annotations

from pathlib import Path

from archive_plant import SCHEMA, feature_row

from pipeline.edges.store.batches import BatchArchive, Share
from pipeline.edges.store.schema import Rows, feature_tables

ABOUT = {"run": "one", "recipe": "features-1"}
OF_A_BATCH = 3  # tasks


def rows_of(batch: int, task: int, channels: tuple[str, ...] = ("x",)) -> list[Rows]:
    rows = [feature_row(10 * batch + i, task, channels) for i in range(4)]
    return [Rows("features", extras, table) for extras, table in feature_tables(rows, SCHEMA)]


def claimed(folder: Path) -> BatchArchive:
    archive = BatchArchive(folder, SCHEMA)
    archive.claim(ABOUT)
    return archive


def made(archive: BatchArchive, batch: int, channels: tuple[str, ...] = ("x",)) -> list[Share]:
    return [archive.put(task, rows_of(batch, task, channels)) for task in range(OF_A_BATCH)]


def commit_second(folder: Path) -> None:
    """In a process of its own, see `exit_status`."""
    archive = claimed(folder)
    archive.commit(1, made(archive, 1, ("x", "y")))


def commit_first(folder: Path) -> None:
    archive = claimed(folder)
    archive.commit(0, made(archive, 0))
