"""One MQTT 5 connection on one thread, which reconnects whenever it is lost.

`pump`, `flush` and `close` do all reading, writing and callbacks, on the thread of the caller. Not reading the socket
is the back-pressure. PINGREQs go out meanwhile, so the broker does not disconnect a slow consumer.
"""

from __future__ import annotations

import random
import selectors
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from pipeline.edges.mqtt.settings import Attempt, CallbackErrors, Client, MqttSettings, make_client, not_reachable
from pipeline.edges.ports import EventKind, LinkEvent
from pipeline.errors import ConfigError

_STABLE_S: Final = 10.0  # a connection that lasted this long resets the back-off
_TAKEN_OVER: Final = 0x8E  # MQTT 5 reason "session taken over"
_MAX_EVENTS: Final = 1000
_NO_CONNACK: Final = "no answer to CONNECT in time"


class Waiter:
    """A selector for one socket at a time. It calls the kernel only for changes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._known: tuple[Any, int] | None = None  # socket and interest that the selector knows

    def wait(self, sock: Any, *, reading: bool, writing: bool, timeout_s: float) -> tuple[bool, bool]:
        """Waits until the socket is readable or writable; sleeps for the time-out if neither is requested."""
        interest = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        if self._known != (sock, interest):
            self.forget()
            if interest:
                self._selector.register(sock, interest)
                self._known = (sock, interest)
        if not interest:
            time.sleep(timeout_s)
            return False, False
        ready = 0
        for _, events in self._selector.select(timeout_s):
            ready |= events
        return bool(ready & selectors.EVENT_READ), bool(ready & selectors.EVENT_WRITE)

    def forget(self) -> None:
        """Unregisters the socket. Call it before the socket is closed and its number can be reused."""
        if self._known is not None:
            self._selector.unregister(self._known[0])
            self._known = None

    def close(self) -> None:
        """Closes the selector; may be called twice."""
        self.forget()
        self._selector.close()


class Backoff:
    """Time of the next attempt: random, with a limit that doubles, and not reset by a short connection.

    Two clients with the same id disconnect each other repeatedly, so a short success does not show stability.
    """

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._tries = 0
        self._due_s = 0.0

    def left_s(self) -> float:
        """Seconds until the next attempt, at least 0."""
        return max(0.0, self._due_s - time.monotonic())

    def failed(self, *, lived_s: float) -> None:
        """Notes a failed attempt, or a connection that was lost after `lived_s`."""
        self._tries = 1 if lived_s > _STABLE_S else self._tries + 1
        longest_s = min(self._longest_s, self._shortest_s * 2 ** min(self._tries, 10))
        self._due_s = time.monotonic() + random.uniform(self._shortest_s, longest_s)


class Link:
    """The life of a connection. `MqttConnection` and `MqttPublisher` decide what goes over it.

    `pump` calls `on_message` and `on_puback`. `on_puback` returns whether the id was expected, because paho also calls
    it for messages at QoS 0. `epoch` counts connections from 1. A link is used once.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        subscriptions: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        will: tuple[str, bytes] | None = None,
        former_id: str | None = None,
        on_message: Callable[[paho.MQTTMessage], None] | None = None,
        on_puback: Callable[[int, ReasonCode], bool] | None = None,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.subscriptions = subscriptions
        self._former_id = former_id  # client id of the session of an earlier process; None: there was none
        self._notes = notes  # topics whose retained message is requested at every connection, at QoS 0
        self.epoch = 0
        self.connected = False  # CONNACK accepted us
        self.subscribed = False  # SUBACK arrived
        self.server_receive_maximum = 65535
        self._progress = 0  # received messages and PUBACKs: they show that the connection is alive
        self._errors = CallbackErrors()
        self._on_message = on_message
        self._on_puback = on_puback
        self._on_connected = on_connected
        self.client = self._wired(make_client(settings, will))
        self._events: deque[LinkEvent] = deque(maxlen=_MAX_EVENTS)
        self._waiter = Waiter()
        self._backoff = Backoff(*settings.backoff_s)
        self._attempt: Attempt | None = None
        self._since_s = 0.0  # monotonic time of the socket, then of its CONNACK
        self._error: Exception | str | None = None  # why the last attempt failed or the last connection ended
        self._useless: str | None = None  # why the present connection must be closed
        self._down = True  # the end of the connection has been reported
        self._fenced: str | None = None  # by whom
        self._closed = False

    def connect(self, *, wait: bool, ready: Callable[[], bool] = lambda: False) -> None:
        """Makes the first connection. With `wait` it returns at once, and `pump` connects later.

        Raises:
            NotReachable: without `wait`, if the first attempt fails.
        """
        self._begin()
        if wait:
            return
        deadline_s = time.monotonic() + 2 * self.settings.connect_timeout_s + 1
        while not (self.connected and (self.subscribed or ready())):
            self.pump(0.05, room=lambda: not ready())
            if self._error is not None or time.monotonic() > deadline_s:
                self.close()
                raise not_reachable(self.settings, self._error or _NO_CONNACK)

    def pump(self, timeout_s: float, *, room: Callable[[], bool]) -> None:
        """Waits at most `timeout_s` for the network, then reads while there is `room()`, and writes.

        Raises:
            ConfigError: another client has taken over the session; reconnecting would disconnect that client.
        """
        if self._fenced is not None:
            name = self.settings.client_id
            msg = f"expected the client id {name!r} for this service alone, found another client: {self._fenced}"
            hint = "one service per mqtt.client_id: stop one of the two, or give it another id and another data.dir"
            raise ConfigError(msg, hint=hint)
        sock = None if self._attempt else self.client.socket()
        if sock is None:
            self._revive(timeout_s)
            return
        reading = room() or not self.connected  # always read until the CONNACK
        unread = (
            reading and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        )  # decrypted by TLS, so select does not see them
        timeout_s = 0.0 if unread else min(timeout_s, max(self.settings.keepalive_s / 4, 0.25))
        readable, writable = self._waiter.wait(
            sock, reading=reading, writing=self.client.want_write(), timeout_s=timeout_s
        )
        before = self._progress
        if readable or unread:
            self._read(room)
        if writable:
            self.client.loop_write()
        if not reading or self._progress != before:
            self.client.forgive_ping()
        self.client.loop_misc()
        if not self.connected and time.monotonic() - self._since_s > self.settings.connect_timeout_s:
            self._useless = _NO_CONNACK
        if self._useless is not None:
            self._give_up(self._useless)
        self._errors.raise_first()

    def flush(self) -> None:
        """Writes what the socket accepts now; `pump` writes the rest."""
        if self._attempt is None and self.client.want_write():
            self.client.loop_write()
            self._errors.raise_first()

    def fence(self, by: str) -> None:
        """Makes `pump` raise from now on: another client owns the session."""
        self._fenced = by

    @property
    def fenced(self) -> bool:
        """Whether another client owns the session."""
        return self._fenced is not None

    def events(self) -> list[LinkEvent]:
        """What happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """Sends DISCONNECT, which cancels the last will, and closes; may be called twice."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.join(self.settings.connect_timeout_s)
            self._attempt = None
        self.client.disconnect()
        deadline_s = time.monotonic() + 1.0
        while (sock := self.client.socket()) is not None and time.monotonic() < deadline_s:
            self.client.loop_write()
            if self.client.want_write() and self.client.socket() is sock:
                self._waiter.wait(sock, reading=False, writing=True, timeout_s=0.05)
        self._waiter.close()
        self._errors.raise_first()

    # -- what happens inside pump ------------------------------------------------------------------------------------

    def _read(self, room: Callable[[], bool]) -> None:
        """Reads packets until there is no room or no complete packet."""
        while (room() or not self.connected) and self.client.socket() is not None:
            before = self._progress
            self.client.loop_read()
            if self._progress == before:
                return

    def _begin(self) -> None:
        self._waiter.forget()
        self._error = None
        self._down = False
        self._attempt = Attempt(self.client)

    def _revive(self, timeout_s: float) -> None:
        """Without a connection: waits for the present attempt, or until the next one is due."""
        if self._attempt is None:
            if (left_s := self._backoff.left_s()) > 0 or self._closed:
                time.sleep(min(timeout_s, left_s))
                return
            self._begin()
        attempt = self._attempt
        if attempt is None or not attempt.done.wait(timeout_s):
            return
        self._attempt = None
        self._since_s = time.monotonic()
        if attempt.error is None:
            return
        if not isinstance(attempt.error, OSError | ValueError):  # a bug, not the network
            raise attempt.error
        self._ended("refused", attempt.error)

    def _give_up(self, why: str) -> None:
        """Closes a useless connection. The write leads to `_gone`."""
        self._useless = None
        if self.client.socket() is not None:
            self._error = why
            self.client.disconnect()
            self.client.loop_write()

    def _ended(self, kind: EventKind, why: Exception | str) -> None:
        self._down = True
        self.connected = self.subscribed = False
        self._error = self._error or why
        self._events.append(LinkEvent(kind, self.epoch, str(self._error)))
        self._backoff.failed(lived_s=time.monotonic() - self._since_s)

    # -- paho's callbacks --------------------------------------------------------------------------------------------

    def _wired(self, client: Client) -> Client:
        client.on_connect = self._errors.guard(self._connack)
        client.on_disconnect = self._errors.guard(self._gone)
        client.on_subscribe = self._errors.guard(self._suback)
        client.on_message = self._errors.guard(self._message)
        if self._on_puback is not None:  # only if needed: paho builds two objects per call at QoS 0
            client.on_publish = self._errors.guard(self._puback)
        return client

    def _connack(self, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties) -> None:
        if reason.is_failure:
            self._error = str(reason)
            return  # paho closes the socket now; `_gone` follows
        self.epoch += 1
        self.connected = True
        self._since_s = time.monotonic()
        self.server_receive_maximum = getattr(properties, "ReceiveMaximum", 65535)
        self._events.append(LinkEvent("connected", self.epoch, self.settings.address))
        if self._former_id is not None and not flags.session_present and not self.settings.clean_start:
            self._events.append(LinkEvent("session_lost", self.epoch, self._why_lost(self._former_id)))
        self._former_id = self.settings.client_id
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        self.subscribed = not self.subscriptions
        wanted = [(topic, options) for topic in self.subscriptions]
        wanted += [(topic, SubscribeOptions(qos=0)) for topic in self._notes]
        if wanted:
            self.client.subscribe(wanted)
        if self._on_connected is not None:
            self._on_connected()

    def _why_lost(self, former_id: str) -> str:
        ours = self.settings.client_id
        if former_id != ours:
            return f"no session of {ours}: the earlier one was of {former_id}; messages queued for it will not arrive"
        if self.epoch > 1:
            return "the broker has lost the session"
        return f"no session of {ours}: the broker lost it, or it expired after {self.settings.session_expiry_s} s"

    def _suback(self, _mid: int, reasons: list[ReasonCode], _properties: Properties) -> None:
        refused = [topic for topic, reason in zip(self.subscriptions, reasons, strict=False) if reason.is_failure]
        if refused:
            self._useless = f"Not authorized to subscribe to {', '.join(refused)}"
        else:
            self.subscribed = True

    def _gone(self, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties) -> None:
        if self._closed or self._down:  # paho sometimes reports a loss twice
            self.connected = self.subscribed = False
        elif flags.is_disconnect_packet_from_server and reason.value == _TAKEN_OVER:
            self.fence("the client that connected last")
            self._ended("taken_over", str(reason))
        elif self.connected:
            self._ended("disconnected", str(reason))
        else:
            self._ended("refused", "the connection was closed before CONNACK")

    def _message(self, message: paho.MQTTMessage) -> None:
        self._progress += 1
        if self._on_message is not None:
            self._on_message(message)

    def _puback(self, mid: int, reason: ReasonCode, _properties: Properties) -> None:
        if self._on_puback is not None and self._on_puback(mid, reason):
            self._progress += 1
