"""Links within a data directory: one that leads outside is refused, because writing there would change other files.

Files belong to their owner alone or to owner and group: `thrumcast` sets the umask 0027 at its start, or keeps a
stricter one. Files of other programs in the directory are not touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ArchiveError

NOT_FOLLOWED = ("snapshots", "aside")  # copies: nothing is written into what lies there


def links_outside(directory: Path) -> Iterator[Path]:
    """Symbolic links below a directory whose target is not below it. The directory itself may be a link."""
    home = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                yield path
        if Path(folder) == directory:
            folders[:] = [name for name in folders if name not in NOT_FOLLOWED]


def refuse_links(directory: Path) -> None:
    """Refuses a data directory with a link that leads outside.

    Raises:
        ArchiveError: there is one; the error names it and its target.
    """
    found = next(links_outside(directory), None)
    if found is None:
        return
    msg = f"expected links within the data directory only, found {found}, which leads to {os.path.realpath(found)}"
    hint = "move the files into the directory, use a mount for another disk, or make all of data.dir a link"
    raise ArchiveError(msg, hint=hint)
