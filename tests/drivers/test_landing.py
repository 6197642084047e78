"""Landers: every message of their shards is in a part before it is acknowledged, and no machine has two landers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import contract
import pytest
from harness.broker import PATIENCE_S, wait_until
from harness.live import TOPICS, Broker
from harness.streams import ENGINE, recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.codec import encode
from pipeline.core.records import Block, StreamKey
from pipeline.drivers.intake import Intake
from pipeline.drivers.landing import REFUSED_NAME, Lander, Shards
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttPublisher, MqttSettings
from pipeline.edges.recordings.readings import ReadingsWriter, find_readings, read_readings
from pipeline.errors import ConfigError, RecordingError, UsageError

MACHINES = ("pump-01", "fan-02", "mill-03", "motor-04", "_x", ".y")
STREAMS = [recording(i, machine=machine, n=1000) for i, machine in enumerate(MACHINES)]
MIXED = [block for some in zip(*STREAMS, strict=False) for block in some]


def send(broker: Broker, blocks: Sequence[Block]) -> None:
    for block in blocks:
        broker.send(TOPICS.format(machine=block.key.machine, point=block.key.point), [encode(block)])


def lander(broker: Broker, folder: Path, shards: str, most_held: int = 100) -> Lander:
    intake = Intake(TOPICS.parse, lambda machine: True, 1 << 20)
    return Lander(broker, intake, ReadingsWriter(folder), Shards.parse(shards), 0.01, most_held)


def run(one: Lander, broker: Broker) -> list[tuple[str, str, str]]:
    told: list[tuple[str, str, str]] = []
    one.run(lambda: not broker.waiting, lambda *words: told.append(words))
    return told


def outcome(blocks: Sequence[Block]) -> dict[StreamKey, contract.Outcome]:
    return contract.one_step(ENGINE)(blocks)


def landed(folder: Path) -> list[Block]:
    return [block for path in find_readings(folder) for block in read_readings(path)]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 40))
def test_landers_of_all_shards_store_every_block_of_every_machine_once(tmp_path_factory, count, most_held):
    folder = tmp_path_factory.mktemp("readings")
    for shard in range(count):
        broker = Broker()
        send(broker, MIXED)
        one = lander(broker, folder, f"{shard}/{count}", most_held)
        run(one, broker)
        assert len(broker.acknowledged) == len(MIXED) == one.taken
        mine = {block.key.machine for block in MIXED if one.shards.has(block.key.machine)}
        assert one.others == sum(block.key.machine not in mine for block in MIXED)
    contract.same(outcome(MIXED), outcome(landed(folder)))


def test_nothing_is_acknowledged_that_is_not_on_the_disk(tmp_path):
    (tmp_path / "readings").write_text("a file where the folder should be")
    broker = Broker()
    send(broker, MIXED)
    with pytest.raises(RecordingError, match="expected to write"):
        run(lander(broker, tmp_path / "readings", "0/1"), broker)
    assert broker.acknowledged == []


def test_what_is_delivered_again_changes_nothing_but_duplicates(tmp_path):
    broker = Broker()
    send(broker, MIXED)
    first = lander(broker, tmp_path, "0/1", most_held=7)
    first._take(lambda *_: None, 0.0)  # dies with messages in hand
    broker.restart()
    run(lander(broker, tmp_path, "0/1", most_held=7), broker)
    contract.same(outcome(MIXED), outcome(landed(tmp_path)))


def test_what_is_refused_is_kept_with_its_reason_and_acknowledged(tmp_path):
    broker = Broker()
    send(broker, MIXED[:3])
    broker.send("plant/a/pump-01/de/vibration", [b"no block"])
    broker.send("elsewhere", [b"\0\1"])
    told = run(lander(broker, tmp_path, "0/1"), broker)
    (path,) = (tmp_path / REFUSED_NAME).glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["topic"] for line in lines] == ["plant/a/pump-01/de/vibration", "elsewhere"]
    assert lines[1]["reason"] == "topic"
    assert all("expected" in line["detail"] for line in lines)
    assert [words[:2] for words in told] == [(line["topic"], line["reason"]) for line in lines]
    assert len(broker.acknowledged) == 5


@pytest.mark.parametrize("text", ["", "1", "64/64", "5-3/64", "a/2", "-1/4", "0-15/0", "0-3/4/5"])
def test_shards_that_are_none_are_named(text):
    with pytest.raises(UsageError, match="expected FIRST-LAST/COUNT"):
        Shards.parse(text)


@pytest.mark.parametrize(("other", "fits"), [("0-3/8", True), ("4-7/8", True), ("3-5/8", False), ("4-7/16", False)])
def test_no_machine_has_two_landers(tmp_path, other, fits):
    Shards.parse("0-3/8").claim(tmp_path)
    if fits:
        Shards.parse(other).claim(tmp_path)
    else:
        with pytest.raises(ConfigError, match="expected shards that no other lander"):
            Shards.parse(other).claim(tmp_path)


@pytest.mark.network
def test_a_lander_that_is_killed_loses_nothing(tmp_path):
    with PrivateBroker(tmp_path / "broker") as broker, MqttPublisher(MqttSettings("plant", port=broker.port)) as plant:
        plant.connect()
        command = [sys.executable, "-m", "pipeline", "land", "--out", str(tmp_path / "readings"), "--interval-s", "0.2"]
        command += ["--broker", f"mqtt://127.0.0.1:{broker.port}", "--data", str(tmp_path / "data")]

        def started() -> subprocess.Popen[str]:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "shards 0-0/1" in line, line + process.stderr.read()
            return process

        def publish(blocks: Sequence[Block]) -> None:
            for block in blocks:
                plant.publish(TOPICS.format(machine=block.key.machine, point=block.key.point), encode(block))
            plant.drain()

        half = len(MIXED) // 2
        process = started()
        publish(MIXED[:half])
        wait_until(lambda: bool(find_readings(tmp_path / "readings")), lambda: plant.rest(0.01), "a first part")
        process.kill()
        process.communicate()
        publish(MIXED[half:])
        process = started()
        deadline_s = time.monotonic() + PATIENCE_S
        while len(outcome(landed(tmp_path / "readings"))) < len(MACHINES) and time.monotonic() < deadline_s:
            plant.rest(0.1)
        plant.rest(1.0)
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    contract.same(outcome(MIXED), outcome(landed(tmp_path / "readings")))
