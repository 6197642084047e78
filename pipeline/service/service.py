"""The live service, put together: used by `run` and by `demo`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.core.engine import Engine, Step
from pipeline.core.order import REMEMBERED_SESSIONS
from pipeline.core.records import Block, StreamKey
from pipeline.core.rehearsal import rehearse
from pipeline.core.state import StreamState, from_bytes
from pipeline.drivers.intake import MOST_BYTES, Admission, Batch, Intake
from pipeline.drivers.label_news import LabelNews
from pipeline.drivers.live import Live, Rhythm
from pipeline.drivers.results import Outbox, Results
from pipeline.drivers.serving import Shadow
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.mqtt import Claim, MqttConnection, TopicTemplate, alone_here, claim_topic
from pipeline.errors import ArchiveError
from pipeline.service import compose
from pipeline.service.compose import mqtt_settings
from pipeline.service.models import RegistryWatch, Running, load_serving, reader
from pipeline.service.requests import Requests

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.core.records import Predictor
    from pipeline.core.state import StreamSpec
    from pipeline.edges.store.journal import Journal


Reread = tuple[Callable[[], "Config"], Callable[[str], None]]
SHORT_RECORDS = 5  # sessions without a window, after which a stream is named

log = logging.getLogger("thrumcast.service")


@dataclass(slots=True)
class Acquaintance:
    """Writes down what blocks say of their streams: at first sight, and whenever one carries facts."""

    machines: MachinesFile
    known: set[StreamKey] = field(default_factory=set)
    waiting: dict[StreamKey, set[int]] = field(default_factory=dict)  # sessions of streams without any window yet

    def __call__(self, batch: Batch, step: Step) -> Callable[[], None] | None:
        """After a committed turn; what is to be written, if anything."""
        facts: dict[StreamKey, dict[str, Any]] = {}
        for block in batch.blocks:
            if block.key not in self.known or block.about is not None:
                facts.setdefault(block.key, {}).update(_facts(block))
        self._name_short_records(batch, step, set(facts))
        return partial(self._write, facts) if facts else None

    def _write(self, facts: dict[StreamKey, dict[str, Any]]) -> None:
        self.machines.update_all(facts)
        self.known |= facts.keys()

    def _name_short_records(self, batch: Batch, step: Step, new: set[StreamKey]) -> None:
        """A sensor whose records are shorter than a window would be listened to for ever without a word."""
        self.waiting |= {key: set() for key in new}
        for row in step.features:
            self.waiting.pop(row.key, None)
        for block in batch.blocks:
            sessions = self.waiting.get(block.key)
            if sessions is not None:
                sessions.add(block.session)
                if len(sessions) == SHORT_RECORDS:
                    log.warning("no_window %s: %d records, none as long as window.length_s", block.key, SHORT_RECORDS)


def _facts(block: Block) -> dict[str, Any]:
    facts: dict[str, Any] = {**(block.about or {}), "rate_hz": block.rate_hz, "unit": block.unit}
    if block.orders is not None:
        orders = block.orders
        facts["orders"] = {"ftf": orders.ftf, "bpfo": orders.bpfo, "bpfi": orders.bpfi, "bsf": orders.bsf}
    return facts


@dataclass(slots=True)
class Known:
    """Notes in the journal, once, under which client id a broker has a session for us; see `session_lost`."""

    journal: Journal
    connection: MqttConnection
    client_id: str
    noted: str | None

    def __call__(self) -> None:
        """On the thread of the disk, once a turn."""
        if self.noted != self.client_id and self.connection.subscribed:
            with contextlib.suppress(ArchiveError):  # the disk refuses: at the next turn
                self.journal.note_client_id(self.client_id)
                self.noted = self.client_id


def restored(journal: Journal, spec_of: Callable[[StreamKey], StreamSpec]) -> dict[StreamKey, StreamState]:
    """Every stream as the last commit left it.

    Raises:
        ConfigError: the window or feature settings have changed since.
        ArchiveError: the state is damaged or of another version.
    """
    return {key: from_bytes(spec_of(key), data) for key, data in journal.states().items()}


@contextlib.contextmanager
def service(
    config: Config, *, wait: bool, reread: Reread | None = None
) -> Iterator[tuple[Live, MqttConnection, Predictor | None]]:
    """A connected service; at the end it says goodbye to the broker and lets the data directory go.

    Args:
        config: All of it.
        wait: Whether to wait for a broker that is not there yet; else NotReachable.
        reread: How to read the configuration again on SIGHUP, and how to set the level of the log.
    """
    serving = load_serving(config)
    model = serving.predictor
    topics = TopicTemplate(config.mqtt.readings_topic)
    machines = MachinesFile(config.data.path / MACHINES_NAME)
    with compose.opened(config) as (journal, archive):
        known = machines.load()
        running = Running(config, known, *(reread or (lambda: config,)))
        engine = compose.engine(config, serving, running.spec_of)
        read_last = reader(config)
        base = config.mqtt.results_topic
        messages_per_commit = max(1, min(config.mqtt.receive_maximum // 2, REMEMBERED_SESSIONS))
        connection_settings = mqtt_settings(config)
        former_id = journal.client_id()
        connection = MqttConnection(
            connection_settings,
            subscriptions=[topics.subscription, *([f"{base}/cmd/+"] if config.mqtt.commands else [])],
            status_topic=f"{base}/status",
            claim=Claim(claim_topic(base, config.mqtt.client_id)),
            former_id=former_id,
            max_waiting=2 * messages_per_commit,
            max_waiting_bytes=2 * MOST_BYTES,
        )
        watch = RegistryWatch.after(running)
        outbox = Outbox(connection.publish)
        requests = Requests(config, outbox.publish, watch.look_again)
        live = Live(
            engine=engine,
            source=connection,
            intake=Intake(
                topics.parse,
                config.accepts,
                config.mqtt.max_payload_bytes,
                requests.read,
                Admission(lambda key: running.spec_of(key).window, compose.channels_of(config, journal)),
            ),
            journal=journal,
            archive=archive,
            results=Results(
                base,
                connection.publish,
                model.version if model else None,
                model.classes if model else (),
                limits_of=lambda key: engine.spec_of(key).limits,
            ),
            rhythm=Rhythm(
                commit_interval_s=config.commit.interval_s,
                commit_messages=messages_per_commit,
                roll_s=config.archive.roll_s,
                roll_rows=config.archive.roll_rows,
            ),
            states=restored(journal, engine.spec_of),
            notes=(Acquaintance(machines, set(known)), requests),
            between=(
                LabelNews.of(journal, base, outbox.publish),
                Known(journal, connection, config.mqtt.client_id, former_id),
            ),
            tell=outbox.send,
            models=watch,
            acknowledgements=requests.acknowledgements,
            read_last=read_last,
            shadow=Shadow(Engine(engine.spec_of, serving.shadow), read_last) if serving.shadow else None,
        )
        live.results.restore(journal.open_alarms().values(), journal.untold_alarms())
        requests.up = live.results.up
        began_s = time.monotonic()
        rehearse()  # the first time after an installation, half a minute: no broker is kept waiting for that
        log.info("rehearsed duration_s=%.1f", time.monotonic() - began_s)
        with alone_here(connection_settings), connection:
            connection.connect(wait=wait)
            yield live, connection, model
