"""What people say of the machines, published as it is written: `<base>/events/labels`, whoever wrote it.

How many events of the file have been told stands in the journal, one look after they were. So what was written while
the service was away is told when it is back; after a crash the last ones may be told twice, and have the same id.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict, dataclass
from typing import Self

import msgspec

from pipeline.drivers.results import Publish
from pipeline.edges.labels import LabelEvent, LabelFile
from pipeline.edges.store.journal import Commit, Journal
from pipeline.errors import ArchiveError

TOLD = "labels_told"  # counter in the journal
AT_ONCE = 100  # an import of thousands is told over several turns

log = logging.getLogger("thrumcast.labels")


@dataclass(slots=True)
class LabelNews:
    """Looks whether the file has grown. Belongs to the thread of the disk; between two looks all is published."""

    labels: LabelFile
    journal: Journal
    topic: str
    publish: Publish
    told: int
    _seen: tuple[int, int] | None = None
    _unsaved: int = 0  # of `told`, published since the last look

    @classmethod
    def of(cls, journal: Journal, base: str, publish: Publish) -> Self:
        """The labels beside a journal."""
        told = journal.counters().get(TOLD, 0)
        return cls(LabelFile(journal.directory), journal, f"{base}/events/labels", publish, told)

    def __call__(self) -> None:
        """Publish what is new, after what was told the last time has been noted."""
        if self._unsaved:
            with contextlib.suppress(ArchiveError):  # the disk refuses: at the next look
                self.journal.commit(Commit(counters={TOLD: self._unsaved}))
                self._unsaved = 0
        try:
            stat = self.labels.path.stat()
        except OSError:  # nobody has said anything yet
            return
        signature = (stat.st_mtime_ns, stat.st_size)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            events = self.labels.events()
        except ArchiveError as error:
            log.error("labels_unreadable err=%s", error.message)
            return
        before, self.told = self.told, min(self.told, len(events))  # lines may have been taken out by hand
        new = events[self.told : self.told + AT_ONCE]
        added = {event.id: event for event in events if event.op == "add"}
        for event in new:
            self.publish(self.topic, msgspec.json.encode(_document(event, added)), qos=1)
        self.told += len(new)
        if self.told < len(events):
            self._seen = None  # the rest at the next turn
        self._unsaved += self.told - before


def _document(event: LabelEvent, added: dict[str, LabelEvent]) -> dict[str, object]:
    label = asdict(added[event.id]) if event.id in added else None
    gone = event.op == "retract"
    return {
        "type": "retracted" if gone else "added",
        "id": event.id,
        "before": label if gone else None,
        "after": None if gone else label,
        "by": event.author,
        "at": event.created,
    }
