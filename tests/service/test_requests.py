"""What may be asked over MQTT: alarms acknowledged, labels taken, models looked at again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from harness.broker import PATIENCE_S, wait_until
from harness.live import BLOCKS, TOPICS, Broker, send
from harness.requests import LABEL, PUMP, UP, UP_ID, ask, asked, events
from harness.streams import SPEC
from msgspec.structs import replace

from pipeline.config.tables import CommitConfig, Config, DataConfig, MqttConfig
from pipeline.core.alarm import AlarmState
from pipeline.core.codec import encode
from pipeline.core.engine import Step
from pipeline.core.state import from_bytes
from pipeline.drivers.span import Rhythm
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.labels import LabelFile
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.ports import Batch, Publication, Work
from pipeline.edges.store.read import read_kind
from pipeline.errors import ArchiveError
from pipeline.service.compose import service as run_service
from pipeline.service.requests import Requests


def test_an_acknowledgement_is_in_the_commit_of_the_message_that_asks_for_it(tmp_path: Path) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    (answer,) = ask(live, broker, "ack", {"id": UP_ID, "token": "t1"})
    assert answer == {"ok": True, "token": "t1", "id": UP_ID}
    assert [event["type"] for event in events(broker, "alarms")] == ["acked"]
    assert from_bytes(SPEC, live.journal.states()[PUMP]).alarm.open[0].acked_ns is not None
    assert [row["type"] for row in read_kind(tmp_path, "alarms").to_pylist()] == ["acked"]
    assert live.account.missing == 0
    assert live.counts["committed"] == live.counts["received"] == 5
    again = ask(live, broker, "ack", {"id": UP_ID})[-1]
    assert again["ok"]
    assert len(events(broker, "alarms")) == 1


def test_requests_of_several_steps_before_one_commit_are_all_answered_after_it(tmp_path: Path) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    live.rhythm = Rhythm(commit_interval_s=0.2)
    take = broker.take
    broker.take = lambda limit, timeout_s: take(min(limit, 1), timeout_s)  # type: ignore[method-assign]
    commit, commits = live.journal.commit, 0

    def counted(what: Any) -> None:
        nonlocal commits
        commits += 1
        assert not [1 for topic, *_ in broker.published if topic.endswith("/response")]
        commit(what)

    live.journal.commit = counted  # type: ignore[method-assign]
    broker.send("thrumcast/cmd/label", [json.dumps(LABEL | {"client_token": token}).encode() for token in "abc"])
    live.turn(lambda: False)
    assert commits == 1
    assert len([1 for topic, *_ in broker.published if topic.endswith("/response")]) == 3
    assert len(LabelFile(tmp_path).active()) == 3


def test_a_disk_that_refuses_acknowledges_neither_message_nor_alarm(tmp_path: Path) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    commit, tries = live.journal.commit, 0

    def refuses_twice(what: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            assert not [1 for topic, *_ in broker.published if topic.endswith("/response")]
            msg = "no space"
            raise ArchiveError(msg)
        commit(what)

    live.journal.commit = refuses_twice  # type: ignore[method-assign]
    broker.send("thrumcast/cmd/ack", [json.dumps({"id": UP_ID}).encode()])
    live.turn(lambda: False)
    assert tries == 3
    assert [msgspec.json.decode(p)["ok"] for topic, p, *_ in broker.published if topic.endswith("/response")] == [True]
    assert len(broker.acknowledged) == 5


def test_a_label_that_is_delivered_twice_is_written_once_and_told(tmp_path: Path) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    first, second = (ask(live, broker, "label", LABEL)[-1] for _ in range(2))
    assert first["ok"]
    assert first["id"] == second["id"]
    (label,) = LabelFile(tmp_path).active()
    assert (label.mode, label.author, label.start) == ("bearing_ball", "mqtt", LABEL["from"])
    live.run(lambda: True)
    (told,) = events(broker, "labels")
    assert (told["type"], told["id"], told["before"]) == ("added", label.id, None)
    assert told["after"]["mode"] == "bearing_ball"
    assert ask(live, broker, "label", {"op": "retract", "id": label.id})[-1]["ok"]
    live.run(lambda: True)
    assert LabelFile(tmp_path).active() == []
    assert [(e["type"], (e["before"] or {}).get("id")) for e in events(broker, "labels")][1:] == [
        ("retracted", label.id)
    ]


@pytest.mark.parametrize(
    ("name", "payload", "words", "quarantined"),
    [
        ("ack", b"rubbish", "JSON object", True),
        ("ack", b"[1]", "JSON object", True),
        ("ack", b"\xff\xfe", "JSON object", True),
        ("ack", b'{"id": "\xff"}', "JSON object", True),
        ("ack", b"[" * 9000 + b"]" * 9000, "JSON object", True),
        ("label", LABEL | {"note": "x" * 70_000}, "at most 65536 bytes", True),
        ("ack", {"id": 7}, "id of an alarm", True),
        ("ack", {"id": "../../de/x/1"}, "id of an alarm", True),
        ("ack", {"id": "pump-01/de/unbalance/6"}, "open alarm", False),
        ("label", {"machine": "pump-01"}, "expected a time", True),
        ("label", LABEL | {"from": "0001-01-01T00:00:00+14:00"}, "in the years 1900 to 2261", True),
        ("label", LABEL | {"mode": "sadness"}, "a mode of", True),
        ("label", LABEL | {"machine": "../x"}, "a machine", True),
        ("label", LABEL | {"to": LABEL["from"]}, "an end after", True),
        ("label", LABEL | {"note": ["a"]}, "texts and numbers", True),
        ("label", {"op": "retract", "id": "nobody"}, "id of a label", False),
        ("shutdown", {}, "expected one of", True),
    ],
)
def test_what_cannot_be_done_is_answered_with_the_reason_and_changes_nothing(
    tmp_path: Path, name: str, payload: Any, words: str, quarantined: bool
) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    answer = ask(live, broker, name, payload)[-1]
    assert not answer["ok"]
    assert words in answer["error"]
    assert LabelFile(tmp_path).events() == []
    assert live.states[PUMP].alarm.open == (UP,)
    reasons = Counter(row["reason"] for row in read_kind(tmp_path, "quarantine").to_pylist())
    assert reasons == ({"request": 1} if quarantined else {})
    assert live.account.missing == 0


def test_a_label_is_written_beside_the_connection_and_holds_up_nothing_but_its_own_acknowledgement(
    tmp_path: Path,
) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    seen: list[tuple[bool, list[str]]] = []
    published_by: set[threading.Thread] = set()

    class SeenRequests(Requests):
        def committed(self, batch: Batch, step: Step) -> Work | None:
            write = super().committed(batch, step)
            return None if write is None else partial(self.see, write)

        @staticmethod
        def see(write: Work) -> Sequence[Publication]:
            topics = [message.topic.split("/")[0] for message in broker.acknowledged[before:]]
            seen.append((threading.current_thread() is not threading.main_thread(), topics))
            return write()

    publish = broker.publish

    def published(topic: str, payload: bytes, **how: Any) -> None:
        published_by.add(threading.current_thread())
        publish(topic, payload, **how)

    live.results.publish = published
    requests = next(each for each in live.companions if isinstance(each, Requests))
    live.companions = (SeenRequests(requests.config, requests.reload, requests.up),)
    before = len(broker.acknowledged)
    send(broker, BLOCKS[4:6])
    assert ask(live, broker, "label", LABEL)[-1]["ok"]
    assert seen == [(True, ["plant", "plant"])], "the readings before it are acknowledged, the request is not"
    assert [message.topic for message in broker.acknowledged[before:]][2:] == ["thrumcast/cmd/label"]
    assert published_by == {threading.main_thread()}


def test_a_label_of_numbers_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    broker = Broker()
    live = asked(tmp_path, broker)
    given = LABEL | {"client_token": 5, "created": 6, "note": 7, "author": 8}
    assert ask(live, broker, "label", given)[-1]["ok"]
    (label,) = LabelFile(tmp_path).active()
    assert (label.client_token, label.created, label.note, label.author) == ("5", "6", "7", "8")


def test_a_label_of_a_machine_that_nobody_has_seen_is_kept_and_the_answer_and_the_log_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MachinesFile(tmp_path / MACHINES_NAME).update(PUMP, {})
    broker = Broker()
    live = asked(tmp_path, broker)
    assert "warning" not in ask(live, broker, "label", LABEL)[-1]
    assert "label_waits" not in caplog.text
    misspelt = ask(live, broker, "label", LABEL | {"machine": "pump-1"})[-1]
    assert misspelt["ok"]
    assert "did you mean pump-01?" in misspelt["warning"]
    assert f"label_waits id={misspelt['id']} of=pump-1 " in caplog.text
    elsewhere = ask(live, broker, "label", LABEL | {"point": "nde"})[-1]
    assert "pump-01/nde has no archived windows" in elsewhere["warning"]
    assert len(LabelFile(tmp_path).active()) == 3
    assert "warning" not in ask(live, broker, "label", {"op": "retract", "id": misspelt["id"]})[-1]
    assert live.account.missing == 0


@pytest.mark.parametrize("name", ["ack", "shutdown", "response"])
def test_no_answer_comes_back_as_a_request(tmp_path: Path, name: str) -> None:
    broker = Broker()
    ask(asked(tmp_path, broker), broker, name, {})
    (topic,) = [topic for topic, *_ in broker.published if topic.endswith("/response")]
    assert not paho.topic_matches_sub("thrumcast/cmd/+", topic)


class Client:
    """Somebody else on the broker."""

    def __init__(self, broker: PrivateBroker) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.mqtt = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.mqtt.on_message = lambda _, __, m: self.heard.append((m.topic, json.loads(m.payload or b"{}")))
        self.mqtt.connect(broker.host, broker.port)
        self.mqtt.subscribe([("thrumcast/cmd/+/response", 1), ("thrumcast/events/+", 1)])
        self.mqtt.loop_start()

    def ask(self, name: str, document: dict[str, Any]) -> None:
        self.mqtt.publish(f"thrumcast/cmd/{name}", json.dumps(document), qos=1).wait_for_publish(PATIENCE_S)

    def has(self, topic: str) -> bool:
        return any(heard == f"thrumcast/{topic}" for heard, _ in self.heard)


@pytest.fixture
def client(broker: PrivateBroker) -> Iterator[Client]:
    made = Client(broker)
    yield made
    made.mqtt.disconnect()
    made.mqtt.loop_stop()


def configured(broker: PrivateBroker, directory: Path, allowed: bool) -> Config:
    return Config(
        data=DataConfig(dir=str(directory)),
        mqtt=MqttConfig(host=broker.host, port=broker.port, commands=allowed),
        commit=CommitConfig(interval_s=0.05),
    )


@pytest.mark.network
def test_a_running_service_does_what_is_asked_over_a_broker(
    tmp_path: Path, broker: PrivateBroker, client: Client
) -> None:
    with run_service(configured(broker, tmp_path, allowed=True), wait=False) as (live, _, _):
        key = BLOCKS[0].key
        topic = TOPICS.format(machine=key.machine, point=key.point)
        client.mqtt.publish(topic, encode(BLOCKS[0]), qos=1).wait_for_publish(PATIENCE_S)
        wait_until(lambda: key in live.states, lambda: live.turn(lambda: False), "the first reading")
        live.states[key] = replace(live.states[key], alarm=AlarmState(open=(UP,)))
        client.ask("ack", {"id": f"{key}/unbalance/5"})
        client.ask("label", LABEL)
        client.ask("reload", {})
        topics = [*(f"cmd/{name}/response" for name in ("ack", "label", "reload")), "events/alarms", "events/labels"]
        wait_until(lambda: all(map(client.has, topics)), lambda: live.turn(lambda: False), "answers and events")
        assert all(answer["ok"] for topic, answer in client.heard if topic.endswith("/response"))
        assert live.states[key].alarm.open[0].acked_ns is not None
        assert len(LabelFile(tmp_path).active()) == 1


@pytest.mark.network
def test_a_service_that_may_not_be_asked_any_more_quarantines_what_the_broker_still_sends(
    tmp_path: Path, broker: PrivateBroker, client: Client
) -> None:
    with run_service(configured(broker, tmp_path, allowed=True), wait=False) as (live, _, _):
        live.turn(lambda: False)
    client.ask("label", LABEL)  # kept by the broker under the subscription of the session
    with run_service(configured(broker, tmp_path, allowed=False), wait=False) as (live, _, _):
        wait_until(lambda: live.counts["quarantined"] == 1, lambda: live.turn(lambda: False), "the message")
        live.run(lambda: True)
    assert [row["reason"] for row in read_kind(tmp_path, "quarantine").to_pylist()] == ["topic"]
    assert LabelFile(tmp_path).events() == []
    assert client.heard == []
