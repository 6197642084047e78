"""What was refused: the messages of the quarantine, one by one or by topic and reason."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.edges.store.read import Selection, read_kind

COLUMNS = ("topic", "at", "reason", "size_bytes", "payload", "detail")
NO_DETAIL = "(not kept by the version that refused it)"


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused message."""

    topic: str
    at: datetime
    reason: str
    size_bytes: int
    payload: bytes  # the first 4,096 bytes
    detail: str

    @property
    def id(self) -> str:
        """The same for the same message, refused at the same time for the same reason."""
        head = f"{self.topic}\0{self.at.isoformat()}\0{self.reason}\0{self.size_bytes}\0".encode()
        return hashlib.sha256(head + self.payload).hexdigest()[:16]

    @property
    def is_whole(self) -> bool:
        """Whether all bytes of the message were kept."""
        return self.size_bytes == len(self.payload)


@dataclass(frozen=True, slots=True)
class Refusals:
    """All refusals of a topic for a reason."""

    topic: str
    reason: str
    detail: str  # of the newest
    count: int
    first: datetime
    last: datetime


def refused_messages(
    data_dir: Path, *, topic: str | None = None, reason: str | None = None, since: datetime | None = None
) -> list[Refused]:
    """The refused messages, oldest first.

    Raises:
        ArchiveError: there is no such directory, or a file cannot be read.
    """
    rows = _rows(data_dir, COLUMNS, since)
    found = (Refused(**(row | {"detail": row["detail"] or NO_DETAIL})) for row in rows)
    return [one for one in found if topic in (None, one.topic) and reason in (None, one.reason)]


def refusals(data_dir: Path, *, since: datetime | None = None) -> list[Refusals]:
    """What was refused by topic and reason, the most frequent first; nothing without a data directory.

    Raises:
        ArchiveError: a file cannot be read.
    """
    if not data_dir.is_dir():
        return []
    found: dict[tuple[str, str], Refusals] = {}
    for row in _rows(data_dir, ("topic", "at", "reason", "detail"), since):
        topic, reason, at = row["topic"], row["reason"], row["at"]
        before = found.get((topic, reason))
        count, first = (1, at) if before is None else (before.count + 1, before.first)
        found[topic, reason] = Refusals(topic, reason, row["detail"] or NO_DETAIL, count, first, at)
    return sorted(found.values(), key=lambda one: (-one.count, one.topic, one.reason))


def _rows(data_dir: Path, columns: Sequence[str], since: datetime | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_kind(data_dir, "quarantine", columns, Selection(start=since)).to_pylist()
    return rows
