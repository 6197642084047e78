"""The live loop: one thread around one connection steps often, and a thread for the disk commits seldom.

Whenever messages have arrived, at once when idle and in larger batches the busier it is:

1. take them and decode them into blocks
2. step the engine on the newest states, and publish predictions: they say what was computed

Every `commit_interval_s`, or at once when an alarm changes or when one commit can cover no more:

3. ONE journal transaction with everything stepped since the last: states, rows, alarms, quarantined messages, counters
                                                                                                  <- the commit point
4. publish states and alarms: they say what is committed
5. let companions write what belongs into other files, such as labels and machines
6. acknowledge exactly the messages of 3, in arrival order, in their own connection epoch
7. from time to time, roll pending rows from the journal into Parquet parts

The disk does 3 and 5 on a thread of its own, which never touches the connection. While it works, the loop goes on with
1 and 2, until one more commit can cover no more. Then it stops reading the socket, and that is the back-pressure. A
roll takes longer than an alarm may wait, so it has another thread: the loop begins it and goes on.

What a crash does:

* before 3, nothing has happened: the broker delivers the messages again, and the same predictions are published again
* before the broker has confirmed the alarms of 4, the next start publishes them again
* between 3 and 6, the broker delivers them again and every block is a Duplicate
* in 7, the same rows are written again under the same file name

What a full disk does: if 3 or 5 fails, nothing that depends on it is acknowledged, and the same write is tried until it
succeeds. If only 7 fails, commits go on and rows gather in the journal, up to `Rhythm.most_pending`.

With `engines`, other processes do step 2: see `pipeline.drivers.engines`. Up to two batches are then begun and not
finished, and the states that a commit writes come from the processes just before it.

Whatever else takes part (metrics, requests, labels, another sink) is a `pipeline.edges.ports.Companion`.
"""

from __future__ import annotations

import logging
import time
from collections import ChainMap, Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline.core.engine import Engine, States, Step
from pipeline.core.records import AlarmChange, StreamKey
from pipeline.core.state import StreamState, from_bytes, to_bytes
from pipeline.drivers.disk import PULSE_S, RETRY_S, Disk, DiskThread
from pipeline.drivers.engines import AHEAD, Engines
from pipeline.drivers.intake import (
    LOOK_UP_S,
    OUTCOMES,
    Account,
    Intake,
    Notices,
    account,
    acknowledge_alarms,
    refuse_strangers,
    step_all,
)
from pipeline.drivers.rest import Rest
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm, Span
from pipeline.drivers.switch import ModelSet, ModelSwitch
from pipeline.edges.faults import fault_point
from pipeline.edges.ports import Batch, Companion, Connection, Message, Publication, Work
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.telemetry import few

log = logging.getLogger("thrumcast.live")

POLL_S = 0.002  # how long the loop waits for an engine process before it looks for messages again
STEP_EVERY_S = 0.005  # from one step of few messages to the next: many at once cost half as much each
MANY_MESSAGES = 64  # after a step of so many, the next one waits for nothing
STOP_S = 3.0  # how long a stop keeps taking messages that are still arriving; a plant never stops sending


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
    rest: Rest = field(default_factory=Rest)  # with `engines` no stream rests
    states: dict[StreamKey, StreamState] = field(default_factory=dict)  # with `engines` only until the loop runs
    companions: tuple[Companion, ...] = ()
    models: ModelSwitch = field(default_factory=ModelSwitch)
    engines: Engines | None = None  # None: the loop steps its engine itself
    counts: Counter[str] = field(default_factory=Counter)  # messages by outcome since this process began
    account: Account = field(default_factory=Account)  # where every message is, since this process began
    committed_s: float = field(default_factory=time.monotonic)  # time.monotonic() when a turn last ended
    pending_rows: int = 0  # committed, and not yet in a Parquet part
    _stop: Callable[[], bool] = lambda: False
    _disk: Disk = field(init=False)  # for commits and companions
    _rolls: Disk = field(init=False)  # for rolls
    _rolling_since_s: float | None = None  # time.monotonic() when the roll under way began
    _next_step_s: float = 0.0  # time.monotonic() before which a step would be of too few messages
    _left: list[Message] = field(default_factory=list)  # taken, and beyond the limit of the open span
    _open: Span = field(default_factory=Span)  # stepped, to be committed next
    _closed: Span = field(default_factory=Span)  # being committed; empty between commits
    _spans: deque[Span] = field(default_factory=deque)  # of the batches that the engine processes work on
    _steps_ahead: bool = True  # while the disk works
    _link_events: Counter[str] = field(default_factory=Counter)  # they go into the journal with the next commit
    _notices: Notices = field(default_factory=Notices)
    _outgoing: list[Publication] = field(default_factory=list)  # what the companions' work has to publish
    _rolled_s: float = field(default_factory=time.monotonic)  # time.monotonic() of the last attempt to roll

    def __post_init__(self) -> None:
        self._disk = Disk(self._meanwhile, lambda: self._stop())
        self._rolls = Disk(self._meanwhile, lambda: self._stop(), _thread=DiskThread("rolls"))

    @property
    def refusal(self) -> str | None:
        """Why the disk refuses what it is given; None while it takes everything."""
        return self._disk.refusal or self._rolls.refusal

    @property
    def rolling_s(self) -> float:
        """How long the roll under way has taken; 0 without one. For any thread."""
        since_s = self._rolling_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def run(self, stop: Callable[[], bool]) -> None:
        """Turn until `stop()`; then bring into the archive what can be brought there, if the disk is not slow."""
        self._stop = stop
        try:
            self._run(stop)
        finally:
            self._rolls.wait()  # nobody may use the journal after this

    def _run(self, stop: Callable[[], bool]) -> None:
        self._begin()
        while not stop():
            self.turn(stop)
        until_s = time.monotonic() + STOP_S
        while time.monotonic() < until_s and not self._is_hurried() and self.turn(stop):
            pass
        self._rolls.finish()
        if time.monotonic() < until_s:
            self._roll()
        self._publish_outgoing()
        if not self._is_hurried():
            self._do_once([companion.ended() for companion in self.companions])
            self._publish_outgoing()
        self._give_up()
        self._balance(ended=True)

    def turn(self, stop: Callable[[], bool]) -> bool:
        """Step until a commit is due, then steps 3 to 7. True if there were messages and they are decided."""
        self._stop = stop
        self._switch_models_if_due()
        self._do_once([companion.before_turn() for companion in self.companions])
        self._gather()
        has_messages = self._has_messages()
        is_decided = not has_messages or self._settle()
        self._publish_outgoing()  # also if undecided: what is published now, companions note before the next turn
        if not is_decided:
            return False
        if not has_messages:
            self._rest()
        self.results.silence(time.monotonic())
        self._roll_if_due()
        self._let_rest()
        return has_messages

    # -- steps 1 and 2: from messages to predictions -----------------------------------------------------------------

    def _gather(self) -> None:
        """Step what arrives until a commit is due; if nothing arrives, for an interval."""
        began_s = time.monotonic()
        while self._room() and not self._open.step.alarms:
            since_s = began_s if self._open.since_s is None else self._open.since_s
            left_s = 0.0 if self._stop() else since_s + self.rhythm.commit_interval_s - time.monotonic()
            self._advance(min(max(left_s, 0.0), LOOK_UP_S))
            if left_s <= 0:
                return

    def _meanwhile(self, timeout_s: float) -> None:
        """While the disk works: step ahead; a stop waits for no more messages than it has to."""
        if self._steps_ahead and not self._stop():
            self._advance(timeout_s)
        else:
            self._serve(timeout_s)

    def _advance(self, timeout_s: float) -> None:
        """Step what has arrived; wait at most `timeout_s` for the first message."""
        if begun := self._finish():
            timeout_s = min(timeout_s, POLL_S)
        room = self._room()
        if self._left or not room:  # these may take minutes, and the broker wants to hear from us
            self._serve(0.0 if room else timeout_s)
        elif (wait_s := self._next_step_s - time.monotonic()) > timeout_s:
            if not begun:
                time.sleep(timeout_s)
        else:
            if wait_s > 0:
                time.sleep(wait_s)
            self._left = self.source.take(room, 0.0 if begun else timeout_s)
            self._note_link_events()
            self._balance()
        if self._left and room:
            self._step()
        elif begun:
            self._finish(timeout_s)

    def _begun(self) -> list[Batch]:
        """What the engine processes work on for the open span."""
        batches = [] if self.engines is None else self.engines.batches
        return [batch for batch, span in zip(batches, self._spans, strict=False) if span is self._open]

    def _has_messages(self) -> bool:
        """Whether a commit has something to cover."""
        return bool(self._open.batch.messages or self._begun())

    def _room(self) -> int:
        """How many messages the open span still takes."""
        return self._open.room(self.rhythm.most(first=not self.counts), self._begun())

    def _step(self) -> None:
        """Step the messages in hand; those beyond the byte or window limit of one commit wait for the next span."""
        fault_point("turn_taken")
        self._next_step_s = 0.0 if len(self._left) >= MANY_MESSAGES else time.monotonic() + STEP_EVERY_S
        covered = [self._open.batch, *self._begun()]
        batch = self.intake.read(
            self._left if self.engines is None else self.engines.piece(self._left),
            time.time_ns(),
            windows=sum(each.windows for each in covered),
            size=sum(each.size for each in covered),
        )
        if self.rest.asleep and not self._wake(block.key for block in batch.blocks):
            return
        while self.engines is not None and len(self.engines.begun) >= AHEAD:
            self._finish(PULSE_S)
            self._serve()
        self._left = self._left[len(batch.messages) :]
        if self.engines is None:
            self._stepped(batch, step_all(self.engine, self._newest(), batch), self._open)
            return
        self.engines.begin(self.engine, batch)
        self._spans.append(self._open)
        while batch.strangers and self.engines.begun:  # a request may change states: before they are saved again
            self._finish(PULSE_S)
            self._serve()

    def _finish(self, timeout_s: float = 0.0) -> bool:
        """Take over what the engine processes have done; True if they still work."""
        if self.engines is None:
            return False
        for batch, step in self.engines.finished(timeout_s):
            self._stepped(batch, step, self._spans.popleft())
        return bool(self.engines.begun)

    def _stepped(self, batch: Batch, step: Step, span: Span) -> None:
        """Add to its span what was stepped, and publish its predictions."""
        for companion in self.companions:
            companion.stepped(batch, step)
        refuse_strangers(batch)
        if self.engines is None:
            acknowledge_alarms(self._newest(), batch, step, time.time_ns())
        elif batch.alarms_seen:
            step.alarms += self.engines.acknowledge(batch.alarms_seen, time.time_ns())
        span.add(batch, step, time.monotonic())
        self.results.computed(step)
        fault_point("turn_stepped")

    def _newest(self) -> States:
        """The states as computed, ahead of what is committed."""
        return ChainMap(self._open.step.states, self._closed.step.states, self.states)

    # -- steps 3 to 6: from a span to results ------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Close the open span and commit it; False if asked to stop while the disk refused."""
        span = self._closed = self._open
        self._open = Span()
        if self.engines is not None:
            answers = self.engines.ask_states()  # after the batches of this span, before those of the next
            while not self.engines.have_come(answers) or span in self._spans:
                self._meanwhile(POLL_S)
                self._finish(POLL_S)
            span.saved = self.engines.take_states(answers)
        shadowed = self._commit(span)
        if shadowed is None:
            self._give_up()
            return False
        self._take_over(span, shadowed)
        fault_point("turn_committed")
        self.results.committed(span.step, time.monotonic())
        fault_point("turn_published")
        if not self._let_companions_write(span):
            return False
        fault_point("turn_noted")
        self.source.acknowledge(span.batch.messages)
        fault_point("turn_acknowledged")
        self.committed_s = time.monotonic()
        self._notices.log(span.batch, span.step)
        return True

    def _commit(self, span: Span) -> Step | None:
        """The commit point, tried until it succeeds; None if asked to stop before it did.

        Returns what the shadow model makes of the same rows. It may read the archive, so the disk's thread steps it.
        """
        told, events = self._told_alarms(), self._link_events.copy()
        shadowed = self._disk.do(partial(self.models.shadow_step, span.step.features))
        commit = self._disk.do(partial(span.commit, self.engine, self.models, shadowed))
        if not self._write(replace(commit, told=told, counters={**commit.counters, **events})):
            return None
        self._link_events -= events
        return shadowed

    def _write(self, commit: Commit) -> bool:
        """Commit until the disk takes it; False if asked to stop before it did."""
        if not self._disk.until_done(lambda: self.journal.commit(commit), "commit"):
            return False
        self.results.noted(commit.told)
        return True

    def _told_alarms(self) -> tuple[AlarmChange, ...]:
        """Changes of alarms that the broker has, and of which the journal does not know that yet."""
        return self.results.told() if self.results.said and self.source.settled else ()

    def _take_over(self, span: Span, shadowed: Step) -> None:
        """What is committed is true."""
        self.states |= span.step.states
        self.rest.hear(span.step.states, time.monotonic())
        self.models.keep(shadowed)
        self.counts += account(span.batch, span.step)
        self.pending_rows += span.step.rows + len(span.batch.refused)
        self._closed = Span()
        self._balance()

    def _give_up(self) -> None:
        """At a stop: what is undecided is not acknowledged, and the broker delivers it again."""
        self.counts["dropped"] += (dropped := self._in_hand())
        self._left, self._open, self._closed = [], Span(), Span()
        if dropped and self.engines is not None:
            self.engines.begun.clear()
            self._spans.clear()
            self.engines.put(self.engine, self._committed(), only=True)
        self._balance()

    def _let_companions_write(self, span: Span) -> bool:
        """Companions' work for the disk, each tried until it succeeds; False if asked to stop before all were done.

        Messages that no companion holds need not wait for that: they are acknowledged first.
        """
        works = [work for each in self.companions if (work := each.committed(span.batch, span.step)) is not None]
        if works:
            self.source.acknowledge(span.batch.settled())
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
        if told := self._told_alarms():
            self._write(Commit(told=told))

    def _serve(self, timeout_s: float = 0.0) -> None:
        """Keep the connection alive, and take nothing."""
        self.source.service(timeout_s)
        self._note_link_events()
        self._balance()

    def _note_link_events(self) -> None:
        """Log what happened to the connection, and publish the status on a new one."""
        for event in self.source.events():
            log.info("%s %s", event.kind, event.detail)
            if event.kind == "connected":
                self.results.online(time.time_ns())
            elif event.kind in ("session_lost", "disconnected"):
                self._link_events[f"link_{event.kind}"] += 1

    def _in_hand(self) -> int:
        """Messages that are taken and not decided."""
        batches = [self._open.batch, self._closed.batch, *(self.engines.batches if self.engines else ())]
        return len(self._left) + sum(len(batch.messages) for batch in batches)

    def _balance(self, *, ended: bool = False) -> None:
        """Publish where every message is. Called where no message is between two places."""
        received, untaken = self.source.tally()
        if ended:  # not even taken: the broker delivers these again
            self.counts["dropped"], untaken = self.counts["dropped"] + untaken, 0
        places = {name: self.counts[name] for name in (*OUTCOMES, "dropped")}
        self.account = Account(received, **places, in_flight=untaken + self._in_hand())

    def _is_hurried(self) -> bool:
        """Asked to stop on a slow disk: rows are safe in the journal, and undecided messages come again."""
        return self.journal.slow and self._stop()

    # -- step 7: rolling ---------------------------------------------------------------------------------------------

    def _roll_if_due(self) -> None:
        """Begin a roll. When too many rows wait, nothing is committed until a roll succeeds."""
        if self._rolling_since_s is not None and self.pending_rows >= self.rhythm.most_pending:
            self._rolls.finish()
        if not self._rolls.is_idle():
            return
        if self._rolling_since_s is not None:
            self._rolling_since_s, self._rolled_s = None, time.monotonic()
            self._count_pending()
        since_s = time.monotonic() - self._rolled_s
        refused = "roll" in self._rolls.refusals
        if not self.rhythm.is_due(self.pending_rows, since_s, refused=refused) or self._stop():
            return
        if self.pending_rows >= self.rhythm.most_pending:
            self._rolls.until_done(self._roll_once, "roll")
            self._rolled_s = time.monotonic()
            self._count_pending()
        else:
            self._rolls.begin(self._roll_once, "roll")
            self._rolling_since_s = time.monotonic()

    def _roll(self) -> None:
        """One attempt, to its end."""
        self._count_pending()
        if self.pending_rows and not self._is_hurried():
            self._rolls.attempt(self._roll_once, "roll")
            self._count_pending()

    def _roll_once(self) -> None:
        """On the thread of rolls."""
        self.archive.roll(self._is_hurried)

    def _count_pending(self) -> None:
        """Called while nothing is committed."""
        self.pending_rows = self._disk.do(self.journal.pending_rows)

    # -- streams that rest -------------------------------------------------------------------------------------------

    def _let_rest(self) -> None:
        """Drop the states of silent streams from memory; the journal has them."""
        if self.engines is not None or not self.rest.after_s:
            return
        now_s = time.monotonic()
        spec_of, idle = self.engine.spec_of, self.rest.due(self.states, now_s)
        states = {key: self.states.pop(key) for key in idle}
        if idle:
            log.info("streams_rest count=%d asleep=%d", len(idle), len(self.rest.asleep))
        if self.rest.forget_s and idle:
            noted = {key: to_bytes(spec_of(key), state) for key, state in states.items()}
            self._disk.attempt(lambda: self.journal.note_rests(noted, time.time_ns()), "forget")
        if self.rest.forget_is_due(now_s):
            self._forget()

    def _forget(self) -> None:
        """Take what has rested for long out of the journal; nothing is stepped meanwhile."""
        gone: list[StreamKey] = []
        before_ns = time.time_ns() - int(self.rest.forget_s * 1e9)
        self._steps_ahead = False
        try:
            self._disk.attempt(lambda: gone.extend(self.journal.forget(self.rest.asleep, before_ns)), "forget")
        finally:
            self._steps_ahead = True
        if gone:
            self.rest.asleep.difference_update(gone)
            self.rest.forgotten += len(gone)
            if self.intake.admission is not None and self.intake.admission.names is not None:
                self.intake.admission.names.forget(gone)
            log.warning("streams_forgotten count=%d streams=%s", len(gone), few(sorted(map(str, gone))))

    def _wake(self, keys: Iterable[StreamKey]) -> bool:
        """Bring resting streams back before they are stepped; False if asked to stop while the journal is unreadable.

        Reading waits for no commit. Messages stay in hand meanwhile, and the connection is served.
        """
        asleep = self.rest.asleep.intersection(keys)
        while asleep and not self._disk.is_taken(lambda: self._restore(asleep), "wake"):
            if self._stop():
                return False
            self._serve(RETRY_S)
        return True

    def _restore(self, keys: Iterable[StreamKey]) -> None:
        found = {k: from_bytes(self.engine.spec_of(k), d) for k, d in self.journal.states_of(keys).items()}
        self.states |= found
        self.rest.hear(found, time.monotonic())
        self.rest.asleep.difference_update(keys)

    # -- models ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._steps_ahead = False
        self.pending_rows = self._disk.do(self.journal.pending_rows)
        states = self.states or self._committed()
        self._remember(self.engine, states)
        if self.engines is not None:
            self.engines.put(self.engine, states, only=True)
            self.states = {}
        self.rest.hear(self.states, time.monotonic())
        self._steps_ahead = True

    def _switch_models_if_due(self) -> None:
        if self.models.watch is not None and (models := self._disk.do(self.models.due)) is not None:
            self.serve(models)

    def serve(self, models: ModelSet) -> None:
        """Let other models serve from the next step on. Their memory of every stream is built and committed first.

        It is built from what is committed, so that is done first, and nothing is stepped meanwhile.
        """
        before = self.engine.predictor
        self._steps_ahead = False
        try:
            is_settled = not self._has_messages() or self._settle()
            asleep = frozenset(self.rest.asleep)  # their hidden states are rebuilt, too
            is_settled = is_settled and self._disk.until_done(lambda: self._restore(asleep), "wake")
            if not is_settled or not self._remember(models.on(self.engine), self._committed()):
                return
        finally:
            self._steps_ahead = True
        self.models.shadow_with(self.engine, models)
        after = self.engine.predictor
        if after is not None and (before is None or before.version != after.version):
            log.info("model_switched from=%s to=%s", before.version if before else None, after.version)
            self.results.model, self.results.classes = after.version, after.classes
            self.results.online(time.time_ns())

    def _committed(self) -> dict[StreamKey, StreamState]:
        """The states that are committed; with engine processes the journal alone has them all."""
        if self.engines is None:
            return self.states
        return {key: from_bytes(self.engine.spec_of(key), d) for key, d in self._disk.do(self.journal.states).items()}

    def _remember(self, engine: Engine, committed: dict[StreamKey, StreamState]) -> bool:
        """Step with this engine from now on, once the hidden states of other models are rebuilt and committed.

        False if asked to stop before the disk took them.
        """
        states = self._disk.do(lambda: self.models.memory(engine, committed))
        data = {key: to_bytes(engine.spec_of(key), state) for key, state in states.items()}
        if data and not self._write(Commit(states=data)):
            return False
        self.engine = engine
        if states:
            committed |= states
            if self.engines is not None:
                self.engines.put(engine, states)
            ages = sorted(state.state_age for state in states.values())
            log.info("memory_rebuilt streams=%d windows_median=%d", len(ages), ages[len(ages) // 2])
        return True
