"""A small HTTP server: a few GET routes for a bounded number of clients.

It answers on threads of its own and reads from the live loop only values that are replaced as a whole. A page in a
browser can make that browser send requests to us under another name (DNS rebinding). So the Host of a request must be
an address, `localhost`, this machine's name, or one of `web.hosts`.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

log = logging.getLogger("thrumcast.web")

MAX_CLIENTS = 32  # at once; further connections are closed
CLIENT_TIMEOUT_S = 5.0  # how long a client may take to send its request


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a route."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


Route = Callable[[], Answer]


def split_bind(bind: str) -> tuple[str, int]:
    """`web.bind` as host and port; an IPv6 address stands in brackets."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def host_is_known(header: str | None, names: Collection[str]) -> bool:
    """Whether a Host header names an address, localhost, or one of these names."""
    try:
        host = urlsplit(f"//{header or ''}").hostname or ""
        ipaddress.ip_address(host)
    except ValueError:
        return bool(header) and host_of(header or "") in {"localhost", *(name.lower() for name in names)}
    return True


def host_of(header: str) -> str:
    """The name in a Host header in lower case; empty if there is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class WebServer:
    """Serves routes on `bind` from `start` until `close`."""

    def __init__(self, bind: str, routes: Mapping[str, Route], hosts: Collection[str] = ()) -> None:
        """Open the port.

        Raises:
            OSError: the address cannot be used.
        """
        host, port = split_bind(bind)
        names = {*hosts, socket.gethostname()}

        class Handler(_Handler):
            known_routes = routes
            known_names = names

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Server((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self.port = int(self._server.server_address[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End without waiting for requests that are being answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Bind without the name lookup of http.server, which can hang for seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread of its own, if there is room for one more client."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one client, from its first byte to its last."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is worth a debug line only."""
        log.debug("client_failed address=%s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    known_routes: Mapping[str, Route]
    known_names: Collection[str]
    timeout = CLIENT_TIMEOUT_S
    server_version = "thrumcast"
    sys_version = ""

    def do_GET(self) -> None:
        """One of the routes, or 404."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer(body=False)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Requests are not logged."""

    def _answer(self, *, body: bool) -> None:
        if not host_is_known(self.headers.get("Host"), self.known_names):
            answer = Answer(b'{"error":"unknown host; see web.hosts"}', status=421)
        elif (route := self.known_routes.get(self.path.partition("?")[0])) is None:
            answer = Answer(b'{"error":"not found"}', status=404)
        else:
            try:
                answer = route()
            except Exception as error:  # a bug in a route is answered and logged; the loop is not affected
                log.error("route_failed path=%s err=%r", self.path, error)
                answer = Answer(b'{"error":"failed; see the log"}', status=500)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if body:
            self.wfile.write(answer.body)
