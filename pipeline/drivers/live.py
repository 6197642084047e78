"""The live service: one thread around one connection.

One turn, in this order and no other:

1. take all messages that have arrived, for at most `commit_interval_s` or half of the receive maximum; what would be
   too many bytes or windows for one commit comes first in the next turn
2. step the engine: nothing has changed yet
3. ONE journal transaction: states, rows, alarms, quarantined, counters              <- the commit point
4. note what belongs into other files, such as that of the machines: what fails here comes again with its messages
5. acknowledge exactly these messages, in arrival order, in their own connection epoch; most need not wait for 4
6. publish predictions, states and alarms
7. now and then, move pending rows from the journal into Parquet parts

A crash before 3: nothing happened, the broker delivers again. Between 3 and 5: it delivers again and every block is a
Duplicate. Before the broker has confirmed what 6 says of alarms: the next start says it again. In 7: the same rows are
written again under the same name. If 3 or 4 fails (disk full, read-only), nothing is acknowledged; the same is tried
until it succeeds, and meanwhile not reading is the back-pressure. If only 7 fails, turns go on and rows gather in the
journal, up to `Rhythm.most_pending`. The disk is used on another thread, which never touches the connection (see
`Outbox`), and the connection is served while that takes long: a slow disk makes the service slower, and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from pipeline.core.engine import Engine, Step
from pipeline.core.records import AlarmChange, StreamKey
from pipeline.core.state import StreamState, to_bytes
from pipeline.drivers.disk import RETRY_S, Disk
from pipeline.drivers.intake import (
    MOST_BYTES,
    OUTCOMES,
    Account,
    Batch,
    Intake,
    account,
    log_troubles,
    missing_samples,
    prefixed,
    step_all,
)
from pipeline.drivers.results import Results
from pipeline.drivers.serving import ModelWatch, ReadLast, Serving, Shadow, acknowledged, remembered, together
from pipeline.edges.faults import fault_point
from pipeline.edges.ports import Connection, Message
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.errors import ArchiveError

# When the live service does what.


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


# Which messages a turn has in hand: some of the connection's, bounded in number and in bytes.


LOOK_UP_S = 0.25  # how long a silent broker may keep a stop request waiting


@dataclass(slots=True)
class Taker:
    """Takes messages off a source."""

    left: list[Message] = field(default_factory=list)  # taken, and more than the last commit could cover

    def take(self, source: Connection, rhythm: Rhythm, stop: Callable[[], bool], *, first: bool) -> list[Message]:
        """Messages of one commit interval, or as many as one commit may cover; at once where some are left."""
        messages, self.left = self.left, []
        if messages:
            source.service()  # what is left may last for minutes, and the broker wants to hear of us
        size = sum(len(message.payload) for message in messages)
        until_s = time.monotonic() + (0.0 if messages else rhythm.commit_interval_s)
        while (room := rhythm.most(first=first) - len(messages)) > 0 and size < MOST_BYTES:
            left_s = 0.0 if stop() else until_s - time.monotonic()
            taken = source.take(room, min(max(left_s, 0.0), LOOK_UP_S))
            messages += taken
            size += sum(len(message.payload) for message in taken)
            if left_s <= 0:
                break
        return messages


log = logging.getLogger("thrumcast.live")

Note = Callable[[Batch, Step], Callable[[], object] | None]  # what to write on the thread of the disk, if anything

STOP_S = 3.0  # of a stop for what is on its way meanwhile: a plant never stops sending


@dataclass(slots=True)
class Live:
    """The driver. Everything it holds is handed in; `states` is what the last commit made true.

    `account`, `committed_s` and what `refusal` reads are replaced as a whole: another thread may look at any time.
    """

    engine: Engine
    source: Connection
    intake: Intake
    journal: Journal
    archive: Archive
    results: Results
    rhythm: Rhythm = field(default_factory=Rhythm)
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # since this process began
    on_turn: tuple[Callable[[Batch, Step], None], ...] = ()  # told of every committed turn; they touch no disk
    notes: tuple[Note, ...] = ()  # asked of every committed turn what it has for other files than the journal
    between: tuple[Callable[[], None], ...] = ()  # what else is looked after, once a turn, on the thread of the disk
    tell: Callable[[], None] = lambda: None  # sends what the thread of the disk has to publish
    account: Account = field(default_factory=Account)  # of all messages since this process began
    committed_s: float = field(default_factory=time.monotonic)  # time.monotonic() of the last time nothing was in hand
    models: ModelWatch | None = None  # None: the engine's model serves for ever
    read_last: ReadLast = lambda until_ns: {}  # archived rows, from which another model builds its memory
    shadow: Shadow | None = None
    acknowledgements: SimpleQueue[tuple[StreamKey, str]] = field(default_factory=SimpleQueue)  # stream, alarm id
    pending_rows: int = 0  # that are committed and not yet in a Parquet part
    _disk: Disk = field(init=False)
    _taker: Taker = field(default_factory=Taker)
    _in_hand: int = 0  # messages that are taken and not decided
    _news: Counter[str] = field(default_factory=Counter)  # counters that go with the next commit
    _tried_s: float = field(default_factory=time.monotonic)  # to roll

    def __post_init__(self) -> None:
        self._disk = Disk(self._keep_alive)

    @property
    def refusal(self) -> str | None:
        """Why the disk does not take what it is given."""
        return self._disk.refusal

    def run(self, stop: Callable[[], bool]) -> None:
        """Turn until `stop` says so; then, on a disk that is not slow, leave nothing that could be in the archive."""
        self.pending_rows = self._disk.do(self.journal.pending_rows)
        self._remember(self.engine, stop)
        while not stop():
            self.turn(stop)
        until_s = time.monotonic() + STOP_S
        while time.monotonic() < until_s and not self._hurried(stop) and self.turn(stop):
            pass
        if time.monotonic() < until_s:
            self._roll(stop)
        self.tell()
        for look in () if self._hurried(stop) else self.between:  # they note what they have told
            self._disk.do(look)
        self._balance(ended=True)

    def turn(self, stop: Callable[[], bool]) -> bool:
        """One turn: see the list above; whether any message was there. Between commits other models may take over."""
        if self.models and (serving := self._disk.do(self.models.due)) is not None:
            self.serve(serving, stop)
        self._acknowledge_alarms(stop)
        for look in self.between:
            self._disk.do(look)
        messages = self._taker.take(self.source, self.rhythm, stop, first=not self.counts)
        for event in self.source.events():
            log.info("%s %s", event.kind, event.detail)
            if event.kind == "connected":
                self.results.online(time.time_ns())
            elif event.kind in ("session_lost", "disconnected"):
                self._news[f"link_{event.kind}"] += 1
        decided = not messages or self._work_through(messages, stop)
        self.tell()  # in any case: the next look notes it as told
        if not decided:
            return False
        if not messages:
            self.committed_s = time.monotonic()
            self._balance()
            if told := self._told():
                self._write(Commit(told=told), stop)
        self.results.silence(time.monotonic())
        since_s = time.monotonic() - self._tried_s
        if self.rhythm.is_due(self.pending_rows, since_s, refused="roll" in self._disk.refusals) and not stop():
            self._roll(stop)
        return bool(messages)

    def _work_through(self, messages: list[Message], stop: Callable[[], bool]) -> bool:
        """Steps 2 to 6; False if asked to stop while the disk refused."""
        self._in_hand = len(messages)
        self._balance()
        fault_point("turn_taken")
        now_ns = time.time_ns()
        batch = self.intake.read(messages, now_ns)
        self._taker.left = messages[len(batch.messages) :]
        step = step_all(self.engine, self.states, batch, now_ns)
        acknowledged(self.states, self.acknowledgements, step)
        counts = account(batch, step)
        beside = Step() if self.shadow is None else self._disk.do(partial(self.shadow.beside, step.features))
        fault_point("turn_stepped")
        if not self._commit(batch, step, beside, counts, stop):
            self._in_hand = 0
            self._taker.left = []
            self.counts["dropped"] += len(messages)  # not acknowledged: the broker delivers these again
            return False
        fault_point("turn_committed")
        self.states |= step.states
        if self.shadow is not None:
            self.shadow.keep(beside)
        self.counts += counts
        self._in_hand = len(self._taker.left)
        self._balance()
        for told in self.on_turn:
            told(batch, step)
        if notes := [write for note in self.notes if (write := note(batch, step)) is not None]:
            self.source.acknowledge(batch.settled())
        for write in notes:
            if not self._disk.until_done(write, "note", stop):
                return False
        fault_point("turn_noted")
        self.source.acknowledge(batch.messages)
        fault_point("turn_acknowledged")
        self.committed_s = time.monotonic()
        self.results.step(step, time.monotonic())
        fault_point("turn_published")
        self.pending_rows += step.rows + len(batch.quarantined)
        log_troubles(batch, step)
        return True

    def _balance(self, *, ended: bool = False) -> None:
        """Publishes where every message is; called where nothing is between two places."""
        received, untaken = self.source.tally()
        if ended:  # neither decided nor acknowledged: it comes again
            self.counts["dropped"], untaken = self.counts["dropped"] + untaken + self._in_hand, 0
            self._in_hand = 0
        places = {name: self.counts[name] for name in (*OUTCOMES, "dropped")}
        self.account = Account(received, **places, in_flight=untaken + self._in_hand)

    def serve(self, serving: Serving, stop: Callable[[], bool]) -> None:
        """Let other models serve from the next turn on; their memory of every stream is built and committed first."""
        before = self.engine.predictor
        engine = serving.on(self.engine)
        if not self._remember(engine, stop):
            return
        self.engine = engine
        self.shadow = Shadow(Engine(engine.spec_of, serving.shadow), self.read_last) if serving.shadow else None
        after = engine.predictor
        if after is not None and (before is None or before.version != after.version):
            log.info("model_switched from=%s to=%s", before.version if before else None, after.version)
            self.results.model, self.results.classes = after.version, after.classes
            self.results.online(time.time_ns())

    def _remember(self, engine: Engine, stop: Callable[[], bool]) -> bool:
        """Hidden states of the engine's model where they are another model's; False if they could not be committed."""
        try:
            states = self._disk.do(lambda: remembered(engine, self.states, self.read_last))
        except ArchiveError as error:  # the memory begins from nothing, as for a stream that is new
            log.error("memory_not_rebuilt err=%s", error.message)
            return True
        commit = Commit(states={key: to_bytes(engine.spec_of(key), state) for key, state in states.items()})
        if states and not self._write(commit, stop):
            return False
        self.states |= states
        if states:
            ages = sorted(state.state_age for state in states.values())
            log.info("memory_rebuilt streams=%d windows_median=%d", len(ages), ages[len(ages) // 2])
        return True

    def _acknowledge_alarms(self, stop: Callable[[], bool]) -> None:
        """What people have acknowledged since the last turn, committed like everything else, then published."""
        acknowledged(self.states, self.acknowledgements, step := Step())
        if step.alarms and self._commit(Batch([]), step, Step(), Counter(), stop):
            self.states |= step.states
            self.pending_rows += len(step.alarms)
            self.results.step(step, time.monotonic())

    def _commit(self, batch: Batch, step: Step, beside: Step, counts: Counter[str], stop: Callable[[], bool]) -> bool:
        """The commit point, tried until it succeeds; False if asked to stop before it did."""
        served = self.engine.predictor.classes if self.engine.predictor else ()
        shadow = self.shadow.engine.predictor if self.shadow else None
        predictions, classes = together(step.predictions, served, beside.predictions, shadow.classes if shadow else ())
        commit = Commit(
            states={key: to_bytes(self.engine.spec_of(key), state) for key, state in step.states.items()},
            features=step.features,
            predictions=predictions,
            classes=classes,
            forecasts=step.forecasts,
            alarms=step.alarms,
            told=self._told(),
            quarantined=batch.quarantined,
            counters={**prefixed(counts.items()), **(missing_samples(step) + self._news)},
        )
        if not self._write(commit, stop):
            return False
        self._news.clear()
        return True

    def _write(self, commit: Commit, stop: Callable[[], bool]) -> bool:
        """As `Disk.until_done`; what it tells the journal of alarms is then known to both."""
        if not self._disk.until_done(lambda: self.journal.commit(commit), "commit", stop):
            return False
        del self.results.said[: len(commit.told)]
        return True

    def _told(self) -> tuple[AlarmChange, ...]:
        """Changes of alarms that the broker has and the journal does not know of."""
        return tuple(self.results.said) if self.results.said and self.source.settled else ()

    def _roll(self, stop: Callable[[], bool]) -> None:
        """One attempt: what the disk refuses waits in the journal. Where that is too much, nothing else until then."""

        def roll() -> None:
            self.archive.roll(lambda: self._hurried(stop))
            self.pending_rows = self.journal.pending_rows()  # some, if it was left off

        if self.pending_rows and not self._hurried(stop):
            if self.pending_rows >= self.rhythm.most_pending:
                self._disk.until_done(roll, "roll", stop)
            else:
                self._disk.attempt(roll, "roll")
        self._tried_s = time.monotonic()

    def _hurried(self, stop: Callable[[], bool]) -> bool:
        """Asked to stop, on a slow disk: rows are safe in the journal, and what was not decided comes again."""
        return self.journal.slow and stop()

    def _keep_alive(self, seconds: float) -> None:
        self.source.service(seconds)
        self._balance()
