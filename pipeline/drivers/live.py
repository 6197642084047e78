"""The live loop: one thread around one connection.

One turn does this, in this order:

1. take the messages that have arrived, for at most `commit_interval_s`, and decode them into blocks
2. step the engine: nothing has changed yet
3. ONE journal transaction: states, rows, alarms, quarantined messages, counters     <- the commit point
4. let companions write what belongs into other files, such as labels and machines
5. acknowledge exactly these messages, in arrival order, in their own connection epoch
6. publish predictions, states and alarms
7. from time to time, roll pending rows from the journal into Parquet parts

What a crash does:

* before 3, nothing has happened: the broker delivers the messages again
* between 3 and 5, the broker delivers them again and every block is a Duplicate
* before the broker has confirmed the alarms of 6, the next start publishes them again
* in 7, the same rows are written again under the same file name

What a full disk does: if 3 or 4 fails, nothing that depends on it is acknowledged, the same write is tried until it
succeeds, and not reading the socket is the back-pressure. If only 7 fails, turns go on and rows gather in the journal,
up to `Rhythm.most_pending`.

The disk is used on a thread of its own, which never touches the connection. The loop waits for that thread and serves
the connection while it waits. So a slow disk makes the service slower and changes nothing else.

Whatever else takes part in a turn (metrics, requests, labels, another sink) is a `pipeline.edges.ports.Companion`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pipeline.core.engine import Engine, Step
from pipeline.core.records import AlarmChange, StreamKey
from pipeline.core.state import StreamState, to_bytes
from pipeline.drivers.disk import RETRY_S, Disk
from pipeline.drivers.intake import (
    OUTCOMES,
    Account,
    Inbox,
    Intake,
    Notices,
    account,
    acknowledge_alarms,
    missing_samples,
    prefixed,
    refuse_strangers,
    step_all,
)
from pipeline.drivers.results import Results
from pipeline.drivers.switch import ModelSet, ModelSwitch
from pipeline.edges.faults import fault_point
from pipeline.edges.ports import Batch, Companion, Connection, Message, Publication, Work
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.schema import Quarantined

log = logging.getLogger("thrumcast.live")

STOP_S = 3.0  # how long a stop keeps taking messages that are still arriving; a plant never stops sending


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to commit and when to roll."""

    commit_interval_s: float = 1.0
    commit_messages: int = 1000  # at most, in one commit
    first_messages: int = 64  # at most, in the first commit: a start with a long queue soon shows that it works
    roll_s: float = 300.0
    roll_rows: int = 10_000

    @property
    def most_pending(self) -> int:
        """Rows that may wait in the journal while the disk refuses parts; a roll holds them in memory at once."""
        return 10 * self.roll_rows

    def is_due(self, pending_rows: int, since_s: float, *, refused: bool) -> bool:
        """Whether to roll, this long after the last attempt; an attempt that the disk refused is soon repeated."""
        if refused:
            return since_s >= RETRY_S
        return pending_rows >= self.roll_rows or (pending_rows > 0 and since_s >= self.roll_s)

    def most(self, *, first: bool) -> int:
        """Messages that a commit may cover."""
        return min(self.first_messages, self.commit_messages) if first else self.commit_messages


@dataclass(slots=True)
class Live:
    """The live loop. Everything it works with is handed in; `states` is what the last commit made true.

    `account`, `committed_s` and what `refusal` reads are replaced as a whole: another thread may read them at any time.
    """

    engine: Engine
    source: Connection
    intake: Intake
    journal: Journal
    archive: Archive
    results: Results
    rhythm: Rhythm = field(default_factory=Rhythm)
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    companions: tuple[Companion, ...] = ()
    models: ModelSwitch = field(default_factory=ModelSwitch)
    counts: Counter[str] = field(default_factory=Counter)  # messages by outcome since this process began
    account: Account = field(default_factory=Account)  # where every message is, since this process began
    committed_s: float = field(default_factory=time.monotonic)  # time.monotonic() when nothing was last in hand
    pending_rows: int = 0  # committed, and not yet in a Parquet part
    _stop: Callable[[], bool] = lambda: False
    _disk: Disk = field(init=False)
    _inbox: Inbox = field(default_factory=Inbox)
    _in_hand: int = 0  # messages that are taken and not decided
    _link_events: Counter[str] = field(default_factory=Counter)  # they go into the journal with the next commit
    _notices: Notices = field(default_factory=Notices)
    _outgoing: list[Publication] = field(default_factory=list)  # what the companions' work has to publish
    _rolled_s: float = field(default_factory=time.monotonic)  # time.monotonic() of the last attempt to roll

    def __post_init__(self) -> None:
        self._disk = Disk(self._keep_alive, lambda: self._stop())

    @property
    def refusal(self) -> str | None:
        """Why the disk refuses what it is given; None while it takes everything."""
        return self._disk.refusal

    def run(self, stop: Callable[[], bool]) -> None:
        """Turn until `stop()`; then bring into the archive what can be brought there, if the disk is not slow."""
        self._stop = stop
        self.pending_rows = self._disk.do(self.journal.pending_rows)
        self._remember(self.engine)
        while not stop():
            self.turn(stop)
        until_s = time.monotonic() + STOP_S
        while time.monotonic() < until_s and not self._is_hurried() and self.turn(stop):
            pass
        if time.monotonic() < until_s:
            self._roll()
        self._publish_outgoing()
        if not self._is_hurried():
            self._do_once([companion.ended() for companion in self.companions])
            self._publish_outgoing()
        self._balance(ended=True)

    def turn(self, stop: Callable[[], bool]) -> bool:
        """One turn, see the list above. True if there were messages and they are decided."""
        self._stop = stop
        self._switch_models_if_due()
        self._do_once([companion.before_turn() for companion in self.companions])
        most = self.rhythm.most(first=not self.counts)
        messages = self._inbox.take(self.source, most, self.rhythm.commit_interval_s, stop)
        self._note_link_events()
        decided = not messages or self._work_through(messages)
        self._publish_outgoing()  # also if undecided: what is published now, companions note before the next turn
        if not decided:
            return False
        if not messages:
            self._rest()
        self.results.silence(time.monotonic())
        self._roll_if_due()
        return bool(messages)

    # -- steps 1 to 6 of a turn: from messages to results ------------------------------------------------------------

    def _work_through(self, messages: list[Message]) -> bool:
        """False if asked to stop while the disk refused."""
        self._in_hand = len(messages)
        self._balance()
        fault_point("turn_taken")
        batch = self._read(messages)
        step = self._step(batch)
        shadowed = self._shadow_step(step)
        fault_point("turn_stepped")
        if not self._commit(batch, step, shadowed):
            self._give_up(messages)
            return False
        fault_point("turn_committed")
        self._take_over(batch, step, shadowed)
        if not self._let_companions_write(batch, step):
            return False
        fault_point("turn_noted")
        self.source.acknowledge(batch.messages)
        fault_point("turn_acknowledged")
        self.committed_s = time.monotonic()
        self.results.step(step, time.monotonic())
        fault_point("turn_published")
        self._notices.log(batch, step)
        return True

    def _read(self, messages: list[Message]) -> Batch:
        """Messages beyond the byte or window limit of one commit are handled first in the next turn."""
        batch = self.intake.read(messages, time.time_ns())
        self._inbox.left = messages[len(batch.messages) :]
        return batch

    def _step(self, batch: Batch) -> Step:
        """The engine steps the blocks; companions may add to the batch what the commit is to cover."""
        step = step_all(self.engine, self.states, batch)
        for companion in self.companions:
            companion.stepped(batch, step)
        refuse_strangers(batch)
        acknowledge_alarms(self.states, batch, step, time.time_ns())
        return step

    def _shadow_step(self, step: Step) -> Step:
        """The shadow model's predictions of the same rows; on the disk's thread, it may read the archive."""
        if self.models.shadow is None:
            return Step()
        return self._disk.do(partial(self.models.shadow_step, step.features))

    def _commit(self, batch: Batch, step: Step, shadowed: Step) -> bool:
        """The commit point, tried until it succeeds; False if asked to stop before it did."""
        predictions, classes = self.models.merged(self.engine, step, shadowed)
        counters = prefixed(account(batch, step).items()) | missing_samples(step) + self._link_events
        commit = Commit(
            states={key: to_bytes(self.engine.spec_of(key), state) for key, state in step.states.items()},
            features=step.features,
            predictions=predictions,
            classes=classes,
            forecasts=step.forecasts,
            alarms=step.alarms,
            told=self._told_alarms(),
            quarantined=[
                Quarantined(message.topic, batch.received_ns, reason, message.payload, len(message.payload), detail)
                for message, reason, detail in batch.refused
            ],
            counters=counters,
        )
        if not self._write(commit):
            return False
        self._link_events.clear()
        return True

    def _write(self, commit: Commit) -> bool:
        """Commit until the disk takes it; False if asked to stop before it did."""
        if not self._disk.until_done(lambda: self.journal.commit(commit), "commit"):
            return False
        self.results.noted(commit.told)
        return True

    def _told_alarms(self) -> tuple[AlarmChange, ...]:
        """Changes of alarms that the broker has, and of which the journal does not know that yet."""
        return self.results.told() if self.results.said and self.source.settled else ()

    def _give_up(self, messages: Sequence[Message]) -> None:
        """Asked to stop before the commit: these are not acknowledged, and the broker delivers them again."""
        self._in_hand = 0
        self._inbox.left = []
        self.counts["dropped"] += len(messages)

    def _take_over(self, batch: Batch, step: Step, shadowed: Step) -> None:
        """What is committed is true."""
        self.states |= step.states
        self.models.keep(shadowed)
        self.counts += account(batch, step)
        self.pending_rows += step.rows + len(batch.refused)
        self._in_hand = len(self._inbox.left)
        self._balance()

    def _let_companions_write(self, batch: Batch, step: Step) -> bool:
        """Companions' work for the disk, each tried until it succeeds; False if asked to stop before all were done.

        Messages that no companion holds need not wait for that: they are acknowledged first.
        """
        works = [work for each in self.companions if (work := each.committed(batch, step)) is not None]
        if works:
            self.source.acknowledge(batch.settled())
        return all(self._disk.until_done(partial(self._do, work), "note") for work in works)

    # -- companions --------------------------------------------------------------------------------------------------

    def _do_once(self, works: Sequence[Work | None]) -> None:
        for work in works:
            if work is not None:
                self._disk.do(partial(self._do, work))

    def _do(self, work: Work) -> None:
        """On the disk's thread."""
        self._outgoing += work()

    def _publish_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for topic, payload, qos, retain in outgoing:
            self.results.publish(topic, payload, qos=qos, retain=retain)

    # -- between turns -----------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """No message came: nothing is in hand, and the journal may learn which alarms the broker has confirmed."""
        self.committed_s = time.monotonic()
        self._balance()
        if told := self._told_alarms():
            self._write(Commit(told=told))

    def _note_link_events(self) -> None:
        """Log what happened to the connection, and publish the status on a new one."""
        for event in self.source.events():
            log.info("%s %s", event.kind, event.detail)
            if event.kind == "connected":
                self.results.online(time.time_ns())
            elif event.kind in ("session_lost", "disconnected"):
                self._link_events[f"link_{event.kind}"] += 1

    def _balance(self, *, ended: bool = False) -> None:
        """Publish where every message is. Called where no message is between two places."""
        received, untaken = self.source.tally()
        if ended:  # neither decided nor acknowledged: the broker delivers these again
            self.counts["dropped"], untaken = self.counts["dropped"] + untaken + self._in_hand, 0
            self._in_hand = 0
        places = {name: self.counts[name] for name in (*OUTCOMES, "dropped")}
        self.account = Account(received, **places, in_flight=untaken + self._in_hand)

    def _keep_alive(self, seconds: float) -> None:
        """Serve the connection while the disk's thread works."""
        self.source.service(seconds)
        self._balance()

    def _is_hurried(self) -> bool:
        """Asked to stop on a slow disk: rows are safe in the journal, and undecided messages come again."""
        return self.journal.slow and self._stop()

    # -- step 7: rolling ---------------------------------------------------------------------------------------------

    def _roll_if_due(self) -> None:
        since_s = time.monotonic() - self._rolled_s
        refused = "roll" in self._disk.refusals
        if self.rhythm.is_due(self.pending_rows, since_s, refused=refused) and not self._stop():
            self._roll()

    def _roll(self) -> None:
        """One attempt. When too many rows wait, the loop does nothing else until a roll succeeds."""

        def roll() -> None:
            self.archive.roll(self._is_hurried)
            self.pending_rows = self.journal.pending_rows()  # not 0 if the roll was broken off

        if self.pending_rows and not self._is_hurried():
            if self.pending_rows >= self.rhythm.most_pending:
                self._disk.until_done(roll, "roll")
            else:
                self._disk.attempt(roll, "roll")
        self._rolled_s = time.monotonic()

    # -- models ------------------------------------------------------------------------------------------------------

    def _switch_models_if_due(self) -> None:
        if self.models.watch is not None and (models := self._disk.do(self.models.due)) is not None:
            self.serve(models)

    def serve(self, models: ModelSet) -> None:
        """Let other models serve from the next step on. Their memory of every stream is built and committed first."""
        before = self.engine.predictor
        engine = models.on(self.engine)
        if not self._remember(engine):
            return
        self.engine = engine
        self.models.shadow_with(engine, models)
        after = engine.predictor
        if after is not None and (before is None or before.version != after.version):
            log.info("model_switched from=%s to=%s", before.version if before else None, after.version)
            self.results.model, self.results.classes = after.version, after.classes
            self.results.online(time.time_ns())

    def _remember(self, engine: Engine) -> bool:
        """Rebuild and commit the hidden states that belong to another model than the engine's.

        False if asked to stop before the disk took them.
        """
        states = self._disk.do(lambda: self.models.memory(engine, self.states))
        if not states:
            return True
        if not self._write(Commit(states={key: to_bytes(engine.spec_of(key), state) for key, state in states.items()})):
            return False
        self.states |= states
        ages = sorted(state.state_age for state in states.values())
        log.info("memory_rebuilt streams=%d windows_median=%d", len(ages), ages[len(ages) // 2])
        return True
