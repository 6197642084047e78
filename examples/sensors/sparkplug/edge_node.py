"""A Sparkplug B edge node with one device: birth, data by alias, death by last will, rebirth on request.

    python edge_node.py --broker 127.0.0.1:1883 --messages 50

It needs paho-mqtt and numpy. Put your driver in place of `samples`. The tables for thrumcast are in payloads.toml.
"""

from __future__ import annotations

import argparse
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

RATE_HZ, COUNT = 1000, 250
AXES = ("Vibration/X", "Vibration/Y", "Vibration/Z")
INT64, DOUBLE, BOOLEAN, STRING, FLOAT_ARRAY = 4, 10, 11, 12, 30  # data types of Sparkplug B


def varint(value: int) -> bytes:
    """A protobuf number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def lengthy(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def metric(value: object, datatype: int, *, name: str = "", alias: int | None = None) -> bytes:
    """One metric; with a name in a birth, by its alias in data."""
    out = lengthy(1, name.encode()) if name else b""
    if alias is not None:
        out += b"\x10" + varint(alias)
    if name:
        out += b"\x20" + varint(datatype)
    if datatype == FLOAT_ARRAY:
        return out + lengthy(16, np.asarray(value, "<f4").tobytes())
    if datatype == DOUBLE:
        return out + b"\x69" + struct.pack("<d", value)
    if datatype == STRING:
        return out + lengthy(15, str(value).encode())
    return out + (b"\x70" if datatype == BOOLEAN else b"\x58") + varint(int(str(value)))


def payload(at_ms: int, metrics: Iterable[bytes], seq: int | None = None) -> bytes:
    """A Sparkplug B payload."""
    body = b"\x08" + varint(at_ms) + b"".join(lengthy(2, one) for one in metrics)
    return body if seq is None else body + b"\x18" + varint(seq)


def samples(first: int) -> np.ndarray:
    """Samples [first, first + COUNT) of three axes: put your driver here."""
    t = (first + np.arange(COUNT)) / RATE_HZ
    return np.stack(
        [np.sin(2 * np.pi * 24.7 * t), 0.5 * np.sin(2 * np.pi * 49.3 * t), 0.1 * np.cos(2 * np.pi * 100 * t)]
    )


class EdgeNode:
    """One node with one device."""

    def __init__(self, host: str, port: int, *, group: str, node: str, device: str, state: Path) -> None:
        self.place = f"{group}/{{}}/{node}"
        self.device = device
        self.bd_seq = (
            (int(state.read_text()) + 1) % 256 if state.exists() else 0
        )  # counts connections, also over restarts
        state.write_text(str(self.bd_seq))
        self.seq = 0
        self.rebirth = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{group}-{node}", protocol=mqtt.MQTTv311)
        death = payload(time.time_ns() // 10**6, [metric(self.bd_seq, INT64, name="bdSeq")])
        self.client.will_set(self._topic("NDEATH"), death, qos=1)
        self.client.on_connect = self._connected
        self.client.on_message = self._commanded
        self.client.connect(host, port)
        self.client.loop_start()

    def _topic(self, kind: str, device: str = "") -> str:
        return f"spBv1.0/{self.place.format(kind)}" + (f"/{device}" if device else "")

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._topic("NCMD"), 1)
        self.rebirth.set()

    def _commanded(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        if b"Node Control/Rebirth" in message.payload:
            self.rebirth.set()

    def _publish(self, kind: str, at_ms: int, metrics: list[bytes], device: str = "") -> None:
        self.seq = 0 if kind == "NBIRTH" else (self.seq + 1) % 256
        self.client.publish(self._topic(kind, device), payload(at_ms, metrics, self.seq), qos=0)

    def born(self) -> None:
        """Say what the node and its device have."""
        at_ms = time.time_ns() // 10**6
        control = metric(0, BOOLEAN, name="Node Control/Rebirth")
        self._publish("NBIRTH", at_ms, [metric(self.bd_seq, INT64, name="bdSeq"), control])
        axes = [metric([0.0], FLOAT_ARRAY, name=name, alias=at) for at, name in enumerate(AXES, 1)]
        rate = metric(float(RATE_HZ), DOUBLE, name="Vibration/Rate", alias=4)
        unit = metric("m/s2", STRING, name="Vibration/Unit", alias=5)
        self._publish("DBIRTH", at_ms, [*axes, rate, unit], self.device)

    def send(self, at_ms: int, first: int) -> None:
        """One message of data, after a birth if one is due."""
        if self.rebirth.is_set():
            self.rebirth.clear()
            self.born()
        axes = [metric(row, FLOAT_ARRAY, alias=at) for at, row in enumerate(samples(first), 1)]
        self._publish("DDATA", at_ms, axes, self.device)


def main() -> None:
    """Send messages in real time."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", default="127.0.0.1:1883")
    options.add_argument("--messages", type=int, default=10**9)
    options.add_argument("--state", type=Path, default=Path("bdseq"))
    options.add_argument("--interval", type=float, default=COUNT / RATE_HZ, help="seconds between messages")
    given = options.parse_args()
    host, _, port = given.broker.partition(":")
    node = EdgeNode(host, int(port or 1883), group="hall-2", node="press-1", device="de", state=given.state)
    node.rebirth.wait(10)
    start_ms = time.time_ns() // 10**6
    for number in range(given.messages):
        node.send(start_ms + number * COUNT * 1000 // RATE_HZ, number * COUNT)
        time.sleep(given.interval)
    node.client.loop_stop()
    node.client.disconnect()


if __name__ == "__main__":
    main()
