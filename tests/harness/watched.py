"""A live service in memory with its endpoints of health."""

from __future__ import annotations

from pathlib import Path

from harness.live import Broker, service
from pipeline.drivers.live import Live
from pipeline.drivers.watch import Watched
from pipeline.service.health import Endpoints
from pipeline.telemetry import Telemetry


class Linked(Broker):
    """The broker in memory, as a connection that is made and sends results."""

    connected = True
    unsent = 0


def watched_service(directory: Path, broker: Linked) -> tuple[Live, Watched, Endpoints]:
    live = service(directory, broker)
    telemetry = Telemetry()
    watched = Watched(broker, telemetry)
    endpoints = Endpoints(live, watched, telemetry, directory, capacity=100)
    live.source = watched
    live.on_turn = (watched.told,)
    return live, watched, endpoints
