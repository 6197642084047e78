"""Readings in, acknowledgements and results out: one connection, made again whenever it is lost, on one thread.

Nothing is read or written except inside the methods of `MqttConnection`, on the caller's thread. Not reading the socket
is the back-pressure; PINGREQs go on all the same, so the broker does not take a slow consumer for a dead one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Self

from pipeline.edges.mqtt import protocol
from pipeline.edges.mqtt.claim import Claim
from pipeline.edges.mqtt.protocol import ConnectionSilent, Protocol, ProtocolError
from pipeline.edges.mqtt.settings import MqttSettings, not_reachable
from pipeline.edges.mqtt.stream import Attempt, Backoff, Stream, Waiter
from pipeline.edges.ports import EventKind, LinkEvent, Message, Tally
from pipeline.errors import ConfigError

OFFLINE: Final = b'{"state":"offline"}'
_MAX_UNWRITTEN_BYTES: Final = 8 * 2**20  # that the socket does not take; beyond, QoS 0 is dropped and counted
_WRITTEN_AT_ONCE_BYTES: Final = 64 * 1024  # a call of the system costs more than making a result
_MAX_UNCONFIRMED: Final = 10_000  # results at QoS 1 without PUBACK; beyond, they are dropped and counted
_MAX_EVENTS: Final = 1000
_CONTESTED_LOSSES: Final = 3  # lost connections that end us while a higher claim stands,
_CONTESTED_S: Final = 60.0  # within so long
_NO_CONNACK: Final = "no answer to CONNECT in time"


class MqttConnection:
    """`Source` and `Publisher` over MQTT 5: at least once, acknowledged when told, reconnecting by itself.

    All methods belong to one thread, and one of `take` and `service` must be called well within every keep-alive.
    While `max_waiting` messages (or `max_waiting_bytes`) lie here un-taken the socket is not read. A connection object
    is used once.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        subscriptions: Sequence[str],
        status_topic: str | None = None,
        claim: Claim | None = None,
        former_id: str | None = None,
        max_waiting: int = 2000,
        max_waiting_bytes: int = 64 * 2**20,
    ) -> None:
        """`status_topic` gets the last will `{"state":"offline"}`, retained; it is also said at `close`.

        With a `claim` this client ends, instead of fighting, when a newer one works under its client id. `former_id` is
        the client id under which an earlier process had a session: finding none at the first connection is then a loss.

        Raises:
            ConfigError: the password file cannot be used.
        """
        self.settings = settings
        self.max_waiting = max_waiting
        self.max_waiting_bytes = max_waiting_bytes
        self.unsent = 0  # results that were dropped because the broker did not take them
        self.refused = 0  # results at QoS 1 to which the broker said no
        self.subscriptions = tuple(subscriptions)
        self._status_topic = status_topic
        self._claim = claim
        self._former_id = former_id
        password = settings.password()
        self._protocol = Protocol(
            protocol.Client(
                client_id=settings.client_id,
                username=settings.username,
                password=None if password is None else password.encode(),
                keepalive_s=settings.keepalive_s,
                clean_start=settings.clean_start,
                session_expiry_s=settings.session_expiry_s,
                receive_maximum=settings.receive_maximum,
                maximum_packet_bytes=settings.maximum_packet_bytes,
                will=None if status_topic is None else (status_topic, OFFLINE),
                subscriptions=self.subscriptions,
                notes=() if claim is None else (claim.topic,),
            )
        )
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._gave_up = False  # a result at QoS 1 was dropped
        self._closing = False
        self._attempt: Attempt | None = None
        self._stream: Stream | None = None
        self._unwritten = bytearray()
        self._waiter = Waiter()
        self._backoff = Backoff(*settings.backoff_s)
        self._since_s = 0.0  # monotonic time of the present socket, then of its CONNACK
        self._error: Exception | str | None = None  # why the last try failed, or the last connection ended
        self._fenced: str | None = None  # who has the session instead
        self._rival: str | None = None  # who claims it with a higher claim than ours
        self._contested_s: deque[float] = deque(maxlen=_CONTESTED_LOSSES)  # when the broker closed it since then
        self._events: deque[LinkEvent] = deque(maxlen=_MAX_EVENTS)

    # -- what it knows -----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the connection, from 1; 0 before the first."""
        return self._protocol.epoch

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and not gone since."""
        return self._protocol.connected

    @property
    def subscribed(self) -> bool:
        """Whether the broker keeps a session with our subscriptions."""
        return self._protocol.subscribed

    @property
    def limits(self) -> protocol.ServerLimits:
        """What the broker granted in its last CONNACK."""
        return self._protocol.limits

    @property
    def waiting(self) -> int:
        """Messages that have arrived and not been taken."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Messages of this connection without an acknowledgement, taken or not."""
        return self._protocol.unacknowledged

    @property
    def settled(self) -> bool:
        """See `Connection.settled`; never again once a result was dropped."""
        return not self._gave_up and not self._protocol.unconfirmed

    def tally(self) -> Tally:
        """Messages of all connections that have arrived, and those of them that have not been taken."""
        return Tally(self._protocol.numbers - self._notes, len(self._waiting))

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    # -- what its owner does -----------------------------------------------------------------------------------------

    def connect(self, *, wait: bool = False) -> Self:
        """Connects and subscribes; with `wait` does so whenever the broker comes, inside `take`.

        Raises:
            NotReachable: without `wait`, if the broker does not answer or refuses.
            ConfigError: a certificate cannot be used.
        """
        self._begin()
        if wait:
            return self
        deadline_s = time.monotonic() + 2 * self.settings.connect_timeout_s + 1
        while not (self.connected and (self.subscribed or self._waiting)):
            self._wanted = 1
            self._pump(0.05)
            if self._error is not None or time.monotonic() > deadline_s:
                self.close()
                raise not_reachable(self.settings, self._error or _NO_CONNACK)
        return self

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Source.take`; with `limit` 0 it only keeps the connection alive, for the whole time.

        Raises:
            ConfigError: when another client has taken the session over.
        """
        deadline_s = time.monotonic() + timeout_s
        self._wanted = min(limit, self.max_waiting) if limit else self.max_waiting
        self._pump(0.0)
        while not (limit and self._waiting) and (left_s := deadline_s - time.monotonic()) > 0:
            self._pump(left_s)
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._waiting_bytes -= sum(len(message.payload) for message in taken)
        return taken

    def service(self, timeout_s: float = 0.0) -> None:
        """Keeps the connection alive during long work."""
        self.take(0, timeout_s)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`; the order of PUBACKs is the protocol's business."""
        self._protocol.acknowledge([message.receipt for message in messages])
        self._flush()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """See `Publisher.publish`. QoS 1 waits for a connection if there is none.

        QoS 0 is written with what follows, at the latest by the next `take` or `service`.

        Dropped and counted in `unsent`: QoS 0 while there is no connection or the broker does not read, QoS 1 beyond
        10,000 unconfirmed, and what is larger than the broker's maximum packet size.
        """
        if qos and self._protocol.unconfirmed >= _MAX_UNCONFIRMED:
            self._gave_up = True
            self.unsent += 1
            return
        if not qos and len(self._unwritten) >= _MAX_UNWRITTEN_BYTES:
            self.unsent += 1
            return
        if not self._protocol.publish(topic, payload, qos=qos, retain=retain):
            self.unsent += 1
        self._unwritten += self._protocol.data_to_send()
        if qos or len(self._unwritten) >= _WRITTEN_AT_ONCE_BYTES:
            self._flush()

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Publishes "offline", waits at most `timeout_s` until results at QoS 1 are confirmed, and leaves.

        Messages that come meanwhile are not kept: they were not acknowledged and will be delivered again.
        """
        self._closing = True
        self._waiting.clear()
        if self.connected and self._status_topic is not None and self._fenced is None:
            self.publish(self._status_topic, OFFLINE, qos=1, retain=True)
        deadline_s = time.monotonic() + timeout_s
        while self.connected and self._fenced is None and self._protocol.unconfirmed:
            if (left_s := deadline_s - time.monotonic()) <= 0:
                break
            self._pump(min(left_s, 0.1))
        if self._attempt is not None:
            self._attempt.abandon(self.settings.connect_timeout_s)
            self._attempt = None
        self._leave(timeout_s=1.0)
        self._waiter.close()

    def __enter__(self) -> Self:
        """Does not connect: `connect` can fail and wants a word from the caller."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    # -- one look at the network -------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether to read on. What comes while this closes is not kept."""
        return self._closing or (len(self._waiting) < self._wanted and self._waiting_bytes < self.max_waiting_bytes)

    def _pump(self, timeout_s: float) -> None:
        """Does what there is to do, reading while there is room; if that is nothing, waits at most `timeout_s`."""
        if self._fenced is not None:
            name = self.settings.client_id
            msg = f"expected the client id {name!r} for this service alone, found another client: {self._fenced}"
            hint = "one service per mqtt.client_id: stop one of the two, or give it another id and another data.dir"
            raise ConfigError(msg, hint=hint)
        if self._stream is None:
            self._revive(timeout_s)
            return
        try:
            self._exchange(self._stream, timeout_s)
        except ProtocolError as error:
            self._flush()  # the DISCONNECT that says why
            self._lost("disconnected" if self.epoch and self._was_connected else "refused", str(error))
        except (OSError, ConnectionSilent) as error:
            self._lost("disconnected" if self._was_connected else "refused", error)

    def _exchange(self, stream: Stream, timeout_s: float) -> None:
        self._flush()
        some = self._handle_events()  # packets that came earlier and found no room
        reading = self._has_room() or not self.connected  # CONNACK must come through a full house too
        if self._stream is not stream:  # what came ended the connection
            return
        if reading:
            some = self._receive(stream) or some
        if not some and timeout_s > 0 and self._stream is stream:
            self._wait(stream, min(timeout_s, max(self.settings.keepalive_s / 4, 0.25)), reading=reading)
        if self._stream is not stream:
            return
        now_s = time.monotonic()
        self._protocol.tick(now_s, reading=reading)
        self._flush()
        if not self.connected and now_s - self._since_s > self.settings.connect_timeout_s:
            self._lost("refused", _NO_CONNACK)

    def _wait(self, stream: Stream, timeout_s: float, *, reading: bool) -> None:
        """Sleeps until the socket can be read or written, and does so."""
        writing = bool(self._unwritten) or stream.wants_write
        readable, writable = self._waiter.wait(stream.sock, reading=reading, writing=writing, timeout_s=timeout_s)
        if readable:
            self._receive(stream)
        if writable:
            self._flush()

    def _receive(self, stream: Stream) -> bool:
        """Reads until there is no room or nothing more has come; whether anything had."""
        some = False
        while self._stream is stream and (self._has_room() or not self.connected):
            space = self._protocol.free_space()
            count = stream.receive_into(space)
            if count is None:
                break
            if count == 0:
                msg = "the broker closed the connection"
                raise ConnectionError(msg if self.connected else "the connection was closed before CONNACK")
            some = True
            self._protocol.received(count, time.monotonic())
            self._handle_events()
            if count < len(space) and stream.reads_all:
                break
        return some

    def _handle_events(self) -> bool:
        """Everything that the received bytes say, while there is room; whether they said anything."""
        some = False
        while (self._has_room() or not self.connected) and (event := self._protocol.next_event()) is not None:
            some = True
            if isinstance(event, Message):
                self._arrived(event)
            elif isinstance(event, protocol.Confirmed):
                self.refused += event.refusal is not None
            elif isinstance(event, protocol.Connected):
                self._accepted(event)
            elif isinstance(event, protocol.Subscribed):
                refused = [topic for topic in self.subscriptions if topic in event.refused]
                if refused:
                    self._protocol.disconnect()
                    self._flush()
                    self._lost("disconnected", f"Not authorized to subscribe to {', '.join(refused)}")
            elif isinstance(event, protocol.Refused):
                self._lost("refused", event.reason)
            elif event.taken_over:
                self._fenced = "whoever connected last"
                self._lost("taken_over", event.reason)
            else:
                self._lost("disconnected", event.reason)
        return some

    def _arrived(self, message: Message) -> None:
        if self._claim is not None and message.topic == self._claim.topic:
            self._notes += 1
            self._meet_claim(self._claim, message.payload)
        elif not self._closing:
            self._waiting.append(message)
            self._waiting_bytes += len(message.payload)

    def _flush(self) -> None:
        """Writes what the socket takes now."""
        stream = self._stream
        if stream is None:
            return
        self._unwritten += self._protocol.data_to_send()
        if not self._unwritten and not stream.wants_write:
            return
        try:
            count = stream.send(memoryview(bytes(self._unwritten)))
        except OSError as error:
            self._lost("disconnected" if self._was_connected else "refused", error)
            return
        if count:
            del self._unwritten[:count]
            self._protocol.sent(time.monotonic())

    # -- connections come and go -------------------------------------------------------------------------------------

    _wanted: int = 0  # messages that may wait here before the socket is read no further
    _notes: int = 0  # messages on the topic of the claim: they are no readings
    _was_connected: bool = False  # the present stream has had its CONNACK

    def _begin(self) -> None:
        self._error = None
        self._attempt = Attempt(self.settings)

    def _revive(self, timeout_s: float) -> None:
        """Without a stream: waits for the attempt under way, or until the next one is due."""
        if self._attempt is None:
            if (left_s := self._backoff.left_s()) > 0 or self._closing:
                time.sleep(min(timeout_s, left_s))
                return
            self._begin()
        attempt = self._attempt
        if attempt is None or not attempt.done.wait(timeout_s):
            return
        self._attempt = None
        self._since_s = time.monotonic()
        if attempt.stream is None:
            self._ended("refused", attempt.error or _NO_CONNACK)
            return
        self._stream = attempt.stream
        self._was_connected = False
        self._unwritten.clear()
        self._protocol.begin(self._since_s)
        self._flush()

    def _accepted(self, event: protocol.Connected) -> None:
        self._was_connected = True
        self._since_s = time.monotonic()
        self._events.append(LinkEvent("connected", self.epoch, self.settings.address))
        if self._former_id is not None and not event.session_present and not self.settings.clean_start:
            self._events.append(LinkEvent("session_lost", self.epoch, self._why_lost(self._former_id)))
        self._former_id = self.settings.client_id
        if self._claim is not None:
            self._protocol.publish(self._claim.topic, self._claim.payload(), qos=1, retain=True)

    def _why_lost(self, former_id: str) -> str:
        ours = self.settings.client_id
        if former_id != ours:
            return f"no session of {ours}: the earlier one was of {former_id}; messages queued for it will not arrive"
        if self.epoch > 1:
            return "the broker has lost the session"
        return f"no session of {ours}: the broker lost it, or it expired after {self.settings.session_expiry_s} s"

    def _meet_claim(self, claim: Claim, payload: bytes) -> None:
        """At the first connection ours goes above what stands there; what stands above ours later is a rival."""
        number = claim.number
        holder = claim.meet(payload, first=self.epoch == 1)
        if holder is not None:
            self._rival = holder
        elif claim.number != number:
            self._protocol.publish(claim.topic, claim.payload(), qos=1, retain=True)

    def _leave(self, timeout_s: float) -> None:
        """DISCONNECT, written for at most `timeout_s`."""
        self._protocol.disconnect()
        deadline_s = time.monotonic() + timeout_s
        self._flush()
        while (stream := self._stream) is not None and (self._unwritten or stream.wants_write):
            if time.monotonic() > deadline_s:
                break
            self._waiter.wait(stream.sock, reading=False, writing=True, timeout_s=0.05)
            self._flush()
        self._drop_stream()

    def _lost(self, kind: EventKind, why: Exception | str) -> None:
        if self._stream is not None:
            self._drop_stream()
            self._ended(kind, why)
            if kind == "disconnected":
                self._contest(time.monotonic())

    def _contest(self, now_s: float) -> None:
        """Somebody claims our session: once the broker has closed it often enough, it is theirs."""
        if self._rival is None:
            return
        self._contested_s.append(now_s)
        if len(self._contested_s) == _CONTESTED_LOSSES and now_s - self._contested_s[0] <= _CONTESTED_S:
            self._fenced = self._rival

    def _drop_stream(self) -> None:
        self._waiter.forget()
        self._protocol.end()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ended(self, kind: EventKind, why: Exception | str) -> None:
        self._error = why
        self._events.append(LinkEvent(kind, self.epoch, str(why)))
        self._backoff.failed(lived_s=time.monotonic() - self._since_s)
