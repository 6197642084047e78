"""The live driver against a broker in memory: commit order, accounting, restarts, a disk that refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import contract
import pytest
from harness.live import BLOCKS, Broker, same_rows, send, service, stop_when_idle, stored, uninterrupted
from harness.streams import ENGINE, recording

from pipeline.core.codec import encode
from pipeline.core.engine import Step
from pipeline.core.records import Block, StreamKey
from pipeline.drivers.intake import Notices
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm
from pipeline.edges.ports import Batch, Message, Receipt
from pipeline.edges.store.read import read_predictions
from pipeline.errors import ArchiveError


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_everything_taken_is_committed_acknowledged_in_order_and_archived(tmp_path: Path, broker: Broker) -> None:
    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    numbers = [m.receipt.number for m in broker.acknowledged]
    assert numbers == list(range(1, len(BLOCKS) + 1))
    assert live.counts["received"] == live.counts["committed"] == len(BLOCKS)
    assert live.journal.pending_rows() == 0
    assert live.journal.counters()["messages_committed"] == len(BLOCKS)
    features, predictions = stored(tmp_path)
    expected = contract.one_step(ENGINE)(BLOCKS)
    assert len(features) == len(predictions) == sum(len(outcome.rows) for outcome in expected.values())


@pytest.mark.parametrize("dies_after", ["nothing", "commit", "acknowledge"])
def test_a_death_anywhere_in_a_turn_loses_and_doubles_nothing(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, dies_after: str
) -> None:
    expected = uninterrupted(tmp_path / "whole", BLOCKS)

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    send(broker, BLOCKS)
    for turn in range(3):
        live = service(tmp_path / "broken", broker)
        if turn < 2:
            match dies_after:
                case "nothing":
                    monkeypatch.setattr(live.journal, "commit", die)
                case "commit":
                    live.source = type(
                        "Dying",
                        (),
                        {name: getattr(broker, name) for name in ("take", "service", "events", "tally")}
                        | {"acknowledge": die},
                    )()
                case "acknowledge":
                    monkeypatch.setattr(Results, "committed", die)
            with pytest.raises(Died):
                live.run(stop_when_idle(broker))
            broker.restart()
            monkeypatch.undo()
        else:
            live.run(stop_when_idle(broker))
        live.journal.close()
    found = stored(tmp_path / "broken")
    assert same_rows(found[0], expected[0])
    assert same_rows(found[1], expected[1])


def test_messages_delivered_twice_are_counted_and_change_nothing(tmp_path: Path, broker: Broker) -> None:
    expected = uninterrupted(tmp_path / "once", BLOCKS)
    live = service(tmp_path / "twice", broker)
    send(broker, [b for block in BLOCKS for b in (block, block)])
    live.run(stop_when_idle(broker))
    assert live.counts["duplicate"] == len(BLOCKS)
    assert live.counts["received"] == sum(live.counts[k] for k in ("committed", "duplicate", "late", "quarantined"))
    assert same_rows(stored(tmp_path / "twice")[0], expected[0])


def test_bad_messages_are_quarantined_with_a_reason_and_good_ones_beside_them_go_on(
    tmp_path: Path, broker: Broker
) -> None:
    live = service(tmp_path, broker)
    topic = "plant/a/pump-01/de/vibration"
    send(broker, BLOCKS[:2])
    broker.send(topic, [b"", b"\x81\xa1v", b"{}", encode(BLOCKS[0])[:-3]])
    broker.send("plant/a/../de/vibration", [encode(BLOCKS[0])])
    broker.send("plant/a/stranger/de/vibration", [encode(BLOCKS[0])])
    broker.send(topic, [encode(replace(BLOCKS[0], rate_hz=2000.0))])  # contradicts its session
    send(broker, BLOCKS[2:])
    live.run(stop_when_idle(broker))
    assert live.counts["quarantined"] == 7
    assert live.counts["committed"] == len(BLOCKS)
    assert len(broker.acknowledged) == len(BLOCKS) + 7
    quarantined = list((tmp_path / "archive" / "quarantine").rglob("*.parquet"))
    import pyarrow.parquet as pq

    reasons = pq.read_table(quarantined[0], columns=["reason"])["reason"].to_pylist()
    assert len(reasons) == 7
    assert {"topic", "unknown_machine", "session"} <= set(reasons)


def test_the_log_names_some_topics_of_what_was_refused_and_no_topic_can_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged, long = "plant/a/x\nERROR commit_failed err=1/de", "plant/b/" + 500 * "y"
    topics = ["plant/a/pump-01/de/vibration", forged, long, "plant/c/1", "plant/c/2", "plant/c/2"]
    batch = Batch([Message(topic, b"", 1, None, False, Receipt(1, 1, n)) for n, topic in enumerate(topics)])
    for message in batch.messages:
        batch.refuse(message, "topic", "a topic expected\nlevel=error")
    notices = Notices()
    with caplog.at_level("WARNING", logger="thrumcast.live"):
        notices.log(batch, Step())
    *first, counted = caplog.messages
    assert [line.partition(" reason=")[0] for line in first] == [
        "refusal topic=plant/a/pump-01/de/vibration", "refusal topic=plant/a/x?ERROR?commit_failed?err?1/de",
        f"refusal topic=plant/b/{92 * 'y'}", "refusal topic=plant/c/1", "refusal topic=plant/c/2",
    ]  # fmt: skip
    assert all(
        " detail=a topic expected?level?error advice=publish below mqtt.readings_topic" in line for line in first
    )
    shown = f"plant/a/pump-01/de/vibration, plant/a/x?ERROR?commit_failed?err?1/de, plant/b/{92 * 'y'} and 2 more"
    assert counted == f"quarantined topic=6 topics={shown}"
    caplog.clear()
    with caplog.at_level("WARNING", logger="thrumcast.live"):
        notices.log(batch, Step())
    assert caplog.messages == [counted]


def test_a_block_on_which_the_engine_fails_is_quarantined_alone(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.core import stream

    real = stream.advance

    def advance(spec: object, state: object, blocks: list[Block]) -> object:
        if blocks[0].key.machine == "poison":
            raise ZeroDivisionError
        return real(spec, state, blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "advance", advance)
    live = service(tmp_path, broker)
    send(broker, [BLOCKS[0], replace(BLOCKS[0], key=StreamKey("poison", "de")), *BLOCKS[1:]])
    live.run(stop_when_idle(broker))
    assert (live.counts["quarantined"], live.counts["committed"]) == (1, len(BLOCKS))


def test_nothing_is_acknowledged_or_promised_while_the_disk_refuses_and_it_goes_on_by_itself(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = service(tmp_path, broker)
    real, refusals = live.journal.commit, iter(range(3))
    acknowledged_meanwhile = []

    def commit(what: object) -> None:
        if next(refusals, None) is not None:
            promised = [topic for topic, *_ in broker.published if topic.endswith(("/state", "/alarm", "/alarms"))]
            acknowledged_meanwhile.append(len(broker.acknowledged) + len(promised))
            raise ArchiveError("no space left on device")
        real(what)  # type: ignore[arg-type]

    monkeypatch.setattr(live.journal, "commit", commit)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    assert acknowledged_meanwhile == [0, 0, 0]
    assert len(broker.acknowledged) == len(BLOCKS)
    assert any(topic.endswith("/state") for topic, *_ in broker.published)


def test_predictions_and_states_are_published_as_the_contract_says(tmp_path: Path, broker: Broker) -> None:
    import msgspec

    live = service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    by_topic: dict[str, list[tuple[dict[str, object], int, bool]]] = {}
    for topic, payload, qos, retain in broker.published:
        by_topic.setdefault(topic, []).append((msgspec.json.decode(payload), qos, retain))
    predictions = by_topic["thrumcast/machines/pump-01/de/prediction"]
    assert len(predictions) == len(read_predictions(tmp_path, machines=["pump-01"]))
    document, qos, retain = predictions[-1]
    assert (qos, retain) == (0, False)
    assert set(document) == {"ts", "session", "window", "mode", "p", "probs", "state", "state_age", "model"}
    state, qos, retain = by_topic["thrumcast/machines/pump-01/de/state"][0]
    assert (qos, retain, state["state"]) == (1, True, "warming_up")
    assert {"ts", "expires_s", "mode", "p", "velocity_rms_mm_s", "zone", "evidence", "model"} < set(state)


def test_every_message_is_accounted_for_at_every_look_also_while_the_disk_refuses(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = service(tmp_path, broker)
    real, refusals = live.journal.commit, iter(range(2))
    seen = []

    def look(timeout_s: float = 0.0) -> None:
        seen.append(live.account)

    def commit(what: object) -> None:
        seen.append(live.account)
        if next(refusals, None) is not None:
            raise ArchiveError("no space left on device")
        real(what)  # type: ignore[arg-type]

    monkeypatch.setattr(live.journal, "commit", commit)
    monkeypatch.setattr(broker, "service", look, raising=False)
    monkeypatch.setattr("pipeline.drivers.disk.RETRY_S", 0.0)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    assert {account.missing for account in [*seen, live.account]} == {0}
    assert max(account.in_flight for account in seen) > 0
    assert (live.account.in_flight, live.account.committed) == (0, len(BLOCKS))


def test_a_stop_while_the_disk_refuses_drops_unacknowledged_and_says_so(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = service(tmp_path, broker)

    def commit(what: object) -> None:
        raise ArchiveError("no space left on device")

    monkeypatch.setattr(live.journal, "commit", commit)
    send(broker, BLOCKS[:3])
    live.run(lambda: True)
    assert (live.account.dropped, live.account.committed, live.account.missing) == (3, 0, 0)
    assert broker.acknowledged == []


def test_a_gap_is_counted_in_the_journal_with_its_samples(tmp_path: Path, broker: Broker) -> None:
    live = service(tmp_path, broker)
    blocks = recording(1)
    lost = blocks[3]
    send(broker, [b for b in blocks if b is not lost])
    live.run(stop_when_idle(broker))
    counters = live.journal.counters()
    assert counters["gaps"] == 1
    assert counters["gap_samples"] == lost.samples.shape[1]


def test_while_only_parts_are_refused_turns_go_on_until_too_many_rows_wait(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.drivers.disk.RETRY_S", 0.0)
    monkeypatch.setattr("pipeline.drivers.span.RETRY_S", 0.0)
    live = service(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=0.01, commit_messages=4, roll_rows=2)
    attempts: list[int] = []

    def refuse(*_: object) -> None:
        attempts.append(live.pending_rows)
        raise ArchiveError("expected to write, found: a disk that refuses")

    monkeypatch.setattr(live.archive, "roll", refuse)
    send(broker, BLOCKS)
    live.turn(lambda: False)
    assert len(broker.acknowledged) == 4
    while live.refusal is None:
        live.turn(lambda: False)
    assert attempts
    assert live.refusal == "expected to write, found: a disk that refuses"
    while len(attempts) <= 50:
        live.turn(lambda: len(attempts) > 50)
    assert max(attempts) >= live.rhythm.most_pending
    assert len(broker.acknowledged) < len(BLOCKS)  # the rest waits with the broker
    monkeypatch.undo()
    live.run(stop_when_idle(broker))
    assert (live.refusal, live.journal.pending_rows()) == (None, 0)
