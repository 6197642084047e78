"""Waiting for a socket, and waiting before the next try."""

from __future__ import annotations

import random
import selectors
import time
from typing import Any, Final

_STABLE_S: Final = 10.0  # a connection that lived this long ends the growth of the back-off


class Waiter:
    """A selector for one socket that comes and goes; tells it only what has changed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._known: tuple[Any, int] | None = None  # socket and interest that the selector knows

    def wait(self, sock: Any, *, reading: bool, writing: bool, timeout_s: float) -> tuple[bool, bool]:
        """Whether the socket can be read and written; sleeps through the time-out if neither is asked for."""
        interest = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        if self._known != (sock, interest):
            self.forget()
            if interest:
                self._selector.register(sock, interest)
                self._known = (sock, interest)
        if not interest:
            time.sleep(timeout_s)
            return False, False
        ready = 0
        for _, events in self._selector.select(timeout_s):
            ready |= events
        return bool(ready & selectors.EVENT_READ), bool(ready & selectors.EVENT_WRITE)

    def forget(self) -> None:
        """Drops the socket, before it is closed or another one may get its number."""
        if self._known is not None:
            self._selector.unregister(self._known[0])
            self._known = None

    def close(self) -> None:
        """Ends; may be called twice."""
        self.forget()
        self._selector.close()


class Backoff:
    """Times of the next try: jittered, growing twofold, and not forgotten at the first success.

    Two clients with one id throw each other out again and again; each success alone says nothing.
    """

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._tries = 0
        self._due_s = 0.0

    def left_s(self) -> float:
        """Seconds until the next try, at least 0."""
        return max(0.0, self._due_s - time.monotonic())

    def failed(self, *, lived_s: float) -> None:
        """The try failed, or its connection was lost after `lived_s`."""
        self._tries = 1 if lived_s > _STABLE_S else self._tries + 1
        longest_s = min(self._longest_s, self._shortest_s * 2 ** min(self._tries, 10))
        self._due_s = time.monotonic() + random.uniform(self._shortest_s, longest_s)
