"""The live service: one thread around one connection.

One turn, in this order and no other:

1. take all messages that have arrived, for at most `commit_interval_s` or half of the receive maximum
2. step the engine: nothing has changed yet
3. ONE journal transaction: states, rows, alarms, quarantined, counters              <- the commit point
4. acknowledge exactly these messages, in arrival order, in their own connection epoch
5. publish predictions, states and alarms
6. now and then, move pending rows from the journal into Parquet parts

A crash before 3: nothing happened, the broker delivers again. Between 3 and 4: the broker delivers again
and every block is a Duplicate. In 6: the same rows are written again under the same name. If 3 fails
(disk full, read-only), nothing is acknowledged; the same commit is tried until it succeeds, and
meanwhile not reading is the back-pressure.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.engine import Engine, Step
from pipeline.core.records import Gap, StreamKey
from pipeline.core.state import StreamState, to_bytes
from pipeline.drivers.intake import Batch, Intake, account, prefixed, step_all
from pipeline.drivers.results import Results
from pipeline.edges.archive import Archive
from pipeline.edges.journal import Commit, Journal
from pipeline.edges.ports import LinkEvent, Message, Source
from pipeline.errors import ArchiveError

log = logging.getLogger("thrumcast.live")

RETRY_S = 1.0  # between attempts to commit
LOOK_UP_S = 0.25  # how long a silent broker may keep a stop request waiting


class Connection(Source, Protocol):
    """A source that can be kept alive during a wait, and tells what happens to it."""

    def service(self, timeout_s: float = 0.0) -> None:
        """Network housekeeping."""

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to commit and when to roll."""

    commit_interval_s: float = 1.0
    commit_messages: int = 1000
    roll_s: float = 300.0
    roll_rows: int = 10_000


@dataclass(slots=True)
class Live:
    """The driver. Everything it holds is handed in; `states` is what the last commit made true."""

    engine: Engine
    source: Connection
    intake: Intake
    journal: Journal
    archive: Archive
    results: Results
    rhythm: Rhythm = Rhythm()
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # since this process began
    on_turn: tuple[Callable[[Batch, Step], None], ...] = ()  # told of every committed turn
    _rolled_s: float = field(default_factory=time.monotonic)
    _pending_rows: int = 0

    def run(self, stop: Callable[[], bool]) -> None:
        """Turn until `stop` says so; leave nothing in the journal that could be in the archive."""
        self._pending_rows = self.journal.pending_rows()
        while not stop():
            self.turn(stop)
        self.turn(stop)  # what has arrived by now
        self._roll(stop)

    def turn(self, stop: Callable[[], bool]) -> None:
        """One turn: see the list above."""
        messages = self._gather(stop)
        if messages:
            now_ns = time.time_ns()
            batch = self.intake.read(messages, now_ns)
            step = step_all(self.engine, self.states, batch, now_ns)
            counts = account(batch, step)
            if not self._commit(batch, step, counts, stop):
                return  # asked to stop while the disk was full: the broker will deliver these again
            self.states |= step.states
            self.counts += counts
            self.source.acknowledge(messages)
            self.results.step(step, time.monotonic())
            self._pending_rows += len(step.features) + len(step.predictions) + len(step.alarms) + len(batch.quarantined)
            self._log_troubles(batch, step)
            for told in self.on_turn:
                told(batch, step)
        for event in self.source.events():
            log.info("%s %s", event.kind, event.detail)
            if event.kind == "connected":
                self.results.online(time.time_ns())
        self.results.silence(time.monotonic())
        due = time.monotonic() - self._rolled_s >= self.rhythm.roll_s and self._pending_rows
        if due or self._pending_rows >= self.rhythm.roll_rows:
            self._roll(stop)

    def _gather(self, stop: Callable[[], bool]) -> list[Message]:
        """Messages of one commit interval, or as many as one commit may cover."""
        messages: list[Message] = []
        until_s = time.monotonic() + self.rhythm.commit_interval_s
        while (room := self.rhythm.commit_messages - len(messages)) > 0:
            left_s = 0.0 if stop() else until_s - time.monotonic()
            messages += self.source.take(room, min(max(left_s, 0.0), LOOK_UP_S))
            if left_s <= 0:
                break
        return messages

    def _commit(self, batch: Batch, step: Step, counts: Counter[str], stop: Callable[[], bool]) -> bool:
        """The commit point, tried until it succeeds; False if asked to stop before it did."""
        commit = Commit(
            states={key: to_bytes(self.engine.spec_of(key), state) for key, state in step.states.items()},
            features=step.features,
            predictions=step.predictions,
            classes=self.engine.predictor.classes if self.engine.predictor else (),
            alarms=step.alarms,
            quarantined=batch.quarantined,
            counters=prefixed(counts.items()),
        )
        return self._until_done(lambda: self.journal.commit(commit), "commit", stop)

    def _roll(self, stop: Callable[[], bool]) -> None:
        if self._pending_rows and self._until_done(self.archive.roll, "roll", stop):
            self._pending_rows = 0
        self._rolled_s = time.monotonic()

    def _until_done(self, action: Callable[[], object], name: str, stop: Callable[[], bool]) -> bool:
        """Try, and while the disk refuses keep the connection alive and try again."""
        failed = 0
        while True:
            try:
                action()
            except ArchiveError as error:
                failed += 1
                if failed == 1:
                    log.error("%s_failed err=%s", name, error.message)
                if stop():
                    return False
                self.source.service(RETRY_S)
            else:
                if failed:
                    log.warning("%s_resumed attempts=%d", name, failed)
                return True

    def _log_troubles(self, batch: Batch, step: Step) -> None:
        reasons = Counter(q.reason for q in batch.quarantined)
        gaps = [t for t in step.troubles if isinstance(t, Gap)]
        if reasons:
            log.warning("quarantined %s", " ".join(f"{reason}={n}" for reason, n in reasons.items()))
        if gaps:
            samples = sum(gap.last - gap.first for gap in gaps)
            streams = sorted({str(gap.key) for gap in gaps})[:5]
            log.warning("gaps=%d samples=%d streams=%s", len(gaps), samples, ",".join(streams))
