"""The HTTP server of the service: health, metrics, and an application such as the live page behind them.

uvicorn serves on a thread of its own with its own event loop. It reads from the live loop only values that are
replaced as a whole. The routes of health come first and need nothing but their own thread, so they answer whatever the
application is doing.

A page in a browser can make that browser send requests to us under another name (DNS rebinding). So the Host of a
request must be an address, `localhost`, this machine's name, or one of `web.hosts`.

What it allows a client is in `pipeline.service.protocol`. uvicorn is loaded by the first `WebServer`, so commands that
only ask a service, and a service without a page, do not load it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipeline.config.bind import split_bind

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("thrumcast.web")

MAX_HEAD_BYTES = 16_384
KEEP_ALIVE_S = 5
STOP_S = 1  # how long a stop waits for answers that are being sent

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::[0-9]{0,5})?", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a route."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


Route = Callable[[], Answer]


def host_is_known(header: str | None, names: Collection[str]) -> bool:
    """Whether a Host header names an address, localhost, or one of these names."""
    host = host_of(header or "")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in {"localhost", *(name.lower() for name in names)}
    return True


def host_of(header: str) -> str:
    """The name in a Host header in lower case; empty if it is not NAME or NAME:PORT (RFC 9110, section 7.2)."""
    found = _HOST.fullmatch(header)
    return (found["address"] or found["name"]).lower().rstrip(".") if found else ""


async def on_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that may wait for the disk, on a daemon thread: a disk that hangs does not hold up an exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_(value)

    def work() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_result, function(*arguments))
        except BaseException as error:
            outcome = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, name="web-call", daemon=True).start()
    return await future


class WebServer:
    """Serves routes, and an application for all other paths, on `bind` from `with` to its end."""

    def __init__(
        self,
        bind: str,
        routes: Mapping[str, Route],
        hosts: Collection[str] = (),
        app: ASGIApp | None = None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the port.

        Args:
            bind: ADDRESS:PORT; port 0 takes a free one.
            routes: Path -> what answers GET and HEAD there, on a thread of its own.
            hosts: Names that requests may use beside addresses, `localhost` and this machine's name.
            app: What answers every other path.
            stopping: Called when the server is about to end, so that the application can end its streams.

        Raises:
            OSError: the address cannot be used.
        """
        import uvicorn

        from pipeline.service.protocol import MAX_CLIENTS, BoundedProtocol

        host, port = split_bind(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=MAX_CLIENTS)
        self.port = int(self._socket.getsockname()[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._stopping = stopping
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Front(routes, {*hosts, socket.gethostname()}, app),
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what a client does wrong is no event of ours
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; answers that are being sent have a second."""
        self._stopping()
        self._server.should_exit = True
        self._thread.join(2.0 * STOP_S)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        for connection in list(self._server.server_state.connections):  # of clients that do not read
            connection.transport.abort()
        await asyncio.sleep(0)


class _Front:
    """Checks the Host of every request, answers the routes, and hands the rest to the application."""

    def __init__(self, routes: Mapping[str, Route], names: Collection[str], app: ASGIApp | None) -> None:
        self._routes, self._names, self._app = routes, names, app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        send = _forgiving(send)
        header = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
        route = self._routes.get(scope["path"])
        if not host_is_known(header, self._names):
            answer = _problem(421, "unknown host", "see web.hosts")
        elif route is not None:
            answer = await self._routed(scope, route)
        elif self._app is not None:
            await self._app(scope, receive, send)
            return
        else:
            answer = _problem(404, "not found", "there are " + ", ".join(self._routes))
        await _send(answer, scope["method"] != "HEAD", send)

    async def _routed(self, scope: Scope, route: Route) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(405, "method not allowed", "use GET")
        try:
            return await on_thread(route)
        except Exception as error:  # a bug in a route is answered and logged; the loop is not affected
            log.error("route_failed path=%s err=%r", scope["path"], error)
            return _problem(500, "failed", "see the log")


def _forgiving(send: Send) -> Send:
    """What is said to a client that has broken the protocol meanwhile, and has got its 400, is dropped."""
    from h11 import LocalProtocolError

    async def say(message: Message) -> None:
        with contextlib.suppress(LocalProtocolError):
            await send(message)

    return say


def _problem(status: int, title: str, hint: str) -> Answer:
    body = f'{{"title":"{title}","status":{status},"hint":"{hint}"}}'
    return Answer(body.encode(), "application/problem+json", status)


async def _send(answer: Answer, body: bool, send: Send) -> None:
    headers = {
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body if body else b""})
