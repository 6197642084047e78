"""A journal that cannot be read, out of the way: kept as it is, so that the next start makes a new one."""

from __future__ import annotations

from pathlib import Path

from pipeline.edges.journal_files import DirectoryLock, storage_error
from pipeline.edges.store.database import JOURNAL_NAME
from pipeline.edges.store.parts import sync_directory
from pipeline.errors import ArchiveError


def set_aside(directory: Path, name: str) -> Path:
    """Moves the journal as it is to `DIR/aside/NAME`, so that the next start makes a new one; nothing is removed.

    Raises:
        ArchiveError: another process holds the directory, there is no journal, or it cannot be moved.
    """
    lock, path = DirectoryLock(directory), directory / JOURNAL_NAME
    try:
        # The database first: a log without its database is of no consequence to SQLite.
        files = [found for end in ("", "-wal", "-shm") if (found := path.with_name(path.name + end)).exists()]
        if path not in files:
            msg = f"expected a journal to set aside, found none: {path}"
            raise ArchiveError(msg)
        place = directory / "aside" / name
        place.mkdir(parents=True)
        for file in files:
            file.rename(place / file.name)
        for folder in (place, directory):
            sync_directory(folder)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        lock.release()
    return place
