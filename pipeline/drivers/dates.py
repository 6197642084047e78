"""Dates of the plant's time that messages may name.

Parts are files of a date. A sender whose clock jumps, or who means harm, could make a roll write thousands of them. So
dates far from the arrival of a message are counted. Recordings that are played again name few of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

NEAR_DAYS = 2  # between event time and arrival: a queue that is worked off, and clocks in any time zone
PER_S = 3600.0
_DAY_NS = 86_400 * 10**9


@dataclass(slots=True)
class Dates:
    """Admits at most `most` far dates in `PER_S` seconds; 0: any number. A date stays admitted for that long."""

    most: int
    clock: Callable[[], float] = time.time
    _admitted: dict[int, float] = field(default_factory=dict)  # day since 1970 -> when it was first named, in order

    def admit(self, time_ns: int) -> bool:
        """Whether there is room for the UTC date of a time, in ns since 1970."""
        now_s, day = self.clock(), time_ns // _DAY_NS
        if not self.most or abs(day - now_s // 86_400) <= NEAR_DAYS:
            return True
        for old in [old for old, at_s in self._admitted.items() if abs(now_s - at_s) >= PER_S]:
            del self._admitted[old]
        if day not in self._admitted:
            if len(self._admitted) >= self.most:
                return False
            self._admitted[day] = now_s
        return True
