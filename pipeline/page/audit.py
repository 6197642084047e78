"""Who changed what and when on the page: DIR/audit.jsonl, one line per change, append-only and flushed to disk."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.edges.labels import now_iso
from pipeline.errors import ArchiveError

AUDIT_NAME = "audit.jsonl"
TAIL_BYTES = 262_144
SHORT = 200  # characters of a value

log = logging.getLogger("thrumcast.web")


class Audit:
    """The changes of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / AUDIT_NAME
        self._lock = threading.Lock()

    def check(self) -> None:
        """Make sure that a change can be noted, before it is made.

        Raises:
            ArchiveError: the file cannot be written.
        """
        try:
            with self.path.open("ab"):
                pass
        except OSError as error:
            msg = f"expected to write {self.path}, found: {error.strerror}"
            raise ArchiveError(msg, hint="no change is made that cannot be noted") from error

    def note(self, by: str, client: str, path: str, given: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """Note a change. It is made already, so a disk that refuses is logged with all that was to be written."""
        entry = {
            "at": now_iso(),
            "by": by,
            "client": client,
            "path": path,
            "given": _short(given),
            "made": _short(made),
        }
        log.info("page_changed path=%s by=%r client=%s", path, by, client)
        try:
            with self._lock, self.path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.error("audit_failed err=%s entry=%s", error, msgspec.json.encode(entry).decode())

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest changes, newest first. A line that is torn is left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for line in reversed(lines):
            try:
                entry = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(entry, dict) and len(found) < count:
                found.append(entry)
        return found


def _short(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a change: plain values, long ones cut."""
    return {
        name: value[:SHORT] if isinstance(value, str) else value
        for name, value in values.items()
        if value is None or isinstance(value, str | int | float | bool)
    }
