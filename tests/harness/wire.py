"""A TCP relay between a client and a broker that can be cut, and that shows every MQTT packet to whoever wants to look.

Subclasses decide what becomes of the packets; this one passes them on and remembers what the client sent.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

CONNECT, PUBLISH, PUBACK, PINGREQ = 1, 3, 4, 12  # MQTT packet types


@dataclass
class Session:
    """One connection through the wire: (packet type, packet id or 0) as the client sent them."""

    sent: list[tuple[int, int]] = field(default_factory=list)

    def count(self, wanted: int) -> int:
        return sum(kind == wanted for kind, _ in self.sent)

    def acknowledged(self) -> list[int]:
        return [mid for kind, mid in self.sent if kind == PUBACK]


class Wire:
    """Relays `port` to the broker's port; `cut` drops what is open as a lost network would."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sessions: list[Session] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # not listening any more: what we want
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Drops every open connection, as a lost network would."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):  # closed by the other side already
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            self._open.clear()

    def to_broker(self, chunk: list[bytes], session: Session) -> Iterator[bytes]:
        """What the broker gets of packets that came together from the client."""
        for packet in chunk:
            session.sent.append((kind(packet), packet_id(packet) if kind(packet) == PUBACK else 0))
            yield packet

    def to_client(self, chunk: list[bytes]) -> Iterator[bytes]:
        """What the client gets of packets that came together from the broker."""
        yield from chunk

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of the listener ends the thread
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    client.close()  # the broker is away
                    continue
                session = Session()
                with self._lock:
                    self.sessions.append(session)
                    self._open += [client, broker]
                for source, sink, of in ((client, broker, session), (broker, client, None)):
                    threading.Thread(target=self._relay, args=(source, sink, of), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, session: Session | None) -> None:
        unread = b""
        with contextlib.suppress(OSError):  # the end of either side ends the relay
            while data := source.recv(65536):
                chunk, unread = packets(unread + data)
                for packet in self.to_client(chunk) if session is None else self.to_broker(chunk, session):
                    sink.sendall(packet)
        for sock in (source, sink):
            with contextlib.suppress(OSError):  # the other side may be gone first
                sock.shutdown(socket.SHUT_RDWR)


def kind(packet: bytes) -> int:
    return packet[0] >> 4


def packet_id(puback: bytes) -> int:
    return int.from_bytes(puback[2:4], "big")


def packets(data: bytes) -> tuple[list[bytes], bytes]:
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
        if data[at - 1] >= 0x80 or len(data) < at + length:
            break
        whole.append(data[: at + length])
        data = data[at + length :]
    return whole, data
