"""The guided strip at the bottom of the page. Only `thrumcast demo` has one.

The page's index gets one more script, `demo.js`, which asks `/api/v1/demo` what happens when, and posts what people
want to break. An order for the plant is a line in a file, which the simulator reads (`sim.stage`). The order `kill`
ends this process at once, as a power cut would, and the demo starts it again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.page.guard import problem
from pipeline.service.http import on_thread

INDEX = Path(__file__).parent / "static" / "index.html"
STRIP = '<link rel="stylesheet" href="/static/demo.css">\n<script type="module" src="/static/demo.js"></script>'
KILL = "kill"
KILL_AFTER_S = 0.3  # so that the answer leaves


class DemoOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page posts."""

    do: str
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Guide:
    """What happens in the demo, and where orders go."""

    began_ms: float
    acts: tuple[dict[str, Any], ...]  # id, machine, at_s, state and mode
    machines: tuple[str, ...]
    doings: tuple[str, ...]
    orders: Path

    def document(self) -> dict[str, Any]:
        """What the strip needs."""
        return {
            "began": self.began_ms,
            "now": time.time() * 1000,
            "acts": list(self.acts),
            "machines": list(self.machines),
            "doings": [*self.doings, KILL],
        }

    def take(self, order: DemoOrder) -> bool:
        """Carry an order out; False if there is no such thing or machine."""
        if order.do == KILL:
            threading.Timer(KILL_AFTER_S, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return True
        if order.do not in self.doings or order.machine not in self.machines:
            return False
        with self.orders.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"machine": order.machine, "do": order.do}) + "\n")
        return True

    def routes(self) -> list[Route]:
        """Before the page's own routes: the index with the strip, and what the strip asks and posts."""
        return [
            Route("/", self._index),
            Route("/api/v1/demo", self._answer, methods=["GET", "POST"]),
        ]

    async def _index(self, request: Request) -> Response:
        text = (await on_thread(INDEX.read_text)).replace("</head>", f"{STRIP}\n</head>")
        return Response(text, media_type="text/html", headers={"Cache-Control": "no-cache"})

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse(self.document())
        try:
            order = msgspec.json.decode(await request.body(), type=DemoOrder)
        except msgspec.MsgspecError as error:
            return _problem(f"expected an order such as damage with a machine, found: {error}")
        if not await on_thread(lambda: self.take(order)):
            return _problem(f"expected an order of the demo for one of its machines, found: {order.do!r}")
        return JSONResponse({"done": order.do})


def _problem(title: str) -> Response:
    return Response(problem(400, title), 400, media_type="application/problem+json")
