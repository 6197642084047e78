"""The side of the plant: publishes readings as fast as the broker acknowledges them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Self

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pipeline.edges.mqtt.link import Link
from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.edges.ports import LinkEvent
from pipeline.errors import NotReachable


class MqttPublisher:
    """Publishes at QoS 1 with at most `window` unacknowledged messages; reconnects and sends those again.

    It has no session at the broker. All methods belong to one thread; a sender that pauses calls `service` or `rest`.
    `published` counts messages, `acknowledged` PUBACKs, `refused` PUBACKs with a failure, `unsent` messages at QoS 0
    that were lost without a connection.
    """

    def __init__(self, settings: MqttSettings, *, window: int = 500) -> None:
        if not 1 <= window <= 65_000:
            msg = f"expected a window of 1 to 65000 messages, found: {window}"
            raise ValueError(msg)
        self.window = window
        self.published = self.acknowledged = self.refused = self.unsent = 0
        self._unconfirmed: set[int] = set()
        self._link = Link(replace(settings, clean_start=True, session_expiry_s=0), on_puback=self._confirmed)
        self._served_s = 0.0

    def connect(self, *, wait: bool = False) -> Self:
        """Connects; with `wait` as soon as the broker is reachable.

        Raises:
            NotReachable: without `wait`, if the broker does not answer or refuses.
        """
        self._link.connect(wait=wait)
        return self

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._link.connected

    @property
    def in_flight(self) -> int:
        """Messages without a PUBACK."""
        return len(self._unconfirmed)

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""
        return self._link.events()

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, content_type: str | None = None
    ) -> None:
        """Sends one message. Waits while the window is full, also for a lost broker.

        `content_type` is optional: it costs both sides tens of microseconds, and the payload identifies itself.
        """
        properties = None
        if content_type is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = content_type
        while qos and (not self.connected or self._window_is_full()):
            self.service(1.0)
        while self._link.connected and self._link.client.want_write():  # the socket is full: wait
            self.service(1.0)
        if not qos and not self._link.connected:
            self.unsent += 1
            self.service(0.0)
            return
        info = self._link.client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        self.published += 1
        if qos:
            self._unconfirmed.add(info.mid)
        self._link.flush()
        if time.monotonic() - self._served_s > 0.2:
            self.service(0.0)

    def service(self, timeout_s: float = 0.0) -> None:
        """Reads PUBACKs, reconnects and keeps alive; returns at the first event or after the time-out."""
        self._link.pump(timeout_s, room=lambda: True)
        self._served_s = time.monotonic()

    def rest(self, seconds: float) -> None:
        """Sleeps while the connection is served."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            self.service(left_s)

    def drain(self, *, timeout_s: float = 60.0) -> None:
        """Waits until every message is acknowledged.

        Raises:
            NotReachable: it takes longer than `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._unconfirmed or self._link.client.want_write():
            if (left_s := deadline_s - time.monotonic()) <= 0:
                address = self._link.settings.address
                msg = (
                    f"expected {address} to confirm all messages within {timeout_s:g} s, unconfirmed: {self.in_flight}"
                )
                raise NotReachable(msg, hint="the broker is unreachable or overloaded; see its log")
            self.service(min(left_s, 1.0))

    def close(self) -> None:
        """Disconnects. Call `drain` first: unacknowledged messages are given up."""
        self._link.close()

    def __enter__(self) -> Self:
        """Does not connect, because `connect` can fail and has arguments."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _window_is_full(self) -> bool:
        return len(self._unconfirmed) >= min(self.window, self._link.server_receive_maximum)

    def _confirmed(self, mid: int, reason: ReasonCode) -> bool:
        if mid not in self._unconfirmed:
            return False
        self._unconfirmed.remove(mid)
        self.acknowledged += 1
        self.refused += bool(reason.is_failure)
        return True
