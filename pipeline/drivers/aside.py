"""Work for the disk on a thread of its own, so that a slow disk does not look like a dead client to the broker."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

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
