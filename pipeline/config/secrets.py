"""Files with secrets that the configuration names, and whether others than owner and group may read or change them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.keys import dotted, leaves
from pipeline.config.tables import Config

SECRETS = ("password_file", "token_file", "key_file")  # how the keys of such files end


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file of which others may read or change what only the service should know."""

    key: str
    path: Path
    mode: int

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.key}: {self.path} has mode {self.mode:04o}, so others may {self.verb} it"

    @property
    def verb(self) -> str:
        """What others may do."""
        return "change" if self.mode & 0o022 else "read"


def exposed(config: Config) -> Iterator[Exposed]:
    """Secrets that everybody may read, or that others than their owner may write. Links are followed.

    A file that is not there is named by whoever reads it.
    """
    for path, value in leaves(config):
        if str(path[-1]).endswith(SECRETS) and isinstance(value, str) and value:
            file = Path(value).expanduser()
            try:
                mode = stat.S_IMODE(file.stat().st_mode)
            except OSError:
                continue
            if mode & 0o026:
                yield Exposed(dotted(path), file, mode)
