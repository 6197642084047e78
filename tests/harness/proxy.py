"""An MQTT-aware relay between a client and a broker: it cuts, delays, goes silent, loses, repeats and swaps packets.

It reads frames (type, remaining length) and nothing in them. Changes take effect at once, on open connections too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

CONNECT, PUBLISH, PUBACK = 1, 3, 4


@dataclass
class Weather:
    """What happens to packets on their way; all calm by default."""

    delay_s: float = 0.0  # before each chunk, both ways
    silent: bool = False  # half-open: both sides think that they are connected, and nothing passes
    lose_pubacks: bool = False  # of the client: the broker will deliver again after the next connection
    repeat: int = 1  # how often each PUBLISH reaches the client
    swap: bool = False  # PUBLISH packets that come together reach the client in reverse order


@dataclass
class Proxy:
    """Relays `port` to `target_port`."""

    target_port: int
    weather: Weather = field(default_factory=Weather)
    connections: int = 0
    pubacks: int = 0  # that reached the broker
    lost_pubacks: int = 0
    repeated: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # not listening any more: what we want
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Drops every open connection, as a lost network would."""
        while self._open:
            sock = self._open.pop()
            with contextlib.suppress(OSError):  # closed by the other side already
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of the listener ends the thread
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:
                    client.close()  # the broker is away
                    continue
                self.connections += 1
                self._open += [client, broker]
                for relay, source, sink in ((self._to_broker, client, broker), (self._to_client, broker, client)):
                    threading.Thread(target=self._until_the_end, args=(relay, source, sink), daemon=True).start()

    def _to_broker(self, client: socket.socket, broker: socket.socket) -> None:
        for chunk in self._chunks(client):
            for frame in chunk:
                if kind(frame) == PUBACK:
                    if self.weather.lose_pubacks:
                        self.lost_pubacks += 1
                        continue
                    self.pubacks += 1
                broker.sendall(frame)

    def _to_client(self, broker: socket.socket, client: socket.socket) -> None:
        for chunk in self._chunks(broker):
            published = [frame for frame in chunk if kind(frame) == PUBLISH]
            if self.weather.swap:
                published.reverse()
            turn = iter(published)
            for frame in chunk:
                if kind(frame) != PUBLISH:
                    client.sendall(frame)
                    continue
                client.sendall(next(turn) * self.weather.repeat)
                self.repeated += self.weather.repeat - 1

    def _chunks(self, source: socket.socket) -> Iterator[list[bytes]]:
        """Whole frames, as they come together."""
        unread = b""
        while data := source.recv(65536):
            while self.weather.silent:
                time.sleep(0.01)
            if self.weather.delay_s:
                time.sleep(self.weather.delay_s)
            chunk, unread = frames(unread + data)
            yield chunk

    def _until_the_end(
        self, relay: Callable[[socket.socket, socket.socket], None], source: socket.socket, sink: socket.socket
    ) -> None:
        with contextlib.suppress(OSError):  # the end of either side ends the relay
            relay(source, sink)
        for sock in (source, sink):
            with contextlib.suppress(OSError):  # the other side may be gone first
                sock.shutdown(socket.SHUT_RDWR)


def kind(frame: bytes) -> int:
    return frame[0] >> 4


def frames(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole MQTT packets at the start of `data`, and the rest."""
    whole = []
    while len(data) >= 2:
        length, shift, at = 0, 0, 1
        while at < len(data):
            length |= (data[at] & 0x7F) << shift
            at += 1
            if data[at - 1] < 0x80:
                break
            shift += 7
        else:
            break
        if data[at - 1] >= 0x80 or len(data) < at + length:
            break
        whole.append(data[: at + length])
        data = data[at + length :]
    return whole, data
