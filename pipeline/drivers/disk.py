"""What is done on the disk: beside the loop, and tried again where the disk refuses."""

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

# Work for the disk on a thread of its own, so that a slow disk does not look like a dead client to the broker.


PATIENCE_S = 1.0  # of a disk that is merely busy; after it the caller looks after its connection again
PULSE_S = 0.25


class Aside:
    """One thread for the disk, which ends with this object.

    It is always the same one: allocators keep memory for each thread, so what one roll leaves the next one finds again.
    A fresh thread for each left its pieces in another place each time, and the process grew.
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
        """Runs `action` to its end, whatever that is; calls `meanwhile(seconds)` again and again if it takes long.

        A write that hangs in the kernel cannot be called off: this waits as long as it does. What the action raises is
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
        del action  # with the rows that it holds


log = logging.getLogger("thrumcast.live")

RETRY_S = 1.0  # between attempts
T = TypeVar("T")


@dataclass(slots=True)
class Disk:
    """The disk as the live loop uses it. `meanwhile(seconds)` looks after the connection while something takes long."""

    meanwhile: Callable[[float], object]
    refusals: Mapping[str, str] = field(default_factory=dict)  # what it does not take, and why; replaced as a whole
    _aside: Aside = field(default_factory=Aside)
    _failed: Counter[str] = field(default_factory=Counter)  # attempts in a row

    @property
    def refusal(self) -> str | None:
        """Why it does not take something; None while it takes everything."""
        return next(iter(self.refusals.values()), None)

    def do(self, action: Callable[[], T]) -> T:
        """What may read or write the disk, done on its thread."""
        found: list[T] = []
        self._aside(lambda: found.append(action()), self.meanwhile)
        return found[0]

    def attempt(self, action: Callable[[], object], name: str) -> bool:
        """Once; whether the disk took it."""
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

    def until_done(self, action: Callable[[], object], name: str, stop: Callable[[], bool]) -> bool:
        """Again and again until the disk takes it; False if asked to stop before it did."""
        while not self.attempt(action, name):
            if stop():
                return False
            self.meanwhile(RETRY_S)
        return True
