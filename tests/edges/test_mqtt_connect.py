"""Connections that cannot be made, or are lost to somebody else: each is named, and none is fought for."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from harness.broker import SUBSCRIPTION, TOPIC, Site, numbered, payloads, reconnect, settings, take, wait_until
from paho.mqtt.enums import MQTTErrorCode

from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import (
    Claim,
    LinkEvent,
    MqttConnection,
    MqttPublisher,
    MqttSettings,
    claim_topic,
)
from pipeline.edges.ports import Receipt
from pipeline.errors import ConfigError, NotReachable, ThrumcastError

needs_broker = pytest.mark.network


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
    site.send(b"for the one that stayed")  # by now, or after one more connection: the older one had thrown it out
    assert payloads(take(newer, 1)) == [b"for the one that stayed"]
    epoch = newer.epoch
    newer.service(0.5)
    assert (newer.epoch, newer.connected) == (epoch, True), "nobody throws it out any more"


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
        patched.setattr(service, "_arrived", lambda delivery: 1 / 0)
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


def test_a_publisher_passes_over_a_packet_id_that_is_not_confirmed_when_the_count_comes_round() -> None:
    plant = MqttPublisher(MqttSettings(client_id="ids"))
    kept = [plant._hand_over("a", b"", 1, False).mid for _ in range(3)]
    assert kept == [1, 2, 3]
    for _ in range(65_535 - 3):
        plant._hand_over("a", b"", 0, False)  # they count, too
    info = plant._hand_over("a", b"", 1, False)
    assert (info.mid, info.rc) == (4, MQTTErrorCode.MQTT_ERR_NO_CONN)
    plant.close()


@needs_broker
def test_over_websockets_everything_passes_and_a_wrong_path_is_named(tmp_path: Path) -> None:
    port = free_port()
    listener = f"listener {port} 127.0.0.1\nprotocol websockets\n"
    try:
        broker = PrivateBroker(tmp_path / "broker", kind="mosquitto", extra_config=listener)
    except NotReachable as error:
        pytest.skip(error.message)
    with broker, Site(broker) as site:
        service = site.service(port=port, transport="websockets", status_topic="thrumcast/status")
        plant = site.plant()
        sent = [*numbered(200), bytes(range(256)) * 4096]
        for payload in sent:
            plant.publish(TOPIC, payload)
        plant.drain()
        taken = take(service, len(sent))
        assert payloads(taken) == sent
        service.acknowledge(taken)
        watcher = site.service("watcher", subscription="results/#")
        service.publish("results/large", bytes(300_000), qos=1)
        wait_until(lambda: service.settled, lambda: service.service(0.02), "the confirmation")
        assert payloads(take(watcher, 1)) == [bytes(300_000)]
        service.close()
        assert site.service(port=port, transport="websockets").take(1, 0.3) == []


def test_a_server_that_is_no_websocket_is_named_with_the_key_of_its_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        settings = MqttSettings(client_id="x", port=port, transport="websockets")
        with pytest.raises(NotReachable, match=r"404.*mqtt\.websocket_path"):
            MqttConnection(settings, subscriptions=["a"]).connect()
        thread.join()


@needs_broker
def test_a_claim_that_anybody_may_publish_ends_no_service(mosquitto: PrivateBroker) -> None:
    topic = claim_topic("thrumcast", "the-one")
    with Site(mosquitto) as site:
        service = site.service("the-one", claim=Claim(topic))
        for number in (2**62, 2**63 - 2, 2**200, "9" * 5000, -1, None):
            forged = {"number": number, "token": "f" * 16, "holder": "nobody\n12:00 forged line"}
            site.send(json.dumps(forged).encode(), topic=topic, retain=True)
            service.service(0.2)
        mosquitto.restart()
        reconnect(service)
        service.service(0.3)
        assert service.connected


def test_a_connection_holds_64_mib_of_waiting_messages_unless_told_otherwise() -> None:
    settings = MqttSettings("client", "localhost")
    assert MqttConnection(settings, subscriptions=[]).max_waiting_bytes == 67_108_864
    assert MqttConnection(settings, subscriptions=[], max_waiting_bytes=5).max_waiting_bytes == 5
