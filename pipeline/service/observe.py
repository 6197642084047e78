"""A running service made visible: metrics, health over HTTP, and word to the service manager."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.drivers.upkeep import Upkeep
from pipeline.drivers.watch import NOTIFY_EVERY_S, Watched
from pipeline.edges.labels import VERDICTS, LabelFile
from pipeline.edges.systemd import Notifier
from pipeline.errors import ArchiveError
from pipeline.service.health import Endpoints
from pipeline.service.http import WebServer
from pipeline.service.models import RegistryWatch
from pipeline.service.streams import StreamGauges
from pipeline.telemetry import Telemetry

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.drivers.live import Live
    from pipeline.edges.mqtt import MqttConnection

log = logging.getLogger("thrumcast.web")


@contextlib.contextmanager
def observed(config: Config, live: Live, connection: MqttConnection) -> Iterator[Endpoints]:
    """Puts a watch between the loop and its connection, and tells of it while the service runs.

    A page that cannot be served does not stop the readings: that is a warning. The watchdog of systemd is fed by the
    loop itself, so a loop that hangs is not kept alive by a thread beside it.
    """
    telemetry = Telemetry()
    notifier = Notifier.from_environment()
    watched = Watched(connection, telemetry, open_alarms=set(live.journal.open_alarms()))
    telemetry.set("alarms_active", len(watched.open_alarms))
    endpoints = Endpoints(
        live,
        watched,
        telemetry,
        config.data.path,
        capacity=connection.max_waiting,
    )
    gauges = StreamGauges(lambda: live.engine.predictor)
    endpoints.extra += [gauges.show, LabelCounts(config.data.path), _reloads(live)]

    def tell(_: Watched) -> None:
        endpoints.ready(wait_s=0.0)  # so that a change is in the log, whoever asks or does not
        notifier.send("WATCHDOG=1", f"STATUS={endpoints.status_line()}")

    watched.notify = tell
    watched.notify_every_s = min(NOTIFY_EVERY_S, (notifier.watchdog_s or 2 * NOTIFY_EVERY_S) / 2)
    live.source = watched
    live.on_turn += (watched.told, gauges.told)
    with contextlib.ExitStack() as stack:
        if config.web.enabled:
            try:
                server = WebServer(config.web.bind, endpoints.routes(), config.web.hosts)
            except OSError as error:
                log.warning("web_unavailable address=%s err=%s", config.web.bind, error)
            else:
                stack.enter_context(server)
                log.info("web_listening address=%s", server.address)
        stack.enter_context(Upkeep(live.archive, config.data.path, telemetry, config.archive.compact_parts))
        notifier.send("READY=1", f"STATUS={endpoints.status_line()}")
        try:
            yield endpoints
        finally:
            notifier.send("STOPPING=1")


@dataclass(slots=True)
class LabelCounts:
    """Counts the labels of a data directory by verdict, again whenever their file has changed."""

    data_dir: Path
    _seen: tuple[int, int] | None = None

    def __call__(self, telemetry: Telemetry) -> None:
        """At a scrape."""
        labels = LabelFile(self.data_dir)
        try:
            stat = labels.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            events = labels.events() if seen != self._seen else None
        except FileNotFoundError:
            seen, events = (0, 0), []
        except (OSError, ArchiveError) as error:
            log.error("labels_unreadable err=%s", error)
            return
        if events is not None:
            counts = Counter(event.verdict for event in events if event.op == "add")
            telemetry.set_series("labels_total", {(verdict,): counts[verdict] for verdict in VERDICTS})
        self._seen = seen


def _reloads(live: Live) -> Callable[[Telemetry], None]:
    def show(telemetry: Telemetry) -> None:
        if isinstance(live.models, RegistryWatch):
            telemetry.set_series("model_reloads_total", {(result,): n for result, n in live.models.reloads.items()})

    return show
