"""Which channels of a recording become which streams: `drive_end=x,fan_end=x`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RecordingError, UsageError

_NOT_ID = re.compile(r"[^A-Za-z0-9_.-]")
_NOT_CHANNEL = re.compile(r"[^A-Za-z0-9_-]")  # no dot: it parts channel and feature in a column's name


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """Chosen channels (original name, new name), in order."""

    pairs: tuple[tuple[str, str], ...]

    def groups(self) -> list[tuple[tuple[str, str], ...]]:
        """Pairs per stream: originals that get the same new name are streams of their own."""
        streams: list[list[tuple[str, str]]] = []
        for original, new in self.pairs:
            free = next((stream for stream in streams if new not in [name for _, name in stream]), None)
            if free is None:
                streams.append([(original, new)])
            else:
                free.append((original, new))
        return [tuple(stream) for stream in streams]


def parse_channels(text: str) -> ChannelMap:
    """`NAME[=AS],...` as given on the command line.

    Raises:
        UsageError: an empty or repeated name, or a new name that cannot be part of a column's name.
    """
    pairs: list[tuple[str, str]] = []
    for entry in text.split(","):
        original, equals, new = (part.strip() for part in entry.partition("="))
        if not original or (equals and not new):
            msg = f"expected --channels NAME[=AS],..., found: {text!r}"
            raise UsageError(msg, hint="for example --channels drive_end=x")
        name = new or channel_name(original)
        if channel_name(name) != name:
            msg = f"expected a channel name of letters, digits, '_' and '-', found: {name!r}"
            raise UsageError(msg, hint=f"for example {original}={channel_name(name)}")
        if original in [first for first, _ in pairs]:
            msg = f"expected each channel once in --channels, found twice: {original}"
            raise UsageError(msg, hint="name it once")
        pairs.append((original, name))
    return ChannelMap(tuple(pairs))


def choose(available: Sequence[str], wanted: ChannelMap | None, path: Path) -> ChannelMap:
    """The map for one recording: as wanted, or every channel under its own name.

    Raises:
        RecordingError: a wanted channel is not there.
    """
    if wanted is None:
        return ChannelMap(tuple((name, channel_name(name)) for name in available))
    for original, new in wanted.pairs:
        if original not in available:
            near = difflib.get_close_matches(original, available, 1)
            msg = f"expected a channel of {path}, found: {original}"
            hint = f"did you mean {near[0]}? " if near else ""
            example = f"--channels {(near or available)[0]}={new}"
            raise RecordingError(msg, hint=f"{hint}there are {', '.join(available)}: {example}")
    return wanted


def channel_name(text: str) -> str:
    """A name fit to stand before the dot of a column."""
    return _NOT_CHANNEL.sub("_", text)[:64] or "_"


def id_text(text: str) -> str:
    """A name fit for a machine or a point; never a name that means a directory."""
    clean = _NOT_ID.sub("_", text)
    return clean if clean.strip(".") else f"_{clean}"
