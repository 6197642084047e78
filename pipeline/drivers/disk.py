"""The disk as the live loop uses it: on a thread of its own, with another attempt where the disk refuses.

The loop waits here until the disk has done its work, and goes on with other work meanwhile: a commit of some
milliseconds must not delay a prediction, and a disk that takes seconds must not look like a dead client to the broker.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

from pipeline.errors import ArchiveError

PATIENCE_S = 0.001  # how long a caller waits for an action before it turns to other work
PULSE_S = 0.25  # the longest time that it turns to other work before it looks at the action again
PULSE_SHARE = 0.25  # of the time that the action has taken: it is noticed this much too late at most
RETRY_S = 1.0  # between two attempts

T = TypeVar("T")

log = logging.getLogger("thrumcast.live")


class Task:
    """An action that a thread is to run: whether it has ended, and what it raised."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action
        self._raised: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """On the thread of the disk. Lets the action go, and with it the rows that it holds."""
        action, self._action = self._action, None
        try:
            assert action is not None
            action()
        except BaseException as error:
            self._raised = error  # raised on the caller's thread
        finally:
            del action
            self.done.set()

    def result(self) -> None:
        """Raises what the action raised."""
        if self._raised is not None:
            raise self._raised


class DiskThread:
    """One thread for work on the disk, which ends with this object.

    It is always the same thread: allocators keep memory per thread, so one roll reuses what the last one freed. With a
    new thread for each roll the process grows.
    """

    def __init__(self, name: str = "disk") -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def start(self, action: Callable[[], object]) -> Task:
        """Run `action` after those that were started before, and do not wait for it."""
        task = Task(action)
        self._tasks.put(task)
        return task

    def __call__(
        self,
        action: Callable[[], object],
        meanwhile: Callable[[float], object],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Run `action` to its end; call `meanwhile(seconds)` repeatedly if it takes longer than `patience_s`.

        `meanwhile` waits at most `seconds` for something to do.

        A write that hangs in the kernel cannot be cancelled: this waits as long as it does. What the action raises is
        raised here.
        """
        task = self.start(action)
        del action
        wait_for(task, meanwhile, patience_s)
        task.result()


def wait_for(task: Task, meanwhile: Callable[[float], object], patience_s: float = PATIENCE_S) -> None:
    """Call `meanwhile(seconds)` repeatedly until the task has ended."""
    began_s = time.monotonic()
    if not task.done.wait(patience_s):
        while not task.done.is_set():
            meanwhile(min(PULSE_S, PULSE_SHARE * (time.monotonic() - began_s)))


def _work(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        task.run()
        del task


@dataclass(slots=True)
class Disk:
    """Work on the disk: once, attempted, or repeated until it succeeds or the service is asked to stop.

    `meanwhile(seconds)` does other work while the disk is busy. It must not use the disk.
    """

    meanwhile: Callable[[float], object]
    is_stopping: Callable[[], bool] = lambda: False
    refusals: Mapping[str, str] = field(default_factory=dict)  # name of the action -> why; replaced as a whole
    _thread: DiskThread = field(default_factory=DiskThread)
    _failed: Counter[str] = field(default_factory=Counter)  # attempts in a row
    _begun: tuple[str, Task] | None = None  # the attempt for which nobody waits

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
        return self.is_taken(lambda: self.do(action), name)

    def begin(self, action: Callable[[], object], name: str) -> None:
        """As `attempt`, but do not wait for it: `is_idle` says when it has ended. One at a time."""
        self._begun = name, self._thread.start(action)

    def is_idle(self) -> bool:
        """Whether what was begun has ended. A refusal of the disk counts then; what else it raised is raised here."""
        if self._begun is not None and self._begun[1].done.is_set():
            (name, task), self._begun = self._begun, None
            self.is_taken(task.result, name)
        return self._begun is None

    def finish(self) -> None:
        """Wait for the end of what was begun."""
        if self._begun is not None:
            wait_for(self._begun[1], self.meanwhile)
            self.is_idle()

    def wait(self) -> None:
        """As `finish`, at an end: nothing else is done meanwhile, and nothing is raised."""
        if self._begun is not None:
            self._begun[1].done.wait()

    def is_taken(self, run: Callable[[], object], name: str) -> bool:
        """As `attempt`, on the caller's thread: for a read that does not wait for the writes before it."""
        try:
            run()
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
            self._pause(RETRY_S)
        return True

    def _pause(self, seconds: float) -> None:
        """Other work for so long, or until the service is asked to stop."""
        until_s = time.monotonic() + seconds
        while True:
            left_s = until_s - time.monotonic()
            self.meanwhile(min(max(left_s, 0.0), PULSE_S))
            if left_s <= 0 or self.is_stopping():
                return
