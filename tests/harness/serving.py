"""The live driver in memory with models that can change while it runs."""

from __future__ import annotations

from pathlib import Path

from harness.live import TOPICS, Broker, schema
from harness.streams import ENGINE, SPEC
from pipeline.core.features.table import NAMES
from pipeline.core.state import from_bytes
from pipeline.drivers.intake import Intake
from pipeline.drivers.live import Live
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm
from pipeline.drivers.switch import ModelSet, ModelSwitch
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.read import last_rows


class Watch:
    """Says once that something else is to serve."""

    def __init__(self) -> None:
        self.next: ModelSet | None = None

    def look_again(self) -> None:
        pass

    def due(self) -> ModelSet | None:
        models, self.next = self.next, None
        return models


def service(directory: Path, broker: Broker, watch: Watch | None = None, windows: int = 1000) -> Live:
    journal = Journal(directory)
    return Live(
        engine=ENGINE,
        source=broker,
        intake=Intake(TOPICS.parse, lambda machine: True, 1_000_000),
        journal=journal,
        archive=Archive(directory, journal, schema()),
        results=Results("thrumcast", broker.publish, classes=ENGINE.predictor.classes),
        rhythm=Rhythm(commit_interval_s=0.01, commit_messages=4),
        states={key: from_bytes(SPEC, data) for key, data in journal.states().items()},
        models=ModelSwitch(watch, lambda until_ns: last_rows(directory, until_ns, 1e6, windows, NAMES)),
    )
