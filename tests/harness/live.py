"""The live driver around a broker in memory: made, fed, run until nothing waits, and what it has stored."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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
from pipeline.edges.ports import Batch, LinkEvent, Message, Onlooker, Receipt, Tally, Work
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.read import read_features, read_predictions
from pipeline.edges.store.schema import FeatureSchema

TOPICS = TopicTemplate("plant/{area}/{machine}/{point}/vibration")


@dataclass
class Broker:
    """A broker with one persistent subscriber: a `Connection` that a test can inspect, and where results go.

    `send` is the plant's side. `restart` is a lost connection: messages that were taken and not acknowledged come
    again, before those that were not delivered yet, and earlier receipts are no longer valid.
    """

    waiting: deque[Message] = field(default_factory=deque)
    unacknowledged: dict[int, Message] = field(default_factory=dict)  # by arrival number
    acknowledged: list[Message] = field(default_factory=list)  # in the order of acknowledgement
    published: list[tuple[str, bytes, int, bool]] = field(default_factory=list)  # topic, payload, qos, retain
    epoch: int = 1
    numbers: int = 0
    settled: bool = True

    def send(self, topic: str, payloads: Iterable[bytes], *, qos: int = 1, content_type: str | None = None) -> None:
        """The plant publishes these payloads to one topic."""
        for payload in payloads:
            self.waiting.append(Message(topic, payload, qos, content_type, False, Receipt(0, 0, 0)))

    def take(self, limit: int, timeout_s: float) -> list[Message]:
        """See `Source.take`; sleeps the whole time-out when nothing waits."""
        if not self.waiting:
            time.sleep(timeout_s)
        taken: list[Message] = []
        while self.waiting and len(taken) < limit:
            message = self.waiting.popleft()
            self.numbers += 1
            mid = self.numbers % 65535 + 1 if message.qos else 0
            message = message._replace(receipt=Receipt(self.epoch, mid, self.numbers))
            if message.qos:
                self.unacknowledged[self.numbers] = message
            taken.append(message)
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`."""
        for message in sorted(messages, key=lambda m: m.receipt.number):
            number = message.receipt.number
            if message.receipt.epoch == self.epoch and number in self.unacknowledged:
                self.acknowledged.append(self.unacknowledged.pop(number))

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Keeps the message in `published`."""
        self.published.append((topic, payload, qos, retain))

    def tally(self) -> Tally:
        """What was delivered; every delivered message counts as taken."""
        return Tally(self.numbers, 0)

    def restart(self) -> None:
        """Lose the connection and make a new one."""
        self.waiting.extendleft(reversed(self.unacknowledged.values()))
        self.unacknowledged.clear()
        self.epoch += 1

    def service(self, timeout_s: float = 0.0) -> None:
        time.sleep(timeout_s)

    def events(self) -> list[LinkEvent]:
        """Nothing ever happens to this connection."""
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
