"""Clients around a real broker, with waits on facts instead of times."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttConnection, MqttPublisher, MqttSettings
from pipeline.edges.ports import Message

TOPIC = "plant/main/pump-1/drive/vibration"
SUBSCRIPTION = "plant/+/+/+/vibration"
PATIENCE_S = 30.0  # a fact that does not come in this time never comes; nothing waits it out on success


def wait_until(fact: Callable[[], bool], between: Callable[[], object], what: str) -> None:
    """Calls `between` until `fact` holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline_s, f"never came: {what}"
        between()


def settings(broker: PrivateBroker, client_id: str, **changes: Any) -> MqttSettings:
    changes = {"port": broker.port, "backoff_s": (0.02, 0.1), **changes}
    return MqttSettings(client_id=client_id, host=broker.host, **changes)


class Site:
    """A broker, and the service's and the plant's clients on it; all are closed at the end."""

    def __init__(self, broker: PrivateBroker) -> None:
        self.broker = broker
        self._stack = ExitStack()

    def service(self, client_id: str = "service", *, port: int | None = None, **changes: Any) -> MqttConnection:
        """A connected subscriber; keywords of MqttSettings and of MqttConnection alike."""
        own = {
            key: changes.pop(key)
            for key in ("max_waiting", "max_waiting_bytes", "status_topic", "claim", "subscriptions")
            if key in changes
        }
        subscription = changes.pop("subscription", SUBSCRIPTION)
        own.setdefault("subscriptions", [subscription])
        if port is not None:
            changes["port"] = port
        return self._stack.enter_context(MqttConnection(settings(self.broker, client_id, **changes), **own)).connect()

    def plant(self, client_id: str = "plant", **changes: Any) -> MqttPublisher:
        return self._stack.enter_context(MqttPublisher(settings(self.broker, client_id, **changes))).connect()

    def send(self, *payloads: bytes, topic: str = TOPIC, qos: int = 1, retain: bool = False) -> None:
        """Published by a plant that has come for it, confirmed, and gone."""
        with MqttPublisher(settings(self.broker, "sender")).connect() as plant:
            for payload in payloads:
                plant.publish(topic, payload, qos=qos, retain=retain)
            plant.drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def take(connection: MqttConnection, count: int) -> list[Message]:
    """Exactly so many messages."""
    taken: list[Message] = []
    wait_until(
        lambda: len(taken) >= count,
        lambda: taken.extend(connection.take(count - len(taken), 0.1)),
        f"{count} messages",
    )
    return taken


def settle(connection: MqttConnection) -> None:
    """Returns when the broker has read all that went over this connection, acknowledgements too: it reads in order."""
    connection.publish("settled", b"", qos=1)
    wait_until(
        lambda: connection.connected and connection.settled,
        lambda: connection.service(0.01),
        "the broker's confirmation",
    )


def numbered(count: int) -> list[bytes]:
    return [f"{number}".encode() for number in range(count)]


def payloads(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages]


def reconnect(connection: MqttConnection) -> None:
    """Serves the connection until it is made anew."""
    before = connection.epoch
    wait_until(lambda: connection.epoch > before, lambda: connection.service(0.02), "a new connection")
