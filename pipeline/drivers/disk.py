"""What is done on the disk: beside the loop, and tried again where the disk refuses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.drivers.aside import Aside
from pipeline.errors import ArchiveError

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
