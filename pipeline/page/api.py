"""The HTTP application: the page's files, the API under `/api/v1`, the event stream, and errors as problem+json.

`LivePage` puts the parts together and owns two things: a thread that takes over what the loop handed over, `TICK_S`
apart, and the event stream. What changed is encoded once per tick, and every client gets the same bytes. A client has a
queue of `QUEUED` ticks. When it is full, the client is too slow: its queue is emptied, and it gets a whole snapshot
when it reads again. So a slow client costs one queue, and neither other clients nor the pipeline wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipeline.config.bind import is_loopback
from pipeline.core.records import StreamKey, is_id
from pipeline.edges.mqtt import TopicTemplate
from pipeline.errors import ArchiveError, ThrumcastError
from pipeline.page import views
from pipeline.page.guard import COOKIE, Guard, problem, read_token
from pipeline.page.live import HandOver, Plant
from pipeline.page.openapi import document
from pipeline.page.views import NotFound, Service
from pipeline.service.http import on_thread

if TYPE_CHECKING:
    from pipeline.config.sources import Setting
    from pipeline.config.tables import Config
    from pipeline.drivers.live import Live
    from pipeline.service.health import Endpoints

TICK_S = 0.5
HEARTBEAT_S = 10.0
QUEUED = 8  # ticks that may wait for a client
FEW = 200  # streams that are told of every tick; of more, only every fourth, and their small trends every 20th
MANY_EVERY = 4
SPARKS_EVERY = 20
MOST_STREAMS = 32  # event streams at once
READERS = 2  # answers that read the archive at once
STATIC = Path(__file__).parent / "static"
FRAME = "application/vnd.thrumcast.frame"

log = logging.getLogger("thrumcast.web")

Handler = Callable[[Request], Any]


class EventStream:
    """The clients of `/api/stream`. Lives on the event loop of the web server."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False
        self.dropped = 0  # ticks that were dropped for slow clients

    @property
    def watched(self) -> bool:
        """Whether anybody listens."""
        return bool(self._queues)

    @property
    def full(self) -> bool:
        """Whether there are as many clients as may be."""
        return len(self._queues) >= MOST_STREAMS

    def publish(self, data: bytes) -> None:
        """Give all clients the same bytes; from any thread."""
        if self._loop is not None and self._queues:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._put, data)

    def end(self) -> None:
        """End all streams; from any thread."""
        self._ended = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    async def listen(self, snapshot: Callable[[], bytes]) -> AsyncIterator[bytes]:
        """The events of one client: first a snapshot, then what changes, and a snapshot again after a loss."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED)
        queue.put_nowait(b"")  # stands for a snapshot
        self._queues.add(queue)
        try:
            while not self._ended:
                try:
                    data = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
                except TimeoutError:
                    data = b": still here\n\n"
                if data is None:
                    return
                yield data or await on_thread(snapshot)
        finally:
            self._queues.discard(queue)

    def _put(self, data: bytes) -> None:
        for queue in self._queues:
            if queue.full():
                self.dropped += queue.qsize()
                while not queue.empty():
                    queue.get_nowait()
                data_or_snapshot = b""
            else:
                data_or_snapshot = data
            queue.put_nowait(data_or_snapshot)

    def _end(self) -> None:
        for queue in self._queues:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)


def event(name: str, content: object) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(content) + b"\n\n"


class LivePage:
    """The page of a running service: a companion for its loop, and an application for its web server."""

    def __init__(
        self,
        config: Config,
        live: Live,
        endpoints: Endpoints,
        settings: Mapping[tuple[str, ...], Setting] | None = None,
    ) -> None:
        """Put the page together; nothing runs yet.

        Raises:
            ConfigError: web.token_file cannot be read.
        """
        self.companion = HandOver()
        template = TopicTemplate(config.mqtt.readings_topic)
        self.plant = Plant(
            self.companion,
            lambda key: live.engine.spec_of(key),
            lambda topic: place_of(config, template, topic),
            lambda: live.journal.open_alarms().values(),
        )
        self._service = Service(config, live, self.plant, endpoints, settings)
        self.events = EventStream()
        token, open_to_all = read_token(config.web.token_file), is_loopback(config.web.bind)
        self._token = token
        self._readers = asyncio.Semaphore(READERS)
        self.app: ASGIApp = Guard(self._application(), token=token, open_to_all=open_to_all)
        self._ticks = 0
        self._alarms = False  # whether an alarm has changed since the clients were told
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def __enter__(self) -> Self:
        """Begin to take over what the loop hands over."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop()
        self._thread.join(1.0)

    def stop(self) -> None:
        """End all event streams and the thread."""
        self._stopping.set()
        self.events.end()

    def tick(self) -> None:
        """Take over what is new and tell the clients."""
        _, alarms = self.plant.take()
        self._alarms |= alarms
        self._ticks += 1
        everyone = self.plant.fleet()
        many = len(everyone) > FEW
        if not self.events.watched or (many and not self._alarms and self._ticks % MANY_EVERY):
            return
        now_s = time.time()
        sparks = not many or self._ticks % SPARKS_EVERY == 0  # they are most of the bytes
        changed = self.plant.changed(everyone, now_s)  # a stream becomes stale without any message
        content: dict[str, Any] = {
            "header": views.header(self._service),
            "streams": [self.plant.document(key, now_s, sparks=sparks) for key in changed],
        }
        if self._alarms:
            content["alarms"] = self.plant.alarm_documents()
            self._alarms = False
        self.events.publish(event("tick", content))

    def snapshot(self) -> bytes:
        """Everything, as the first event of a client."""
        return event("fleet", views.fleet(self._service))

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                self.tick()
            except Exception as error:  # a bug of the page must not end it, and is none of the loop's business
                log.error("route_failed path=tick err=%r", error)

    def _application(self) -> Starlette:
        place = "/api/v1/streams/{machine}/{point}"
        routes: list[Any] = [
            Route("/", _index),
            Route("/api/openapi.json", _openapi),
            Route("/api/stream", self._stream),
            Route("/api/v1/session", self._session, methods=["POST"]),
            Route("/api/v1/fleet", self._get(lambda s, r: views.fleet(s))),
            Route("/api/v1/features", self._get(lambda s, r: views.feature_table())),
            Route("/api/v1/alarms", self._get(lambda s, r: views.alarms(s))),
            Route("/api/v1/models", self._get(lambda s, r: views.models(s))),
            Route("/api/v1/quality", self._get(lambda s, r: views.quality(s))),
            Route("/api/v1/settings", self._get(lambda s, r: views.settings(s))),
            Route("/api/v1/labels", self._get(lambda s, r: views.labels(s, r.query_params.get("machine")))),
            Route("/api/v1/labels", self._post(lambda s, r, given: views.add_label(s, given)), methods=["POST"]),
            Route(
                "/api/v1/labels/preview",
                self._post(lambda s, r, given: views.preview_label(s, given), changes=False),
                methods=["POST"],
            ),
            Route(
                "/api/v1/labels/{id}/retract",
                self._post(lambda s, r, given: views.retract_label(s, r.path_params["id"], str(given.get("by") or ""))),
                methods=["POST"],
            ),
            Route(
                "/api/v1/alarms/acknowledge",
                self._post(lambda s, r, given: views.acknowledge(s, str(given.get("id", ""))), reads=False),
                methods=["POST"],
            ),
            Route(place, self._get(lambda s, r: views.machine(s, _key(r)))),
            Route(f"{place}/window", self._frame(_window)),
            Route(f"{place}/trend", self._frame(_trend)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _bug})

    def _get(self, view: Callable[[Service, Request], Any]) -> Handler:
        async def answer(request: Request) -> Response:
            return await self._answered(lambda: _json(view(self._service, request)))

        return answer

    def _frame(self, view: Callable[[Service, Request], bytes | None]) -> Handler:
        async def answer(request: Request) -> Response:
            def made() -> Response:
                data = view(self._service, request)
                return Response(status_code=204) if data is None else Response(data, media_type=FRAME)

            return await self._answered(made, reads=view is not _window)

        return answer

    def _post(
        self,
        view: Callable[[Service, Request, dict[str, Any]], Any],
        *,
        changes: bool = True,
        reads: bool = True,
    ) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                given = msgspec.json.decode(await request.body())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                given = None
            if not isinstance(given, dict) or not all(isinstance(v, str | int | float | None) for v in given.values()):
                return _problem(400, "expected a JSON object of texts and numbers")

            def made() -> Response:
                found = view(self._service, request, given)
                if changes:
                    who = str(given.get("author") or given.get("by") or "page")[:64]
                    client = request.client.host if request.client else "-"
                    log.info("page_changed path=%s by=%r client=%s", request.url.path, who, client)
                    self.events.publish(event("changed", {"path": request.url.path}))
                return _json(found)

            return await self._answered(made, reads=reads)

        return answer

    async def _answered(self, make: Callable[[], Response], *, reads: bool = True) -> Response:
        """Work on a thread, with errors as problems; what reads the archive, only a few at a time."""
        async with self._readers if reads else contextlib.nullcontext():
            try:
                return await on_thread(make)
            except NotFound as error:
                return _problem(404, error.message, error.hint)
            except ArchiveError as error:
                return _problem(503, error.message, error.hint)
            except ThrumcastError as error:
                return _problem(422, error.message, error.hint)

    async def _stream(self, request: Request) -> Response:
        if self.events.full:
            return _problem(503, "too many clients listen", f"at most {MOST_STREAMS}")
        return StreamingResponse(self.events.listen(self.snapshot), media_type="text/event-stream")

    async def _session(self, request: Request) -> Response:
        """Exchange the token for a cookie, because an event source cannot send headers."""
        try:
            given = msgspec.json.decode(await request.body(), type=dict[str, str])
        except msgspec.DecodeError:
            given = {}
        if self._token is None:
            return _json({"needed": False})
        if not hmac.compare_digest(given.get("token", "").encode(), self._token.encode()):
            return _problem(401, "the token is wrong", "it stands in the file of web.token_file")
        response = _json({"needed": True})
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=False, path="/")
        return response


def place_of(config: Config, template: TopicTemplate, topic: str) -> tuple[StreamKey, str] | None:
    """The stream of a topic, and its area: as configured, else as the topic says."""
    key = template.parse(topic)
    if key is None:
        return None
    levels = dict(zip(template.template.split("/"), topic.split("/"), strict=True))
    return key, config.machine(*key).area or levels.get("{area}", "")


def _key(request: Request) -> StreamKey:
    machine, point = request.path_params["machine"], request.path_params["point"]
    if not (is_id(machine) and is_id(point)):
        msg = "expected the ids of a machine and a point"
        raise NotFound(msg)
    return StreamKey(machine, point)


def _window(service: Service, request: Request) -> bytes | None:
    return views.window(service, _key(request), request.query_params.get("channel"))


def _trend(service: Service, request: Request) -> bytes:
    asked = request.query_params
    try:
        buckets = int(asked.get("buckets", "600"))
    except ValueError as error:
        msg = f"expected a number of buckets, found: {asked['buckets']!r}"
        raise ThrumcastError(msg) from error
    to_ms = views.parse_time(asked["to"]) if "to" in asked else time.time() * 1000
    from_ms = views.parse_time(asked["from"]) if "from" in asked else to_ms - 600_000
    feature = asked.get("feature", "velocity_rms")
    return views.trend(service, _key(request), feature, asked.get("channel"), from_ms, to_ms, buckets)


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _openapi(request: Request) -> Response:
    return _json(document())


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _problem(status: int, title: str, hint: str | None = None) -> Response:
    return Response(problem(status, title, hint or ""), status, media_type="application/problem+json")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = error.detail if isinstance(error, HTTPException) else "failed"
    return _problem(status, str(title), "the API is described at /api/openapi.json")


async def _bug(request: Request, error: Exception) -> Response:
    log.error("route_failed path=%s err=%r", request.url.path, error)
    return _problem(500, "failed", "see the log")
