"""A live service in memory with the page on it, and a client that asks as the page's own browser does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from harness.live import BLOCKS, schema, send, stop_when_idle
from harness.watched import Linked, watched_service
from pipeline.config.tables import Config, DataConfig, WebConfig
from pipeline.core.features.table import FEATURES
from pipeline.core.records import Block, FeatureRow, StreamKey
from pipeline.drivers.live import Live
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.page.api import LivePage

PUMP = StreamKey("pump-01", "de")
ORIGIN = {"Origin": "http://localhost"}


@dataclass
class Paged:
    """The service, its broker, its page and a client."""

    live: Live
    broker: Linked
    page: LivePage
    client: Any  # httpx2.Client or what behaves like it
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


def archive_of_modes(data: Path, rng: np.random.Generator, *, machines: int = 6, windows: int = 80) -> None:
    """An archive of the live service's features in which all numbers say the mode: half of the machines are damaged."""
    start, second = 1_704_067_200_000_000_000, 1_000_000_000
    rows = []
    for number in range(machines):
        for window in range(windows):
            begin = start + window * second // 2
            values = (rng.normal(0, 0.4, len(FEATURES)) + 3.0 + 3.0 * (number % 2)).astype(np.float32)[None, :]
            truth = ("normal", "outer_race")[number % 2]
            key = StreamKey(f"pump-{number:02d}", "de")
            rows.append(
                FeatureRow(
                    key, 1, window, begin, begin + second, 12e3, 1500.0, 1.0, 0, truth,
                    ("x",), values, schema().name,
                )
            )  # fmt: skip
    with Journal(data) as journal:
        archive = Archive(data, journal, schema())
        journal.commit(Commit(features=rows))
        archive.roll()


@contextmanager
def paged(directory: Path, web: WebConfig | None = None) -> Iterator[Paged]:
    broker = Linked()
    live, _, endpoints = watched_service(directory, broker)
    config = Config(data=DataConfig(dir=str(directory)), web=web or WebConfig())
    page = LivePage(config, live, endpoints)
    live.companions += (page.companion,)
    with TestClient(page.app, base_url="http://localhost") as client:
        yield Paged(live, broker, page, client, directory)
    page.stop()
    live.journal.close()
