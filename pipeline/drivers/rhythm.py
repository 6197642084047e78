"""When the live service does what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to commit and when to roll."""

    commit_interval_s: float = 1.0
    commit_messages: int = 1000
    first_messages: int = 64  # of the first commit: a start with a long queue shows soon that it works
    roll_s: float = 300.0
    roll_rows: int = 10_000

    def most(self, *, first: bool) -> int:
        """Messages that a commit may cover."""
        return min(self.first_messages, self.commit_messages) if first else self.commit_messages
