"""Rest: streams that have long been silent leave the memory, and come back exactly when they speak again.

The journal has the state of every stream, so nothing is written for it: what goes is a copy. A stream that
speaks again is read from the journal before its block is stepped, as at a start. One with an open alarm does not rest.

By policy a stream that has rested for long leaves the journal, too. Its rows in the archive stay. If it speaks after
that it is a new stream: a block that was committed before it was forgotten is no longer known as a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.core.records import StreamKey
from pipeline.core.state import StreamState

MOST_AT_ONCE = 1000  # streams that go to rest in one turn
FORGET_EVERY_S = 600.0


@dataclass(slots=True)
class Rest:
    """Which streams are in memory and since when each has been silent, and which rest in the journal."""

    after_s: float = 0.0  # of silence; 0: never
    forget_s: float = 0.0  # of rest, after which a stream leaves the journal; 0: never
    asleep: set[StreamKey] = field(default_factory=set)
    heard_s: dict[StreamKey, float] = field(default_factory=dict)  # of those in memory; the longest silent come first
    forgotten: int = 0  # since the service began
    looked_s: float = float("-inf")  # when the journal was last asked for streams to forget

    def hear(self, keys: Iterable[StreamKey], now_s: float) -> None:
        """These streams spoke, or were brought into memory."""
        if self.after_s:
            for key in keys:
                self.heard_s.pop(key, None)
                self.heard_s[key] = now_s
                self.asleep.discard(key)

    def due(self, states: Mapping[StreamKey, StreamState], now_s: float) -> list[StreamKey]:
        """Streams that go to rest now. They are asleep from here on. Looks at no stream that is not due."""
        found: list[StreamKey] = []
        for _ in range(MOST_AT_ONCE):
            key = next(iter(self.heard_s), None)
            if key is None or now_s - self.heard_s[key] < self.after_s:
                break
            del self.heard_s[key]
            state = states.get(key)
            if state is None or state.alarm.open:
                self.heard_s[key] = now_s
            else:
                found.append(key)
        self.asleep.update(found)
        return found

    def forget_is_due(self, now_s: float) -> bool:
        """Whether to ask the journal, and that it is asked now."""
        if not self.forget_s or not self.asleep or now_s - self.looked_s < min(FORGET_EVERY_S, self.forget_s):
            return False
        self.looked_s = now_s
        return True
