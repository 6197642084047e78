"""Streams that rest leave the memory, come back to the last bit, and leave the journal only by policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from harness.live import BLOCKS, Broker, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import ENGINE, SPEC

from pipeline.core.records import StreamKey
from pipeline.drivers.intake import Admission
from pipeline.drivers.quotas import Names, Quotas
from pipeline.drivers.rest import Rest
from pipeline.drivers.switch import ModelSet
from pipeline.edges.store.database import view_states
from pipeline.edges.store.journal import Journal
from pipeline.errors import ArchiveError

KEYS = {block.key for block in BLOCKS}


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_streams_that_rest_between_any_two_blocks_leave_the_same_rows_and_states(
    tmp_path: Path, broker: Broker
) -> None:
    expected = uninterrupted(tmp_path / "whole", BLOCKS)
    live = service(tmp_path / "rests", broker)
    live.rest = Rest(after_s=1e-9)
    slept = 0
    for block in BLOCKS:
        send(broker, [block])
        live.run(stop_when_idle(broker))
        live._let_rest()
        slept += len(live.rest.asleep)
        assert not live.states, "a silent stream is still in memory"
    live.journal.close()
    assert slept > len(BLOCKS)
    assert repr(stored(tmp_path / "rests")) == repr(expected)
    assert view_states(tmp_path / "rests") == view_states(tmp_path / "whole")


def test_only_what_is_due_is_looked_at_and_a_stream_with_an_open_alarm_stays(tmp_path: Path, broker: Broker) -> None:
    live = service(tmp_path, broker)
    live.rest = rest = Rest(after_s=60.0)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    awake = dict(live.states)
    first, second = sorted(awake)
    rest.heard_s = {first: 0.0, second: 100.0}
    assert rest.due(awake, 59.0) == []
    assert rest.due(awake, 61.0) == [first]
    assert list(rest.heard_s) == [second]
    alarmed = replace_alarm(awake[second])
    assert rest.due({second: alarmed}, 1000.0) == []
    assert rest.heard_s == {second: 1000.0}
    live.journal.close()


def replace_alarm(state):
    import msgspec

    return msgspec.structs.replace(state, alarm=msgspec.structs.replace(state.alarm, open=("an episode",)))


def test_while_the_state_of_a_stream_cannot_be_read_its_messages_wait_and_are_not_lost(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = uninterrupted(tmp_path / "whole", BLOCKS)
    live = service(tmp_path / "rests", broker)
    live.rest = Rest(after_s=1e-9)
    half = len(BLOCKS) // 2
    send(broker, BLOCKS[:half])
    live.run(stop_when_idle(broker))
    live._let_rest()
    assert live.rest.asleep == KEYS
    refused = []
    read = Journal.states_of

    def states_of(journal: Journal, keys):
        if len(refused) < 2:
            refused.append(live.refusal)
            raise ArchiveError("the disk is away")
        return read(journal, keys)

    monkeypatch.setattr("pipeline.drivers.live.RETRY_S", 0.01)
    monkeypatch.setattr(Journal, "states_of", states_of)
    send(broker, BLOCKS[half:])
    live.run(lambda: not broker.waiting and len(refused) == 2)
    assert refused == [None, "the disk is away"]
    assert live.refusal is None
    live.journal.close()
    assert repr(stored(tmp_path / "rests")) == repr(expected)


def test_a_stream_is_forgotten_by_policy_its_rows_stay_and_one_that_has_spoken_is_kept(
    tmp_path: Path, broker: Broker
) -> None:
    live = service(tmp_path, broker)
    names = Names(Quotas(), set())
    live.intake = replace(live.intake, admission=Admission(lambda key: SPEC.window, names=names))
    live.rest = Rest(after_s=1e-9, forget_s=1e-9, looked_s=float("inf"))  # notes, and forgets nothing yet
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    rows = stored(tmp_path)
    live._let_rest()
    kept = max(KEYS)
    with live.journal._transaction() as db:  # as if it had spoken after its note
        db.execute("UPDATE states SET state = CAST(state || x'00' AS BLOB) WHERE machine = ?", (kept.machine,))
    live.rest.looked_s = float("-inf")
    live._let_rest()
    assert set(live.journal.states()) == {kept}
    assert live.rest.asleep == names.known == {kept}
    assert (live.rest.forgotten, names.machines) == (1, 1)
    live.journal.close()
    assert repr(stored(tmp_path)) == repr(rows)
    Journal(tmp_path).close()  # the seals hold


def test_a_note_of_rest_keeps_its_time_over_restarts_and_a_damaged_note_forgets_nothing(tmp_path: Path) -> None:
    from pipeline.edges.store.journal import Commit

    one, two = sorted(KEYS)
    with Journal(tmp_path) as journal:
        journal.commit(Commit(states={one: b"1", two: b"2"}))
        journal.note_rests({one: b"1", two: b"2"}, 100)
    with Journal(tmp_path) as journal:
        journal.note_rests({one: b"1"}, 900)  # silent since before the restart
        with journal._transaction() as db:
            db.execute("UPDATE rests SET since_ns = 50 WHERE machine = ?", (two.machine,))
        assert journal.forget({one, two}, 100) == []
        assert journal.forget({two}, 500) == []  # damaged, and `one` is awake
        assert journal.forget({one, two}, 500) == [one]
        assert set(journal.states()) == {two}


def test_another_model_wakes_every_stream_because_it_builds_the_memory_of_each(tmp_path: Path, broker: Broker) -> None:
    live = service(tmp_path, broker)
    live.rest = Rest(after_s=1e-9)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    live._let_rest()
    assert live.rest.asleep == KEYS
    live.rest.asleep.add(StreamKey("never", "stored"))
    live.serve(ModelSet(ENGINE.predictor))
    assert live.states.keys() == live.rest.heard_s.keys() == KEYS
    assert not live.rest.asleep
    live.journal.close()
