"""A TCP relay between a client and a broker that can be cut, and that remembers which packets the client sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

CONNECT, PUBACK, PINGREQ = 1, 4, 12  # MQTT packet types


@dataclass
class Session:
    """One connection through the wire: (packet type, packet id or 0) as the client sent them."""

    sent: list[tuple[int, int]] = field(default_factory=list)

    def acknowledged(self) -> list[int]:
        return [mid for kind, mid in self.sent if kind == PUBACK]


class Wire:
    """Relays `port` to the broker's port; `cut` drops what is open as a lost network would."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
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
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):  # closed by the other side already
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                return
            session = Session()
            with self._lock:
                self.sessions.append(session)
                self._open += [client, broker]
            threading.Thread(target=self._relay, args=(client, broker, session), daemon=True).start()
            threading.Thread(target=self._relay, args=(broker, client, None), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, session: Session | None) -> None:
        unread = b""
        with contextlib.suppress(OSError):  # the end of either side ends the relay
            while data := source.recv(65536):
                if session is not None:
                    unread = _note_packets(unread + data, session)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _note_packets(data: bytes, session: Session) -> bytes:
    """Notes the whole packets and returns the rest."""
    while len(data) >= 2:
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(data):
                return data
            length |= (data[at] & 0x7F) << shift
            at += 1
            if data[at - 1] < 0x80:
                break
            shift += 7
        if len(data) < at + length:
            return data
        kind = data[0] >> 4
        session.sent.append((kind, int.from_bytes(data[at : at + 2], "big") if kind == PUBACK else 0))
        data = data[at + length :]
    return data
