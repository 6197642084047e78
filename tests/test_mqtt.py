"""The MQTT edge against real brokers: nothing acknowledged is lost or repeated, nothing else is acknowledged."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.broker import SUBSCRIPTION, TOPIC, Site, payloads, reconnect, settings, take, wait_until
from harness.wire import CONNECT, PINGREQ, Wire
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.records import StreamKey
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import (
    Claim,
    LinkEvent,
    MqttConnection,
    MqttPublisher,
    MqttSettings,
    TopicTemplate,
    claim_topic,
)
from pipeline.edges.mqtt.source import OFFLINE
from pipeline.edges.ports import MemoryBroker, Message, Receipt
from pipeline.errors import ConfigError, NotReachable, ThrumcastError

needs_broker = pytest.mark.network
IDS = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True).filter(lambda text: text.strip(".") != "")


@pytest.fixture
def wire(site: Site) -> Iterator[Wire]:
    with Wire(site.broker.port) as made:
        yield made


def numbered(count: int) -> list[bytes]:
    return [f"{number}".encode() for number in range(count)]


# -- topics ----------------------------------------------------------------------------------------------------------


@given(area=IDS, machine=IDS, point=IDS)
def test_a_topic_made_from_a_template_names_its_stream_again(area: str, machine: str, point: str) -> None:
    template = TopicTemplate("plant/{area}/{machine}/{point}/vibration")
    topic = template.format(area=area, machine=machine, point=point)
    assert template.parse(topic) == StreamKey(machine, point)
    assert len(topic.split("/")) == len(template.subscription.split("/"))


@given(st.text())
def test_any_topic_gives_a_stream_of_ids_or_none(topic: str) -> None:
    key = TopicTemplate("{machine}/{point}").parse(topic)
    assert key is None or "/".join(key) == topic


@pytest.mark.parametrize(
    "topic",
    ["plant/a/m/p", "plant/a/m/p/vibration/", "plant/a/../p/vibration", "plant/a/m m/p/vibration",
     "plant/a//p/vibration", "plant/a/m/p/vibration\n",
     "plant/a/" + "m" * 65 + "/p/vibration", "other/a/m/p/vibration", ""],
)  # fmt: skip
def test_a_foreign_topic_has_no_stream(topic: str) -> None:
    assert TopicTemplate("plant/{area}/{machine}/{point}/vibration").parse(topic) is None


def test_the_subscription_has_a_plus_for_every_place() -> None:
    assert TopicTemplate("plant/{area}/{machine}/{point}/vibration").subscription == SUBSCRIPTION
    assert TopicTemplate("v1.0/{point}/of/{machine}").subscription == "v1.0/+/of/+"


@pytest.mark.parametrize(
    "template",
    ["plant", "plant/{machine}", "{machine}/{machine}/{point}", "plant/m-{machine}/{point}", "{machine}/{point}/#",
     "+/{machine}/{point}", "{machine}/{point}/{line}", ""],
)  # fmt: skip
def test_a_template_that_cannot_work_is_refused_by_its_key(template: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.readings_topic"):
        TopicTemplate(template)


def test_a_topic_is_not_made_of_what_is_no_id() -> None:
    with pytest.raises(ValueError, match="as machine expected"):
        TopicTemplate("{machine}/{point}").format(machine="a/b", point="p")


# -- the twin in memory ----------------------------------------------------------------------------------------------


def test_the_twin_delivers_again_what_was_not_acknowledged() -> None:
    broker = MemoryBroker()
    broker.send(TOPIC, numbered(4))
    first = broker.take(3, 0.0)
    broker.acknowledge(first[:1])
    broker.restart()
    broker.acknowledge(first[1:])  # of the former connection: nothing
    again = broker.take(10, 0.0)
    assert payloads(again) == [b"1", b"2", b"3"]
    assert payloads(broker.acknowledged) == [b"0"]
    assert [message.receipt.epoch for message in again] == [2, 2, 2]


def test_the_twin_never_repeats_qos_0() -> None:
    broker = MemoryBroker()
    broker.send(TOPIC, numbered(2), qos=0)
    broker.take(1, 0.0)
    broker.restart()
    assert payloads(broker.take(10, 0.0)) == [b"1"]


# -- delivery --------------------------------------------------------------------------------------------------------


@needs_broker
def test_messages_come_in_order_with_what_is_known_of_them(site: Site) -> None:
    service = site.service()
    plant = site.plant()
    for payload in numbered(300):
        plant.publish(TOPIC, payload)
    plant.publish(TOPIC, b"typed", content_type="application/json")
    plant.drain()
    messages: list[Message] = []

    def more() -> None:
        messages.extend(taken := service.take(50, 0.1))
        service.acknowledge(taken)  # iotcore sends no more than 100 before that

    wait_until(lambda: len(messages) >= 301, more, "301 messages")
    assert payloads(messages[:-1]) == numbered(300)
    assert [message.receipt.number for message in messages] == list(range(1, 302))
    assert {(message.topic, message.qos, message.retained, message.receipt.epoch) for message in messages} == {
        (TOPIC, 1, False, 1)
    }
    assert messages[0].content_type is None
    assert messages[-1].content_type == "application/json"
    assert plant.acknowledged == plant.published == 301
    assert plant.refused == 0


@needs_broker
def test_a_payload_of_one_mebibyte_passes(site: Site) -> None:
    service = site.service()
    payload = bytes(range(256)) * 4096
    site.send(payload)
    assert take(service, 1)[0].payload == payload


@needs_broker
def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port)
    site.send(*numbered(10))
    service.acknowledge(take(service, 10)[:6])
    wait_until(lambda: len(wire.sessions[0].acknowledged()) == 6, lambda: service.service(0.01), "PUBACKs on the wire")
    service.close()
    successor = site.service()
    site.send(b"last")
    assert payloads(take(successor, 5)) == [b"6", b"7", b"8", b"9", b"last"]


@needs_broker
def test_after_a_lost_connection_the_rest_comes_again_under_a_new_epoch(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port)
    site.send(*numbered(6))
    taken = take(service, 6)
    service.acknowledge(taken[:2])
    wait_until(lambda: len(wire.sessions[0].acknowledged()) == 2, lambda: service.service(0.01), "PUBACKs on the wire")
    wire.cut()
    reconnect(service)
    again = take(service, 4)
    assert payloads(again) == [b"2", b"3", b"4", b"5"]
    assert [message.receipt.epoch for message in again] == [2] * 4
    kinds = [event.kind for event in service.events()]
    assert kinds == ["connected", "disconnected", "connected"]


@needs_broker
def test_an_acknowledgement_of_a_former_connection_is_never_sent(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port)
    site.send(*numbered(5))
    former = take(service, 5)
    wire.cut()
    wait_until(lambda: not service.connected, lambda: service.service(0.01), "the loss")
    service.acknowledge(former)  # while there is no connection: a PUBACK would go out before CONNECT
    reconnect(service)
    service.acknowledge(former)
    again = take(service, 5)
    service.acknowledge(former)
    service.acknowledge(again[:1])
    wait_until(lambda: bool(wire.sessions[1].acknowledged()), lambda: service.service(0.01), "a PUBACK on the wire")
    service.service(0.1)
    assert wire.sessions[1].acknowledged() == [again[0].receipt.mid]
    assert wire.sessions[1].sent[0][0] == CONNECT


@needs_broker
def test_acknowledgements_go_out_in_order_of_arrival_without_a_hole(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port)
    site.send(*numbered(6))
    taken = take(service, 6)
    ids = [message.receipt.mid for message in taken]
    service.acknowledge([taken[4], taken[2], taken[1]])
    service.acknowledge([taken[2]])
    service.service(0.1)
    assert wire.sessions[0].acknowledged() == []
    service.acknowledge([taken[0]])
    wait_until(lambda: len(wire.sessions[0].acknowledged()) >= 3, lambda: service.service(0.01), "PUBACKs on the wire")
    service.service(0.1)
    assert wire.sessions[0].acknowledged() == ids[:3]
    service.acknowledge(taken)
    wait_until(lambda: len(wire.sessions[0].acknowledged()) >= 6, lambda: service.service(0.01), "PUBACKs on the wire")
    assert wire.sessions[0].acknowledged() == ids
    assert service.in_flight == 0
    assert service.connected


@needs_broker
def test_qos_0_is_delivered_and_never_acknowledged(site: Site, wire: Wire) -> None:
    if site.broker.kind == "iotcore":
        pytest.skip("iotcore delivers at the subscriber's QoS, whatever the sender's")
    service = site.service(port=wire.port)
    site.send(b"zero", qos=0)
    taken = take(service, 1)
    service.acknowledge(taken)
    service.service(0.1)
    assert taken[0].qos == 0
    assert wire.sessions[0].acknowledged() == []
    assert service.in_flight == 0


@needs_broker
def test_retained_readings_are_not_replayed_at_a_connect_or_are_marked(site: Site) -> None:
    site.send(b"old", retain=True)
    service = site.service()
    site.send(b"new")
    messages: list[Message] = []
    wait_until(lambda: b"new" in payloads(messages), lambda: messages.extend(service.take(1, 0.1)), "the new one")
    if site.broker.kind == "iotcore":  # does not know the option
        assert [message.retained for message in messages if message.payload == b"old"] in ([], [True])
    else:
        assert payloads(messages) == [b"new"]


@needs_broker
def test_a_restart_of_the_broker_loses_nothing(mosquitto: PrivateBroker) -> None:
    with Site(mosquitto) as site:
        service, plant = site.service(), site.plant()
        for payload in numbered(20):
            plant.publish(TOPIC, payload)
        plant.drain()
        taken = take(service, 20)
        service.acknowledge(taken[:15])
        service.service(0.2)
        mosquitto.restart()
        reconnect(service)
        plant.publish(TOPIC, b"after")
        plant.drain()
        assert payloads(take(service, 6)) == [b"15", b"16", b"17", b"18", b"19", b"after"]
        assert "session_lost" not in {event.kind for event in service.events()}


@needs_broker
def test_a_broker_that_has_forgotten_the_session_is_told_of_and_subscribed_to_again(site: Site) -> None:
    if site.broker.kind == "mosquitto":
        pytest.skip("mosquitto keeps its sessions")
    service = site.service()
    site.broker.restart(kill=True)
    reconnect(service)
    wait_until(lambda: service._link.subscribed, lambda: service.service(0.01), "SUBACK")
    site.send(b"after")
    assert payloads(take(service, 1)) == [b"after"]
    assert [event.kind for event in service.events()][-2:] == ["connected", "session_lost"]


@needs_broker
def test_what_a_publisher_has_not_had_confirmed_is_sent_again(site: Site, wire: Wire) -> None:
    service = site.service()
    plant = site.plant(port=wire.port)
    for number, payload in enumerate(numbered(60)):
        plant.publish(TOPIC, payload)
        if number in (20, 40):
            wire.cut()
    plant.drain()
    received: set[bytes] = set()
    wait_until(lambda: len(received) == 60, lambda: received.update(payloads(service.take(10, 0.05))), "every message")
    assert received == set(numbered(60))
    assert plant.acknowledged == 60
    assert len(wire.sessions) == 3


# -- a slow consumer -------------------------------------------------------------------------------------------------


@needs_broker
def test_a_consumer_that_takes_nothing_keeps_its_connection_and_bounds_its_memory(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port, max_waiting=5, keepalive_s=1)
    site.send(*numbered(60))
    service.take(0, 3.5)  # three keep-alives; brokers give up after one and a half
    assert service.waiting == 5
    assert service.connected
    assert service.epoch == 1
    assert sum(kind == PINGREQ for kind, _ in wire.sessions[0].sent) >= 2
    received: list[Message] = []

    def more() -> None:
        received.extend(taken := service.take(5, 0.1))
        service.acknowledge(taken)

    wait_until(lambda: len(received) >= 60, more, "all messages")
    assert payloads(received) == numbered(60)
    assert service.epoch == 1


@needs_broker
def test_large_messages_that_wait_are_bounded_by_their_bytes(site: Site) -> None:
    service = site.service(max_waiting_bytes=3 * 2**20)
    site.send(*[bytes(2**20)] * 8)
    wait_until(lambda: service.waiting >= 3, lambda: service.service(0.02), "three messages")
    service.service(0.2)
    assert service.waiting == 3
    assert len(take(service, 8)) == 8


@needs_broker
def test_take_returns_at_most_its_limit_and_nothing_when_nothing_comes(site: Site) -> None:
    service = site.service()
    assert service.take(10, 0.05) == []
    site.send(*numbered(9))
    assert len(service.take(4, 5.0)) <= 4


# -- results and the last will ---------------------------------------------------------------------------------------


@needs_broker
def test_the_last_will_says_offline_when_the_process_is_gone_and_close_says_it_too(site: Site, wire: Wire) -> None:
    watcher = site.service("watcher", subscription="thrumcast/status")
    for number, end in enumerate(["cut", "close"]):
        service = site.service(f"service-{number}", port=wire.port, status_topic="thrumcast/status")
        service.publish("thrumcast/status", b'{"state":"online"}', qos=1, retain=True)
        assert payloads(take(watcher, 1)) == [b'{"state":"online"}']
        if end == "cut":
            wire.cut()
        else:
            service.close()
        assert payloads(take(watcher, 1)) == [OFFLINE]


@needs_broker
def test_a_result_at_qos_1_waits_for_the_connection_and_one_at_qos_0_is_counted(site: Site, wire: Wire) -> None:
    watcher = site.service("watcher", subscription="results/#")
    service = site.service(port=wire.port)
    wire.cut()
    wait_until(lambda: not service.connected, lambda: service.service(0.01), "the loss")
    service.publish("results/state", b"one", qos=1)
    service.publish("results/prediction", b"zero")
    assert service.unsent == 1
    reconnect(service)
    assert payloads(take(watcher, 1)) == [b"one"]


# -- a broker that is not there --------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("client", [MqttPublisher, lambda s: MqttConnection(s, subscriptions=[SUBSCRIPTION])])
def test_a_broker_that_is_not_there_is_named_with_host_port_and_hint(client: type[MqttPublisher]) -> None:
    port = free_port()
    with pytest.raises(NotReachable, match=f"127.0.0.1:{port}") as caught:
        client(MqttSettings(client_id="x", port=port)).connect()
    assert "is it running" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_a_name_that_nobody_knows_is_blamed_on_the_host() -> None:
    with pytest.raises(NotReachable, match=r"no-such-host\.invalid") as caught:
        MqttPublisher(MqttSettings(client_id="x", host="no-such-host.invalid")).connect()
    assert "mqtt.host" in str(caught.value.hint)


def test_something_that_does_not_speak_mqtt_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotReachable, match="no answer to CONNECT") as caught:
            MqttPublisher(MqttSettings(client_id="x", port=port, connect_timeout_s=0.2)).connect()
    assert "MQTT 5" in str(caught.value.hint)


@needs_broker
def test_refused_credentials_are_blamed_on_the_user(tmp_path: Path) -> None:
    try:
        broker = PrivateBroker(tmp_path, kind="mosquitto", anonymous=False)
    except NotReachable as error:
        pytest.skip(error.message)
    password = tmp_path / "password"
    password.write_text("secret\n")
    with broker, pytest.raises(NotReachable, match=r"Not authorized|Bad user name") as caught:
        MqttPublisher(settings(broker, "x", username="me", password_file=password)).connect()
    assert "mqtt.password_file" in str(caught.value.hint)
    assert "secret" not in str(caught.value)


@needs_broker
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls_everything_passes_and_a_stranger_s_certificate_does_not(tmp_path: Path) -> None:
    for name in ("ours", "strange"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
    port = free_port()
    listener = (
        f"listener {port} 127.0.0.1\ncertfile {tmp_path / 'ours.crt'}\nkeyfile {tmp_path / 'ours.key'}\n"
        f"tls_version tlsv1.2\n"
    )
    try:
        broker = PrivateBroker(tmp_path / "broker", kind="mosquitto", extra_config=listener)
    except NotReachable as error:
        pytest.skip(error.message)
    tls = {"port": port, "tls": True}
    with broker, Site(broker) as site:
        service = site.service(ca_file=tmp_path / "ours.crt", **tls)
        plant = site.plant(ca_file=tmp_path / "ours.crt", **tls)
        sent = [*numbered(200), bytes(2**20)]
        for payload in sent:
            plant.publish(TOPIC, payload)
        plant.drain()
        assert payloads(take(service, len(sent))) == sent
        with pytest.raises(NotReachable) as caught:
            site.plant("other", ca_file=tmp_path / "strange.crt", **tls)
        assert "mqtt.tls_ca_file" in str(caught.value.hint)
        with pytest.raises(ConfigError, match=r"mqtt\.tls_ca_file"):
            site.plant("third", ca_file=tmp_path / "missing.crt", **tls)


def test_a_password_file_that_is_not_there_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.password_file"):
        MqttPublisher(MqttSettings(client_id="x", username="me", password_file=tmp_path / "none"))


@needs_broker
def test_a_client_that_may_wait_connects_when_the_broker_comes(tmp_path: Path) -> None:
    broker = PrivateBroker(tmp_path)
    with MqttConnection(settings(broker, "service"), subscriptions=[SUBSCRIPTION]) as service:
        service.connect(wait=True)
        assert service.take(10, 0.1) == []
        with broker:
            wait_until(lambda: service.connected, lambda: service.service(0.02), "a connection")
            service.close()
        assert service.events()[0].kind == "refused"


@needs_broker
def test_a_client_whose_session_is_taken_over_does_not_fight_for_it(mosquitto: PrivateBroker) -> None:
    with Site(mosquitto) as site:
        service = site.service("the-one")
        other = site.service("the-one")
        wait_until(lambda: not service.connected, lambda: service.service(0.02), "the loss")
        kinds = [event.kind for event in service.events()]
        if kinds[-1] == "taken_over":  # brokers since 2.1 say so
            with pytest.raises(ThrumcastError, match="another client"):
                service.service()
        else:
            assert kinds[-1] == "disconnected"
        assert other.connected


@needs_broker
def test_of_two_services_under_one_client_id_the_newer_stays_and_the_older_ends_by_name(
    mosquitto: PrivateBroker,
) -> None:
    with Site(mosquitto) as site:
        older_ends(site)


def older_ends(site: Site) -> None:
    topic = claim_topic("thrumcast", "the-one")
    older = site.service("the-one", claim=Claim(topic))
    newer = site.service("the-one", claim=Claim(topic, holder="the newer one"))

    def both() -> None:
        newer.service(0.02)
        older.service(0.02)

    with pytest.raises(ConfigError, match="another client: the newer one"):
        wait_until(lambda: False, both, "the end of the older one")
    older.close()
    newer.service(0.5)  # the older one had thrown it out
    wait_until(lambda: newer.connected, lambda: newer.service(0.05), "the newer one's connection")
    assert newer.epoch <= 2
    site.send(b"for the one that stayed")
    assert payloads(take(newer, 1)) == [b"for the one that stayed"]


@needs_broker
def test_a_restarted_service_is_not_thrown_out_by_what_it_claimed_before(site: Site) -> None:
    topic = claim_topic("thrumcast", "the-one")
    before = site.service("the-one", claim=Claim(topic, number=2**62))  # by a clock that was far ahead
    before.close()
    after = site.service("the-one", claim=Claim(topic, number=1))
    after.service(0.3)
    assert after.connected


@needs_broker
def test_an_exception_in_a_callback_is_raised_on_the_caller_and_the_connection_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = site.service()
    with monkeypatch.context() as patched:
        patched.setattr(service._link, "_on_message", lambda message: 1 / 0)
        site.send(b"poison")
        with pytest.raises(ZeroDivisionError):
            take(service, 1)
    site.send(b"next")
    assert payloads(take(service, 1)) == [b"next"]


def test_events_are_told_once() -> None:
    service = MqttConnection(MqttSettings(client_id="x", port=free_port(), backoff_s=(5, 5)), subscriptions=["a"])
    service.connect(wait=True)
    events: list[LinkEvent] = []
    wait_until(lambda: bool(events), lambda: (service.service(0.01), events.extend(service.events())), "the refusal")
    assert [event.kind for event in events] == ["refused"]
    assert service.events() == []
    service.close()


def test_a_receipt_is_plain_data() -> None:
    assert Receipt(1, 2, 3) == (1, 2, 3)
