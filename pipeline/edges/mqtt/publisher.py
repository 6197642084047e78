"""The plant's side: readings to a broker, as fast as it confirms them.

Simulator and replay publish through paho-mqtt, so the service's own protocol meets an independent implementation
wherever the two work together.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from dataclasses import replace
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pipeline.edges.mqtt.settings import MqttSettings, not_reachable, tls_context
from pipeline.edges.mqtt.stream import Backoff, Waiter
from pipeline.edges.ports import LinkEvent
from pipeline.errors import NotReachable

_PACKET_IDS: Final = 65_535
_SERVED_EVERY_S: Final = 0.2


class MqttPublisher:
    """Publishes at QoS 1 with at most `window` messages unconfirmed; reconnects and sends the unconfirmed ones again.

    It keeps no session at the broker. All methods belong to one thread; a sender that pauses does so in `service`.
    `published` counts what was handed over, `acknowledged` the PUBACKs, `refused` those of them that said no, `unsent`
    what was lost at QoS 0 because there was no connection.
    """

    def __init__(self, settings: MqttSettings, *, window: int = 500) -> None:
        """Raises `ConfigError` if the password file or a certificate cannot be used."""
        if not 1 <= window <= 65_000:
            msg = f"a window of 1 to 65000 messages expected, found: {window}"
            raise ValueError(msg)
        self.settings = replace(settings, clean_start=True, session_expiry_s=0)
        self.window = window
        self.published = self.acknowledged = self.refused = self.unsent = 0
        self.connected = False  # the broker has accepted us and not gone since
        self._unconfirmed: set[int] = set()
        self._receive_maximum = 65_535  # the broker's
        self._error: Exception | str | None = None
        self._epoch = 0
        self._events: deque[LinkEvent] = deque(maxlen=1000)
        self._waiter = Waiter()
        self._backoff = Backoff(*settings.backoff_s)
        self._since_s = 0.0
        self._served_s = 0.0
        self._closed = False
        self._client = self._made()

    def connect(self, *, wait: bool = False) -> Self:
        """Connects; with `wait` does so whenever the broker comes.

        Raises:
            NotReachable: without `wait`, if the broker does not answer or refuses.
        """
        self._begin()
        deadline_s = time.monotonic() + self.settings.connect_timeout_s
        while not wait and not self.connected:
            if self._error is None and time.monotonic() > deadline_s:
                self._error = "no answer to CONNECT in time"
            if self._error is not None:
                self.close()
                raise not_reachable(self.settings, self._error)
            self.service(0.05)
        return self

    @property
    def in_flight(self) -> int:
        """Messages without a PUBACK."""
        return len(self._unconfirmed)

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, content_type: str | None = None
    ) -> None:
        """Sends one message; waits while the window is full, also for a broker that has gone to come back.

        `content_type` costs both sides tens of microseconds, and the payload says what it is.
        """
        properties = None
        if content_type is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = content_type
        while qos and (not self.connected or self._window_is_full()):
            self.service(1.0)
        while self.connected and self._client.want_write():  # the socket is full: wait, do not pile up
            self.service(1.0)
        if not qos and not self.connected:
            self.unsent += 1
            self.service(0.0)
            return
        info = self._hand_over(topic, payload, qos, retain, properties)
        self.published += 1
        if qos:
            self._unconfirmed.add(info.mid)
        self._client.loop_write()
        if time.monotonic() - self._served_s > _SERVED_EVERY_S:
            self.service(0.0)

    def service(self, timeout_s: float = 0.0) -> None:
        """Reads PUBACKs, reconnects, keeps alive; returns at the first thing that happened or when the time is over."""
        self._served_s = time.monotonic()
        sock = self._client.socket()
        if sock is None:
            self._revive(timeout_s)
            return
        writing = self._client.want_write()
        readable, writable = self._waiter.wait(sock, reading=True, writing=writing, timeout_s=timeout_s)
        if readable:
            self._client.loop_read()
        if writable and self._client.socket() is not None:
            self._client.loop_write()
        self._client.loop_misc()

    def rest(self, seconds: float) -> None:
        """Sleeps, with the connection served."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            self.service(left_s)

    def drain(self, *, timeout_s: float = 60.0) -> None:
        """Waits until every message is confirmed.

        Raises:
            NotReachable: if that takes longer than `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._unconfirmed or self._client.want_write():
            if (left_s := deadline_s - time.monotonic()) <= 0:
                address = self.settings.address
                msg = f"all messages confirmed by {address} within {timeout_s:g} s expected, open: {self.in_flight}"
                raise NotReachable(msg, hint="the broker is gone or overloaded; see its log")
            self.service(min(left_s, 1.0))

    def close(self) -> None:
        """Leaves; what is unconfirmed stays so, `drain` before. May be called twice."""
        self._closed = True
        self._waiter.forget()
        self._client.disconnect()
        deadline_s = time.monotonic() + 1.0
        while self._client.socket() is not None and time.monotonic() < deadline_s:
            self._client.loop(0.05)
        self._waiter.close()

    def __enter__(self) -> Self:
        """Does not connect: `connect` can fail and wants a word from the caller."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _made(self) -> paho.Client:
        settings = self.settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=paho.MQTTv5,
            transport=settings.transport,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages = 0  # no limit: the window is ours, and paho's costs a scan per PUBACK
        client.max_queued_messages = 0
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password())
        if settings.tls:
            client.tls_set_context(tls_context(settings))
        if settings.transport == "websockets":
            client.ws_set_options(path=settings.websocket_path)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = settings.session_expiry_s
        client.connect_async(
            settings.host, settings.port, settings.keepalive_s, clean_start=settings.clean_start, properties=properties
        )
        client.on_connect = self._connack
        client.on_disconnect = self._gone
        client.on_publish = self._confirmed
        client.on_socket_register_write = lambda *_: None  # its mere presence defers writes, so that they are joined
        return client

    def _hand_over(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None = None
    ) -> paho.MQTTMessageInfo:
        """Under the next packet id that is free: paho counts round and drops a message whose id has no PUBACK yet."""
        info = self._client.publish(topic, payload, qos, retain, properties)
        for _ in range(_PACKET_IDS):
            if info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            info = self._client.publish(topic, payload, qos, retain, properties)
        return info

    def _begin(self) -> None:
        """One attempt, which may block for `connect_timeout_s`: a publisher has nothing else to do."""
        self._error = None
        self._since_s = time.monotonic()
        self._waiter.forget()
        try:
            self._client.reconnect()
        except (OSError, ValueError) as error:
            _close_sockets(error)
            self._ended("refused", error)

    def _revive(self, timeout_s: float) -> None:
        if (left_s := self._backoff.left_s()) > 0 or self._closed:
            time.sleep(min(timeout_s, left_s))
        else:
            self._begin()

    def _ended(self, kind: Any, why: Exception | str) -> None:
        self._error = self._error or why
        self._events.append(LinkEvent(kind, self._epoch, str(self._error)))
        self._backoff.failed(lived_s=time.monotonic() - self._since_s)
        self._waiter.forget()

    def _window_is_full(self) -> bool:
        return len(self._unconfirmed) >= min(self.window, self._receive_maximum)

    def _connack(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._error = str(reason)
            return
        self._epoch += 1
        self.connected = True
        self._since_s = time.monotonic()
        self._receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self._events.append(LinkEvent("connected", self._epoch, self.settings.address))

    def _gone(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        was, self.connected = self.connected, False
        if not self._closed:
            why = str(reason) if was else "the connection was closed before CONNACK"
            self._ended("disconnected" if was else "refused", why)

    def _confirmed(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        if mid in self._unconfirmed:
            self._unconfirmed.remove(mid)
            self.acknowledged += 1
            self.refused += bool(reason.is_failure)


def _close_sockets(error: BaseException) -> None:
    """Closes the socket of a failed TLS handshake: paho keeps it in a local variable only."""
    trace = error.__traceback__
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, socket.socket):
                with contextlib.suppress(OSError):
                    value.close()
        trace = trace.tb_next
