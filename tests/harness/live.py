"""The live driver around a broker in memory: made, fed, run until nothing waits, and what it has stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.streams import ENGINE, SPEC, recording
from pipeline.core.codec import encode
from pipeline.core.engine import Step
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import from_bytes
from pipeline.drivers.intake import Intake
from pipeline.drivers.live import Live
from pipeline.drivers.results import Results
from pipeline.drivers.span import Rhythm
from pipeline.edges.mqtt import TopicTemplate
from pipeline.edges.ports import Batch, LinkEvent, MemoryBroker, Onlooker, Work
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.read import read_features, read_predictions
from pipeline.edges.store.schema import FeatureSchema

TOPICS = TopicTemplate("plant/{area}/{machine}/{point}/vibration")


class Broker(MemoryBroker):
    """The broker in memory, with what the live driver asks of a connection."""

    def service(self, timeout_s: float = 0.0) -> None:
        time.sleep(timeout_s)

    def events(self) -> list[LinkEvent]:
        return []


@dataclass
class Commits(Onlooker):
    """Calls a function with every committed batch and step."""

    see: Callable[[Batch, Step], object]

    def committed(self, batch: Batch, step: Step) -> Work | None:
        self.see(batch, step)
        return None


@dataclass
class Operator(Onlooker):
    """Somebody who acknowledges alarms with the next batch."""

    alarms: list[tuple[StreamKey, str]]

    def stepped(self, batch: Batch, step: Step) -> None:
        batch.alarms_seen += self.alarms
        self.alarms = []


def schema() -> FeatureSchema:
    from pipeline.core.features.table import FEATURES

    return FeatureSchema(SPEC.features.schema, tuple(f.name for f in FEATURES), tuple(f.unit for f in FEATURES))


def service(directory: Path, broker: Broker) -> Live:
    journal = Journal(directory)
    return Live(
        engine=ENGINE,
        source=broker,
        intake=Intake(TOPICS.parse, lambda machine: machine != "stranger", 1_000_000),
        journal=journal,
        archive=Archive(directory, journal, schema()),
        results=Results("thrumcast", broker.publish, classes=("healthy", "bearing_outer", "unbalance")),
        rhythm=Rhythm(commit_interval_s=0.01, commit_messages=4),
        states={key: from_bytes(SPEC, data) for key, data in journal.states().items()},
    )


def stop_when_idle(broker: Broker) -> Callable[[], bool]:
    return lambda: not broker.waiting


def send(broker: Broker, blocks: list[Block]) -> None:
    for block in blocks:
        broker.send(TOPICS.format(machine=block.key.machine, point=block.key.point), [encode(block)])


def stored(directory: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    keys = [("machine", "ascending"), ("session", "ascending"), ("window", "ascending")]
    features = read_features(directory).sort_by(keys)
    predictions = read_predictions(directory).sort_by(keys)
    return features.to_pylist(), predictions.to_pylist()


def same_rows(left: list[dict[str, object]], right: list[dict[str, object]]) -> bool:
    return repr(left) == repr(right)  # repr: NaN is equal to NaN, and floats are told apart to the last bit


def uninterrupted(directory: Path, blocks: list[Block]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    broker = Broker()
    live = service(directory, broker)
    send(broker, blocks)
    live.run(stop_when_idle(broker))
    live.journal.close()
    return stored(directory)


BLOCKS = [b for pair in zip(recording(1), recording(2, machine="fan-02"), strict=False) for b in pair]
