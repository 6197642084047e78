"""When the live service does what."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.drivers.disk import RETRY_S


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to commit and when to roll."""

    commit_interval_s: float = 1.0
    commit_messages: int = 1000
    first_messages: int = 64  # of the first commit: a start with a long queue shows soon that it works
    roll_s: float = 300.0
    roll_rows: int = 10_000

    @property
    def most_pending(self) -> int:
        """Rows that may wait in the journal while the disk refuses parts; a roll holds them in memory at once."""
        return 10 * self.roll_rows

    def is_due(self, pending_rows: int, since_s: float, *, refused: bool) -> bool:
        """Whether to roll, so many seconds after the last attempt; one that the disk refused is soon made again."""
        if refused:
            return since_s >= RETRY_S
        return pending_rows >= self.roll_rows or (pending_rows > 0 and since_s >= self.roll_s)

    def most(self, *, first: bool) -> int:
        """Messages that a commit may cover."""
        return min(self.first_messages, self.commit_messages) if first else self.commit_messages
