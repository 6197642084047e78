"""The world of one trial: a new broker, a new data directory with a model, the service and the plant."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.chaos.audit import Audit, Expectation, audit, stored_windows, uninterrupted
from pipeline.chaos.plant import Plant
from pipeline.chaos.process import ROOT, Service
from pipeline.config.sources import load
from pipeline.config.specs import feature_spec, stream_specs
from pipeline.core.engine import Engine
from pipeline.core.records import Block
from pipeline.core.rehearsal import rehearse
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttPublisher, MqttSettings
from pipeline.edges.store.database import view_journal
from pipeline.edges.store.read import read_kind

RATE_PER_S = 400.0  # messages/s; five times the load of eight machines, so that five minutes do the work of 25
# As in deploy/mosquitto.conf. By default a private broker writes its whole queue to disk every second.
BACKLOG = "max_queued_bytes 0\nautosave_interval 30\n"
SETTINGS = {
    "THRUMCAST_COMMIT__INTERVAL_S": "0.2",
    "THRUMCAST_ARCHIVE__ROLL_S": "2",
    "THRUMCAST_ARCHIVE__ROLL_ROWS": "500",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a trial."""

    promise: int
    title: str
    kept: bool
    figures: str
    scrapes: int = 0
    imbalance: int = 0


@dataclass
class Ground:
    """The world of one trial. `publisher` is the connection of the plant."""

    directory: Path
    broker: PrivateBroker
    service: Service
    engine: Engine
    classes: tuple[str, ...]
    sent: int = 0
    marks: int = 0
    publishers: list[MqttPublisher] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        """The data directory of the service."""
        return self.service.data_dir

    @property
    def publisher(self) -> MqttPublisher:
        """The connection of the plant; opened at the first use."""
        return self.publishers[0] if self.publishers else self.another_publisher()

    def another_publisher(self, **changes: Any) -> MqttPublisher:
        """Opens another connection of the plant."""
        settings = MqttSettings(
            client_id=f"plant-{len(self.publishers)}", host=self.broker.host, port=self.broker.port,
            backoff_s=(0.05, 0.5), **changes,
        )  # fmt: skip
        self.publishers.append(MqttPublisher(settings).connect())
        return self.publishers[-1]

    def send(
        self,
        plant: Plant,
        *,
        numbers: Iterable[int] | None = None,
        rate_per_s: float = RATE_PER_S,
        before: Callable[[int], None] | None = None,
        confirmed: bool = True,
    ) -> None:
        """Sends messages of a plant at a rate, and waits for every PUBACK if `confirmed`.

        `before(number)` is called before each message; trials inject their faults there.
        """
        for number in range(plant.messages) if numbers is None else numbers:
            if before is not None:
                before(number)
            topic, payload = plant.message(number)
            self.publisher.publish(topic, payload)
            self.sent += 1
            if self.sent % 8 == 0:
                self.service.check_time()
                self.publisher.rest(8 / rate_per_s)
        if confirmed:
            self.publisher.drain()

    def expected(self, *blocks: Iterable[Block]) -> Expectation:
        """The result of an uninterrupted run over these blocks."""
        return uninterrupted(self.engine, (block for some in blocks for block in some))

    def counter(self, name: str) -> int:
        """A counter of the journal."""
        view = view_journal(self.data_dir, ()) if (self.data_dir / "journal.db").exists() else None
        return 0 if view is None else view.counters.get(name, 0)

    def channels(self) -> tuple[str, ...]:
        """The channel names of the archive."""
        view = view_journal(self.data_dir, ())
        return () if view is None else view.extras["features"]

    def wait_for_windows(self, count: int, *, patience_s: float = 120.0) -> float:
        """Waits until `count` windows are stored; returns the seconds."""
        return self.service.wait_for(
            lambda: stored_windows(self.data_dir) >= count, f"{count} windows", patience_s=patience_s
        )

    def wait_for_messages(self, count: int, *, patience_s: float = 120.0) -> float:
        """Waits until all runs of the service together have received `count` messages; returns the seconds."""
        return self.service.wait_for(
            lambda: self.counter("messages_received") >= count, f"{count} messages", patience_s=patience_s
        )

    def wait_until_heard(self) -> None:
        """Waits until the service has processed everything that the broker queued: it sends a mark and waits for it.

        The mark is not a reading and goes to quarantine. It is sent repeatedly, because a broker with a full queue or
        without a subscriber drops it.
        """
        self.marks += 1
        topic = f"plant/main/mark-{self.marks}/de/vibration"

        def marked() -> bool:
            self.publisher.publish(topic, b"a mark")
            self.publisher.rest(0.2)
            return topic in read_kind(self.data_dir, "quarantine")["topic"].to_pylist()

        self.service.wait_for(marked, "a mark in quarantine", patience_s=120.0)

    def audit(self, expected: Expectation) -> Audit:
        """Audits the present archive."""
        return audit(self.data_dir, expected, self.classes)

    def outcome(self, promise: int, title: str, kept: bool, figures: str) -> Outcome:
        """The result of the trial. Unbalanced message counts in a scrape also break the promise."""
        scrapes = self.service.scrapes
        balanced = scrapes.largest_imbalance == 0
        return Outcome(promise, title, kept and balanced, figures, scrapes.count, scrapes.largest_imbalance)


@contextlib.contextmanager
def ground(
    directory: Path,
    *,
    settings: dict[str, str] | None = None,
    broker_config: str = "",
    model: bool = True,
    until_s: float = math.inf,
) -> Iterator[Ground]:
    """A new world in an empty folder; everything ends with the block. Waiting raises OutOfTime after `until_s`."""
    rehearse()  # compile first: a service that is killed while it compiles would never finish
    used = SETTINGS | (settings or {})
    config = load(None, {}, environment=used).config
    data_dir = directory / "data"
    predictor = None
    if model:
        from models.bundle import load as load_bundle
        from models.predictor import NumpyPredictor
        from models.registry import Registry

        bundle = load_bundle(ROOT / "models" / "pretrained")
        bundle.check_fits(feature_spec(config).schema)
        registry = Registry(data_dir)
        registry.point("champion", registry.add(bundle), why="the model that comes with thrumcast")
        predictor = NumpyPredictor(registry.load("champion"))
    with PrivateBroker(directory / "broker", kind="mosquitto", extra_config=broker_config) as broker:
        service = Service(data_dir, broker.port, used, until_s=until_s)
        engine = Engine(stream_specs(config, {}), predictor)
        made = Ground(directory, broker, service, engine, predictor.classes if predictor else ())
        with service.watched():
            yield made
        for publisher in made.publishers:
            publisher.close()


@contextlib.contextmanager
def reading(data_dir: Path) -> Iterator[dict[str, Any]]:
    """Runs a reader that opens every Parquet file repeatedly; its findings are there after the block."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", "pipeline.chaos.reader", str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield found
        finally:
            output, _ = process.communicate(timeout=120)
    found.update(json.loads(output))
