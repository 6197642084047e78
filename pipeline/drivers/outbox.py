"""What other threads have to publish. The connection belongs to one thread, and that one sends it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from pipeline.drivers.results import Publish


@dataclass(frozen=True, slots=True)
class Outbox:
    """Takes messages on any thread; sends them, in the order in which they came, on the thread of the connection."""

    connection: Publish
    _waiting: SimpleQueue[tuple[str, bytes, int, bool]] = field(default_factory=SimpleQueue)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """See `Publisher.publish`; it goes out with the next `send`."""
        self._waiting.put((topic, payload, qos, retain))

    def send(self) -> None:
        """On the thread of the connection: everything that waits."""
        with contextlib.suppress(Empty):
            while True:
                topic, payload, qos, retain = self._waiting.get_nowait()
                self.connection(topic, payload, qos=qos, retain=retain)
