"""Readings in, acknowledgements and results out, over one connection and on one thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Self

import paho.mqtt.client as paho

from pipeline.edges.mqtt.claim import Claim
from pipeline.edges.mqtt.link import Link
from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.edges.ports import LinkEvent, Message, Receipt, Tally

OFFLINE: Final = b'{"state":"offline"}'
_MAX_UNWRITTEN_BYTES: Final = 8 * 2**20  # results that the socket does not take; beyond, QoS 0 is dropped and counted
_MAX_UNCONFIRMED: Final = 10_000  # results at QoS 1 without PUBACK; beyond, they are dropped and counted


class MqttConnection:
    """`Source` and `Publisher` over MQTT 5: at-least-once delivery, explicit acknowledgements, automatic reconnection.

    All methods belong to one thread; call `take` or `service` well within every keep-alive. The socket is not read
    while `max_waiting` messages (or `max_waiting_bytes`) wait to be taken.
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
        """`status_topic` gets the last will `{"state":"offline"}`, retained; `close` publishes the same.

        With a `claim` this client ends when a newer one uses its client id. `former_id` is the client id of the session
        of an earlier process: without a session at the first connection, `session_lost` is reported.
        """
        self.max_waiting = max_waiting
        self.max_waiting_bytes = max_waiting_bytes
        self.unsent = 0  # results that were dropped because the broker did not take them
        self._status_topic = status_topic
        self._claim = claim
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._numbers = 0
        self._unacknowledged: deque[Receipt] = deque()  # of this connection, in arrival order
        self._safe: set[int] = set()  # arrival numbers that may be acknowledged once all before them are
        self._unwritten_bytes = 0
        self._unsent: deque[tuple[str, bytes, bool]] = deque()  # QoS 1 results that wait for a connection
        self._unconfirmed: deque[paho.MQTTMessageInfo] = deque()
        self._gave_up = False  # a result at QoS 1 was dropped
        self._closing = False
        self._link = Link(
            settings,
            subscriptions=tuple(subscriptions),
            will=None if status_topic is None else (status_topic, OFFLINE),
            notes=() if claim is None else (claim.topic,),
            former_id=former_id,
            on_message=self._arrived,
            on_connected=self._publish_claim,
        )

    def connect(self, *, wait: bool = False) -> Self:
        """Connects and subscribes; with `wait` inside `take`, as soon as the broker is reachable.

        Raises:
            NotReachable: without `wait`, if the broker does not answer or refuses.
        """
        self._link.connect(wait=wait, ready=lambda: bool(self._waiting))
        return self

    @property
    def epoch(self) -> int:
        """Number of the connection, from 1; 0 before the first."""
        return self._link.epoch

    @property
    def subscribed(self) -> bool:
        """Whether the broker has a session with our subscriptions."""
        return self._link.subscribed

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._link.connected

    @property
    def waiting(self) -> int:
        """Messages that have arrived and not been taken."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Messages of this connection without an acknowledgement, taken or not."""
        return len(self._unacknowledged)

    def tally(self) -> Tally:
        """Messages of all connections that have arrived, and those of them that have not been taken."""
        return Tally(self._numbers, len(self._waiting))

    @property
    def settled(self) -> bool:
        """See `Connection.settled`; False for good once a result was dropped."""
        return not self._gave_up and not self._unsent and all(info.is_published() for info in self._unconfirmed)

    def events(self) -> list[LinkEvent]:
        """What happened to the connection since the last call, oldest first."""
        return self._link.events()

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Source.take`; with `limit` 0 it only keeps the connection alive, for the whole time.

        Raises:
            ConfigError: when another client has taken the session over.
        """
        deadline_s = time.monotonic() + timeout_s
        wanted = min(limit, self.max_waiting) if limit else self.max_waiting
        self._pump(0.0, wanted)
        while not (limit and self._waiting) and (left_s := deadline_s - time.monotonic()) > 0:
            self._pump(left_s, wanted)
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._waiting_bytes -= sum(len(message.payload) for message in taken)
        return taken

    def service(self, timeout_s: float = 0.0) -> None:
        """Keeps the connection alive during long work."""
        self.take(0, timeout_s)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`.

        MQTT requires PUBACKs in order of arrival, and rumqttd closes the connection when one is skipped. So the PUBACK
        of a message waits until all earlier messages are safe.
        """
        self._forget_former_connections()
        if not self._unacknowledged or not self._link.connected:  # paho would write a PUBACK before the next CONNECT
            return
        oldest = self._unacknowledged[0].number
        for message in messages:
            receipt = message.receipt
            if message.qos and receipt.epoch == self._link.epoch and receipt.number >= oldest:
                self._safe.add(receipt.number)
        while self._unacknowledged and self._unacknowledged[0].number in self._safe:
            receipt = self._unacknowledged.popleft()
            self._safe.remove(receipt.number)
            self._link.client.ack(receipt.mid, 1)
        self._link.flush()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """See `Publisher.publish`. QoS 1 waits for a connection if there is none.

        Dropped and counted in `unsent`: QoS 0 while there is no connection or the broker does not read, QoS 1 beyond
        10,000 unconfirmed.
        """
        while self._unconfirmed and self._unconfirmed[0].is_published():
            self._unconfirmed.popleft()
        if not self._link.client.want_write():
            self._unwritten_bytes = 0
        if len(self._unconfirmed) + len(self._unsent) >= _MAX_UNCONFIRMED and qos:
            self.unsent += 1
            self._gave_up = True
        elif self._link.connected and (qos or self._unwritten_bytes < _MAX_UNWRITTEN_BYTES):
            self._send_unsent()
            self._send(topic, payload, qos, retain)
            self._link.flush()
        elif qos:
            self._unsent.append((topic, payload, retain))
        else:
            self.unsent += 1

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Publishes "offline", waits at most `timeout_s` for the PUBACKs of results at QoS 1, and disconnects.

        Messages that arrive meanwhile are ignored: they are not acknowledged and will be delivered again.
        """
        self._closing = True
        self._waiting.clear()
        if self._link.connected and self._status_topic is not None and not self._link.fenced:
            self.publish(self._status_topic, OFFLINE, qos=1, retain=True)
        deadline_s = time.monotonic() + timeout_s
        while (
            self._link.connected
            and not self._link.fenced
            and not all(info.is_published() for info in self._unconfirmed)
        ):
            if (left_s := deadline_s - time.monotonic()) <= 0:
                break
            self._link.pump(min(left_s, 0.1), room=lambda: True)
        self._link.close()

    def __enter__(self) -> Self:
        """Does not connect, because `connect` can fail and has arguments."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _pump(self, timeout_s: float, wanted: int) -> None:
        self._link.pump(timeout_s, room=lambda: self._room(wanted))
        if self._unsent and self._link.connected:
            self._send_unsent()
            self._link.flush()

    def _send_unsent(self) -> None:
        while self._unsent:
            topic, payload, retain = self._unsent.popleft()
            self._send(topic, payload, 1, retain)

    def _send(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        self._unwritten_bytes += len(payload)
        info = self._link.client.publish(topic, payload, qos=qos, retain=retain)
        if qos:
            self._unconfirmed.append(info)

    def _forget_former_connections(self) -> None:
        if self._unacknowledged and self._unacknowledged[0].epoch != self._link.epoch:
            self._unacknowledged.clear()
            self._safe.clear()

    def _publish_claim(self) -> None:
        if self._claim is not None:
            self._send(self._claim.topic, self._claim.payload(), 1, True)

    def _meet_claim(self, claim: Claim, payload: bytes) -> None:
        """At the first connection our claim is raised above the present one; later, a higher claim ends this client."""
        number = claim.number
        holder = claim.meet(payload, first=self._link.epoch == 1)
        if holder is not None:
            self._link.fence(holder)
        elif claim.number != number:
            self._publish_claim()

    def _room(self, wanted: int) -> bool:
        return len(self._waiting) < wanted and self._waiting_bytes < self.max_waiting_bytes

    def _arrived(self, message: paho.MQTTMessage) -> None:
        if self._closing:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # matches no template, so it goes to quarantine
        if self._claim is not None and topic == self._claim.topic:
            self._meet_claim(self._claim, bytes(message.payload))
            return
        self._forget_former_connections()
        self._numbers += 1
        receipt = Receipt(self._link.epoch, message.mid, self._numbers)
        payload = bytes(message.payload)
        content_type = getattr(message.properties, "ContentType", None)
        if message.qos:
            self._unacknowledged.append(receipt)
        self._waiting.append(Message(topic, payload, message.qos, content_type, bool(message.retain), receipt))
        self._waiting_bytes += len(payload)
