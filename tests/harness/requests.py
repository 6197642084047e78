"""A service in memory that is asked over MQTT: alarms to acknowledge, labels to keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from harness.live import BLOCKS, TOPICS, Broker, send, service, stop_when_idle
from pipeline.config.tables import Config, DataConfig, MqttConfig
from pipeline.core.alarm import AlarmState, Episode, episode_id
from pipeline.core.records import StreamKey
from pipeline.drivers.intake import Intake
from pipeline.drivers.live import Live
from pipeline.service.companions import LabelNews
from pipeline.service.requests import Requests

PUMP = StreamKey("pump-01", "de")
UP = Episode("unbalance", 5, 0.9)
UP_ID = episode_id(PUMP, UP)
LABEL = {"machine": "pump-01", "mode": "ball", "from": "2026-05-01T10:00:00Z", "to": "2026-05-01T12:00:00Z"}


def asked(directory: Path, broker: Broker) -> Live:
    """A service in memory that takes requests, with one alarm up."""
    live = service(directory, broker)
    config = Config(data=DataConfig(dir=str(directory)), mqtt=MqttConfig(commands=True))
    live.intake = Intake(TOPICS.parse, lambda machine: True, 1_000_000)
    live.companions = (Requests(config, lambda: None, live.results.up), LabelNews.of(live.journal, "thrumcast"))
    send(broker, BLOCKS[:4])
    live.run(stop_when_idle(broker))
    live.states[PUMP] = replace(live.states[PUMP], alarm=AlarmState(open=(UP,)))
    return live


def ask(live: Live, broker: Broker, name: str, payload: bytes | dict[str, Any]) -> list[dict[str, Any]]:
    """The answers so far, after this request."""
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    broker.send(f"thrumcast/cmd/{name}", [content])
    live.run(stop_when_idle(broker))
    return [msgspec.json.decode(p) for topic, p, _, _ in broker.published if topic.endswith("/response")]


def events(broker: Broker, kind: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(p) for topic, p, _, _ in broker.published if topic == f"thrumcast/events/{kind}"]
