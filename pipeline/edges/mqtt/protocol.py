"""MQTT 5 as a state machine: bytes in, events and bytes out. It has no socket, no thread and no clock.

```
protocol.begin(now_s)                       # a network connection is there: CONNECT is ready to be sent
sock.sendall(protocol.data_to_send())
n = sock.recv_into(protocol.free_space()); protocol.received(n, now_s)
while (event := protocol.next_event()) is not None: ...
protocol.tick(now_s, reading=True)          # PINGREQ when it is due, ConnectionSilent when nothing answers
```

One `Protocol` is one client. It outlives its network connections, and `begin` starts the next one: bytes of the old
connection are dropped, publications without a PUBACK are sent again, and acknowledgements of the old connection are
passed over, because packet ids are counted anew. The number of the connection is its `epoch`.

Acknowledgements go out in the order of arrival and without holes: MQTT asks for it, and rumqttd closes a connection
that skips one. A delivery that is safe waits until all deliveries before it are.

Packets are read and written by the `mqtt5` package. Limits of the server (receive maximum, maximum QoS, packet size,
retain) are kept. No topic alias is asked for, QoS 2 is not used. Source: MQTT 5.0, OASIS standard, 7 March 2019.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import mqtt5

from pipeline.edges.ports import Message, Receipt

SESSION_TAKEN_OVER: Final = 0x8E
MALFORMED: Final = mqtt5.DisconnectReasonCode.MALFORMED_PACKET
PROTOCOL_ERROR: Final = mqtt5.DisconnectReasonCode.PROTOCOL_ERROR
TOO_LARGE: Final = mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE

_PACKET_IDS: Final = 65_535
_FAILURE: Final = 0x80  # reason codes from here on say no
_PUBLISH: Final = 3  # packet type
_LARGEST_HEADER_BYTES: Final = 5  # type and flags, and up to four bytes of remaining length
_SPACE_BYTES: Final = 256 * 1024
_QOS_OF_FLAGS: Final = {0x0: 0, 0x1: 0, 0x2: 1, 0x3: 1, 0xA: 1, 0xB: 1}  # of a PUBLISH that may come; bit 0 is retain
_MOST_TEXTS: Final = 4096  # topics with properties that are remembered
_LONGEST_KEPT_BYTES: Final = 1024  # of a packet before its payload; longer texts are not remembered
_MQTT_311_REFUSAL: Final = b"\x20\x02"  # a CONNACK without properties: the broker does not speak MQTT 5


class ServerLimits(NamedTuple):
    """What the CONNACK grants; what a broker does not mention has the meaning that MQTT 5 gives to silence."""

    receive_maximum: int = 65_535  # publications of ours without a PUBACK
    maximum_qos: int = 2
    maximum_packet_bytes: int | None = None  # None: no limit
    retain: bool = True
    wildcards: bool = True
    keepalive_s: int | None = None  # if the server wants another than ours
    session_expiry_s: int | None = None  # if it grants another than ours


class Connected(NamedTuple):
    """The server has accepted us."""

    session_present: bool
    limits: ServerLimits


class Refused(NamedTuple):
    """The server has answered CONNECT with no."""

    reason: str


class Subscribed(NamedTuple):
    """The answer to our subscriptions: those that were refused, with the reason."""

    refused: dict[str, str]


class Confirmed(NamedTuple):
    """The server's PUBACK for a publication of ours."""

    packet_id: int
    refusal: str | None  # why the server did not take it


class Disconnected(NamedTuple):
    """The server has said goodbye."""

    reason: str
    taken_over: bool  # another client connected under our id


# A message stays unacknowledged at QoS 1 until `Protocol.acknowledge` is told of its receipt. Its topic has U+FFFD
# where the broker let text pass that is no UTF-8.
Event = Connected | Refused | Subscribed | Message | Confirmed | Disconnected


class ProtocolError(Exception):
    """The other side does not speak MQTT 5; a DISCONNECT that says so is ready to be sent."""


class ConnectionSilent(Exception):
    """Nothing came for a whole keep-alive after a PINGREQ."""


@dataclass(frozen=True, slots=True)
class Client:
    """What CONNECT says of us, and what we subscribe to."""

    client_id: str
    username: str | None = None
    password: bytes | None = None
    keepalive_s: int = 30
    clean_start: bool = False
    session_expiry_s: int = 0
    receive_maximum: int = 65_535
    maximum_packet_bytes: int = 268_435_455
    will: tuple[str, bytes] | None = None  # topic and payload; QoS 1, retained
    subscriptions: tuple[str, ...] = ()  # at QoS 1; retained messages are not wanted
    notes: tuple[str, ...] = ()  # at QoS 0, with the retained message at every connection


@dataclass(slots=True)
class Protocol:
    """The client's side of MQTT 5."""

    client: Client
    epoch: int = 0  # number of the network connection, from 1
    connected: bool = False  # CONNACK said yes, and the connection has not ended since
    subscribed: bool = False
    limits: ServerLimits = field(default_factory=ServerLimits)
    numbers: int = 0  # deliveries so far, over all connections
    oversized: int = 0  # publications that were dropped because the server takes no packet of that size

    _space: bytearray = field(default_factory=lambda: bytearray(_SPACE_BYTES))
    _start: int = 0  # of what was received and not yet read
    _end: int = 0
    _out: list[bytes] = field(default_factory=list)
    _open: bool = False  # between begin and the end of the connection
    _filters: dict[int, tuple[str, ...]] = field(default_factory=dict)  # SUBSCRIBE packet id -> what it asked for
    _unacknowledged: deque[Receipt] = field(default_factory=deque)  # of this connection, in order of arrival
    _safe: set[int] = field(default_factory=set)  # numbers that may be acknowledged once all before them are
    _unconfirmed: dict[int, mqtt5.PublishPacket] = field(default_factory=dict)  # sent, by packet id
    _queued: deque[mqtt5.PublishPacket] = field(default_factory=deque)  # not sent yet
    _last_id: int = 0
    _texts: dict[tuple[bytes, bytes], tuple[str, str | None]] = field(default_factory=dict)  # bytes -> as read
    _received_s: float = 0.0
    _sent_s: float = 0.0
    _pinged_s: float | None = None  # when the PINGREQ was sent that has no answer

    # -- a connection begins and ends --------------------------------------------------------------------------------

    def begin(self, now_s: float) -> None:
        """A network connection is there: CONNECT is the first thing to send."""
        self.end()
        self._open = True
        self._start = self._end = 0
        self._filters.clear()
        self._unacknowledged.clear()
        self._safe.clear()
        self._received_s = self._sent_s = now_s
        self._pinged_s = None
        client, will = self.client, None
        if client.will is not None:
            will = mqtt5.Will(client.will[0], payload=client.will[1], qos=mqtt5.QoS.AT_LEAST_ONCE, retain=True)
        packet = mqtt5.ConnectPacket(
            client.client_id,
            username=client.username,
            password=client.password,
            clean_start=client.clean_start,
            will=will,
            keep_alive=client.keepalive_s,
            session_expiry_interval=client.session_expiry_s,
            receive_max=client.receive_maximum,
            max_packet_size=client.maximum_packet_bytes,
        )
        self._out = [packet.write()]

    def end(self) -> None:
        """The network connection is gone, whoever closed it."""
        self._open = self.connected = self.subscribed = False
        self._out.clear()

    def disconnect(
        self, reason: int = mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION, *, forget_session: bool = False
    ) -> None:
        """Says goodbye: the last will is not sent then. With `forget_session` the server keeps nothing for us."""
        if not self._open:
            return
        expiry_s = 0 if forget_session else None
        code = mqtt5.DisconnectReasonCode(int(reason))
        self._out.append(mqtt5.DisconnectPacket(reason_code=code, session_expiry_interval=expiry_s).write())
        self._open = self.connected = self.subscribed = False

    # -- bytes in ----------------------------------------------------------------------------------------------------

    def free_space(self) -> memoryview:
        """Where to put what the network brings; call `received` with how much that was."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._space) > _SPACE_BYTES:
                self._space = bytearray(_SPACE_BYTES)
        elif len(self._space) - self._end < _SPACE_BYTES // 4:  # keep the packet that has begun, drop what was read
            begun = self._space[self._start : self._end]
            size = max(_SPACE_BYTES, 2 * len(begun))
            if size != len(self._space):
                self._space = bytearray(size)
            self._space[: len(begun)] = begun
            self._start, self._end = 0, len(begun)
        return memoryview(self._space)[self._end :]

    def received(self, count: int, now_s: float) -> None:
        """So many bytes were put into `free_space`."""
        self._end += count
        self._received_s = now_s
        self._pinged_s = None  # whatever came: the connection lives

    def feed(self, data: bytes, now_s: float = 0.0) -> None:
        """As `free_space` and `received`, with a copy."""
        while data:
            space = self.free_space()
            part, data = data[: len(space)], data[len(space) :]
            space[: len(part)] = part
            self.received(len(part), now_s)

    def next_event(self) -> Event | None:
        """What the received bytes say next; None when more bytes are needed.

        Raises:
            ProtocolError: they are no MQTT 5. The connection is to be closed once the DISCONNECT is sent.
        """
        while self._open and self._start < self._end:
            packet = self._next_packet()
            if packet is None:
                return None
            if isinstance(packet, Message):
                return packet
            event = self._answer(packet)
            if event is not None:
                return event
        return None

    def _next_packet(self) -> mqtt5.Packet | Message | None:
        view = memoryview(self._space)[self._start : self._end]
        framed = _frame(view)
        if framed is None:
            return None
        header, size = framed
        if size > self.client.maximum_packet_bytes:
            raise self._error(TOO_LARGE, f"a packet of at most {self.client.maximum_packet_bytes} bytes, found: {size}")
        if size > len(view):
            return None
        if view[0] >> 4 == _PUBLISH and self.connected:
            return self._message(view[:size], header, size)
        return self._read(view, size)

    def _read(self, view: memoryview, size: int) -> mqtt5.Packet:
        try:
            packet, used = mqtt5.read(view[:size])
        except (ValueError, IndexError) as error:
            if not self.connected and bytes(view[:2]) == _MQTT_311_REFUSAL:
                reason = mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
                self._start += size
                return mqtt5.ConnAckPacket(reason_code=reason)
            raise self._error(
                MALFORMED, f"a packet of MQTT 5, found: {bytes(view[: min(size, 16)]).hex(' ')} ({error})"
            ) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # text that is no UTF-8 makes the package panic
                raise
            raise self._error(MALFORMED, "text in UTF-8, found a packet without") from error
        if used != size:
            raise self._error(MALFORMED, f"a packet of {used} bytes, found its length given as {size}")
        self._start += size
        return packet

    def _message(self, view: memoryview, header: int, size: int) -> Message:
        """A PUBLISH. Topic and properties that came before are not read again: a stream's are always the same."""
        flags, topic_end = view[0] & 0x0F, header + 2 + int.from_bytes(view[header : header + 2], "big")
        key = None
        if flags in _QOS_OF_FLAGS and topic_end + 2 < size:
            qos = _QOS_OF_FLAGS[flags]
            at = topic_end + 2 * qos
            payload_at = at + 1 + view[at]
            if view[at] < 0x80 and payload_at <= size and payload_at < _LONGEST_KEPT_BYTES:
                key = bytes(view[header:topic_end]), bytes(view[at:payload_at])
                packet_id = view[topic_end] << 8 | view[topic_end + 1] if qos else 0
                if key in self._texts and (packet_id or not qos):
                    topic, content_type = self._texts[key]
                    self._start += size
                    payload = bytes(view[payload_at:])
                    return Message(topic, payload, qos, content_type, bool(flags & 1), self._receipt(packet_id))
        message = self._new_message(view, header, size)
        if key is not None:
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            self._texts[key] = message.topic, message.content_type
        return message

    def _new_message(self, view: memoryview, header: int, size: int) -> Message:
        """Text of somebody's that is no UTF-8 must not stop us, so such a message is delivered all the same."""
        fields = _PublishFields.of(view, header)
        if fields is None:
            raise self._error(MALFORMED, "a PUBLISH of MQTT 5, found one whose fields do not fit its length")
        if not fields.is_utf8:
            self._start += size
            receipt = self._receipt(fields.packet_id)
            return Message(fields.topic, fields.payload, fields.qos, fields.content_type, fields.retained, receipt)
        packet = self._read(view, size)
        if not isinstance(packet, mqtt5.PublishPacket):
            raise self._error(PROTOCOL_ERROR, "a PUBLISH, found another packet")
        qos, packet_id = int(packet.qos), packet.packet_id
        if qos == 2 or packet.topic_alias is not None or (packet_id == 0 and qos):
            raise self._error(PROTOCOL_ERROR, "QoS 0 or 1, a packet id and no topic alias, found others")
        receipt = self._receipt(packet_id if packet_id is not None and qos else 0)
        return Message(packet.topic, packet.payload, qos, packet.content_type, packet.retain, receipt)

    def _receipt(self, packet_id: int) -> Receipt:
        self.numbers += 1
        receipt = Receipt(self.epoch, packet_id, self.numbers)
        if packet_id:
            self._unacknowledged.append(receipt)
        return receipt

    def _answer(self, packet: mqtt5.Packet) -> Event | None:
        if not self.connected:
            if isinstance(packet, mqtt5.ConnAckPacket):
                return self._connack(packet)
            raise self._error(PROTOCOL_ERROR, f"a CONNACK first, found: {type(packet).__name__}")
        if isinstance(packet, mqtt5.PubAckPacket):
            return self._puback(packet)
        if isinstance(packet, mqtt5.PingRespPacket):
            return None
        if isinstance(packet, mqtt5.SubAckPacket):
            return self._suback(packet)
        if isinstance(packet, mqtt5.DisconnectPacket):
            self.end()
            text = packet.reason_str or reason_text(packet.reason_code)
            return Disconnected(text, packet.reason_code == SESSION_TAKEN_OVER)
        raise self._error(PROTOCOL_ERROR, f"a packet for a client, found: {type(packet).__name__}")

    def _connack(self, packet: mqtt5.ConnAckPacket) -> Event:
        if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            self.end()
            return Refused(packet.reason_str or reason_text(packet.reason_code))
        self.epoch += 1
        self.connected = True
        self.limits = ServerLimits(
            receive_maximum=packet.receive_max or 1,
            maximum_qos=int(packet.max_qos),
            maximum_packet_bytes=packet.max_packet_size,
            retain=packet.retain_available,
            wildcards=packet.wildcard_subscription_available,
            keepalive_s=packet.server_keep_alive,
            session_expiry_s=packet.session_expiry_interval,
        )
        self._subscribe()
        self._send_again(duplicate=packet.session_present)
        self._send_queued()
        return Connected(packet.session_present, self.limits)

    def _send_again(self, *, duplicate: bool) -> None:
        """What has no PUBACK goes first, in its order and under its packet id, as far as the server takes it."""
        unconfirmed, self._unconfirmed = list(self._unconfirmed.values()), {}
        for packet in unconfirmed[: self.limits.receive_maximum]:
            again = _copy(packet, duplicate=duplicate)
            if self._send(again.write()) and again.packet_id is not None:
                self._unconfirmed[again.packet_id] = again
        self._queued.extendleft(reversed(unconfirmed[self.limits.receive_maximum :]))

    def _subscribe(self) -> None:
        silent = mqtt5.RetainHandling.SEND_NEVER
        filters = [
            mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_LEAST_ONCE, retain_handling=silent)
            for topic in self.client.subscriptions
        ]
        filters += [mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_MOST_ONCE) for topic in self.client.notes]
        self.subscribed = not filters
        if filters:
            packet_id = self._free_id()
            self._filters[packet_id] = (*self.client.subscriptions, *self.client.notes)
            self._out.append(mqtt5.SubscribePacket(packet_id, filters).write())

    def _suback(self, packet: mqtt5.SubAckPacket) -> Event:
        wanted = self._filters.pop(packet.packet_id, None)
        if wanted is None or len(wanted) != len(packet.reason_codes):
            raise self._error(PROTOCOL_ERROR, "a SUBACK that fits our SUBSCRIBE, found another")
        refused = {
            topic: reason_text(code)
            for topic, code in zip(wanted, packet.reason_codes, strict=True)
            if int(code) >= _FAILURE
        }
        self.subscribed = not refused.keys() & set(self.client.subscriptions)
        return Subscribed(refused)

    def _puback(self, packet: mqtt5.PubAckPacket) -> Event | None:
        if self._unconfirmed.pop(packet.packet_id, None) is None:
            return None  # of a publication that was sent again: the second answer says nothing new
        self._send_queued()
        failed = int(packet.reason_code) >= _FAILURE
        return Confirmed(packet.packet_id, (packet.reason_str or reason_text(packet.reason_code)) if failed else None)

    def _error(self, reason: mqtt5.DisconnectReasonCode, text: str) -> ProtocolError:
        self.disconnect(reason)
        self._start = self._end = 0
        return ProtocolError(f"expected {text}")

    # -- what we say -------------------------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        """Deliveries of this connection at QoS 1 that have no acknowledgement."""
        return len(self._unacknowledged)

    @property
    def unconfirmed(self) -> int:
        """Publications at QoS 1 without a PUBACK, sent or not."""
        return len(self._unconfirmed) + len(self._queued)

    def acknowledge(self, receipts: Iterable[Receipt]) -> None:
        """These deliveries are safe. Those of QoS 0 and of an older connection are passed over."""
        if not self.connected or not self._unacknowledged:
            return
        oldest = self._unacknowledged[0].number
        for receipt in receipts:
            if receipt.mid and receipt.epoch == self.epoch and receipt.number >= oldest:
                self._safe.add(receipt.number)
        pubacks = []
        while self._unacknowledged and self._unacknowledged[0].number in self._safe:
            receipt = self._unacknowledged.popleft()
            self._safe.remove(receipt.number)
            pubacks.append(b"\x40\x02" + receipt.mid.to_bytes(2, "big"))
        if pubacks:
            self._out.append(b"".join(pubacks))

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, content_type: str | None = None
    ) -> bool:
        """Sends a message. At QoS 1 it waits for a connection and for the server's receive maximum.

        Returns False where it is dropped: QoS 0 without a connection, or a packet that is larger than the server takes.
        """
        if not qos:
            retain = retain and self.limits.retain
            packet = mqtt5.PublishPacket(topic, payload, retain=retain, content_type=content_type)
            return self.connected and self._send(packet.write())
        level = mqtt5.QoS.AT_LEAST_ONCE
        packet = mqtt5.PublishPacket(
            topic, payload, qos=level, retain=retain, packet_id=_PACKET_IDS, content_type=content_type
        )  # its id is given when it is sent
        self._queued.append(packet)
        oversized = self.oversized
        self._send_queued()
        return self.oversized == oversized

    def _send_queued(self) -> None:
        while self.connected and self._queued and len(self._unconfirmed) < self.limits.receive_maximum:
            waiting = self._queued.popleft()
            if self.limits.maximum_qos == 0:
                self._send(_copy(waiting, qos=0, retain=waiting.retain and self.limits.retain).write())
                continue
            packet_id = self._free_id()
            packet = _copy(waiting, packet_id=packet_id, retain=waiting.retain and self.limits.retain)
            if self._send(packet.write()):
                self._unconfirmed[packet_id] = packet

    def _send(self, data: bytes) -> bool:
        if self.limits.maximum_packet_bytes is not None and len(data) > self.limits.maximum_packet_bytes:
            self.oversized += 1
            return False
        self._out.append(data)
        return True

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % _PACKET_IDS + 1
            if self._last_id not in self._unconfirmed and self._last_id not in self._filters:
                return self._last_id

    def data_to_send(self) -> bytes:
        """Everything that is to be written now, once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # -- the keep-alive ----------------------------------------------------------------------------------------------

    @property
    def keepalive_s(self) -> float:
        """The longest silence: the server's wish before ours; 0 is none."""
        wished = self.limits.keepalive_s if self.connected else None
        return float(self.client.keepalive_s if wished is None else wished)

    def sent(self, now_s: float) -> None:
        """Bytes have left."""
        self._sent_s = now_s

    def tick(self, now_s: float, *, reading: bool) -> None:
        """Sends a PINGREQ when it is due.

        While we do not read, its answer lies unread behind the messages, so no answer is expected then.

        Raises:
            ConnectionSilent: nothing came for a whole keep-alive after the last PINGREQ.
        """
        if not self.connected or not self.keepalive_s:
            return
        if self._pinged_s is not None:
            waited_s = now_s - self._pinged_s
            if waited_s >= self.keepalive_s:
                if reading:
                    msg = f"no answer to PINGREQ within {self.keepalive_s:g} s"
                    raise ConnectionSilent(msg)
                self._ping(now_s)
        elif now_s - min(self._sent_s, self._received_s) >= self.keepalive_s:
            self._ping(now_s)

    def _ping(self, now_s: float) -> None:
        self._out.append(b"\xc0\x00")
        self._pinged_s = self._sent_s = now_s


def reason_text(code: int) -> str:
    """A reason code as MQTT calls it: `NOT_AUTHORIZED` -> `Not authorized`."""
    name = getattr(code, "name", None)
    return f"reason {int(code):#04x}" if name is None else name.replace("_", " ").capitalize()


def _frame(view: memoryview) -> tuple[int, int] | None:
    """Length of the fixed header and of the whole packet; None where more bytes are needed to know."""
    size, shift = 0, 0
    for at in range(1, min(len(view), _LARGEST_HEADER_BYTES)):
        size |= (view[at] & 0x7F) << shift
        if view[at] < 0x80:
            return at + 1, at + 1 + size
        shift += 7
    if len(view) >= _LARGEST_HEADER_BYTES:  # four bytes that all say "more": mqtt5 names the error
        return _LARGEST_HEADER_BYTES, len(view)
    return None


_CONTENT_TYPE: Final = 0x03
_PROPERTY_BYTES: Final = {0x01: 1, 0x02: 4, 0x23: 2}  # of fixed length
_PROPERTY_TEXTS: Final = {_CONTENT_TYPE: 1, 0x08: 1, 0x26: 2}  # response topic; a user property is two texts
_CORRELATION_DATA, _SUBSCRIPTION_ID = 0x09, 0x0B


class _PublishFields(NamedTuple):
    """A PUBLISH read by hand, just far enough to know whether its text is UTF-8: `mqtt5` panics where it is not."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    content_type: str | None
    packet_id: int
    is_utf8: bool

    @classmethod
    def of(cls, view: memoryview, at: int) -> _PublishFields | None:
        """The fields of a whole packet whose fixed header ends `at`; None where they do not fit into it."""
        qos, size = view[0] >> 1 & 3, len(view)
        topic_ends = at + 2 + int.from_bytes(view[at : at + 2], "big")
        properties_at = topic_ends + (2 if qos else 0)
        if qos == 3 or properties_at >= size:
            return None
        texts = {0: bytes(view[at + 2 : topic_ends])}
        properties, used = _variable_length(view, properties_at)
        payload_at = properties_at + used + properties
        if payload_at > size or (properties and not _read_texts(view[properties_at + used : payload_at], texts)):
            return None
        packet_id = int.from_bytes(view[topic_ends : topic_ends + 2], "big") if qos else 0
        is_utf8 = all(_is_utf8(text) for text in texts.values())
        if is_utf8:
            return cls("", b"", qos, False, None, packet_id, True)
        found = texts.get(_CONTENT_TYPE)
        content_type = None if found is None else found.decode(errors="replace")
        topic, payload = texts[0].decode(errors="replace"), bytes(view[payload_at:])
        return cls(topic, payload, min(qos, 1), bool(view[0] & 1), content_type, packet_id, False)


def _read_texts(properties: memoryview, texts: dict[int, bytes]) -> bool:
    """Puts the texts among the properties into `texts`, those of one kind joined; whether all of them are whole."""
    at = 0
    while at < len(properties):
        kind = properties[at]
        at += 1
        if kind in _PROPERTY_BYTES:
            at += _PROPERTY_BYTES[kind]
        elif kind == _SUBSCRIPTION_ID:
            at += _variable_length(properties, at)[1]
        elif kind == _CORRELATION_DATA:
            at += 2 + int.from_bytes(properties[at : at + 2], "big")
        else:
            for _ in range(_PROPERTY_TEXTS.get(kind, 0)):
                ends = at + 2 + int.from_bytes(properties[at : at + 2], "big")
                texts[kind] = texts.get(kind, b"") + bytes(properties[at + 2 : ends])
                at = ends
            if kind not in _PROPERTY_TEXTS:
                return True  # no property of a PUBLISH: mqtt5 names it
    return at == len(properties)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _variable_length(view: memoryview, at: int) -> tuple[int, int]:
    """A variable byte integer and how many bytes it takes; larger than any packet where it is none."""
    size, shift = 0, 0
    for used in range(4):
        if at + used >= len(view):
            break
        size |= (view[at + used] & 0x7F) << shift
        if view[at + used] < 0x80:
            return size, used + 1
        shift += 7
    return 2**28, 1


def _copy(
    packet: mqtt5.PublishPacket,
    *,
    packet_id: int | None = None,
    qos: int = 1,
    retain: bool | None = None,
    duplicate: bool | None = None,
) -> mqtt5.PublishPacket:
    return mqtt5.PublishPacket(
        packet.topic,
        packet.payload,
        qos=mqtt5.QoS(qos),
        retain=packet.retain if retain is None else retain,
        packet_id=None if not qos else packet_id or packet.packet_id,
        duplicate=packet.duplicate if duplicate is None and qos else bool(duplicate),
        content_type=packet.content_type,
    )
