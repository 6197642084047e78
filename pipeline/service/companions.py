"""Small companions of the running service: what it notes beside its commits, and what it tells of labels.

See `pipeline.edges.ports.Companion` for which method is called when, and on which thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Self

import msgspec

from pipeline.core.engine import Step
from pipeline.core.records import Block, StreamKey
from pipeline.edges.labels import LabelEvent, LabelFile
from pipeline.edges.machines import MachinesFile
from pipeline.edges.mqtt import MqttConnection
from pipeline.edges.ports import Batch, Onlooker, Publication, Work
from pipeline.edges.store.journal import Commit, Journal
from pipeline.errors import ArchiveError

SHORT_RECORDS = 5  # sessions without a window, after which a stream is named
TOLD = "labels_told"  # counter in the journal
AT_ONCE = 100  # label events published in one turn; an import of thousands takes several turns

log = logging.getLogger("thrumcast.service")


@dataclass(slots=True)
class MachineNotes(Onlooker):
    """Writes into the machines file what blocks say of a stream: at its first block, and when one carries facts."""

    machines: MachinesFile
    known: set[StreamKey] = field(default_factory=set)
    written: dict[StreamKey, dict[str, Any]] = field(default_factory=dict)  # what blocks have said, as it is on disk
    waiting: dict[StreamKey, set[int]] = field(default_factory=dict)  # sessions of streams without any window yet

    def stepped(self, batch: Batch, step: Step) -> None:
        """Messages that carry facts are acknowledged when these are written."""
        for block, message in zip(batch.blocks, batch.origin, strict=True):
            if block.about is not None:
                batch.held.append(message)

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Write the facts, if there are any."""
        facts: dict[StreamKey, dict[str, Any]] = {}
        for block in batch.blocks:
            if block.key not in self.known or block.about is not None:
                facts.setdefault(block.key, {}).update(facts_of(block))
        # Facts are stored by change: a sender that repeats them in every message costs no disk.
        facts = {key: new for key, new in facts.items() if not new.items() <= self.written.get(key, {}).items()}
        self._name_short_records(batch, step, set(facts))
        return partial(self._write, facts) if facts else None

    def _write(self, facts: dict[StreamKey, dict[str, Any]]) -> Sequence[Publication]:
        self.machines.update_all(facts)
        self.known |= facts.keys()
        for key, new in facts.items():
            self.written[key] = self.written.get(key, {}) | new
        return ()

    def _name_short_records(self, batch: Batch, step: Step, new: set[StreamKey]) -> None:
        """Warn of a sensor whose records are all shorter than a window; it would never appear in any result."""
        self.waiting |= {key: set() for key in new}
        for row in step.features:
            self.waiting.pop(row.key, None)
        for block in batch.blocks:
            sessions = self.waiting.get(block.key)
            if sessions is not None:
                sessions.add(block.session)
                if len(sessions) == SHORT_RECORDS:
                    log.warning("no_window %s: %d records, none as long as window.length_s", block.key, SHORT_RECORDS)


def facts_of(block: Block) -> dict[str, Any]:
    """What a block says about its machine, for machines.jsonl."""
    facts: dict[str, Any] = {**(block.about or {}), "rate_hz": block.rate_hz, "unit": block.unit}
    if block.unit_sent is not None:
        facts["unit_sent"] = block.unit_sent
    if block.orders is not None:
        orders = block.orders
        facts["orders"] = {"ftf": orders.ftf, "bpfo": orders.bpfo, "bpfi": orders.bpfi, "bsf": orders.bsf}
    return facts


@dataclass(slots=True)
class SessionNote(Onlooker):
    """Notes in the journal, once, under which client id the broker keeps a session for us; see `session_lost`."""

    journal: Journal
    connection: MqttConnection
    client_id: str
    noted: str | None

    def before_turn(self) -> Work | None:
        """Note the client id as soon as the broker has accepted the subscription."""
        return self._note if self.noted != self.client_id and self.connection.subscribed else None

    def ended(self) -> Work | None:
        """As before a turn."""
        return self.before_turn()

    def _note(self) -> Sequence[Publication]:
        with contextlib.suppress(ArchiveError):  # the disk refuses: at the next turn
            self.journal.note_client_id(self.client_id)
            self.noted = self.client_id
        return ()


@dataclass(slots=True)
class LabelNews(Onlooker):
    """Publishes every label event of the file on `<base>/events/labels`.

    The journal keeps how many events were published, one look later. So events that were written while the service was
    down are published at its next start. After a crash the last ones may be published twice, with the same id.
    """

    labels: LabelFile
    journal: Journal
    topic: str
    told: int
    _seen: tuple[int, int] | None = None  # time and size of the file at the last look
    _noted: int | None = None  # how many the journal knows of; None: it has to be asked

    @classmethod
    def of(cls, journal: Journal, base: str) -> Self:
        """The labels beside a journal."""
        told = journal.counters().get(TOLD, 0)
        return cls(LabelFile(journal.directory), journal, f"{base}/events/labels", told)

    def before_turn(self) -> Work | None:
        """Look whether the file has grown."""
        return self.look

    def ended(self) -> Work | None:
        """Note what has been told."""
        return self._note

    def look(self) -> Sequence[Publication]:
        """What is new in the file, once that which was told before is noted. The loop publishes it in the same turn."""
        self._note()
        try:
            stat = self.labels.path.stat()
        except OSError:  # there are no labels yet
            return ()
        signature = (stat.st_mtime_ns, stat.st_size)
        if signature == self._seen:
            return ()
        self._seen = signature
        try:
            events = self.labels.events()
        except ArchiveError as error:
            logging.getLogger("thrumcast.labels").error("labels_unreadable err=%s", error.message)
            return ()
        self.told = min(self.told, len(events))  # lines may have been removed by hand
        new = events[self.told : self.told + AT_ONCE]
        added = {event.id: event for event in events if event.op == "add"}
        self.told += len(new)
        if self.told < len(events):
            self._seen = None  # the others at the next look
        return [Publication(self.topic, msgspec.json.encode(_document(event, added))) for event in new]

    def _note(self) -> Sequence[Publication]:
        if self._noted != self.told:
            # The disk may refuse after it has taken the commit, so the next look asks what is there and adds the rest.
            with contextlib.suppress(ArchiveError):
                noted = self.journal.counters().get(TOLD, 0)
                if noted != self.told:
                    self.journal.commit(Commit(counters={TOLD: self.told - noted}))
                self._noted = self.told
        return ()


def _document(event: LabelEvent, added: dict[str, LabelEvent]) -> dict[str, object]:
    label = asdict(added[event.id]) if event.id in added else None
    is_retracted = event.op == "retract"
    return {
        "type": "retracted" if is_retracted else "added",
        "id": event.id,
        "before": label if is_retracted else None,
        "after": None if is_retracted else label,
        "by": event.author,
        "at": event.created,
    }
