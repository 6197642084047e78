"""The MQTT edge against real brokers: nothing acknowledged is lost or repeated, nothing else is acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from harness.broker import TOPIC, Site, numbered, payloads, reconnect, settle, take, wait_until
from harness.wire import CONNECT, PINGREQ, Wire

from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt.connection import OFFLINE
from pipeline.edges.ports import Message

needs_broker = pytest.mark.network


@pytest.fixture
def wire(site: Site) -> Iterator[Wire]:
    with Wire(site.broker.port) as made:
        yield made


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
def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(site: Site) -> None:
    service = site.service()
    site.send(*numbered(10))
    service.acknowledge(take(service, 10)[:6])
    settle(service)
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
    settle(service)
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
    settle(service)
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
    settle(service)
    assert wire.sessions[0].acknowledged() == []
    service.acknowledge([taken[0]])
    settle(service)
    assert wire.sessions[0].acknowledged() == ids[:3]
    service.acknowledge(taken)
    settle(service)
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
    settle(service)
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
        settle(service)
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
    wait_until(lambda: service.subscribed, lambda: service.service(0.01), "SUBACK")
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

    def more() -> None:
        taken = service.take(10, 0.05)
        service.acknowledge(taken)  # what came twice fills the broker's window of a hundred too
        received.update(payloads(taken))

    wait_until(lambda: len(received) == 60, more, "every message")
    assert received == set(numbered(60))
    assert plant.acknowledged == 60
    assert len(wire.sessions) == 3


# -- a slow consumer -------------------------------------------------------------------------------------------------


@needs_broker
def test_a_consumer_that_takes_nothing_keeps_its_connection_and_bounds_its_memory(site: Site, wire: Wire) -> None:
    service = site.service(port=wire.port, max_waiting=5)
    service._protocol.client = replace(
        service._protocol.client, keepalive_s=1
    )  # ours alone: a broker that had been told would cut off a machine that dawdles
    site.send(*numbered(60))
    wait_until(lambda: wire.sessions[0].count(PINGREQ) >= 3, lambda: service.take(0, 0.1), "three signs of life")
    assert service.waiting == 5
    assert service.connected
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
