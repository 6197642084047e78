"""kill -9 at random moments, with a real broker: nothing lost, nothing doubled, every number the same."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from harness.broker import settings, wait_until
from harness.plant import SETTINGS, Service, blocks

from pipeline.config_sources import load
from pipeline.core.codec import encode
from pipeline.core.engine import Engine
from pipeline.edges.archive_check import verify
from pipeline.edges.archive_read import read_features
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
from pipeline.specs import stream_specs

TOPICS = TopicTemplate("plant/{area}/{machine}/{point}/vibration")


@pytest.mark.network
def test_ten_kills_at_random_moments_lose_nothing_and_double_nothing(
    mosquitto: PrivateBroker, tmp_path: Path, rng: np.random.Generator
) -> None:
    data_dir = tmp_path / "data"
    service = Service(data_dir, mosquitto.port)
    plant = blocks(streams=4, per_stream=400)
    kills = sorted(rng.choice(len(plant) - 200, size=10, replace=False).tolist())
    down = 0
    service.start()
    wait_until(lambda: "connected" in service.log(), lambda: time.sleep(0.05), "the first subscription")
    with MqttPublisher(settings(mosquitto, "plant")).connect() as publisher:
        for i, block in enumerate(plant):
            publisher.publish(TOPICS.format(machine=block.key.machine, point=block.key.point), encode(block))
            if i % 8 == 0:
                publisher.rest(0.06)
            if kills and i >= kills[0]:
                kills.pop(0)
                service.kill()
                down = 60  # messages that are published while nobody listens
            elif down:
                down -= 1
                if not down:
                    service.start()
        publisher.drain()
    if down:
        service.start()

    expected = _expected(plant)
    seen = lambda: read_features(data_dir, columns=["window"]).num_rows if data_dir.exists() else 0  # noqa: E731
    wait_until(lambda: seen() >= len(expected), lambda: time.sleep(0.2), f"{len(expected)} windows")
    assert service.stop() == 0, service.log()

    report = verify(data_dir)
    assert not report.problems
    assert report.pending_rows == 0
    found = read_features(data_dir).sort_by([("machine", "ascending"), ("window", "ascending")])
    assert found.num_rows == len(expected)
    names = [name for name in found.column_names if "." in name]
    values = np.stack([found[name].to_numpy() for name in names], axis=1)
    keys = list(zip(found["machine"].to_pylist(), found["window"].to_pylist(), strict=True))
    for key, row in zip(keys, values, strict=True):
        np.testing.assert_array_equal(row, expected[key], err_msg=str(key))


def _expected(plant: list) -> dict[tuple[str, int], np.ndarray]:  # type: ignore[type-arg]
    """An uninterrupted run: machine and window -> all features."""
    config = load(None, {}, environment=SETTINGS).config
    engine = Engine(stream_specs(config, {}))
    step = engine.step({}, plant)
    return {(row.key.machine, row.window): row.values.reshape(-1) for row in step.features}
