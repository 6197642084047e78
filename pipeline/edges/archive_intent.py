"""A decision about the files of one day that is written down before it is carried out.

Compaction and pruning change a manifest in SQLite and a directory in a file system, which no transaction spans. So the
journal first says what will be; then the directory changes in one step; then the manifest follows. Whoever looks in
between, another process or the next start after a crash, sees from the directory whether that step was made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.edges.store.schema import Part, part_path

META_KEY = "swap"


@dataclass(frozen=True, slots=True)
class Swap:
    """Parts of one kind and date that make room for one new part, or for nothing."""

    kind: str
    date: str
    gone: tuple[int, ...]  # numbers
    new: Part | None

    def text(self) -> str:
        """As the journal keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Swap:
        """From the journal."""
        known = json.loads(text)
        new = known.pop("new")
        if new is not None:
            new = Part(**{**new, "extras": tuple(new["extras"])})
        return cls(known["kind"], known["date"], tuple(known["gone"]), new)

    def is_made(self, root: Path) -> bool:
        """Whether the directory has changed: the new part is there, or the day is gone."""
        if self.new is None:
            return not (root / self.kind / f"date={self.date}").exists()
        return (root / self.new.relative).exists()

    def after(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The manifest as it will be."""
        gone = {part_path(self.kind, self.date, number) for number in self.gone}
        kept = tuple(part for part in parts if part.relative not in gone)
        return kept if self.new is None else (*kept, self.new)


def as_is(parts: tuple[Part, ...], intent: str | None, root: Path) -> tuple[Part, ...]:
    """The manifest that fits the directories of this moment."""
    if intent is None:
        return parts
    swap = Swap.read(intent)
    return swap.after(parts) if swap.is_made(root) else parts
