"""A live service in memory with its endpoints of health."""

from __future__ import annotations

from pathlib import Path

from harness.live import Broker, service
from pipeline.drivers.live import Live
from pipeline.service.health import Endpoints
from pipeline.service.metrics import LoopWatch
from pipeline.telemetry import Telemetry


class Linked(Broker):
    """The broker in memory, as a connection that is made and sends results."""

    connected = True
    unsent = 0


def watched_service(directory: Path, broker: Linked) -> tuple[Live, LoopWatch, Endpoints]:
    live = service(directory, broker)
    telemetry = Telemetry()
    watch = LoopWatch(broker, telemetry)
    endpoints = Endpoints(live, watch, telemetry, directory, capacity=100)
    live.source = watch
    live.companions += (watch,)
    return live, watch, endpoints
