"""Engine processes behind the live loop: the rows of one process, whatever their number and whatever dies when."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import specs
from harness.live import Broker, Operator, same_rows, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import ENGINE, SPEC, TinyPredictor, recording, with_a_gap
from hypothesis import given

from pipeline.core.engine import Engine
from pipeline.core.features.table import NAMES
from pipeline.core.records import Block, Float32, StreamKey
from pipeline.core.state import from_bytes
from pipeline.drivers import engines
from pipeline.drivers.engines import Blocks, Engines, Shared
from pipeline.drivers.live import Live
from pipeline.drivers.span import Rhythm
from pipeline.drivers.switch import ModelSet, ModelSwitch
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import last_rows, read_kind
from pipeline.errors import ArchiveError, ThrumcastError

PLANT = [
    block
    for some in zip(*(recording(seed, machine=f"fan-{seed:02d}") for seed in range(1, 6)), strict=False)
    for block in some
]


class Died(BaseException):
    """As after a kill, nothing that would have come next happens."""


class Sick:
    """A network that sees unbalance everywhere."""

    version, classes, inputs, hidden_shape = "sick", ("healthy", "unbalance"), ("x.rms",), (1, 1)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        return np.tile(np.array([0.01, 0.99], np.float32), (len(x), 1)), h


class Fragile(TinyPredictor):
    """A network that fails at the windows of one machine."""

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        if np.any(x[:, 0] > 1e3):
            msg = "too loud"
            raise ValueError(msg)
        return super().step(x, h)


class Renamed(TinyPredictor):
    version = "v2"


def make() -> Engine:
    return ENGINE


def make_sick() -> Engine:
    spec = replace(SPEC, alarm=specs.alarm(enter_s=0.2, leave_s=0.2, merge_s=0.0))
    return Engine(lambda key: spec, Sick())


def make_fragile() -> Engine:
    return Engine(lambda key: SPEC, Fragile())


def make_renamed() -> Engine:
    return Engine(lambda key: SPEC, Renamed())


@contextmanager
def serving(directory: Path, broker: Broker, workers: int, recipe: Callable[[], Engine] = make) -> Iterator[Live]:
    live = service(directory, broker)
    live.engine = recipe()
    live.results.classes = live.engine.predictor.classes
    try:
        if workers == 1:
            yield live
            return
        with Engines(workers, lambda engine: make_renamed if engine.predictor.version == "v2" else recipe) as some:
            live.engines = some
            yield live
    finally:
        live.journal.close()


def run(directory: Path, blocks: list[Block], workers: int, recipe: Callable[[], Engine] = make) -> Live:
    broker = Broker()
    send(broker, blocks)
    with serving(directory, broker, workers, recipe) as live:
        live.run(stop_when_idle(broker))
    assert [m.receipt.number for m in broker.acknowledged] == list(range(1, len(blocks) + 1))
    assert live.account.missing == 0
    return live


def test_any_number_of_processes_stores_the_rows_of_one(tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path / "one", PLANT)
    for workers in (2, 3):
        live = run(tmp_path / str(workers), PLANT, workers)
        assert all(map(same_rows, stored(tmp_path / str(workers)), expected))
        assert live.account.committed == len(PLANT)


def test_messages_end_where_one_process_puts_them(tmp_path: Path) -> None:
    """Repeats, late blocks, gaps, blocks that contradict their session, and blocks on which the engine fails."""
    first, second = recording(1), recording(2, machine="fan-02")
    other_form = replace(first[2], channels=("x", "z"))
    loud = [replace(block, key=StreamKey("loud", "de"), samples=block.samples * 1e4) for block in recording(3)]
    blocks = [*first[:4], other_form, *with_a_gap(second, 3), second[3], *first[4:], *loud, *first[2:6]]
    one = run(tmp_path / "one", blocks, 1, make_fragile)
    two = run(tmp_path / "two", blocks, 2, make_fragile)
    assert two.account == one.account
    assert one.account.duplicate > 0 < one.account.late
    refused = [
        read_kind(tmp_path / name, "quarantine").select(["topic", "reason", "detail", "payload"]).to_pylist()
        for name in ("one", "two")
    ]
    assert sorted(map(repr, refused[0])) == sorted(map(repr, refused[1]))
    assert {row["reason"] for row in refused[0]} == {"session", "engine_ValueError"}
    assert all(map(same_rows, stored(tmp_path / "one"), stored(tmp_path / "two")))


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_one_process_whatever_dies_and_however_many_start_again(tmp_path: Path, seed: int) -> None:
    """1, 2, 3 and 1 processes on one data directory; each run ends with a stop, a death of the loop or of a process."""
    rng, broker, data = np.random.default_rng(seed), Broker(), tmp_path / "data"
    shares = np.array_split(np.arange(len(PLANT)), 4)
    for workers, share in zip((1, 2, 3, 1), shares, strict=True):
        send(broker, [PLANT[i] for i in share])
        harm = str(rng.choice(["loop dies before", "loop dies after", "process dies", "stop"]))
        with serving(data, broker, workers) as live:
            left = int(rng.integers(1, 3))
            if harm == "process dies" and workers > 1:
                victim = live.engines.figures[int(rng.integers(workers))][0] if live.engines else 0

                def kill(victim: int = victim, at: int = int(rng.integers(len(share)))) -> bool:
                    if len(broker.waiting) <= at:
                        with suppress(ProcessLookupError):  # asked again before the loop has noticed
                            os.kill(victim, signal.SIGKILL)
                    return False

                with pytest.raises(ThrumcastError, match="ended with: -9"):
                    live.run(kill)
            elif harm.startswith("loop"):
                commit = live.journal.commit

                def dying(what: Commit, commit: Any = commit, harm: str = harm) -> None:
                    nonlocal left
                    left -= 1
                    if harm.endswith("after") or left:
                        commit(what)
                    if not left:
                        raise Died

                live.journal.commit = dying  # type: ignore[method-assign]
                with pytest.raises(Died):
                    live.run(stop_when_idle(broker))
            else:
                live.run(stop_when_idle(broker))
        broker.restart()
    with serving(data, broker, 2) as live:
        live.run(stop_when_idle(broker))
        counters = live.journal.counters()
    assert all(map(same_rows, stored(data), uninterrupted(tmp_path / "one", PLANT)))
    assert counters["messages_committed"] == len(PLANT)
    ends = ("committed", "duplicate", "late", "quarantined")
    assert counters["messages_received"] == sum(counters.get(f"messages_{name}", 0) for name in ends)
    assert not broker.unacknowledged


def test_an_idle_service_ends_when_a_process_has_died(tmp_path: Path) -> None:
    with serving(tmp_path, Broker(), 2) as live:
        assert live.engines is not None
        os.kill(live.engines.figures[1][0], signal.SIGKILL)
        with pytest.raises(ThrumcastError, match="engine-1 ended"):
            live.run(lambda: False)


def test_a_process_that_does_not_answer_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SILENT_S", 0.3)
    broker = Broker()
    with serving(tmp_path, broker, 2) as live:
        live.run(lambda: True)
        assert live.engines is not None
        os.kill(live.engines.figures[0][0], signal.SIGSTOP)
        send(broker, recording(1))
        with pytest.raises(ThrumcastError, match="expected an answer of engine-0"):
            live.turn(lambda: False)


def test_what_a_refusing_disk_gave_up_comes_again_to_the_states_that_are_committed(tmp_path: Path) -> None:
    broker, data = Broker(), tmp_path / "data"
    send(broker, PLANT)
    with serving(data, broker, 2) as live:
        live.rhythm = Rhythm(commit_interval_s=0.01, commit_messages=len(PLANT) // 2, first_messages=8)
        live.turn(lambda: False)
        commit, refusing = live.journal.commit, True

        def refuse(what: Commit) -> None:
            if refusing:
                msg = "no space"
                raise ArchiveError(msg)
            commit(what)

        live.journal.commit = refuse  # type: ignore[method-assign]
        live.turn(lambda: bool(live.refusal))
        assert live.account.dropped > 0
        assert live.account.missing == 0
        refusing = False
        broker.restart()
        live.run(stop_when_idle(broker))
        assert live.account.missing == 0
    assert all(map(same_rows, stored(data), uninterrupted(tmp_path / "one", PLANT)))


def test_an_alarm_that_people_acknowledge_is_acknowledged_in_its_process_and_in_the_journal(tmp_path: Path) -> None:
    broker = Broker()
    with serving(tmp_path, broker, 2, make_sick) as live:
        send(broker, recording(1))
        live.run(stop_when_idle(broker))
        (alarm_id,) = live.journal.open_alarms()
        live.companions = (Operator([(StreamKey("pump-01", "de"), alarm_id), (StreamKey("pump-09", "de"), "none")]),)
        send(broker, recording(2, machine="fan-02"))
        live.run(stop_when_idle(broker))
        assert live.journal.open_alarms()[alarm_id].type == "acked"
        state = from_bytes(SPEC, live.journal.states()[StreamKey("pump-01", "de")])
        assert state.alarm.open[0].acked_ns is not None


def test_another_model_takes_over_with_the_memory_that_one_process_would_give_it(tmp_path: Path) -> None:
    def switched(directory: Path, workers: int) -> list[tuple[object, ...]]:
        broker = Broker()
        with serving(directory, broker, workers) as live:
            live.models = ModelSwitch(read_last=lambda until: last_rows(directory, until, 1e6, 100, NAMES))
            send(broker, PLANT[: len(PLANT) // 2])
            live.run(stop_when_idle(broker))
            live.serve(ModelSet(Renamed()))
            send(broker, PLANT[len(PLANT) // 2 :])
            live.run(stop_when_idle(broker))
        rows = stored(directory)[1]
        return [tuple(row[name] for name in ("machine", "window", "model", "state_age", "mode", "p")) for row in rows]

    found = switched(tmp_path / "two", 2)
    assert repr(found) == repr(switched(tmp_path / "one", 1))
    assert {row[2] for row in found} == {"tiny", "v2"}


def test_more_bytes_than_pipes_and_shared_memory_hold_get_through(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    few = recording(1)[:1]
    large = [
        replace(few[0], index=few[0].end + i * 300_000, t0_ns=few[0].t0_ns, samples=samples.astype(np.float32))
        for i, samples in enumerate(rng.standard_normal((3, 2, 300_000)))
    ]
    large = [replace(b, t0_ns=b.t0_ns + round((b.index - few[0].index) * 1e6)) for b in large]
    broker = Broker()
    send(broker, [*few, *large])
    with serving(tmp_path / "two", broker, 2) as live:
        live.intake = replace(live.intake, max_payload_bytes=10**8)
        live.run(stop_when_idle(broker))
        assert live.account.committed == 4
    broker = Broker()
    send(broker, [*few, *large])
    with serving(tmp_path / "one", broker, 1) as live:
        live.intake = replace(live.intake, max_payload_bytes=10**8)
        live.run(stop_when_idle(broker))
    assert all(map(same_rows, stored(tmp_path / "two"), stored(tmp_path / "one")))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2000)), max_size=6), st.integers(0, 2**14))
def test_blocks_come_out_of_the_shared_memory_as_they_went_in(shapes: list[tuple[int, int]], slot_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_SLOT_BYTES", slot_bytes)
        fd = engines._memory_file()
        here, there = Shared(fd), Shared(fd)
        os.close(fd)
        rng, block = np.random.default_rng(7), recording(1)[0]
        for _ in range(3):
            sent = [replace(block, samples=rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
            request = there.decode(memoryview(here.encode(Blocks(sent, list(range(len(sent)))))))
            assert isinstance(request, Blocks)
            for one, other in zip(sent, request.blocks, strict=True):
                assert one.samples.shape == other.samples.shape
                assert one.samples.tobytes() == other.samples.tobytes()
                assert repr(replace(one, samples=block.samples)) == repr(replace(other, samples=block.samples))
