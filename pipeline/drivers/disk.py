"""The disk as the live loop uses it: on a thread of its own, with another attempt where the disk refuses.

A disk that takes seconds must not look like a dead client to the broker. So the loop waits here, and looks after its
connection while it waits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

from pipeline.errors import ArchiveError

PATIENCE_S = 1.0  # how long a caller waits for an action before it looks after its connection again
PULSE_S = 0.25  # how long it looks after the connection each time
RETRY_S = 1.0  # between two attempts

T = TypeVar("T")

log = logging.getLogger("thrumcast.live")


class DiskThread:
    """One thread for all work on the disk, which ends with this object.

    It is always the same thread: allocators keep memory per thread, so one roll reuses what the last one freed. With a
    new thread for each roll the process grows.
    """

    def __init__(self) -> None:
        self._actions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._actions,), name="disk", daemon=True).start()
        weakref.finalize(self, self._actions.put, None)

    def __call__(
        self,
        action: Callable[[], object],
        meanwhile: Callable[[float], object],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Run `action` to its end; call `meanwhile(seconds)` repeatedly if it takes longer than `patience_s`.

        A write that hangs in the kernel cannot be cancelled: this waits as long as it does. What the action raises is
        raised here.
        """
        done = threading.Event()
        raised: list[BaseException] = []

        def work() -> None:
            try:
                action()
            except BaseException as error:
                raised.append(error)  # raised below, on the caller's thread
            finally:
                done.set()

        self._actions.put(work)
        if not done.wait(patience_s):
            while not done.is_set():
                meanwhile(PULSE_S)
        if raised:
            raise raised[0]


def _work(actions: SimpleQueue[Callable[[], None] | None]) -> None:
    while (action := actions.get()) is not None:
        action()
        del action  # and with it the rows that it holds


@dataclass(slots=True)
class Disk:
    """Work on the disk: once, attempted, or repeated until it succeeds or the service is asked to stop.

    `meanwhile(seconds)` looks after the connection while something takes long.
    """

    meanwhile: Callable[[float], object]
    is_stopping: Callable[[], bool] = lambda: False
    refusals: Mapping[str, str] = field(default_factory=dict)  # name of the action -> why; replaced as a whole
    _thread: DiskThread = field(default_factory=DiskThread)
    _failed: Counter[str] = field(default_factory=Counter)  # attempts in a row

    @property
    def refusal(self) -> str | None:
        """Why the disk refuses something; None while it takes everything."""
        return next(iter(self.refusals.values()), None)

    def do(self, action: Callable[[], T]) -> T:
        """Run an action on the disk's thread and return what it returns."""
        found: list[T] = []
        self._thread(lambda: found.append(action()), self.meanwhile)
        return found[0]

    def attempt(self, action: Callable[[], object], name: str) -> bool:
        """Run an action once; False if the disk refused it, that is, if it raised ArchiveError."""
        try:
            self.do(action)
        except ArchiveError as error:
            self.refusals = {**self.refusals, name: error.message}
            self._failed[name] += 1
            if self._failed[name] == 1:
                log.error("%s_failed err=%s", name, error.message)
            return False
        if name in self.refusals:
            self.refusals = {other: why for other, why in self.refusals.items() if other != name}
            log.warning("%s_resumed attempts=%d", name, self._failed.pop(name))
        return True

    def until_done(self, action: Callable[[], object], name: str) -> bool:
        """Attempt an action until the disk takes it; False if the service is asked to stop before that."""
        while not self.attempt(action, name):
            if self.is_stopping():
                return False
            self.meanwhile(RETRY_S)
        return True
