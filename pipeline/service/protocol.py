"""uvicorn's HTTP protocol with a time limit for the head of each request and a limit of open connections.

A client has `CLIENT_TIMEOUT_S` to send the head of a request. When there are too many clients, the one that has kept us
waiting longest is closed. So clients that send slowly, or nothing, keep nobody out. uvicorn itself has a limit for idle
connections only, and answers 503 to everybody when there are too many.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CLIENTS = 128  # open connections at once
CLIENT_TIMEOUT_S = 5.0  # how long a client may take to send the head of its request


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self.waits_since_s = 0.0  # for the head of a request; 0: a request is being answered, or none has begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; make room if there are too many connections."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CLIENTS:
            waiting = [c for c in self.connections if isinstance(c, BoundedProtocol) and c.waits_since_s]
            min(waiting, key=lambda c: c.waits_since_s, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._answer_begins()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; stop to wait when the head is complete."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._answer_begins()

    def _wait(self) -> None:
        if self._deadline is None:
            self.waits_since_s = time.monotonic()
            self._deadline = self.loop.call_later(CLIENT_TIMEOUT_S, self._give_up)

    def _answer_begins(self) -> None:
        self.waits_since_s = 0.0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
