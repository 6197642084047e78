"""What a broker is and does, found out by asking it: CONNACK, permissions, its window and its queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.edges.mqtt import protocol
from pipeline.edges.mqtt.connection import MqttConnection
from pipeline.edges.mqtt.publisher import MqttPublisher
from pipeline.edges.mqtt.settings import MqttSettings, not_reachable, tls_context
from pipeline.edges.mqtt.stream import Stream, Waiter, open_stream
from pipeline.errors import NotReachable

QUIET_S = 0.7  # nothing more comes after so long
PATIENCE_S = 20.0
LARGEST_PACKET_BYTES = 268_435_455  # of MQTT


@dataclass(frozen=True, slots=True)
class BrokerFeatures:
    """Of the CONNACK; what the broker does not say has the meaning that MQTT 5 gives to silence."""

    receive_maximum: int  # unacknowledged messages that it takes of us
    maximum_qos: int
    maximum_packet_bytes: int
    retain: bool
    wildcards: bool
    keepalive_s: int | None  # if it wants another than ours
    session_expiry_s: int  # what it grants
    subscriptions: dict[str, bool] = field(default_factory=dict)  # whether each was allowed


def features(settings: MqttSettings, subscriptions: Sequence[str]) -> BrokerFeatures:
    """Connects, subscribes, and leaves. Some brokers close the connection at a topic with $: these are asked alone.

    Raises:
        NotReachable: the broker does not answer or refuses.
        ConfigError: the password file or a certificate cannot be used.
    """
    plain = [topic for topic in subscriptions if not topic.startswith("$")]
    found = _features(settings, plain)
    for topic in subscriptions:
        if topic.startswith("$"):
            try:
                found.subscriptions.update(_features(settings, [topic]).subscriptions)
            except NotReachable:
                found.subscriptions[topic] = False
    return found


def _features(settings: MqttSettings, subscriptions: Sequence[str]) -> BrokerFeatures:
    password = settings.password()
    client = protocol.Client(
        settings.client_id,
        username=settings.username,
        password=None if password is None else password.encode(),
        keepalive_s=settings.keepalive_s,
        clean_start=settings.clean_start,
        session_expiry_s=settings.session_expiry_s,
        notes=tuple(subscriptions),  # at QoS 0: if we are killed here, the session that stays behind stays empty
    )
    try:
        stream = open_stream(settings, tls_context(settings) if settings.tls else None)
    except (OSError, ValueError) as error:
        raise not_reachable(settings, error) from error
    try:
        limits, refused = _asked(stream, protocol.Protocol(client), settings)
    except (OSError, protocol.ProtocolError) as error:
        raise not_reachable(settings, error) from error
    finally:
        stream.close()
    return BrokerFeatures(
        receive_maximum=limits.receive_maximum,
        maximum_qos=limits.maximum_qos,
        maximum_packet_bytes=limits.maximum_packet_bytes or LARGEST_PACKET_BYTES,
        retain=limits.retain,
        wildcards=limits.wildcards,
        keepalive_s=limits.keepalive_s,
        session_expiry_s=settings.session_expiry_s if limits.session_expiry_s is None else limits.session_expiry_s,
        subscriptions={topic: topic not in refused for topic in subscriptions},
    )


def _asked(
    stream: Stream, asking: protocol.Protocol, settings: MqttSettings
) -> tuple[protocol.ServerLimits, dict[str, str]]:
    """CONNECT, SUBSCRIBE and DISCONNECT; what the broker said to the first two."""
    deadline_s = time.monotonic() + settings.connect_timeout_s
    asking.begin(time.monotonic())
    waiter = Waiter()
    unwritten = bytearray()
    try:
        while True:
            unwritten += asking.data_to_send()
            del unwritten[: stream.send(memoryview(bytes(unwritten)))]
            while (event := asking.next_event()) is not None:
                if isinstance(event, protocol.Refused | protocol.Disconnected):
                    raise not_reachable(settings, event.reason)
                if isinstance(event, protocol.Subscribed):
                    asking.disconnect(forget_session=True)  # whatever was granted: nothing stays behind
                    stream.send(memoryview(asking.data_to_send()))
                    return asking.limits, event.refused
            if time.monotonic() > deadline_s:
                raise not_reachable(settings, "no answer in time")
            waiter.wait(stream.sock, reading=True, writing=bool(unwritten), timeout_s=0.1)
            count = stream.receive_into(asking.free_space())
            if count == 0:
                raise not_reachable(settings, "the connection was closed")
            asking.received(count or 0, time.monotonic())
    finally:
        waiter.close()


@dataclass(frozen=True, slots=True)
class Delivery:
    """How messages to ourselves came back."""

    refused: bool  # the broker does not let us publish there
    arrived: bool  # one message came back at all
    round_trip_s: float
    sent: int  # small messages, to a subscriber that acknowledged none of them
    in_flight: int  # of those that came all the same
    kept: int  # that came in the end

    @property
    def queued(self) -> int:
        """What the broker kept beyond its window; if nothing was dropped, it may keep more."""
        return self.kept - self.in_flight

    @property
    def dropped(self) -> int:
        """What it confirmed to the sender and threw away."""
        return self.sent - self.kept


def delivery(settings: MqttSettings, topic: str, count: int) -> Delivery:
    """Sends `count` small messages to ourselves on a topic of our own, and acknowledges none until no more come.

    So the broker shows how many it sends unacknowledged and how many more it keeps; what goes beyond is dropped
    while the publisher is told that all is well.

    Raises:
        NotReachable: the broker goes away.
    """
    ours = replace(settings, clean_start=True, session_expiry_s=0)
    reader = MqttConnection(
        replace(ours, client_id=f"{settings.client_id}-r"), subscriptions=[topic], max_waiting=count + 10
    )
    writer = MqttPublisher(replace(ours, client_id=f"{settings.client_id}-w"))
    with reader, writer:
        reader.connect()
        writer.connect()
        began_s = time.monotonic()
        writer.publish(topic, b"one")
        writer.drain(timeout_s=PATIENCE_S)
        first = reader.take(1, QUIET_S)
        round_trip_s = time.monotonic() - began_s
        if writer.refused or not first:
            return Delivery(writer.refused > 0, bool(first), round_trip_s, 0, 0, 0)
        reader.acknowledge(first)
        reader.service(0.05)
        for number in range(count):
            writer.publish(topic, b"%d" % number)
        writer.drain(timeout_s=PATIENCE_S)
        _until_quiet(reader)
        in_flight = kept = reader.waiting
        while taken := reader.take(count, QUIET_S):
            reader.acknowledge(taken)
            kept += len(taken)
        return Delivery(False, True, round_trip_s, count, in_flight, kept - in_flight)


def _until_quiet(reader: MqttConnection) -> None:
    before, until_s = -1, time.monotonic() + PATIENCE_S
    while reader.waiting != before and time.monotonic() < until_s:
        before = reader.waiting
        reader.service(QUIET_S)
