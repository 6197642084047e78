"""Mapped messages in the live loop: each ends in exactly one place, whatever it holds, and births are kept first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from harness import sparkplug as sp
from harness.config import resolved
from harness.live import Broker, service, stop_when_idle, stored

from pipeline.drivers.live import Live
from pipeline.edges.payloads import place_of
from pipeline.service.payloads import BIRTHS_NAME, SparkplugNodes, payloads

pytestmark = pytest.mark.usefixtures("no_configuration")
T0_MS = 1_764_518_400_000
LINES = """
[[payloads]]
topic = "tele"
format = "line"
measurement = "acc"
samples = { x = "$.fields.x", y = "$.fields.y" }
time = "$.time"
rate_hz = 1000.0
unit = "g"
machine = "$.tags.host"
point = "de"
"""
SPARKPLUG = """
[[payloads]]
topic = "spBv1.0/{group}/+/{machine}/{point}"
format = "sparkplug"
samples = { x = "$.metrics.X" }
time = "$.timestamp"
rate_hz = 1000.0
unit = "g"
"""


def lines(hosts: str, first: int, n: int = 200) -> bytes:
    t0_ns = T0_MS * 10**6 + first * 10**6
    return "".join(
        f"acc,host={host} x={at % 7},y={at % 5} {t0_ns + at * 10**6}\n" for host in hosts for at in range(n)
    ).encode()


def live_with(directory: Path, broker: Broker, text: str) -> Live:
    live = service(directory, broker)
    config = resolved(text + f'\n[data]\ndir = "{directory}"\n').config
    places = {key: place for key, state in live.states.items() if (place := place_of(state)) is not None}
    mapped = payloads(config, places.get)
    live.intake = replace(live.intake, mapped=mapped.decode)
    live.companions = (SparkplugNodes(mapped.nodes, directory / BIRTHS_NAME),)
    return live


def test_a_message_of_several_streams_ends_in_one_place(tmp_path: Path) -> None:
    broker = Broker()
    live = live_with(tmp_path, broker, LINES)
    broken = lines("a", 400)[:-20] + b"?"
    broker.send("tele", [lines("ab", 0), lines("ab", 0), lines("abc", 200), b"cpu v=1 1764518400000000000\n", broken])
    live.run(stop_when_idle(broker))
    counts = {name: live.counts[name] for name in ("received", "committed", "duplicate", "late", "quarantined")}
    assert counts == {"received": 5, "committed": 3, "duplicate": 1, "late": 0, "quarantined": 1}
    assert len(broker.acknowledged) == 5
    features, _ = stored(tmp_path)
    assert {row["machine"] for row in features} == {"a", "b"}


def test_a_restart_with_redelivery_gives_the_rows_of_a_run_without(tmp_path: Path) -> None:
    messages = [lines("ab", first) for first in range(0, 1200, 200)]
    whole, broken = Broker(), Broker()
    live = live_with(tmp_path / "whole", whole, LINES)
    whole.send("tele", messages)
    live.run(stop_when_idle(whole))
    live.journal.close()
    for at, one in enumerate(messages):
        broken.send("tele", [*messages[max(0, at - 2) : at], one])  # the broker delivers two again
        live = live_with(tmp_path / "broken", broken, LINES)
        live.run(stop_when_idle(broken))
        live.journal.close()
    assert repr(stored(tmp_path / "broken")) == repr(stored(tmp_path / "whole"))
    assert live.counts["duplicate"] == 2


def test_a_birth_is_on_disk_before_it_is_acknowledged_and_serves_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    live = live_with(tmp_path, broker, SPARKPLUG)
    birth = sp.payload(T0_MS, [sp.metric("X", alias=1, kind="floats", value=[0.0])])
    was_there: list[bool] = []
    acknowledge = broker.acknowledge

    def watched(messages: list[object]) -> None:
        was_there.extend((tmp_path / BIRTHS_NAME).exists() for _ in messages)
        acknowledge(messages)  # type: ignore[arg-type]

    monkeypatch.setattr(broker, "acknowledge", watched)
    broker.send("spBv1.0/g/DBIRTH/press-1/de", [birth])
    live.run(stop_when_idle(broker))
    live.journal.close()
    assert was_there
    assert all(was_there)
    assert (live.counts["committed"], live.counts["received"]) == (1, 1)
    again = live_with(tmp_path, broker, SPARKPLUG)
    data = [sp.payload(T0_MS + 100 * at, [sp.metric(alias=1, kind="floats", value=[1.0] * 100)]) for at in range(5)]
    broker.send("spBv1.0/g/DDATA/press-1/de", data)
    again.run(stop_when_idle(broker))
    assert again.counts["committed"] == 5


def test_a_node_that_nobody_has_heard_born_is_asked_for_it_once(tmp_path: Path) -> None:
    broker = Broker()
    live = live_with(tmp_path, broker, SPARKPLUG)
    data = sp.payload(T0_MS, [sp.metric(alias=1, kind="floats", value=[1.0])])
    broker.send("spBv1.0/g/DDATA/press-1/de", [data] * 9)
    live.run(stop_when_idle(broker))
    asked = [topic for topic, *_ in broker.published if topic.startswith("spBv1.0")]
    assert asked == ["spBv1.0/g/NCMD/press-1"]
    assert live.counts["quarantined"] == 9


def test_a_mapped_machine_that_is_not_wanted_is_refused(tmp_path: Path) -> None:
    broker = Broker()
    live = live_with(tmp_path, broker, LINES)
    broker.send("tele", [lines(["stranger"], 0)])  # type: ignore[arg-type]
    live.run(stop_when_idle(broker))
    assert live.counts["quarantined"] == 1


def test_json_on_the_own_topic_still_goes_to_the_codec(tmp_path: Path) -> None:
    broker = Broker()
    live = live_with(tmp_path, broker, LINES)
    broker.send("plant/main/pump-01/de/vibration", [json.dumps({"v": 2}).encode()])
    live.run(stop_when_idle(broker))
    assert live.counts["quarantined"] == 1
