"""Which messages a turn has in hand: some of the connection's, bounded in number and in bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.drivers.intake import MOST_BYTES
from pipeline.drivers.rhythm import Rhythm
from pipeline.edges.ports import Connection, Message

LOOK_UP_S = 0.25  # how long a silent broker may keep a stop request waiting


@dataclass(slots=True)
class Taker:
    """Takes messages off a source."""

    left: list[Message] = field(default_factory=list)  # taken, and more than the last commit could cover

    def take(self, source: Connection, rhythm: Rhythm, stop: Callable[[], bool], *, first: bool) -> list[Message]:
        """Messages of one commit interval, or as many as one commit may cover; at once where some are left."""
        messages, self.left = self.left, []
        if messages:
            source.service()  # what is left may last for minutes, and the broker wants to hear of us
        size = sum(len(message.payload) for message in messages)
        until_s = time.monotonic() + (0.0 if messages else rhythm.commit_interval_s)
        while (room := rhythm.most(first=first) - len(messages)) > 0 and size < MOST_BYTES:
            left_s = 0.0 if stop() else until_s - time.monotonic()
            taken = source.take(room, min(max(left_s, 0.0), LOOK_UP_S))
            messages += taken
            size += sum(len(message.payload) for message in taken)
            if left_s <= 0:
                break
        return messages
