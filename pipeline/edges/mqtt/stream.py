"""Byte streams to a broker: TCP, TLS and WebSocket, made off the caller's thread and then never blocking."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import ssl
import threading
import time
from typing import Any, Final, Protocol

from pipeline.edges.mqtt.settings import MqttSettings, tls_context

_STABLE_S: Final = 10.0  # a connection that lived this long ends the growth of the back-off
_HANDSHAKE_BYTES: Final = 64 * 1024


class Stream(Protocol):
    """A connected socket, whatever lies between it and MQTT. Nothing blocks."""

    sock: socket.socket

    def receive_into(self, space: memoryview) -> int | None:
        """How many bytes came; 0 at the end of the stream, None when there is nothing now."""

    def send(self, data: memoryview) -> int:
        """How many bytes were taken."""

    @property
    def reads_all(self) -> bool:
        """Whether a read that leaves space says that nothing more has come; else one that gives None says so."""

    @property
    def wants_write(self) -> bool:
        """Whether something lies here that the socket has not taken."""

    def close(self) -> None:
        """Ends the connection."""


class TcpStream:
    """TCP, with or without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def receive_into(self, space: memoryview) -> int | None:
        """See `Stream`."""
        try:
            return self.sock.recv_into(space)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def send(self, data: memoryview) -> int:
        """See `Stream`."""
        try:
            return self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    @property
    def reads_all(self) -> bool:
        """See `Stream`: TLS gives one record at a time."""
        return not isinstance(self.sock, ssl.SSLSocket)

    @property
    def wants_write(self) -> bool:
        """See `Stream`."""
        return False

    def close(self) -> None:
        """Closes the sending side first, so that what was sent last arrives even if bytes lie here unread."""
        with contextlib.suppress(OSError):  # the other side may have closed it already
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(0.2)
            until_s = time.monotonic() + 0.2
            while time.monotonic() < until_s and self.sock.recv(65536):
                pass
        self.sock.close()


class WebSocketStream:
    """MQTT in binary messages of a WebSocket (MQTT 5, section 6); `wsproto` does the framing."""

    def __init__(self, sock: socket.socket, host: str, path: str) -> None:
        """Shakes hands, which may block until the socket's time-out.

        Raises:
            OSError: the server does not speak MQTT over WebSocket there.
        """
        import wsproto
        from wsproto import events

        self._events = events
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._arrived = bytearray()
        self._unsent = bytearray()
        self._ended = False
        request = events.Request(host=host, target=path, subprotocols=["mqtt"])
        sock.sendall(self._connection.send(request))
        accepted = False
        while not accepted:
            data = sock.recv(_HANDSHAKE_BYTES)
            if not data:
                msg = "the server closed the connection during the WebSocket handshake"
                raise ConnectionError(msg)
            accepted = self._take(data)
        self.sock = sock
        sock.setblocking(False)

    def _take(self, data: bytes) -> bool:
        """Reads frames; whether the server has accepted the handshake among them."""
        import wsproto

        accepted = False
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, self._events.AcceptConnection):
                    accepted = True
                elif isinstance(event, self._events.RejectConnection):
                    msg = f"a WebSocket expected, found HTTP status {event.status_code}: check mqtt.websocket_path"
                    raise ConnectionError(msg)
                elif isinstance(event, self._events.BytesMessage):
                    self._arrived += event.data
                elif isinstance(event, self._events.Ping):
                    self._unsent += self._connection.send(event.response())
                elif isinstance(event, self._events.CloseConnection):
                    self._unsent += self._connection.send(event.response())
                    self._ended = True
        except wsproto.utilities.ProtocolError as error:
            msg = f"a WebSocket of MQTT expected, found: {error}"
            raise ConnectionError(msg) from error
        return accepted

    def receive_into(self, space: memoryview) -> int | None:
        """See `Stream`."""
        if not self._arrived and not self._ended:
            try:
                data = self.sock.recv(len(space))
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            if not data:
                return 0
            self._take(data)
        if not self._arrived:
            return 0 if self._ended else None
        count = min(len(space), len(self._arrived))
        space[:count] = self._arrived[:count]
        del self._arrived[:count]
        return count

    def send(self, data: memoryview) -> int:
        """See `Stream`: all of it is framed now and written as the socket takes it, so bound what is handed over."""
        if len(data):
            self._unsent += self._connection.send(self._events.BytesMessage(data=bytes(data)))
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
        return len(data)

    @property
    def reads_all(self) -> bool:
        """See `Stream`: what the frames hold is less than what was read."""
        return False

    @property
    def wants_write(self) -> bool:
        """See `Stream`."""
        return bool(self._unsent)

    def close(self) -> None:
        """Says goodbye in WebSocket's words and closes."""
        with contextlib.suppress(OSError, Exception):
            self._unsent += self._connection.send(self._events.CloseConnection(code=1000))
            self.send(memoryview(b""))
        TcpStream(self.sock).close()


def open_stream(settings: MqttSettings, context: ssl.SSLContext | None) -> Stream:
    """Connects; name lookup, TCP, TLS and WebSocket handshake may each take `connect_timeout_s`.

    Raises:
        OSError: it could not be done; `ssl.SSLError` and `socket.gaierror` are among its kinds.
    """
    sock = socket.create_connection((settings.host, settings.port), settings.connect_timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=settings.host)
        if settings.transport == "websockets":
            return WebSocketStream(sock, settings.address, settings.websocket_path)
        return TcpStream(sock)
    except BaseException:
        sock.close()
        raise


class Attempt(threading.Thread):
    """One `open_stream` off the caller's thread."""

    def __init__(self, settings: MqttSettings) -> None:
        """Raises `ConfigError` where a certificate cannot be used."""
        super().__init__(name="mqtt-connect", daemon=True)
        self._settings = settings
        self._context = tls_context(settings) if settings.tls else None
        self._abandoned = threading.Event()
        self.stream: Stream | None = None
        self.error: OSError | ValueError | None = None
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        """Connects and keeps the stream or the error."""
        try:
            stream = open_stream(self._settings, self._context)
            if self._abandoned.is_set():
                stream.close()
            else:
                self.stream = stream
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            self.error = error
        finally:
            self.done.set()

    def abandon(self, timeout_s: float) -> None:
        """Nobody wants the stream any more."""
        self._abandoned.set()
        self.join(timeout_s)
        if self.stream is not None:
            self.stream.close()


class Waiter:
    """A selector for one socket that comes and goes; tells it only what has changed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._known: tuple[Any, int] | None = None  # socket and interest that the selector knows

    def wait(self, sock: Any, *, reading: bool, writing: bool, timeout_s: float) -> tuple[bool, bool]:
        """Whether the socket can be read and written; sleeps through the time-out if neither is asked for."""
        interest = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        if self._known != (sock, interest):
            self.forget()
            if interest:
                self._selector.register(sock, interest)
                self._known = (sock, interest)
        if not interest:
            time.sleep(timeout_s)
            return False, False
        ready = 0
        for _, events in self._selector.select(timeout_s):
            ready |= events
        return bool(ready & selectors.EVENT_READ), bool(ready & selectors.EVENT_WRITE)

    def forget(self) -> None:
        """Drops the socket, before it is closed or another one may get its number."""
        if self._known is not None:
            self._selector.unregister(self._known[0])
            self._known = None

    def close(self) -> None:
        """Ends; may be called twice."""
        self.forget()
        self._selector.close()


class Backoff:
    """When to try again: jittered, doubling, and reset only by a connection that lived for a while.

    Two clients with one id throw each other out again and again; a single success proves nothing.
    """

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._tries = 0
        self._due_s = 0.0

    def left_s(self) -> float:
        """Seconds until the next try, at least 0."""
        return max(0.0, self._due_s - time.monotonic())

    def failed(self, *, lived_s: float) -> None:
        """The try failed, or its connection was lost after `lived_s`."""
        self._tries = 1 if lived_s > _STABLE_S else self._tries + 1
        longest_s = min(self._longest_s, self._shortest_s * 2 ** min(self._tries, 10))
        self._due_s = time.monotonic() + random.uniform(self._shortest_s, longest_s)
