"""Facts of each machine and point, DIR/machines.jsonl: one JSON object per line; the newest line of a stream counts.

The file is append-only: older facts remain visible, and a crash can tear only the last line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pipeline.core.records import BearingOrders, StreamKey
from pipeline.errors import ArchiveError

MACHINES_NAME = "machines.jsonl"
_PLACE = ("dataset", "rig", "bearing", "fault_location", "fault_class", "fault_size_mil", "fault_arc_deg")
_SEEDED = ("fault_location", "fault_size_mil", "fault_arc_deg")
_HEALTHY = ("normal", "healthy")
_ORDERS = sorted(field.name for field in fields(BearingOrders))


class MachinesFile:
    """The facts of one data directory. One process writes, any process may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts: dict[StreamKey, dict[str, Any]] = {}  # of the file as it was at `_seen`
        self._seen: tuple[int, int, int] | None = None  # inode, size and time of the last change
        self._whole = 0  # bytes of the file up to its last whole line

    def load(self) -> dict[StreamKey, dict[str, Any]]:
        """The facts of every stream; empty without a file. A file that has not changed is not read again.

        Raises:
            ArchiveError: a line other than a torn last one is not what `update` writes.
        """
        seen = self._signature()
        if seen is None or seen != self._seen:
            self._facts, self._whole = self._read()
            self._seen = seen
        return {key: dict(facts) for key, facts in self._facts.items()}

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:  # `_read` says why
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _read(self) -> tuple[dict[StreamKey, dict[str, Any]], int]:
        facts: dict[StreamKey, dict[str, Any]] = {}
        content = self._whole_content()
        # Not splitlines: it also splits at characters that JSON does not escape, such as U+0085.
        for number, line in enumerate(content.decode("utf-8", "replace").split("\n")[:-1], 1):
            try:
                entry = json.loads(line)
                key = StreamKey(entry.pop("machine"), entry.pop("point"))
                _check(entry)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                why = f" ({error})" if type(error) is ValueError else ""
                msg = (
                    f"expected facts of a machine as a JSON object in {self.path}, line {number}, "
                    f"found: {line[:60]!r}{why}"
                )
                raise ArchiveError(msg, hint="correct or remove that line") from error
            facts[key] = entry
        return facts, len(content)

    def update(self, key: StreamKey, facts: Mapping[str, Any]) -> bool:
        """Adds or changes facts of a stream and keeps its other facts. Returns whether anything changed.

        Raises:
            ArchiveError: the file is not writable.
        """
        return self.update_all({key: facts}) > 0

    def update_all(self, facts: Mapping[StreamKey, Mapping[str, Any]]) -> int:
        """Like `update` for many streams, with one write. Returns how many streams changed.

        Raises:
            ValueError: `load` would refuse a fact.
            ArchiveError: the file is not writable.
        """
        self.load()
        changed: dict[StreamKey, dict[str, Any]] = {}
        for key, new in facts.items():
            old = self._facts.get(key, {})
            merged = json.loads(json.dumps({**old, **new}, allow_nan=False))  # compare in the form that `load` reads
            _check(merged)
            if key not in self._facts or merged != old:
                changed[key] = merged
        if changed:
            self._append("".join(_line(key, merged) for key, merged in changed.items()).encode())
            self._facts |= changed
        return len(changed)

    def _whole_content(self) -> bytes:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            msg = f"expected to read {self.path}, found: {error}"
            raise ArchiveError(msg, hint="check the permissions of the data directory") from error
        return content[: content.rfind(b"\n") + 1]

    def _append(self, content: bytes) -> None:
        self._seen = None  # until the file is as expected
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._whole)  # a torn last line was never acknowledged
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            msg = f"expected to write {self.path}, found: {error}"
            raise ArchiveError(msg, hint="check free space and permissions of the data directory") from error
        self._whole += len(content)
        self._seen = self._signature()


def _line(key: StreamKey, facts: Mapping[str, Any]) -> str:
    return json.dumps({"machine": key.machine, "point": key.point, **facts}, ensure_ascii=False) + "\n"


def _check(facts: Mapping[str, Any]) -> None:
    """Checks that speed and orders are numbers and that no fact is called like a part of the key.

    Raises:
        ValueError: a fact is invalid; the message names it.
    """
    if wrong := [name for name in ("machine", "point") if name in facts]:
        msg = f"expected no fact called {wrong[0]}: it is part of the key of the stream"
        raise ValueError(msg)
    speed_rpm = facts.get("speed_rpm")
    if speed_rpm is not None and not _is_number(speed_rpm):
        msg = f"expected speed_rpm as a number of at least 0, found: {speed_rpm!r}"
        raise ValueError(msg)
    orders = facts.get("orders")
    if orders is not None and not (
        isinstance(orders, dict) and sorted(orders) == _ORDERS and all(map(_is_number, orders.values()))
    ):
        msg = f"expected orders with {', '.join(_ORDERS)} as numbers of at least 0, found: {orders!r}"
        raise ValueError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def recording_facts(
    metadata: Mapping[str, Any],
    machine: str,
    *,
    rate_hz: float,
    unit: str,
    speed_rpm: float | None = None,
    orders: BearingOrders | None = None,
) -> dict[str, Any]:
    """Facts of a stream from a recording: its plain metadata, and the values that were derived from it."""
    plain = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, str | int | float | bool) and key not in ("machine", "point", "speed_rpm", "orders")
    }
    facts: dict[str, Any] = plain | {"rate_hz": rate_hz, "unit": unit, "specimen": specimen(metadata, machine)}
    if speed_rpm is not None:
        facts["speed_rpm"] = speed_rpm
    if orders is not None:
        facts["orders"] = asdict(orders)
    return facts


def specimen(metadata: Mapping[str, Any], machine: str) -> str:
    """The physical specimen of a recording: recordings of one bearing at several loads or speeds share it.

    A seeded fault is identified by its place and size. All healthy recordings of a dataset count as one specimen: as
    far as the metadata tells, they were made with the same bearing.
    """
    known = {key: value for key, value in metadata.items() if value not in (None, "", "none")}
    if "bearing_id" in known:
        return str(known["bearing_id"])
    if any(key in known for key in _SEEDED):
        return "/".join(str(known[key]) for key in _PLACE if key in known)
    if "dataset" in known and str(known.get("fault_class")).lower() in _HEALTHY:
        return f"{known['dataset']}/{known['fault_class']}"
    return machine
