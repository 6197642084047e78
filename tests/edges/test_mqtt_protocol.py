"""MQTT 5 as a state machine: fed byte by byte, cut at random, damaged in every field."""

from __future__ import annotations

from itertools import pairwise

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.edges.mqtt import protocol
from pipeline.edges.mqtt.protocol import (
    Client,
    Confirmed,
    Connected,
    ConnectionSilent,
    Disconnected,
    Event,
    Protocol,
    ProtocolError,
    Refused,
    Subscribed,
)
from pipeline.edges.ports import Message, Receipt

TOPIC = "plant/a/b/c/vibration"
CLIENT = Client("service", subscriptions=("plant/#",), keepalive_s=10, maximum_packet_bytes=100_000)
ACCEPTED = mqtt5.ConnAckPacket(receive_max=20).write()


def suback(*codes: mqtt5.SubAckReasonCode) -> bytes:
    return mqtt5.SubAckPacket(1, list(codes) or [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write()


def publish(payload: bytes, *, qos: int = 1, packet_id: int = 1, topic: str = TOPIC) -> bytes:
    return mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id if qos else None).write()


def packets(data: bytes) -> list[mqtt5.Packet]:
    """What a broker reads of what we send."""
    found, view = [], memoryview(bytearray(data))
    while len(view):
        packet, used = mqtt5.read(view)
        found.append(packet)
        view = view[used:]
    return found


def events(machine: Protocol, data: bytes = b"") -> list[Event]:
    machine.feed(data)
    found = []
    while (event := machine.next_event()) is not None:
        found.append(event)
    return found


def connected(client: Client = CLIENT, answer: bytes = ACCEPTED) -> Protocol:
    machine = Protocol(client)
    machine.begin(0.0)
    machine.data_to_send()
    found = events(machine, answer + (suback() if client.subscriptions else b""))
    assert isinstance(found[0], Connected)
    machine.data_to_send()
    return machine


# -- cut anywhere ----------------------------------------------------------------------------------------------------

SCRIPT = [
    ACCEPTED,
    suback(),
    *(publish(bytes([n]) * (n * 97), packet_id=n) for n in range(1, 9)),
    publish(b"zero", qos=0),
    publish(b"large" * 10_000, packet_id=9),
    mqtt5.PubAckPacket(2).write(),
    mqtt5.PingRespPacket().write(),
    mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN).write(),
]


def played(chunks: list[bytes]) -> list[Event]:
    machine = Protocol(CLIENT)
    machine.publish("result", b"kept", qos=1)
    machine.begin(0.0)
    return [event for chunk in chunks for event in events(machine, chunk)]


@given(st.lists(st.integers(1, sum(map(len, SCRIPT)) - 1), max_size=30))
def test_however_the_bytes_are_cut_the_events_are_the_same(cuts: list[int]) -> None:
    data = b"".join(SCRIPT)
    edges = [0, *sorted(set(cuts)), len(data)]
    assert played([data[a:b] for a, b in pairwise(edges)]) == played([data])


def test_byte_by_byte_the_events_are_the_same_and_in_order() -> None:
    data = b"".join(SCRIPT)
    found = played([data[n : n + 1] for n in range(len(data))])
    assert found == played([data])
    kinds = [type(event) for event in found]
    assert kinds == [Connected, Subscribed, *[Message] * 10, Confirmed, Disconnected]
    assert [event.payload for event in found if isinstance(event, Message)][-2:] == [b"zero", b"large" * 10_000]


# -- damaged ---------------------------------------------------------------------------------------------------------


def said(machine: Protocol, data: bytes) -> list[tuple[object, ...]]:
    """What a machine makes of bytes, without the numbers that it gives."""
    try:
        found = events(machine, data)
    except ProtocolError as error:
        return [(str(error), machine.connected)]
    return [(*event[:5], event.receipt.mid) if isinstance(event, Message) else tuple(event) for event in found]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mqtt5's word on a broker's bad text
@given(
    st.sampled_from([0, 1]),
    st.booleans(),
    st.sampled_from([None, "application/msgpack"]),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
)
def test_a_topic_that_came_before_is_read_like_a_new_one(
    qos: int, retain: bool, content_type: str | None, payload: bytes, damages: list[tuple[int, int]]
) -> None:
    packet = bytearray(
        mqtt5.PublishPacket(
            TOPIC,
            payload,
            qos=mqtt5.QoS(qos),
            packet_id=7 if qos else None,
            retain=retain,
            content_type=content_type,
        ).write()
    )
    known, new = connected(), connected()
    assert said(known, bytes(packet)) == said(connected(), bytes(packet))
    for at, value in damages:
        packet[at % len(packet)] = value
    assert said(known, bytes(packet)) == said(new, bytes(packet))


@pytest.mark.parametrize("size", [0, 100, 118, 119, 120, 121, 122, 130, 1000, 1010, 1100])
@pytest.mark.parametrize("payload", [b"", b"x", b"payload"])
def test_properties_of_any_length_are_read_alike_when_they_come_again(size: int, payload: bytes) -> None:
    packet = mqtt5.PublishPacket(TOPIC, payload, qos=mqtt5.QoS(1), packet_id=7, content_type="c" * size).write()
    machine = connected()
    first = said(machine, packet)
    assert first[0][1:3] == (payload, 1)
    assert said(machine, packet) == said(machine, packet) == first


def test_short_texts_are_remembered_also_without_a_payload_and_long_ones_are_not() -> None:
    machine = connected()
    longest = protocol._LONGEST_KEPT_BYTES
    for n, size in enumerate((30, 900, longest, 3 * longest)):
        for payload in (b"", b"x"):
            topic = f"{n}" + "t" * size
            said(machine, mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(1), packet_id=1 + n).write())
    assert sorted(len(topic) for topic, _ in machine._texts) == [31 + 2, 901 + 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mqtt5's word on a broker's bad text
@given(st.integers(0, len(SCRIPT) - 1), st.integers(0, 60), st.integers(0, 255), st.booleans())
def test_a_packet_damaged_in_any_field_gives_events_or_a_protocol_error_and_a_goodbye(
    which: int, at: int, value: int, begun: bool
) -> None:
    damaged = bytearray(SCRIPT[which])
    damaged[at % len(damaged)] = value
    machine = connected() if begun else Protocol(CLIENT)
    if not begun:
        machine.begin(0.0)
        machine.data_to_send()
    failed = False
    try:
        events(machine, bytes(damaged))
        events(machine, b"".join(SCRIPT[1:4]))  # what follows may be read as part of it
    except ProtocolError:
        failed = True
    if failed:
        (goodbye,) = [p for p in packets(machine.data_to_send()) if isinstance(p, mqtt5.DisconnectPacket)]
        assert int(goodbye.reason_code) in (0x81, 0x82, 0x95)
        assert not machine.connected
        assert machine.next_event() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.binary(min_size=1, max_size=200))
def test_noise_is_no_mqtt_and_ends_the_connection_or_asks_for_more(noise: bytes) -> None:
    machine = Protocol(CLIENT)
    machine.begin(0.0)
    try:
        found = events(machine, noise)
    except ProtocolError:
        return
    assert all(isinstance(event, Connected | Refused | Subscribed | Message | Disconnected) for event in found)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("damaged", ["topic", "content type", "user property"])
def test_a_message_with_text_that_is_no_utf8_is_delivered_and_can_be_acknowledged(qos: int, damaged: str) -> None:
    machine = connected()
    texts = {"topic": "plant/x", "content type": "kind", "user property": "key"}
    packet = mqtt5.PublishPacket(
        "plant/x", b"payload", qos=mqtt5.QoS(qos), packet_id=7 if qos else None, content_type="kind",
        user_properties=[("key", "value")], correlation_data=b"\xff", message_expiry_interval=9,
    )  # fmt: skip
    data = bytearray(packet.write())
    data[data.index(texts[damaged].encode())] = 0xFF
    (delivery,) = events(machine, bytes(data) + publish(b"next", packet_id=8))[:1]
    assert isinstance(delivery, Message)
    assert (delivery.payload, delivery.qos) == (b"payload", qos)
    assert delivery.topic == ("\ufffdlant/x" if damaged == "topic" else "plant/x")
    assert delivery.content_type == ("\ufffdind" if damaged == "content type" else "kind")
    machine.acknowledge([delivery.receipt])
    assert machine.data_to_send() == (b"\x40\x02\x00\x07" if qos else b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (publish(b"before CONNACK"), "CONNACK first"),
        (ACCEPTED + ACCEPTED, "for a client"),
        (ACCEPTED + mqtt5.ConnectPacket("broker").write(), "for a client"),
        (ACCEPTED + mqtt5.SubAckPacket(9, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]).write(), "fits our SUBSCRIBE"),
        (ACCEPTED + publish(b"twice", qos=2), "QoS 0 or 1"),
        (ACCEPTED + mqtt5.PublishPacket("", b"x", topic_alias=3).write(), "topic alias"),
        (ACCEPTED + publish(bytes(200_000)), "at most 100000 bytes"),
    ],
)
def test_what_a_broker_may_not_send_is_named(data: bytes, what: str) -> None:
    machine = Protocol(CLIENT)
    machine.begin(0.0)
    with pytest.raises(ProtocolError, match=what):
        events(machine, data)


def test_a_packet_that_is_too_large_is_refused_by_its_header_before_its_bytes_come() -> None:
    machine = connected()
    with pytest.raises(ProtocolError, match="at most 100000 bytes"):
        events(machine, publish(bytes(200_000))[:10])


def test_a_broker_that_speaks_only_3_1_1_is_refused_by_that_name() -> None:
    machine = Protocol(CLIENT)
    machine.begin(0.0)
    assert events(machine, b"\x20\x02\x00\x01") == [Refused("Unsupported protocol version")]


def test_a_refusal_says_its_reason() -> None:
    machine = Protocol(CLIENT)
    machine.begin(0.0)
    refusal = mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD).write()
    assert events(machine, refusal) == [Refused("Bad user name or password")]
    assert not machine.connected


# -- acknowledgements ------------------------------------------------------------------------------------------------


@given(st.permutations(range(8)), st.integers(1, 8))
def test_pubacks_go_out_in_order_of_arrival_and_only_for_what_is_safe(order: list[int], count: int) -> None:
    machine = connected()
    found = events(machine, b"".join(publish(b"x", packet_id=10 * n + 7) for n in range(8)))
    receipts = [event.receipt for event in found if isinstance(event, Message)]
    safe: set[int] = set()
    sent: list[int] = []
    for n in order[:count]:
        safe.add(n)
        machine.acknowledge([receipts[n]])
        sent += [p.packet_id for p in packets(machine.data_to_send()) if isinstance(p, mqtt5.PubAckPacket)]
        without_hole = next(n for n in range(9) if n not in safe)
        assert sent == [receipt.mid for receipt in receipts[:without_hole]]
    assert machine.unacknowledged == 8 - len(sent)


def test_acknowledgements_of_an_older_connection_are_passed_over() -> None:
    machine = connected()
    (old,) = events(machine, publish(b"x", packet_id=3))
    machine.begin(1.0)
    machine.data_to_send()
    (_, _, new) = events(machine, ACCEPTED + suback_after(machine) + publish(b"x", packet_id=3))
    machine.data_to_send()
    assert isinstance(old, Message)
    assert isinstance(new, Message)
    machine.acknowledge([old.receipt])
    assert machine.data_to_send() == b""
    assert new.receipt == Receipt(2, 3, 2)
    machine.acknowledge([new.receipt])
    assert machine.data_to_send() == b"\x40\x02\x00\x03"


def suback_after(machine: Protocol) -> bytes:
    """A SUBACK for whatever packet id the next SUBSCRIBE will have."""
    next_id = machine._last_id + 1
    return mqtt5.SubAckPacket(next_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write()


# -- publications ----------------------------------------------------------------------------------------------------


def sent_publications(machine: Protocol) -> list[mqtt5.PublishPacket]:
    return [p for p in packets(machine.data_to_send()) if isinstance(p, mqtt5.PublishPacket)]


def test_publications_at_qos_1_wait_for_the_receive_maximum_and_go_in_order() -> None:
    machine = connected(answer=mqtt5.ConnAckPacket(receive_max=3).write())
    for n in range(10):
        assert machine.publish("results", b"%d" % n, qos=1)
    payloads: list[bytes] = []
    while sent := sent_publications(machine):
        payloads += [p.payload for p in sent]
        assert len(sent) <= 3
        for packet in sent:
            assert packet.packet_id is not None
            events(machine, mqtt5.PubAckPacket(packet.packet_id).write())
    assert payloads == [b"%d" % n for n in range(10)]
    assert machine.unconfirmed == 0


@pytest.mark.parametrize("present", [True, False])
def test_what_was_not_confirmed_is_sent_again_under_its_id_before_anything_newer(present: bool) -> None:
    machine = connected()
    for n in range(3):
        machine.publish("results", b"%d" % n, qos=1)
    first = sent_publications(machine)
    events(machine, mqtt5.PubAckPacket(first[0].packet_id or 0).write())
    machine.end()
    machine.publish("results", b"newer", qos=1)
    assert not machine.publish("results", b"lost", qos=0)
    machine.begin(1.0)
    machine.data_to_send()
    events(machine, mqtt5.ConnAckPacket(session_present=present).write())
    again = sent_publications(machine)
    assert [p.payload for p in again] == [b"1", b"2", b"newer"]
    assert [p.packet_id for p in again[:2]] == [p.packet_id for p in first[1:]]
    assert [p.duplicate for p in again] == [present, present, False]


def test_limits_of_the_server_are_kept() -> None:
    answer = mqtt5.ConnAckPacket(max_qos=mqtt5.QoS.AT_MOST_ONCE, retain_available=False, max_packet_size=100).write()
    machine = connected(answer=answer)
    assert machine.publish("results", b"small", qos=1, retain=True)
    assert not machine.publish("results", bytes(200), qos=1)
    assert not machine.publish("results", bytes(200), qos=0)
    (packet,) = sent_publications(machine)
    assert (int(packet.qos), packet.retain, packet.payload) == (0, False, b"small")
    assert machine.oversized == 2
    assert machine.unconfirmed == 0
    machine.end()
    for n in range(3):
        machine.publish("results", b"%d" % n, qos=1)
    machine.begin(1.0)
    machine.data_to_send()
    events(machine, answer)
    assert [(p.payload, int(p.qos)) for p in sent_publications(machine)] == [(b"0", 0), (b"1", 0), (b"2", 0)]


def test_a_packet_id_without_a_puback_is_passed_over_when_the_count_comes_round() -> None:
    machine = connected(answer=mqtt5.ConnAckPacket().write())
    machine.publish("results", b"kept", qos=1)
    (kept,) = sent_publications(machine)
    ids = set()
    for _ in range(65_535):
        machine.publish("results", b"", qos=1)
        (packet,) = sent_publications(machine)
        ids.add(packet.packet_id)
        events(machine, mqtt5.PubAckPacket(packet.packet_id or 0).write())
    assert kept.packet_id not in ids
    assert len(ids) == 65_534


def test_a_refused_publication_says_why() -> None:
    machine = connected()
    machine.publish("results", b"x", qos=1)
    (packet,) = sent_publications(machine)
    no = mqtt5.PubAckPacket(packet.packet_id or 0, reason_code=mqtt5.PubAckReasonCode.NOT_AUTHORIZED).write()
    assert events(machine, no) == [Confirmed(packet.packet_id or 0, "Not authorized")]


# -- the beginning and the end ---------------------------------------------------------------------------------------


def test_connect_says_what_we_are_and_asks_for_no_topic_alias() -> None:
    machine = Protocol(
        Client("me", username="u", password=b"p", session_expiry_s=60, receive_maximum=7, will=("gone", b"offline"))
    )
    machine.begin(0.0)
    (connect,) = packets(machine.data_to_send())
    assert isinstance(connect, mqtt5.ConnectPacket)
    assert (connect.client_id, connect.username, connect.password) == ("me", "u", b"p")
    assert (connect.session_expiry_interval, connect.receive_max, connect.topic_alias_max) == (60, 7, 0)
    assert connect.will is not None
    assert (connect.will.topic, int(connect.will.qos), connect.will.retain) == ("gone", 1, True)


def test_refused_subscriptions_are_named_and_leave_us_unsubscribed() -> None:
    machine = Protocol(CLIENT)
    machine.begin(0.0)
    found = events(machine, ACCEPTED + suback(mqtt5.SubAckReasonCode.NOT_AUTHORIZED))
    assert found[1] == Subscribed({"plant/#": "Not authorized"})
    assert not machine.subscribed


def test_a_session_that_was_taken_over_is_told_apart() -> None:
    code = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    assert events(connected(), mqtt5.DisconnectPacket(reason_code=code).write()) == [
        Disconnected("Session taken over", True)
    ]


def test_goodbye_may_ask_the_broker_to_forget_the_session() -> None:
    machine = connected()
    machine.disconnect(forget_session=True)
    (goodbye,) = packets(machine.data_to_send())
    assert isinstance(goodbye, mqtt5.DisconnectPacket)
    assert goodbye.session_expiry_interval == 0


# -- the keep-alive --------------------------------------------------------------------------------------------------


def test_a_silent_broker_is_pinged_and_given_up_within_two_keep_alives() -> None:
    machine = connected()
    machine.tick(9.0, reading=True)
    assert machine.data_to_send() == b""
    machine.tick(10.0, reading=True)
    assert machine.data_to_send() == b"\xc0\x00"
    machine.tick(19.0, reading=True)
    with pytest.raises(ConnectionSilent):
        machine.tick(20.0, reading=True)


def test_a_broker_that_only_takes_is_pinged_too() -> None:
    machine = connected()
    machine.sent(9.9)
    machine.tick(10.0, reading=True)
    assert machine.data_to_send() == b"\xc0\x00"


def test_while_nothing_is_read_pings_go_on_and_no_answer_is_expected() -> None:
    machine = connected()
    for now_s in range(10, 100, 10):
        machine.tick(float(now_s), reading=False)
        assert machine.data_to_send() == b"\xc0\x00"
    machine.received(0, 100.0)
    machine.tick(101.0, reading=True)


def test_the_server_s_keep_alive_goes_before_ours() -> None:
    machine = connected(answer=mqtt5.ConnAckPacket(server_keep_alive=3).write())
    machine.tick(3.0, reading=True)
    assert machine.data_to_send() == b"\xc0\x00"


def test_memory_of_a_large_packet_is_given_back() -> None:
    machine = connected(Client("service", maximum_packet_bytes=10_000_000))
    (delivery,) = events(machine, publish(bytes(5_000_000)))
    assert isinstance(delivery, Message)
    assert len(delivery.payload) == 5_000_000
    machine.free_space()
    assert len(machine._space) == protocol._SPACE_BYTES
