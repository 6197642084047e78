"""A live service in memory with the page on it, and a client that asks as the page's own browser does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from harness.live import BLOCKS, send, stop_when_idle
from harness.watched import Linked, watched_service
from pipeline.config.tables import Config, DataConfig, WebConfig
from pipeline.core.records import Block, StreamKey
from pipeline.drivers.live import Live
from pipeline.page.api import LivePage

PUMP = StreamKey("pump-01", "de")
ORIGIN = {"Origin": "http://localhost"}


@dataclass
class Paged:
    """The service, its broker, its page and a client."""

    live: Live
    broker: Linked
    page: LivePage
    client: TestClient
    directory: Path

    def feed(self, blocks: list[Block] = BLOCKS) -> None:
        """Send blocks, run until they are committed, and let the page take them over."""
        send(self.broker, blocks)
        self.live.run(stop_when_idle(self.broker))
        self.page.tick()

    def get(self, path: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(f"/api/v1/{path}", json=body, headers=ORIGIN)


@contextmanager
def paged(directory: Path, web: WebConfig | None = None) -> Iterator[Paged]:
    broker = Linked()
    live, _, endpoints = watched_service(directory, broker)
    config = Config(data=DataConfig(dir=str(directory)), web=web or WebConfig())
    page = LivePage(config, live, endpoints)
    live.companions += (page.companion,)
    with TestClient(page.app, base_url="http://localhost") as client:
        yield Paged(live, broker, page, client, directory)
    page.events.end()
    live.journal.close()
