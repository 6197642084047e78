"""Landing: messages of a fixed share of the machines -> parts of readings, acknowledged when these are on the disk.

    take -> decode -> hold -> parts of readings, fsync, rename -> acknowledge

MQTT cannot be read again, so a distributed run reads parts. A machine belongs to the shard `crc32(machine) % count`,
and each lander has fixed shards: one machine's messages stay in order. What is delivered again after a crash is stored
again; the engine calls it a duplicate.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pipeline.drivers.intake import Intake, refuse_strangers
from pipeline.edges.ports import Message
from pipeline.edges.recordings.readings import ReadingsWriter
from pipeline.errors import ConfigError, UsageError

LANDERS_NAME = ".landers"
REFUSED_NAME = ".refused"
MOST_HELD_BYTES = 256 * 2**20  # of payloads that wait for their parts
_PAYLOAD_BYTES = 4096  # of a refused message that are kept
_TAKE_S = 0.1


class Source(Protocol):
    """The connection, as a lander needs it."""

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """Messages that have arrived."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """They are safe."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Shards `first` to `last` of `count`."""

    first: int
    last: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shards:
        """`0-15/64` or `3/64`.

        Raises:
            UsageError: it is no range of shards.
        """
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?/(\d{1,5})", text)
        first, last, count = (int(match[1]), int(match[2] or match[1]), int(match[3])) if match else (0, 0, 0)
        if not 0 <= first <= last < count:
            msg = f"--shards: expected FIRST-LAST/COUNT with shards from 0 to COUNT - 1, found: {text}"
            raise UsageError(msg, hint="for instance 0-15/64, and 16-31/64 on the next machine")
        return cls(first, last, count)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}/{self.count}"

    def has(self, machine: str) -> bool:
        """Whether a machine is in one of these shards."""
        return self.first <= zlib.crc32(machine.encode()) % self.count <= self.last

    def claim(self, folder: Path) -> None:
        """Notes in the folder of the readings that these shards have a lander.

        Raises:
            ConfigError: another lander's shards overlap, or count differently.
        """
        claims = folder / LANDERS_NAME
        claims.mkdir(parents=True, exist_ok=True)
        for path in claims.glob("*-*-of-*"):
            numbers = re.fullmatch(r"(\d+)-(\d+)-of-(\d+)", path.name)
            if numbers is None:
                continue
            other = Shards(*map(int, numbers.groups()))
            apart = other.count == self.count and (other.last < self.first or self.last < other.first)
            if other != self and not apart:
                msg = f"--shards: expected shards that no other lander of {folder} has, found {self} beside {other}"
                raise ConfigError(msg, hint=f"a machine must have one lander; if that one is gone, remove {path}")
        (claims / f"{self.first}-{self.last}-of-{self.count}").touch()


@dataclass(slots=True)
class Lander:
    """Stores what comes, and acknowledges it afterwards."""

    source: Source
    intake: Intake
    writer: ReadingsWriter
    shards: Shards
    interval_s: float
    most_held: int  # messages: the broker sends no more before some are acknowledged
    taken: int = 0  # messages
    others: int = 0  # of these, those of other shards
    refused: int = 0
    _held: list[Message] = field(default_factory=list)
    _refusals: list[str] = field(default_factory=list)
    _bytes: int = 0
    _since_s: float = field(default_factory=time.monotonic)

    def run(self, stop: Callable[[], bool], told: Callable[[str, str, str], None]) -> None:
        """Until `stop`; then stores what it holds. `told` hears of each refused message: topic, reason, sentence."""
        while not stop():
            self._take(told, _TAKE_S)
            due = time.monotonic() - self._since_s >= self.interval_s
            if due or len(self._held) >= self.most_held or self._bytes >= MOST_HELD_BYTES:
                self.store()
        self.store()

    def _take(self, told: Callable[[str, str, str], None], timeout_s: float) -> None:
        messages = self.source.take(max(1, self.most_held - len(self._held)), timeout_s)
        while messages:
            batch = self.intake.read(messages, time.time_ns())
            if not batch.messages:
                break
            refuse_strangers(batch)
            for block in batch.blocks:
                if self.shards.has(block.key.machine):
                    self.writer.append(block)
            for message, reason, detail in batch.refused:
                if self.shards.has(self._owner(message.topic)):
                    told(message.topic, reason, detail)
                    self._refusals.append(_line(message, reason, detail))
                    self.refused += 1
            self.others += sum(not self.shards.has(self._owner(message.topic)) for message in batch.messages)
            self._held += batch.messages
            self._bytes += batch.size
            self.taken += len(batch.messages)
            messages = messages[len(batch.messages) :]

    def _owner(self, topic: str) -> str:
        """Who is in a shard: the machine of a topic, or the topic itself where it names none."""
        key = self.intake.key_of(topic)
        return topic if key is None else key.machine

    def store(self) -> None:
        """Puts everything on the disk, then acknowledges it."""
        self._since_s = time.monotonic()
        if not self._held:
            return
        self.writer.close()
        if self._refusals:
            self._store_refusals()
        self.source.acknowledge(self._held)
        self._held, self._refusals, self._bytes = [], [], 0

    def _store_refusals(self) -> None:
        day = datetime.now(UTC).date().isoformat()
        path = self.writer.folder / REFUSED_NAME / f"{day}-{self.shards.first}-{self.shards.last}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(self._refusals)
            file.flush()
            os.fsync(file.fileno())


def _line(message: Message, reason: str, detail: str) -> str:
    kept = base64.b64encode(message.payload[:_PAYLOAD_BYTES]).decode()
    line = {"at": datetime.now(UTC).isoformat(), "topic": message.topic, "reason": reason, "detail": detail}
    return json.dumps(line | {"size_bytes": len(message.payload), "payload": kept}) + "\n"
