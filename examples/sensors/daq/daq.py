"""A DAQ script with a queue on disk: nothing is lost while the network or the broker is away.

    python daq.py --broker 127.0.0.1:1883 --blocks 40

One thread samples and writes each block into SQLite. Another publishes at QoS 1, oldest first, and removes a block when
the broker has confirmed it. After a crash unconfirmed blocks are sent again; the count in the head tells them apart.
The queue is bounded: when it is full, the oldest block goes and is counted. It needs paho-mqtt and numpy.
"""

from __future__ import annotations

import argparse
import sqlite3
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

RATE_HZ, COUNT, SCALE = 1000, 250, 0.0001
HEAD = struct.Struct("<QQQI")  # session, index, time of the first sample in ns, rate


def samples(first: int) -> np.ndarray:
    """Codes [first, first + COUNT) of two channels (n, 2): put your driver here."""
    t = (first + np.arange(COUNT)) / RATE_HZ
    return np.rint(np.stack([np.sin(2 * np.pi * 24.7 * t), np.cos(2 * np.pi * 24.7 * t)], axis=1) / SCALE)


class DiskQueue:
    """Blocks in a file, oldest first."""

    def __init__(self, path: Path, most: int) -> None:
        self.lock = threading.Lock()
        self.most = most
        self.dropped = 0
        self.store = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.store.execute("PRAGMA journal_mode = WAL")
        self.store.execute("CREATE TABLE IF NOT EXISTS blocks (id INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB)")

    def put(self, payload: bytes) -> None:
        """Keep a block."""
        with self.lock:
            self.store.execute("INSERT INTO blocks (payload) VALUES (?)", (payload,))
            (count,) = self.store.execute("SELECT count(*) FROM blocks").fetchone()
            if count > self.most:
                self.store.execute("DELETE FROM blocks WHERE id = (SELECT min(id) FROM blocks)")
                self.dropped += 1

    def oldest(self, after: int, most: int) -> list[tuple[int, bytes]]:
        """Blocks with a larger id."""
        with self.lock:
            return self.store.execute("SELECT * FROM blocks WHERE id > ? ORDER BY id LIMIT ?", (after, most)).fetchall()

    def remove(self, block: int) -> None:
        """The broker has it."""
        with self.lock:
            self.store.execute("DELETE FROM blocks WHERE id = ?", (block,))

    def __len__(self) -> int:
        with self.lock:
            (count,) = self.store.execute("SELECT count(*) FROM blocks").fetchone()
            return int(count)


class Sender:
    """Publishes what the queue has, in order, and removes what the broker confirms."""

    def __init__(self, queue: DiskQueue, host: str, port: int, topic: str) -> None:
        self.queue, self.topic = queue, topic
        self.sent = 0  # id of the newest block on its way
        self.waiting: dict[int, int] = {}  # packet id -> block
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="daq-1", clean_session=False)
        self.client.on_connect = self._connected
        self.client.on_publish = self._confirmed
        self.client.connect_async(host, port, keepalive=10)
        self.client.reconnect_delay_set(1, 30)
        self.client.loop_start()

    def _connected(self, *_: object) -> None:
        self.sent, self.waiting = 0, {}  # begin again with the oldest; repeated blocks are recognised by their count

    def _confirmed(self, _client: mqtt.Client, _: object, packet: int, *__: object) -> None:
        block = self.waiting.pop(packet, None)
        if block is not None:
            self.queue.remove(block)

    def pump(self) -> None:
        """Send what there is room for."""
        if not self.client.is_connected() or len(self.waiting) > 100:
            return
        for block, payload in self.queue.oldest(self.sent, 50):
            self.waiting[self.client.publish(self.topic, payload, qos=1).mid] = block
            self.sent = block


def main() -> None:
    """Sample and send."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", default="127.0.0.1:1883")
    options.add_argument("--topic", default="daq/press-1/de")
    options.add_argument("--queue", type=Path, default=Path("daq-queue.db"))
    options.add_argument("--most", type=int, default=100_000, help="blocks in the queue at most")
    options.add_argument("--blocks", type=int, default=10**9)
    options.add_argument("--interval", type=float, default=COUNT / RATE_HZ, help="seconds between blocks")
    options.add_argument("--linger", type=float, default=30.0, help="seconds to wait at the end for the broker")
    given = options.parse_args()
    host, _, port = given.broker.partition(":")
    queue = DiskQueue(given.queue, given.most)
    sender = Sender(queue, host, int(port or 1883), given.topic)
    session = time.time_ns()
    for number in range(given.blocks):
        index = number * COUNT
        head = HEAD.pack(session, index, session + index * 10**9 // RATE_HZ, RATE_HZ)
        queue.put(head + samples(index).astype("<i2").tobytes())
        sender.pump()
        time.sleep(given.interval)
    until_s = time.monotonic() + given.linger
    while len(queue) and time.monotonic() < until_s:
        sender.pump()
        time.sleep(0.02)
    sender.client.disconnect()
    sender.client.loop_stop()
    sys.stdout.write(f"{len(queue)} blocks left in {given.queue}, {queue.dropped} dropped\n")


if __name__ == "__main__":
    main()
