"""Probes a broker: its CONNACK, permissions, in-flight window and queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from pipeline.edges.mqtt.publisher import MqttPublisher
from pipeline.edges.mqtt.settings import MqttSettings, make_client, not_reachable
from pipeline.edges.mqtt.source import MqttConnection

QUIET_S = 0.7  # without a message for this long, no more will come
PATIENCE_S = 20.0
_UNLIMITED = {"ReceiveMaximum": 65535, "MaximumQoS": 2, "MaximumPacketSize": 268_435_455}


@dataclass(frozen=True, slots=True)
class BrokerFeatures:
    """The features in the CONNACK, with the defaults of MQTT 5."""

    receive_maximum: int  # unacknowledged messages that it accepts from us
    maximum_qos: int
    maximum_packet_bytes: int
    retain: bool
    wildcards: bool
    keepalive_s: int | None  # if it differs from ours
    session_expiry_s: int  # what it grants
    subscriptions: dict[str, bool] = field(default_factory=dict)  # whether each was allowed


def features(settings: MqttSettings, subscriptions: Sequence[str]) -> BrokerFeatures:
    """Connects, subscribes and disconnects.

    Raises:
        NotReachable: the broker does not answer or refuses.
        ConfigError: the password file or a certificate is unusable.
    """
    client = make_client(settings, None)
    told: list[tuple[ReasonCode, Any]] = []
    granted: list[list[ReasonCode]] = []
    client.on_connect = lambda _c, _u, _f, reason, properties: told.append((reason, properties))
    client.on_subscribe = lambda _c, _u, _m, reasons, _p: granted.append(reasons)
    try:
        client.reconnect()
        _loop_until(client, lambda: bool(told), settings)
        reason, properties = told[0]
        if reason.is_failure:
            raise not_reachable(settings, str(reason))
        # QoS 0: if this process is killed here, the broker queues nothing for the session that remains.
        client.subscribe([(topic, SubscribeOptions(qos=0)) for topic in subscriptions])
        _loop_until(client, lambda: bool(granted), settings)
    except OSError as error:
        raise not_reachable(settings, error) from error
    finally:
        leave = Properties(PacketTypes.DISCONNECT)
        leave.SessionExpiryInterval = 0  # leave no session
        client.disconnect(properties=leave)
        client.loop(0.1)
    found: dict[str, Any] = {name: getattr(properties, name, value) for name, value in _UNLIMITED.items()}
    return BrokerFeatures(
        receive_maximum=found["ReceiveMaximum"],
        maximum_qos=found["MaximumQoS"],
        maximum_packet_bytes=found["MaximumPacketSize"],
        retain=bool(getattr(properties, "RetainAvailable", 1)),
        wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
        keepalive_s=getattr(properties, "ServerKeepAlive", None),
        session_expiry_s=getattr(properties, "SessionExpiryInterval", settings.session_expiry_s),
        subscriptions={t: not r.is_failure for t, r in zip(subscriptions, granted[0], strict=True)},
    )


def _loop_until(client: paho.Client, fact: Callable[[], bool], settings: MqttSettings) -> None:
    deadline_s = time.monotonic() + settings.connect_timeout_s
    while not fact():
        if client.loop(0.1) != paho.MQTT_ERR_SUCCESS and not fact():
            raise not_reachable(settings, "the connection was closed")
        if time.monotonic() > deadline_s:
            raise not_reachable(settings, "no answer in time")


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of test messages to ourselves."""

    refused: bool  # the broker does not allow us to publish there
    arrived: bool  # at least one message came back
    round_trip_s: float
    sent: int  # small messages, to a subscriber that acknowledged none of them
    in_flight: int  # messages that it sent without acknowledgements
    kept: int  # messages that arrived in the end

    @property
    def queued(self) -> int:
        """Messages that the broker queued beyond its window. If none was dropped, it may queue more."""
        return self.kept - self.in_flight

    @property
    def dropped(self) -> int:
        """Messages that it acknowledged to the sender and then dropped."""
        return self.sent - self.kept


def delivery(settings: MqttSettings, topic: str, count: int) -> Delivery:
    """Sends `count` small messages to ourselves and acknowledges none until no more arrive.

    So the broker shows how many messages it sends unacknowledged and how many more it queues. It drops the rest, while
    it acknowledges them to the publisher.

    Raises:
        NotReachable: the connection was lost.
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
