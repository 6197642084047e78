"""Sparkplug B: births, data and deaths of edge nodes, as documents for a mapping.

    spBv1.0/GROUP/NBIRTH|NDATA|NDEATH/NODE      spBv1.0/GROUP/DBIRTH|DDATA|DDEATH/NODE/DEVICE

A birth names every metric with its alias and type; data name metrics by alias alone. So what a birth said is remembered
(`Births`, a value that the service writes to disk before it acknowledges the birth). A node whose aliases are not known
is asked for a rebirth, and its data go to quarantine until that comes.

The document of a message is {"timestamp", "seq", "metrics": {name: value}, "times": {name: ms}, "born": {name: value}}.
`born` has the values of the last births of the node and the device: rate, unit and scale are usually said only there.
A metric that comes several times in a message is a list.

The protobuf subset is read here: tag, varint, fixed and length-delimited fields are forty lines, the messages of
Sparkplug B are the tables below, and neither has changed since 2016. Source: Eclipse Sparkplug Specification 3.0.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace

from pipeline.core.records import Fact
from pipeline.errors import DecodeError

KINDS: Final = ("NBIRTH", "NDEATH", "NDATA", "DBIRTH", "DDEATH", "DDATA", "NCMD", "DCMD")
MOST_METRICS: Final = 4096  # of one node with its devices
MOST_NODES: Final = 4096
REBIRTH: Final = "Node Control/Rebirth"

# Data types, section 6.4.16.
_SIGNED: Final = {1: 8, 2: 16, 3: 32, 4: 64}  # Int8 to Int64, sent as unsigned numbers
_ARRAYS: Final = {
    22: "<i1", 23: "<i2", 24: "<i4", 25: "<i8", 26: "<u1", 27: "<u2", 28: "<u4", 29: "<u8", 30: "<f4", 31: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SparkplugTopic:
    """The parts of a Sparkplug topic."""

    group: str
    kind: str
    node: str
    device: str  # empty for the node itself

    @property
    def edge(self) -> str:
        """GROUP/NODE, the name of the node's births."""
        return f"{self.group}/{self.node}"

    @property
    def command(self) -> str:
        """Where a rebirth is asked for."""
        return f"spBv1.0/{self.group}/NCMD/{self.node}"


def parse_topic(topic: str) -> SparkplugTopic:
    """The parts of a topic.

    Raises:
        DecodeError: `topic`.
    """
    levels = topic.split("/")
    if len(levels) not in (4, 5) or levels[0] != "spBv1.0" or levels[2] not in KINDS or "" in levels[1:]:
        msg = f"a topic spBv1.0/GROUP/KIND/NODE or .../NODE/DEVICE of Sparkplug B expected, found: {topic[:80]!r}"
        raise DecodeError("topic", msg)
    return SparkplugTopic(levels[1], levels[2], levels[3], levels[4] if len(levels) == 5 else "")


# -- what births have said -------------------------------------------------------------------------------------------


class Metric(msgspec.Struct, frozen=True):
    """What a birth says of one metric."""

    name: str
    device: str
    datatype: int
    value: Fact | None = None  # a number or short text: constants such as the rate are said at birth only


class Birth(msgspec.Struct, frozen=True):
    """The last births of one node and its devices."""

    bd_seq: int | None = None
    dead: bool = False
    aliases: dict[int, Metric] = msgspec.field(default_factory=dict)
    named: dict[str, Metric] = msgspec.field(default_factory=dict)  # by DEVICE/NAME


Births = dict[str, Birth]  # by GROUP/NODE


@dataclass(slots=True)
class Nodes:
    """The edge nodes that have been heard. `births` is replaced as a whole, so another thread may write it to disk."""

    births: Births = field(default_factory=dict)
    unborn: set[str] = field(default_factory=set)  # topics to ask for a rebirth

    def read(self, topic: str, payload: bytes) -> dict[str, Any] | None:
        """The document of a message; None where it carries no measurements: births, deaths and commands.

        Raises:
            DecodeError: `malformed`, `topic`, or `alias` where the birth of an alias has not been heard.
        """
        place = parse_topic(topic)
        if place.kind in ("NCMD", "DCMD"):
            return None
        message = _payload(payload)
        if place.kind in ("NDEATH", "DDEATH"):
            self._died(place, message)
            return None
        if place.kind in ("NBIRTH", "DBIRTH"):
            birth = _born(self.births.get(place.edge, Birth()), place, message)
            if place.edge not in self.births and len(self.births) >= MOST_NODES:
                msg = f"at most {MOST_NODES} edge nodes expected, found one more: {place.edge[:80]!r}"
                raise DecodeError("alias", msg)
            self.births = {**self.births, place.edge: birth}
            self.unborn.discard(place.command)
            return None
        known = self.births.get(place.edge)
        if known is not None and known.dead:  # a birth has been missed
            self.unborn.add(place.command)
        try:
            return _document(known, place, message)
        except DecodeError as error:
            if error.reason == "alias":
                self.unborn.add(place.command)
            raise

    def _died(self, place: SparkplugTopic, message: dict[str, Any]) -> None:
        """Note the death of a node. Its aliases remain valid for messages that the broker delivers again.

        The will of an earlier connection can come after the next birth. Its bdSeq is then not that of the birth.
        """
        known = self.births.get(place.edge)
        numbers = [raw["value"][1] for raw in message["metrics"] if raw["name"] == "bdSeq"]
        if known is not None and place.kind == "NDEATH" and numbers[:1] == [known.bd_seq]:
            self.births = {**self.births, place.edge: replace(known, dead=True)}


def _born(before: Birth, place: SparkplugTopic, message: dict[str, Any]) -> Birth:
    metrics = [_metric_of(place.device, raw) for raw in message["metrics"]]
    of_node = place.kind == "NBIRTH"
    # A node's birth begins everything anew. A device's birth replaces what was said of this device.
    aliases = {} if of_node else {a: m for a, m in before.aliases.items() if m.device != place.device}
    named = {} if of_node else {n: m for n, m in before.named.items() if m.device != place.device}
    for raw, metric in zip(message["metrics"], metrics, strict=True):
        if raw["alias"] is not None:
            aliases[raw["alias"]] = metric
        named[f"{place.device}/{metric.name}"] = metric
    if max(len(aliases), len(named)) > MOST_METRICS:
        msg = f"at most {MOST_METRICS} metrics of one edge node expected, found more"
        raise DecodeError("malformed", msg)
    bd_seq = before.bd_seq
    if of_node:
        numbers = [m.value for m in metrics if m.name == "bdSeq" and isinstance(m.value, int)]
        bd_seq = numbers[0] if numbers else None
    return Birth(bd_seq, before.dead and not of_node, aliases, named)


def _metric_of(device: str, raw: dict[str, Any]) -> Metric:
    if not raw["name"]:
        msg = "a name of every metric in a birth expected, found a metric without one"
        raise DecodeError("malformed", msg)
    value = _value(raw, raw["datatype"])
    short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 200)
    return Metric(raw["name"], device, raw["datatype"], value if short else None)


def _document(known: Birth | None, place: SparkplugTopic, message: dict[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for raw in message["metrics"]:
        name, datatype = raw["name"], raw["datatype"]
        if not name or not datatype:
            metric = _known(known, place, raw)
            name, datatype = metric.name, datatype or metric.datatype
        if raw["is_null"]:
            continue
        time = raw["timestamp"] or message["timestamp"]
        value = _value(raw, datatype)
        if name in metrics:
            if not isinstance(times[name], list):
                metrics[name], times[name] = [metrics[name]], [times[name]]
            metrics[name].append(value)
            times[name].append(time)
        else:
            metrics[name], times[name] = value, time
    born = {} if known is None else {m.name: m.value for m in known.named.values() if m.device in ("", place.device)}
    head = {"timestamp": message["timestamp"], "seq": message["seq"]}
    return {**head, "metrics": metrics, "times": times, "born": born}


def _known(known: Birth | None, place: SparkplugTopic, raw: dict[str, Any]) -> Metric:
    if raw["name"]:
        metric = None if known is None else known.named.get(f"{place.device}/{raw['name']}")
    else:
        metric = None if known is None else known.aliases.get(raw["alias"])
    if metric is None:
        what = raw["name"] or f"alias {raw['alias']}"
        msg = (
            f"a birth of {place.edge!r} that names {str(what)[:60]!r} expected, found none yet: "
            f"a rebirth is asked for on {place.command}"
        )
        raise DecodeError("alias", msg)
    return metric


def _value(raw: dict[str, Any], datatype: int) -> Any:
    """The value as Python has it: numbers, text, bytes, lists of numbers, or {column: list} of a data set."""
    kind, value = raw["value"]
    if kind in (10, 11) and datatype in _SIGNED:
        bits = _SIGNED[datatype]
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    if kind == 16 and datatype in _ARRAYS:
        dtype = np.dtype(_ARRAYS[datatype])
        if len(value) % dtype.itemsize:
            msg = f"an array of {dtype.itemsize} bytes per value expected, found: {len(value)} bytes"
            raise DecodeError("length", msg)
        return np.frombuffer(value, dtype).tolist()
    return value


# -- protobuf --------------------------------------------------------------------------------------------------------

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and raw value of every field of a protobuf message.

    Raises:
        DecodeError: the bytes end within a field, or have groups, which Sparkplug does not use.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            msg = f"protobuf of Sparkplug B expected, found wire type {wire} at byte {at}"
            raise DecodeError("malformed", msg)
        if number == 0 or at + size > len(data):
            msg = f"protobuf of Sparkplug B expected, found an end within a field at byte {at}"
            raise DecodeError("malformed", msg)
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    msg = f"protobuf of Sparkplug B expected, found no whole number at byte {at}"
    raise DecodeError("malformed", msg)


def _of_wire(number: int, wire: int, value: Any, expected: int) -> Any:
    if wire != expected:
        msg = f"wire type {expected} of protobuf field {number} expected, found: {wire}"
        raise DecodeError("malformed", msg)
    return value


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        msg = f"a name or text in UTF-8 expected, found: {value[:20]!r}"
        raise DecodeError("malformed", msg) from None


def _payload(data: bytes) -> dict[str, Any]:
    """`Payload`: timestamp 1, metrics 2, seq 3; uuid and body are passed over."""
    found: dict[str, Any] = {"timestamp": None, "seq": None, "metrics": []}
    for number, wire, value in _fields(data):
        if number in (1, 3):
            found["timestamp" if number == 1 else "seq"] = _of_wire(number, wire, value, _VARINT)
        elif number == 2:
            found["metrics"].append(_metric(_of_wire(number, wire, value, _BYTES)))
    if not found["metrics"] and found["timestamp"] is None:
        msg = "a payload of Sparkplug B with a timestamp or metrics expected, found neither"
        raise DecodeError("malformed", msg)
    return found


def _metric(data: bytes) -> dict[str, Any]:
    """`Metric`: name 1, alias 2, timestamp 3, datatype 4, is_null 7, values 10 to 17."""
    found: dict[str, Any] = {
        "name": "", "alias": None, "timestamp": None, "datatype": 0, "is_null": False, "value": (0, None),
    }  # fmt: skip
    for number, wire, value in _fields(data):
        if number == 1:
            found["name"] = _utf8(_of_wire(number, wire, value, _BYTES))
        elif number in (2, 3, 4):
            found[("alias", "timestamp", "datatype")[number - 2]] = _of_wire(number, wire, value, _VARINT)
        elif number == 7:
            found["is_null"] = bool(_of_wire(number, wire, value, _VARINT))
        elif 10 <= number <= 17:
            found["value"] = (number, _scalar(number - 9, number, wire, value))
    return found


def _scalar(kind: int, number: int, wire: int, value: Any) -> Any:
    """A value of kind 1 uint32, 2 uint64, 3 float, 4 double, 5 boolean, 6 text, 7 bytes, 8 data set."""
    if kind in (1, 2):
        return _of_wire(number, wire, value, _VARINT)
    if kind in (3, 4):
        code, expected = ("<f", _FIXED32) if kind == 3 else ("<d", _FIXED64)
        return float(struct.unpack(code, _of_wire(number, wire, value, expected))[0])
    if kind == 5:
        return bool(_of_wire(number, wire, value, _VARINT))
    data = _of_wire(number, wire, value, _BYTES)
    return _utf8(data) if kind == 6 else bytes(data) if kind == 7 else _data_set(data)


def _data_set(data: bytes) -> dict[str, list[Any]]:
    """`DataSet`: columns 2, rows 4, each with elements 1 of values 1 to 6."""
    names: list[str] = []
    rows: list[list[Any]] = []
    for number, wire, value in _fields(data):
        if number == 2:
            names.append(_utf8(_of_wire(number, wire, value, _BYTES)))
        elif number == 4:
            elements = [
                _of_wire(n, w, v, _BYTES) for n, w, v in _fields(_of_wire(number, wire, value, _BYTES)) if n == 1
            ]
            rows.append([next((_scalar(n, n, w, v) for n, w, v in _fields(e) if n <= 6), None) for e in elements])
    if any(len(row) != len(names) for row in rows):
        msg = f"{len(names)} values in each row of a data set expected, found others"
        raise DecodeError("malformed", msg)
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def rebirth_request(timestamp_ms: int) -> bytes:
    """The payload of an NCMD that asks a node for its births."""
    name = REBIRTH.encode()
    metric = b"\x0a" + bytes([len(name)]) + name + b"\x20\x0b" + b"\x70\x01"  # name, datatype Boolean, true
    return b"\x08" + _written(timestamp_ms) + b"\x12" + bytes([len(metric)]) + metric


def _written(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def births_to_json(births: Mapping[str, Birth]) -> bytes:
    """What has been heard, for a file."""
    return msgspec.json.encode(births)


def births_from_json(data: bytes) -> Births:
    """What a file says.

    Raises:
        ValueError: it is damaged.
    """
    return msgspec.json.decode(data, type=Births)
