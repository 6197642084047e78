"""Files that are replaced as a whole: a crash leaves the old content or the new one, on the disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pipeline.errors import ArchiveError


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file and its content on the disk.

    Raises:
        ArchiveError: the disk refuses.
    """
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        msg = f"expected a writable file {path}, found: {error.strerror}"
        raise ArchiveError(msg, hint="free space, or correct the permissions of the data directory") from error
