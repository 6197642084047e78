"""Work for the disk on a thread of its own, so that a slow disk does not look like a dead client to the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE_S = 1.0  # of a disk that is merely busy; after it the caller looks after its connection again
PULSE_S = 0.25


def aside(
    action: Callable[[], object], meanwhile: Callable[[float], object], *, patience_s: float = PATIENCE_S
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

    threading.Thread(target=work, name="disk", daemon=True).start()
    if not done.wait(patience_s):
        while not done.is_set():
            meanwhile(PULSE_S)
    if raised:
        raise raised[0]
