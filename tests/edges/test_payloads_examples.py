"""The senders in examples/sensors: their sample messages go through their tables; the Python ones send to a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.broker import Site
from harness.config import resolved

from pipeline.core.records import Block
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.payloads import Payloads
from pipeline.edges.ports import Message, Receipt
from pipeline.service.payloads import payloads

SENSORS = Path(__file__).resolve().parents[2] / "examples" / "sensors"
pytestmark = pytest.mark.usefixtures("no_configuration")


def table(folder: str) -> Payloads:
    return payloads(resolved((SENSORS / folder / "payloads.toml").read_text(encoding="utf-8")).config)


STORED = {
    "esp32_adxl345": [("press-1", "main", 800.0, ("x", "y", "z"), 8)],
    "node_red": [("pump-01", "de", 1000.0, ("x", "y", "z"), 4)],
    "telegraf": [("press-1", "de", 500.0, ("x", "y", "z"), 2), ("press-1", "nde", 500.0, ("x", "y", "z"), 2)],
}


@pytest.mark.parametrize("folder", sorted(STORED))
def test_the_sample_message_of_an_example_goes_through_its_table(folder: str) -> None:
    (file,) = (SENSORS / folder).glob("message.*")
    topic = (SENSORS / folder / "topic").read_text(encoding="utf-8").strip()
    found = table(folder).decode(Message(topic, file.read_bytes(), 1, None, False, Receipt(1, 1, 1)), 0)
    assert found is not None
    shapes = [(b.key.machine, b.key.point, b.rate_hz, b.channels, b.samples.shape[1]) for b in found]
    assert shapes == STORED[folder]


def test_the_counts_of_the_adxl345_are_g() -> None:
    data = (SENSORS / "esp32_adxl345" / "message.json").read_bytes()
    (block,) = (
        table("esp32_adxl345").decode(Message("sensors/m/adxl345", data, 1, None, False, Receipt(1, 1, 1)), 0) or ()
    )
    assert (block.unit, round(float(block.samples[2, 0]), 3)) == ("g", 0.998)


def test_the_flow_of_node_red_is_one_that_can_be_imported() -> None:
    nodes = json.loads((SENSORS / "node_red" / "flow.json").read_text(encoding="utf-8"))
    known = {node["id"] for node in nodes}
    assert {target for node in nodes for wire in node.get("wires", []) for target in wire} <= known
    (out,) = (node for node in nodes if node["type"] == "mqtt out")
    assert out["topic"] == (SENSORS / "node_red" / "topic").read_text(encoding="utf-8").strip()


def test_the_programs_for_boards_are_python_that_parses() -> None:
    compile((SENSORS / "esp32_adxl345" / "main.py").read_text(encoding="utf-8"), "main.py", "exec")


def received(site: Site, folder: str, script: str, *arguments: str, least: int) -> tuple[Payloads, list[Block]]:
    """What a service with the table of an example makes of what its script sends."""
    source = table(folder)
    connection = site.service("reader", subscriptions=source.subscriptions)
    command = [
        sys.executable,
        SENSORS / folder / script,
        "--broker",
        f"{site.broker.host}:{site.broker.port}",
        *arguments,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    found: list[Block] = []
    try:
        for _ in range(200):
            for message in connection.take(100, 0.1):
                found += source.decode(message, 0) or ()
                connection.acknowledge([message])
            if len(found) >= least and process.poll() is not None:
                break
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    return source, found


@pytest.mark.network
def test_the_edge_node_is_born_and_its_data_are_whole(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    with Site(mosquitto) as site:
        arguments = ("--messages", "8", "--interval", "0.02", "--state", str(tmp_path / "bdseq"))
        source, found = received(site, "sparkplug", "edge_node.py", *arguments, least=8)
    assert source.nodes.births["hall-2/press-1"].bd_seq == 0
    assert [block.index for block in found] == [250 * number for number in range(8)]
    assert {(b.key, b.rate_hz, b.unit, b.channels) for b in found} == {
        (("press-1", "de"), 1000.0, "m/s2", ("x", "y", "z"))
    }


@pytest.mark.network
def test_the_daq_script_keeps_blocks_while_the_broker_is_away(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    queue = ("--queue", str(tmp_path / "queue.db"), "--interval", "0.001")
    nowhere = [sys.executable, SENSORS / "daq" / "daq.py", "--broker", "127.0.0.1:1", "--blocks", "5", "--linger", "0"]
    subprocess.run([*nowhere, *queue], check=True, stdout=subprocess.DEVNULL)
    with Site(mosquitto) as site:
        _, found = received(site, "daq", "daq.py", *queue, "--blocks", "3", least=8)
    assert len({block.session for block in found}) == 2
    assert sorted({(block.session, block.index) for block in found}) == sorted(
        {(block.session, 250 * at) for block in found for at in range(5 if block.session == found[0].session else 3)}
    )
    assert found[0].unit == "g"
