"""The HTTP application: the page's files, the API under `/api/v1`, the event stream, and errors as problem+json.

`LivePage` puts the parts together and owns two things: a thread that takes over what the loop handed over, `TICK_S`
apart while somebody watches, and the event stream. What changed is encoded once per tick, and every client gets the
same bytes. A client has a queue of `QUEUED` ticks. When it is full, the client is too slow: its queue is emptied, and
it gets a whole snapshot when it reads again. So a slow client costs one queue, and neither other clients nor the
pipeline wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec.structs import asdict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipeline.config.bind import is_loopback
from pipeline.core.records import StreamKey, is_id
from pipeline.edges.mqtt import TopicTemplate
from pipeline.errors import ArchiveError, GateRefused, ThrumcastError
from pipeline.page import openapi, views
from pipeline.page.audit import Audit
from pipeline.page.demo import Guide
from pipeline.page.guard import COOKIE, Guard, Visitor, problem, read_tokens, visitor_of
from pipeline.page.history import HistoryThread
from pipeline.page.live import HandOver, Plant
from pipeline.page.openapi import FRAME, document
from pipeline.page.report import alarm_report
from pipeline.page.training import Busy, Training
from pipeline.page.versions import Versions
from pipeline.page.views import NotFound, Service
from pipeline.service.http import on_thread

if TYPE_CHECKING:
    from pipeline.config.sources import Setting
    from pipeline.config.tables import Config
    from pipeline.drivers.live import Live
    from pipeline.service.health import Endpoints

TICK_S = 0.1
IDLE_S = 0.5  # between two ticks that nobody watches
HEARTBEAT_S = 10.0
QUEUED = 20  # ticks that may wait for a client
FEW = 200  # streams that are all looked at in every tick; of more, a part in each, so that no tick is long
MANY_PARTS = 20
SPARKS_EVERY = 20  # ticks between two looks at the small trends of a few streams; they are most of the bytes
MANY_SPARKS_EVERY = 5  # the same in rounds of all parts
MOST_STREAMS = 32  # event streams at once
READERS = 2  # answers that read the archive at once
STATIC = Path(__file__).parent / "static"

log = logging.getLogger("thrumcast.web")

AUDITED = 100  # changes that are shown
NEVER_CHANGES = {"cache-control": "private, max-age=86400"}

Handler = Callable[[Request], Any]
Change = Callable[[Service, Request, dict[str, Any], str], dict[str, Any]]  # the last is who makes it


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
        guide: Guide | None = None,
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
        self._guide = guide
        self.events = EventStream()
        self._tokens = read_tokens(config.web)
        self._readers = asyncio.Semaphore(READERS)
        self._audit = Audit(config.data.path)
        self._versions = Versions(config)
        self.training = Training(config)
        self._training_told = 0
        app = self._application()
        posts = [route for route in app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
        self.app: ASGIApp = Guard(
            app,
            takes_post=lambda scope: any(route.matches(scope)[0] is Match.FULL for route in posts),
            tokens=self._tokens,
            open_to_all=is_loopback(config.web.bind),
        )
        self._ticks = 0
        self._alarms = False  # whether an alarm has changed since the clients were told
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._history = HistoryThread(config.data.path)

    def __enter__(self) -> Self:
        """Begin to take over what the loop hands over."""
        self._thread.start()
        self._history.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop()
        self._thread.join(1.0)
        self._history.join(1.0)

    def stop(self) -> None:
        """End all event streams, a training that runs, and the thread."""
        self._stopping.set()
        self.events.end()
        self.training.stop()
        self._history.stop()

    def tick(self) -> None:
        """Take over what is new and tell the clients."""
        _, alarms = self.plant.take()
        self._alarms |= alarms
        self._ticks += 1
        if self.training.news != self._training_told:
            self._training_told = self.training.news
            self.events.publish(event("training", {"state": self.training.state, "status": self.training.status}))
        everyone = self.plant.fleet()
        if not self.events.watched:
            return
        now_s = time.time()
        if len(everyone) > FEW:
            round_, part = divmod(self._ticks, MANY_PARTS)
            looked_at, sparks = list(everyone)[part::MANY_PARTS], round_ % MANY_SPARKS_EVERY == 0
        else:
            looked_at, sparks = list(everyone), self._ticks % SPARKS_EVERY == 0
        changed = self.plant.changed(looked_at, now_s)  # a stream becomes stale without any message
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
        while not self._stopping.wait(TICK_S if self.events.watched else IDLE_S):
            try:
                self.tick()
            except Exception as error:  # a bug of the page must not end it, and is none of the loop's business
                log.error("route_failed path=tick err=%r", error)

    def _application(self) -> Starlette:
        place = "/api/v1/streams/{machine}/{point}"
        routes: list[Any] = [
            *(self._guide.routes() if self._guide else ()),
            Route("/", _index),
            Route("/api/openapi.json", _openapi),
            Route("/api/stream", self._stream),
            Route("/api/v1/session", self._session, methods=["POST"]),
            Route("/api/v1/fleet", self._get(lambda s, r: views.fleet(s))),
            Route("/api/v1/features", self._get(lambda s, r: views.feature_table())),
            Route("/api/v1/alarms", self._get(lambda s, r: views.alarms(s))),
            Route("/api/v1/alarms/report", self._report),
            Route("/api/v1/me", self._get(self._me)),
            Route("/api/v1/audit", self._get(lambda s, r: {"changes": self._audit.newest(AUDITED)})),
            Route("/api/v1/models", self._get(lambda s, r: self._versions.document(s.serving))),
            Route("/api/v1/models/rollback", self._post(openapi.Rollback, self._rollback), methods=["POST"]),
            Route("/api/v1/models/{version}/promote", self._post(openapi.Promote, self._promote), methods=["POST"]),
            Route("/api/v1/models/{version}/pictures/{name}", self._picture),
            Route(
                "/api/v1/training",
                _either(
                    self._get(lambda s, r: self.training.document()),
                    self._post(openapi.Train, self._train, reads=False),
                ),
                methods=["GET", "POST"],
            ),
            Route("/api/v1/training/cancel", self._post(openapi.Change, self._cancel, reads=False), methods=["POST"]),
            Route("/api/v1/quality", self._get(lambda s, r: views.quality(s))),
            Route("/api/v1/settings", self._get(lambda s, r: views.settings(s))),
            Route(
                "/api/v1/labels",
                _either(
                    self._get(lambda s, r: views.labels(s, r.query_params.get("machine"))),
                    self._post(openapi.Label, lambda s, r, given, by: views.add_label(s, given, by)),
                ),
                methods=["GET", "POST"],
            ),
            Route("/api/v1/labels/export", self._export),
            Route("/api/v1/labels/import", self._post(openapi.Import, _import), methods=["POST"]),
            Route(
                "/api/v1/labels/preview",
                self._post(openapi.Label, lambda s, r, given, by: views.preview_label(s, given), changes=False),
                methods=["POST"],
            ),
            Route(
                "/api/v1/labels/{id}/retract",
                self._post(openapi.Change, lambda s, r, given, by: views.retract_label(s, r.path_params["id"], by)),
                methods=["POST"],
            ),
            Route(
                "/api/v1/labels/{id}/restore",
                self._post(openapi.Change, lambda s, r, given, by: views.restore_label(s, r.path_params["id"], by)),
                methods=["POST"],
            ),
            Route(
                "/api/v1/alarms/acknowledge",
                self._post(openapi.Acknowledge, lambda s, r, given, by: views.acknowledge(s, given["id"]), reads=False),
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

    def _post(self, body: type[openapi.Body], view: Change, *, changes: bool = True, reads: bool = True) -> Handler:
        async def answer(request: Request) -> Response:
            data = await request.body()
            try:
                given = {n: v for n, v in asdict(msgspec.json.decode(data, type=body)).items() if v is not None}
            except msgspec.ValidationError as error:
                return _problem(422, f"expected a body as described, found: {error}", "see /api/openapi.json")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return _problem(400, "expected a JSON object")
            said = str(given.get("author") or given.get("by") or "page")
            by = _visitor(request).name or said

            def made() -> Response:
                if changes:
                    self._audit.check()
                found = view(self._service, request, given, by)
                if changes:
                    client = request.client.host if request.client else "-"
                    self._audit.note(by, client, request.url.path, given, found)
                    self.events.publish(event("changed", {"path": request.url.path}))
                return _json(found)

            return await self._answered(made, reads=reads)

        return answer

    def _me(self, service: Service, request: Request) -> dict[str, Any]:
        """Who asks, as the token says, and whether that token may change things."""
        visitor = _visitor(request)
        return {"name": visitor.name, "may_change": visitor.may_change, "signed_in": bool(self._tokens)}

    def _promote(self, service: Service, request: Request, given: dict[str, Any], by: str) -> dict[str, Any]:
        version, force = request.path_params["version"], bool(given.get("force"))
        return self._versions.promote(version, given["why"], by, force=force)

    def _rollback(self, service: Service, request: Request, given: dict[str, Any], by: str) -> dict[str, Any]:
        return self._versions.rollback(given.get("to"), given["why"], by)

    def _train(self, service: Service, request: Request, given: dict[str, Any], by: str) -> dict[str, Any]:
        self.training.start(by, given["settings"].split(), given.get("split") or None)
        return self.training.document()

    def _cancel(self, service: Service, request: Request, given: dict[str, Any], by: str) -> dict[str, Any]:
        self.training.cancel()
        return self.training.document()

    async def _picture(self, request: Request) -> Response:
        version, name = request.path_params["version"], request.path_params["name"]
        return await self._answered(
            lambda: Response(self._versions.picture(version, name), media_type="image/png", headers=NEVER_CHANGES)
        )

    async def _report(self, request: Request) -> Response:
        alarm, service = request.query_params.get("id", ""), self._service
        file = {"content-disposition": 'attachment; filename="alarm.html"'}

        def made() -> Response:
            content = alarm_report(service.config.data.path, alarm, service.live.engine.spec_of)
            return Response(content, media_type="text/html", headers=file)

        return await self._answered(made)

    async def _export(self, request: Request) -> Response:
        kind = request.query_params.get("format", "csv")
        file = {"content-disposition": f'attachment; filename="labels.{kind}"'}
        media = "application/json" if kind == "json" else "text/csv"
        return await self._answered(
            lambda: Response(views.export_labels(self._service, kind), media_type=media, headers=file)
        )

    async def _answered(self, make: Callable[[], Response], *, reads: bool = True) -> Response:
        """Work on a thread, with errors as problems; what reads the archive, only a few at a time."""
        async with self._readers if reads else contextlib.nullcontext():
            try:
                return await on_thread(make)
            except NotFound as error:
                return _problem(404, error.message, error.hint)
            except (Busy, GateRefused) as error:
                return _problem(409, error.message, error.hint)
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
            token = msgspec.json.decode(await request.body(), type=openapi.Session).token
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _problem(422, "expected a token", "see /api/openapi.json")
        if not self._tokens:
            return _json({"needed": False})
        visitor = visitor_of(self._tokens, token)
        if visitor is None:
            return _problem(401, "the token is wrong", "it stands in the file of web.token_file or web.read_token_file")
        response = _json({"needed": True, "name": visitor.name, "may_change": visitor.may_change})
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=False, path="/")
        return response


def _visitor(request: Request) -> Visitor:
    found: Visitor = request.scope["visitor"]
    return found


def _import(service: Service, request: Request, given: dict[str, Any], by: str) -> dict[str, Any]:
    return views.import_labels(service, given, by, bound=_visitor(request).name is not None)


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


def _either(get: Handler, post: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        found: Response = await (post if request.method == "POST" else get)(request)
        return found

    return answer


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _openapi(request: Request) -> Response:
    return _json(document())


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _problem(status: int, title: str, hint: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    return Response(problem(status, title, hint or ""), status, headers, media_type="application/problem+json")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = error.detail if isinstance(error, HTTPException) else "failed"
    headers = error.headers if isinstance(error, HTTPException) else None  # such as Allow
    return _problem(status, str(title), "the API is described at /api/openapi.json", headers)


async def _bug(request: Request, error: Exception) -> Response:
    log.error("route_failed path=%s err=%r", request.url.path, error)
    return _problem(500, "failed", "see the log")
