"""Composition: how the rooms are put together, for the service and for the commands.

`service` and `observed` are the running service. Another sink is one module and one line in `service`: its companion.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.secrets import exposed
from pipeline.config.specs import feature_spec, stream_specs
from pipeline.core.engine import Engine
from pipeline.core.features.table import FEATURES
from pipeline.core.order import REMEMBERED_SESSIONS
from pipeline.core.quality import Quality
from pipeline.core.rehearsal import rehearse
from pipeline.core.severity import floor
from pipeline.core.state import from_bytes
from pipeline.drivers.dates import Dates
from pipeline.drivers.intake import MOST_BYTES, Admission, Channels, Intake, TimedPredictor
from pipeline.drivers.switch import ModelSet, ModelSwitch
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.schema import FeatureSchema
from pipeline.service.models import LiveConfig, RegistryWatch, load_bundle, load_models, model_set, reader

if TYPE_CHECKING:
    from pipeline.config.keys import KeyPath
    from pipeline.config.sources import Setting
    from pipeline.config.tables import Config
    from pipeline.core.records import Predictor, StreamKey
    from pipeline.core.state import StreamSpec, StreamState
    from pipeline.drivers.backfill import Worker
    from pipeline.drivers.live import Live
    from pipeline.edges.mqtt import MqttConnection, MqttSettings
    from pipeline.edges.ports import Companion
    from pipeline.page.demo import Guide
    from pipeline.service.health import Endpoints
    from pipeline.service.metrics import LoopWatch
    from pipeline.telemetry import Telemetry

log = logging.getLogger("thrumcast.service")

Reread = tuple[Callable[[], "Config"], Callable[[str], None]]


# -- parts -----------------------------------------------------------------------------------------------------------


def feature_schema(config: Config) -> FeatureSchema:
    """The feature table as the archive stores it."""
    return FeatureSchema(
        name=feature_spec(config).schema,
        features=tuple(f.name for f in FEATURES),
        units=tuple(f.unit for f in FEATURES),
        sources=tuple(f"{f.formula} ({f.source})" for f in FEATURES),
        quality_bits=tuple(str(bit.name).lower() for bit in Quality if bit),
    )


def channels_of(config: Config, journal: Journal) -> Channels:
    """The channel names that the data directory has, and how many it may get."""
    return Channels(config.archive.max_channels, set(journal.view(()).extras["features"]))


@contextlib.contextmanager
def opened(config: Config) -> Iterator[tuple[Journal, Archive]]:
    """The data directory, for writing."""
    with Journal(config.data.path) as journal:
        yield journal, Archive(config.data.path, journal, feature_schema(config))


def engine(config: Config, models: ModelSet, spec_of: Callable[[StreamKey], StreamSpec]) -> Engine:
    """The engine of the service and of a backfill: both give the same answers to the same readings."""
    plain = Engine(
        spec_of,
        zone_of=lambda row: floor(row, spec_of(row.key).limits),
        foretell_every=config.model.forecast_every_windows,
    )
    return models.on(plain)


@dataclass(frozen=True, slots=True)
class MakeWorker:
    """Makes the engine of a backfill worker; a value that can be sent to a worker process."""

    config: Config
    version: str | None  # None = features only
    finished: Mapping[str, str]

    def __call__(self) -> Worker:
        """In the worker process."""
        from pipeline.drivers.backfill import Worker

        bundle = None if self.version is None else load_bundle(self.config, self.version)
        models = ModelSet(None) if bundle is None else model_set(self.config, bundle)
        known = MachinesFile(self.config.data.path / MACHINES_NAME).load()
        spec_of = stream_specs(self.config, known)
        return Worker(
            engine(self.config, models, spec_of), self.config.modes.resolve, self.finished, feature_schema(self.config)
        )


@dataclass(frozen=True, slots=True)
class MakeEngine:
    """Makes the engine of the service; a value that can be sent to an engine process."""

    config: Config
    known: Mapping[StreamKey, Mapping[str, Any]]  # of the machines file
    version: str | None  # None = features only

    def __call__(self) -> Engine:
        """In the engine process."""
        bundle = None if self.version is None else load_bundle(self.config, self.version)
        models = ModelSet(None) if bundle is None else model_set(self.config, bundle)
        timed = replace(models, predictor=models.predictor and TimedPredictor(models.predictor))
        return engine(self.config, timed, stream_specs(self.config, self.known))


@dataclass(slots=True)
class Recipes:
    """Says how engine processes make the engine that serves now; the same value until something about it changes."""

    live: LiveConfig
    _newest: MakeEngine | None = None

    def __call__(self, serving: Engine) -> MakeEngine:
        """The recipe of the loop's engine."""
        config, version = self.live.config, serving.predictor.version if serving.predictor else None
        if self._newest is None or self._newest.config is not config or self._newest.version != version:
            self._newest = MakeEngine(config, self.live.known, version)
        return self._newest


def folder(path: Path) -> str:
    """A path for messages: relative to the current folder if it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def mqtt_settings(config: Config, client_id: str | None = None) -> MqttSettings:
    """The connection that the configuration describes, under the service's client id or another one."""
    from pipeline.edges.mqtt import MqttSettings

    mqtt = config.mqtt
    return MqttSettings(
        client_id=client_id or mqtt.client_id,
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password_file=mqtt.password_path(),
        tls=mqtt.tls,
        ca_file=_path(mqtt.tls_ca_file),
        cert_file=_path(mqtt.tls_cert_file),
        key_file=_path(mqtt.tls_key_file),
        transport=mqtt.transport,
        websocket_path=mqtt.websocket_path,
        keepalive_s=mqtt.keepalive_s,
        session_expiry_s=mqtt.session_expiry_s,
        receive_maximum=mqtt.receive_maximum,
        # A broker drops larger packets silently. What is only too large for the intake is to be quarantined by name.
        maximum_packet_bytes=min(max(16 * 2**20, 4 * mqtt.max_payload_bytes), 268_435_455),
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


# -- the running service ---------------------------------------------------------------------------------------------
# Its modules are imported when it starts: other commands use the parts above and need no MQTT client.


def restored(journal: Journal, spec_of: Callable[[StreamKey], StreamSpec]) -> dict[StreamKey, StreamState]:
    """Every stream as the last commit left it.

    Raises:
        ConfigError: the window or feature settings have changed since.
        ArchiveError: a state is damaged or of another version.
    """
    return {key: from_bytes(spec_of(key), data) for key, data in journal.states().items()}


@contextlib.contextmanager
def service(
    config: Config, *, wait: bool, reread: Reread | None = None, companions: tuple[Companion, ...] = ()
) -> Iterator[tuple[Live, MqttConnection, Predictor | None]]:
    """A connected service: the loop, its connection, and the model that serves at first.

    At the end it takes leave of the broker and releases the data directory.

    Args:
        config: All of it.
        wait: Whether to wait for a broker that is not there yet; else NotReachable is raised.
        reread: How to read the configuration again on SIGHUP, and how to set the level of the log.
        companions: Others beside the service's own.
    """
    import pyarrow.compute  # noqa: F401  Arrow loads it for its first cast: 0.2 s in the middle of the first commit

    from pipeline.drivers.engines import Engines
    from pipeline.drivers.live import Live
    from pipeline.drivers.quotas import Names, Quotas
    from pipeline.drivers.rest import Rest
    from pipeline.drivers.results import Results
    from pipeline.drivers.span import Rhythm
    from pipeline.edges.mqtt import Claim, MqttConnection, TopicTemplate, alone_here, claim_topic
    from pipeline.edges.payloads import place_of
    from pipeline.service.companions import LabelNews, MachineNotes, SessionNote
    from pipeline.service.homeassistant import HomeAssistant
    from pipeline.service.notices import Notices
    from pipeline.service.payloads import BIRTHS_NAME, SparkplugNodes, payloads
    from pipeline.service.requests import Requests

    for one in exposed(config):
        log.warning("secret_exposed key=%s path=%s mode=%04o", one.key, one.path, one.mode)
    models = load_models(config)
    model = models.predictor
    topics = TopicTemplate(config.mqtt.readings_topic)
    machines = MachinesFile(config.data.path / MACHINES_NAME)
    base = config.mqtt.results_topic
    messages_per_commit = max(1, min(config.mqtt.receive_maximum // 2, REMEMBERED_SESSIONS))
    settings = mqtt_settings(config)
    with opened(config) as (journal, archive), contextlib.ExitStack() as stack:
        known = machines.load()
        live_config = LiveConfig(config, known, *(reread or (lambda: config,)))
        engines = None
        if config.run.workers > 1:  # first: they load what they need while this process does the same
            engines = stack.enter_context(Engines(config.run.workers, Recipes(live_config)))
        core = engine(config, models, live_config.spec_of)
        watch = RegistryWatch.after(live_config)
        switch = ModelSwitch(watch, reader(config))
        switch.shadow_with(core, models)
        former_id = journal.client_id()
        states = restored(journal, core.spec_of)
        before = {key: place for key, state in states.items() if (place := place_of(state)) is not None}
        mapped = payloads(config, before.get)
        connection = MqttConnection(
            settings,
            subscriptions=[
                topics.subscription,
                *mapped.subscriptions,
                *([f"{base}/cmd/+"] if config.mqtt.commands else []),
            ],
            status_topic=f"{base}/status",
            claim=Claim(claim_topic(base, config.mqtt.client_id)),
            former_id=former_id,
            max_waiting=2 * messages_per_commit,
            max_waiting_bytes=2 * MOST_BYTES,
        )
        results = Results(
            base,
            connection.publish,
            model.version if model else None,
            model.classes if model else (),
            limits_of=lambda key: core.spec_of(key).limits,
            spec_of=lambda key: core.spec_of(key),
        )
        results.restore(journal.open_alarms().values(), journal.untold_alarms())
        requests = Requests(config, watch.look_again, results.up)
        notices = Notices.of(config, journal.open_alarms())
        live = Live(
            engine=core,
            source=connection,
            intake=Intake(
                lambda topic: None if requests.owns(topic) else topics.parse(topic),
                config.accepts,
                config.mqtt.max_payload_bytes,
                Admission(
                    lambda key: live_config.spec_of(key).window,
                    channels_of(config, journal),
                    Dates(config.archive.max_dates),
                    Names(
                        Quotas(
                            config.streams.max_machines,
                            config.streams.max_per_machine,
                            config.streams.max_new_per_hour,
                            config.streams.max_channels_per_machine,
                        ),
                        set(states),
                    ),
                ),
                mapped.decode,
            ),
            journal=journal,
            archive=archive,
            results=results,
            rhythm=Rhythm(
                commit_interval_s=config.commit.interval_s,
                commit_messages=messages_per_commit,
                roll_s=config.archive.roll_s,
                roll_rows=config.archive.roll_rows,
            ),
            rest=Rest(config.streams.rest_s, config.streams.forget_days * 86_400),
            states=states,
            companions=(
                SparkplugNodes(mapped.nodes, config.data.path / BIRTHS_NAME),
                MachineNotes(machines, set(known)),
                requests,
                LabelNews.of(journal, base),
                SessionNote(journal, connection, config.mqtt.client_id, former_id),
                *(
                    (HomeAssistant(base, config.homeassistant.prefix, config.modes.names),)
                    if config.homeassistant.enabled
                    else ()
                ),
                *((notices,) if notices is not None else ()),
                *companions,
            ),
            models=switch,
            engines=engines,
        )
        began_s = time.monotonic()
        rehearse()  # compiles the kernels: up to half a minute at the first start, before the broker waits for us
        if engines is not None:
            engines.use(core)
        log.info("rehearsed duration_s=%.1f", time.monotonic() - began_s)
        with alone_here(settings), connection, notices or contextlib.nullcontext():
            connection.connect(wait=wait)
            yield live, connection, model


@contextlib.contextmanager
def observed(
    config: Config,
    live: Live,
    connection: MqttConnection,
    settings: Mapping[KeyPath, Setting] | None = None,
    guide: Guide | None = None,
) -> Iterator[Endpoints]:
    """Metrics, health and the page over HTTP, upkeep, and word to the service manager, while a service runs.

    A page that cannot be served does not stop the readings: that is a warning. The loop itself feeds the watchdog of
    systemd, so no thread beside it keeps a loop alive that hangs.

    Args:
        config: All of it.
        live: The loop of the service.
        connection: Its connection.
        settings: Where each value of the configuration comes from, for the page.
        guide: The guided strip of the page; only the demo has one.

    Raises:
        ConfigError: web.token_file cannot be read.
    """
    from pipeline.edges.systemd import Notifier
    from pipeline.service.health import Endpoints, show_engines
    from pipeline.service.metrics import NOTIFY_EVERY_S, LabelCounts, LoopWatch, StreamGauges
    from pipeline.service.upkeep import Upkeep
    from pipeline.telemetry import Telemetry

    telemetry = Telemetry()
    notifier = Notifier.from_environment()
    watch = LoopWatch(connection, telemetry, open_alarms=set(live.journal.open_alarms()))
    telemetry.set("alarms_active", len(watch.open_alarms))
    gauges = StreamGauges(lambda: live.engine.predictor)
    endpoints = Endpoints(live, watch, telemetry, config.data.path, capacity=connection.max_waiting)
    if isinstance(live.models.watch, RegistryWatch):
        aliases = live.models.watch
        endpoints.refused_model = lambda: aliases.refusal
    endpoints.gauges += [
        gauges.show,
        LabelCounts(config.data.path).show,
        lambda telemetry: _show_reloads(live, telemetry),
        lambda telemetry: _show_streams(live, telemetry),
        lambda telemetry: show_engines(live.engines, telemetry),
    ]

    def notify(_: LoopWatch) -> None:
        endpoints.ready(wait_s=0.0)  # logs a change even without a request
        notifier.send("WATCHDOG=1", f"STATUS={endpoints.status_line()}")

    watch.notify = notify
    watch.notify_every_s = min(NOTIFY_EVERY_S, (notifier.watchdog_s or 2 * NOTIFY_EVERY_S) / 2)
    live.source = watch
    live.companions += (watch, gauges)
    with contextlib.ExitStack() as stack:
        if config.web.enabled:
            stack.enter_context(_page(config, live, endpoints, settings, guide))
        stack.enter_context(Upkeep(live.archive, config.data.path, telemetry, config.archive.compact_parts))
        notifier.send("READY=1", f"STATUS={endpoints.status_line()}")
        try:
            yield endpoints
        finally:
            notifier.send("STOPPING=1")


@contextlib.contextmanager
def _page(
    config: Config, live: Live, endpoints: Endpoints, settings: Mapping[KeyPath, Setting] | None, guide: Guide | None
) -> Iterator[None]:
    """The web server with the page, which takes part in the turns only where the address can be used."""
    from pipeline.page.api import LivePage
    from pipeline.service.http import WebServer

    log = logging.getLogger("thrumcast.web")
    page = LivePage(config, live, endpoints, settings, guide)
    try:
        server = WebServer(config.web.bind, endpoints.routes(), config.web.hosts, page.app, page.stop)
    except OSError as error:
        log.warning("web_unavailable address=%s err=%s", config.web.bind, error)
        yield
        return
    live.companions += (page.companion,)
    with page, server:
        endpoints.address = server.address
        log.info("web_listening address=%s", server.address)
        yield


def _show_reloads(live: Live, telemetry: Telemetry) -> None:
    if isinstance(live.models.watch, RegistryWatch):
        reloads = live.models.watch.reloads
        telemetry.set_series("model_reloads_total", {(result,): n for result, n in reloads.items()})


def _show_streams(live: Live, telemetry: Telemetry) -> None:
    telemetry.set("streams_asleep", len(live.rest.asleep))
    telemetry.set("streams_forgotten_total", live.rest.forgotten)
    names = live.intake.admission.names if live.intake.admission is not None else None
    if names is not None:
        telemetry.set("streams_known", len(names.known))
        telemetry.set("machines_known", names.machines)
