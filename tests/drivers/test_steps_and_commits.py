"""The loop steps often and commits seldom: predictions leave at once, promises wait for their commit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import contract
import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import specs
from fault_points import fault_points
from harness.live import BLOCKS, Broker, Commits, same_rows, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import ENGINE, SPEC
from hypothesis import given, settings

from pipeline.core.engine import Engine, Step
from pipeline.core.records import Float32
from pipeline.core.state import to_bytes
from pipeline.drivers import intake, span
from pipeline.drivers.live import Live
from pipeline.drivers.span import Rhythm
from pipeline.edges.ports import Batch, Message, Onlooker, Work
from pipeline.edges.store import archive, journal
from pipeline.errors import ArchiveError

PATIENCE_S = 20.0


class Died(BaseException):
    """As after a kill, nothing that would have come next happens."""


class Sick:
    """A network that sees unbalance everywhere."""

    version, classes, inputs, hidden_shape = "sick", ("healthy", "unbalance"), ("x.rms",), (1, 1)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        return np.tile(np.array([0.01, 0.99], np.float32), (len(x), 1)), h


class OneByOne(Broker):
    """Messages arrive one at a time."""

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        return super().take(min(limit, 1), timeout_s)


def alarming(directory: Path, broker: Broker) -> Live:
    live = service(directory, broker)
    spec = replace(SPEC, alarm=specs.alarm(enter_s=0.2, leave_s=0.2, merge_s=0.0))
    live.engine = Engine(lambda key: spec, Sick())
    live.results.classes = Sick.classes
    return live


def kinds(broker: Broker) -> Counter[str]:
    """How many messages were published, by the last part of their topic."""
    return Counter(topic.rpartition("/")[2] for topic, *_ in broker.published)


def wait_for(fact: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + PATIENCE_S
    while not fact() and time.monotonic() < until_s:
        time.sleep(0.001)
    return fact()


@pytest.mark.parametrize("make", [service, alarming])
def test_predictions_leave_before_their_commit_and_alarms_and_states_only_after_it(
    tmp_path: Path, make: Callable[[Path, Broker], Live]
) -> None:
    broker = Broker()
    live = make(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=0.01)
    commit, seen = live.journal.commit, []

    def watched(what: journal.Commit) -> None:
        before = kinds(broker)
        commit(what)
        seen.append((len(what.predictions), before, kinds(broker)))

    live.journal.commit = watched  # type: ignore[method-assign]
    send(broker, BLOCKS)
    live.turn(lambda: False)
    ((predictions, before, after),) = seen
    assert before["prediction"] == predictions > 0
    assert (after["state"], after["alarm"], after["alarms"]) == (0, 0, 0)
    assert kinds(broker)["state"] > 0
    assert (kinds(broker)["alarms"] > 0) == (make is alarming)


def test_an_alarm_brings_its_commit_about_at_once(tmp_path: Path) -> None:
    broker = OneByOne()
    live = alarming(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=3600.0)
    send(broker, BLOCKS)
    began_s = time.monotonic()
    live.turn(lambda: time.monotonic() - began_s > PATIENCE_S)
    assert time.monotonic() - began_s < PATIENCE_S
    assert kinds(broker)["alarms"] == 1
    assert 0 < len(broker.acknowledged) < len(BLOCKS)
    assert len(live.journal.open_alarms()) == 1


def test_an_alarm_waits_neither_for_a_roll_nor_for_what_companions_write(tmp_path: Path) -> None:
    broker = OneByOne()
    live = alarming(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=0.001, roll_s=0.0)
    roll = live.archive.roll
    begun, may_end = threading.Event(), threading.Event()
    told: list[int] = []

    def hangs(*stop: Callable[[], bool]) -> None:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        roll(*stop)

    class Writes(Onlooker):
        def committed(self, batch: Batch, step: Step) -> Work:
            return lambda: told.extend(kinds(broker)["alarms"] for _ in step.alarms) or ()

    live.archive.roll = hangs  # type: ignore[method-assign, assignment]
    live.companions = (Writes(),)
    send(broker, BLOCKS)
    while not told:
        live.turn(lambda: False)
    assert begun.is_set()
    assert told == [len(told)] * len(told)  # all alarms of that commit
    may_end.set()
    live.run(lambda: not broker.waiting)
    assert live.journal.pending_rows() == 0


def test_while_the_disk_hangs_predictions_go_on_until_one_more_commit_is_full(tmp_path: Path) -> None:
    broker = OneByOne()
    live = service(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=3600.0, commit_messages=4)
    commit = live.journal.commit
    accounts: list[int] = []

    def hangs(what: journal.Commit) -> None:
        if not accounts:
            assert wait_for(lambda: broker.numbers == 8)
            accounts.append(live.account.missing)
            time.sleep(0.1)  # would take more, if it did
            accounts.extend([broker.numbers, len(broker.acknowledged), kinds(broker)["prediction"]])
        commit(what)

    live.journal.commit = hangs  # type: ignore[method-assign]
    send(broker, BLOCKS)
    live.turn(lambda: False)
    ahead = sum(len(outcome.rows) for outcome in contract.one_step(ENGINE)(BLOCKS[:8]).values())
    assert accounts == [0, 8, 0, ahead]
    assert [message.receipt.number for message in broker.acknowledged] == [1, 2, 3, 4]


def test_with_bytes_enough_for_one_more_commit_nothing_is_taken_and_the_connection_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_BYTES", 1)
    served: list[int] = []

    class Served(OneByOne):
        def service(self, timeout_s: float = 0.0) -> None:
            super().service(timeout_s)
            served.append(self.numbers)

    broker = Served()
    live = service(tmp_path, broker)
    commit = live.journal.commit

    def hangs(what: journal.Commit) -> None:
        assert wait_for(lambda: served.count(2) > 3 or bool(broker.acknowledged))
        commit(what)

    live.journal.commit = hangs  # type: ignore[method-assign]
    send(broker, BLOCKS)
    live.turn(lambda: False)
    assert max(served) == 2  # one in the commit, one stepped ahead
    assert len(broker.acknowledged) == 1


def test_a_state_is_serialised_once_for_a_commit_however_often_it_was_stepped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, steps = OneByOne(), []
    live = service(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=0.01, commit_messages=8)
    written: list[object] = []

    def counted(spec: object, state: object) -> bytes:
        written.append(state)
        return to_bytes(spec, state)  # type: ignore[arg-type]

    monkeypatch.setattr(span, "to_bytes", counted)
    computed = live.results.computed
    live.results = replace(live.results)  # a copy with a method that counts
    monkeypatch.setattr(type(live.results), "computed", lambda _, step: (steps.append(step), computed(step)))
    send(broker, BLOCKS[:8])
    live.run(stop_when_idle(broker))
    assert len(steps) == 8
    assert len(written) <= 2 * len(steps) / 2  # two streams, and no more than four commits of two steps
    assert live.journal.states().keys() == {block.key for block in BLOCKS[:8]}


# -- the model: any order of arrivals, turns, copies, refusals, lost connections and deaths ----------------------------


@dataclass
class World:
    """One data directory, one broker, and services that live and die over them."""

    directory: Path
    broker: Broker
    live: Live | None = None
    committed: set[int] = field(default_factory=set)  # arrival numbers
    published: dict[tuple[str, int], set[bytes]] = field(default_factory=dict)
    imbalances: set[int] = field(default_factory=set)

    def start(self) -> Live:
        live = self.live = service(self.directory, self.broker)
        live.results.restore(live.journal.open_alarms().values(), live.journal.untold_alarms())
        live.companions = (Commits(self.see),)
        return live

    def see(self, batch: Batch, step: Step) -> None:
        self.committed |= {message.receipt.number for message in batch.messages}

    def end(self) -> None:
        """After a death: what its disk was doing ends first, as it may in a kernel."""
        if self.live is not None:
            self.live._disk._thread(lambda: None, lambda _: time.sleep(0.001))
            self.live.journal.close()
        self.live = None


class Watched(Broker):
    """A broker that looks at the service whenever it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.batches: list[list[int]] = []  # arrival numbers of each acknowledgement

    def acknowledge(self, messages: Sequence[Message]) -> None:
        assert self.world is not None
        assert {message.receipt.number for message in messages} <= self.world.committed
        before = len(self.acknowledged)
        super().acknowledge(messages)
        self.batches.append([message.receipt.number for message in self.acknowledged[before:]])

    def service(self, timeout_s: float = 0.0) -> None:
        assert self.world is not None
        if self.world.live is not None:
            self.world.imbalances.add(self.world.live.account.missing)
        super().service(timeout_s)


@contextmanager
def dying_at(place: str, passes: int) -> Iterator[None]:
    """The process ends when it passes this fault point for the nth time, on whichever thread that is."""
    left = [passes]

    def dies(name: str) -> None:
        if name == place:
            left[0] -= 1
            if left[0] == 0:
                raise Died

    with pytest.MonkeyPatch.context() as patch:
        for module in ("pipeline.drivers.live", journal.__name__, archive.__name__):
            patch.setattr(f"{module}.fault_point", dies)
        yield


PLACES = [
    name
    for name in fault_points("drivers/live.py", "edges/store/journal.py", "edges/store/archive.py")
    if name.startswith(("turn_", "commit_", "roll_", "after_"))
]
ACTIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("repeat"), st.integers(1, 3)),
    st.tuples(st.just("turn"), st.integers(1, 2)),
    st.tuples(st.just("refuse"), st.integers(1, 2)),
    st.tuples(st.just("disconnect"), st.just(0)),
    st.tuples(st.sampled_from(PLACES), st.integers(1, 2)),
)


def slow(live: Live, refusals: int = 0) -> None:
    """Commits end only when the loop has stepped ahead as far as it can; the first ones are refused."""
    commit, left = live.journal.commit, [refusals]
    main = threading.current_thread()

    def late(what: journal.Commit) -> None:
        until_s = time.monotonic() + 0.05
        while live._room() and live.source.waiting and main.is_alive() and time.monotonic() < until_s:  # type: ignore[attr-defined]
            time.sleep(0.0005)
        if left[0]:
            left[0] -= 1
            raise ArchiveError("no space left on device")
        commit(what)

    live.journal.commit = late  # type: ignore[method-assign]


@cache
def whole() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The rows of one uninterrupted life."""
    with TemporaryDirectory() as directory:
        return uninterrupted(Path(directory), BLOCKS)


@given(actions=st.lists(ACTIONS, max_size=12))
@settings(max_examples=20)
def test_whatever_happens_between_steps_commits_and_acknowledgements_nothing_is_lost_doubled_or_promised_early(
    actions: list[tuple[str, int]],
) -> None:
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.drivers.disk.RETRY_S", 0.0)
        broker = Watched()
        world = broker.world = World(Path(directory), broker)
        world.start()
        left = list(BLOCKS)
        sent: list[int] = []
        for name, count in actions:
            live = world.live or world.start()
            slow(live)
            if name == "send":
                sent += [len(BLOCKS) - len(left) + i for i in range(min(count, len(left)))]
                send(broker, left[:count])
                del left[:count]
            elif name == "repeat":
                send(broker, [BLOCKS[i] for i in sent[-count:]])
            elif name == "turn":
                for _ in range(count):
                    live.turn(lambda: False)
            elif name == "refuse":
                slow(live, refusals=count)
                live.turn(lambda: False)
            elif name == "disconnect":
                broker.restart()
            else:
                with dying_at(name, count):
                    with suppress(Died):
                        live.run(stop_when_idle(broker))
                    world.end()
                broker.restart()
        live = world.live or world.start()
        send(broker, left)
        live.run(stop_when_idle(broker))
        world.end()
        found = stored(world.directory)
        assert same_rows(found[0], whole()[0])
        assert same_rows(found[1], whole()[1])
        assert broker.unacknowledged == {}
        assert world.imbalances <= {0}
        assert all(numbers == sorted(numbers) for numbers in broker.batches)
        said: dict[tuple[str, int], set[bytes]] = {}
        for topic, payload, *_ in broker.published:
            if topic.endswith("/prediction"):
                said.setdefault((topic, msgspec.json.decode(payload)["window"]), set()).add(payload)
        assert len(said) == len(found[1])  # each was said, and none that is not in the archive
        assert all(len(payloads) == 1 for payloads in said.values())  # said again only with the same numbers
