"""The doctor: what it calculates, and that it finds what is wrong with a real broker."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.broker import PATIENCE_S, settings, wait_until
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.config.sources import load
from pipeline.config.tables import Config
from pipeline.core.codec import encode
from pipeline.core.records import Block, StreamKey
from pipeline.edges.broker import PrivateBroker, is_available
from pipeline.edges.mqtt import MqttPublisher
from pipeline.edges.mqtt.probe import delivery, features
from pipeline.edges.ports import Message, Receipt
from pipeline.service import checkup
from pipeline.service.checkup import duration
from pipeline.service.client import ServiceReport
from pipeline.service.guarantee import Site, guarantee
from pipeline.service.payloads import payloads

SITE = Site(
    receive_maximum=2000, in_flight=2000, batch_limit=512, commit_interval_s=1.0, disk_s=0.01, per_message_s=0.001,
    max_wait_s=2.0, block_s=0.25, rate_per_s=100.0, queue_messages=1000, session_expiry_s=604_800,
)  # fmt: skip

positive = st.floats(1e-3, 1e3)


# -- the calculation -------------------------------------------------------------------------------------------------


def test_a_full_window_is_committed_half_by_half() -> None:
    found = guarantee(SITE)
    assert found.sustainable_per_s == pytest.approx(512 / (0.01 + 0.512))
    assert found.outage_s == pytest.approx(3000 / 100)
    assert found.repeated == 2000
    assert found.latency_s == pytest.approx(0.25 + 1.0 + 2 * (0.01 + 0.512))
    assert found.latency_worst_s == pytest.approx(found.latency_s + 2.0 + 0.25)


def test_a_broker_with_a_small_window_gives_one_window_per_interval() -> None:
    found = guarantee(replace(SITE, in_flight=20))
    assert found.sustainable_per_s == pytest.approx(20 / (1.0 + 0.03))  # mosquitto's default is a trap
    assert found.load_ratio > 1


@pytest.mark.parametrize("rate_per_s", [0.0, 1.0, 300.0])
@pytest.mark.parametrize("in_flight", [20, 2000])
def test_no_prediction_is_promised_sooner_than_a_commit_takes(rate_per_s: float, in_flight: int) -> None:
    site = replace(SITE, rate_per_s=rate_per_s, in_flight=in_flight, per_message_s=1.657 / 512)
    under_way_s = site.commit_s(min(in_flight, site.batch))  # also where nothing came while the doctor listened
    assert guarantee(site).latency_s >= site.commit_interval_s + 2 * under_way_s
    assert guarantee(site).latency_worst_s > guarantee(site).latency_s


def test_an_outage_is_never_covered_longer_than_the_session_lives() -> None:
    assert guarantee(replace(SITE, queue_messages=math.inf)).outage_s == 604_800
    assert guarantee(replace(SITE, queue_messages=math.inf, session_expiry_s=60)).outage_s == 60
    assert guarantee(replace(SITE, session_expiry_s=0)).outage_s == 0
    assert guarantee(replace(SITE, rate_per_s=0.0)).outage_s == 604_800


@given(st.integers(1, 65535), positive, positive, positive, st.integers(1, 10**6))
def test_better_means_never_promise_less(
    window: int, disk_s: float, rate: float, interval_s: float, queue: int
) -> None:
    site = replace(SITE, in_flight=window, disk_s=disk_s, rate_per_s=rate, commit_interval_s=interval_s,
                   queue_messages=queue)  # fmt: skip
    found = guarantee(site)
    assert guarantee(replace(site, disk_s=disk_s / 2)).sustainable_per_s >= found.sustainable_per_s
    assert guarantee(replace(site, queue_messages=queue + 1)).outage_s >= found.outage_s
    assert guarantee(replace(site, commit_interval_s=interval_s / 2)).latency_s <= found.latency_s
    assert 0 < found.sustainable_per_s < math.inf


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(math.inf, "no limit"), (604_800, "7.0 days"), (7500, "2.1 h"), (90, "90 s"), (0.25, "0.25 s")],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- the machine -----------------------------------------------------------------------------------------------------


def test_a_data_directory_is_looked_at_without_leaving_anything(tmp_path: Path) -> None:
    findings, fsync_s = checkup.look_at_disk(tmp_path / "not" / "yet")
    assert [finding.status for finding in findings if finding.check == "disk:writable"] == ["pass"]
    assert 0 < fsync_s < 60
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings, _ = checkup.look_at_disk(tmp_path / "file" / "below")
    assert [finding.status for finding in findings] == ["fail"]


def test_what_is_missing_is_missing_in_a_directory_that_is_named(tmp_path: Path) -> None:
    config = load(None, {"data.dir": tmp_path}, environment={}).config
    journal, machines, model = checkup.look_at_data(config)
    assert journal.found == f"no journal yet in {tmp_path}"
    assert machines.found == "facts of 0 streams"
    assert (model.status, model.found) == ("warn", f"no champion in {tmp_path}")
    assert "thrumcast train" in model.advice


def test_facts_of_machines_with_which_no_service_starts_are_named(tmp_path: Path) -> None:
    config = load(None, {"data.dir": tmp_path}, environment={}).config
    (tmp_path / "machines.jsonl").write_text('{"machine": "pump-01", "point": "de", "orders": 1.5}\n')
    machines = checkup.look_at_data(config)[1]
    assert (machines.check, machines.status) == ("data:machines", "fail")
    assert "line 1" in machines.found


@pytest.mark.parametrize(("status", "named"), [("pass", True), ("fail", False)])
def test_a_service_that_has_a_model_is_told_apart_from_a_directory_that_has_none(
    status: str, named: bool, tmp_path: Path
) -> None:
    config = load(None, {"data.dir": tmp_path}, environment={}).config
    checks = {"checks": {"model:loaded": [{"status": status, "output": "v0007"}]}}
    model = checkup.look_at_data(config, ServiceReport("127.0.0.1:8080", True, checks, {}))[-1]
    said = "the service at 127.0.0.1:8080 serves v0007: give its data directory with --data"
    assert (model.advice == said) is named


# -- the broker ------------------------------------------------------------------------------------------------------


@pytest.mark.network
def test_the_window_and_the_queue_of_a_broker_are_measured_exactly(tmp_path: Path) -> None:
    if not is_available("mosquitto"):
        pytest.skip("mosquitto is not installed")
    with PrivateBroker(tmp_path, kind="mosquitto", extra_config="max_queued_messages 70\n") as broker:
        found = delivery(settings(broker, "probe", receive_maximum=50), "thrumcast/doctor/x", 300)
        assert (found.in_flight, found.queued, found.dropped) == (50, 70, 180)
        said = features(settings(broker, "probe", clean_start=True, session_expiry_s=77), ["a/+", "#"])
        assert (said.session_expiry_s, said.retain, said.subscriptions) == (77, True, {"a/+": True, "#": True})


@pytest.mark.network
def test_what_a_broker_does_not_allow_is_found(tmp_path: Path) -> None:
    if not is_available("mosquitto"):
        pytest.skip("mosquitto is not installed")
    acl = tmp_path / "acl"
    acl.write_text("topic read plant/#\n")
    acl.chmod(0o644)
    with PrivateBroker(tmp_path / "b", kind="mosquitto", extra_config=f"acl_file {acl}\n") as broker:
        config = load(None, {"mqtt.port": broker.port}, environment={}).config
        findings, found = checkup.look_at_delivery(config, settings(broker, "probe"), 10)
        assert [(f.check, f.status) for f in findings] == [("broker:publish", "fail")]
        assert "acl_file" in findings[0].advice
        assert not found.arrived


def block(machine: str, t0_ns: int) -> bytes:
    samples = np.zeros((1, 100), np.float32)
    return encode(Block(StreamKey(machine, "de"), 1, 0, t0_ns, 1000.0, ("x",), "g", samples))


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[PrivateBroker]:
    """A broker on which a plant speaks: one good machine, one with a clock of another time, rubbish, other topics."""
    if not is_available("mosquitto"):
        pytest.skip("mosquitto is not installed")
    with PrivateBroker(tmp_path / "b", kind="mosquitto") as broker:
        speaking, ending = threading.Event(), threading.Event()

        def speak() -> None:
            with MqttPublisher(settings(broker, "plant")).connect() as plant:
                while not ending.wait(0.02):
                    plant.publish("plant/a/pump-01/de/vibration", block("pump-01", time.time_ns() - 3600 * 10**9))
                    plant.publish("plant/a/pump-02/de/vibration", b"rubbish")
                    plant.publish("factory/pump-03/vibration", b"x")
                    plant.drain()  # no more than the broker takes
                    speaking.set()

        thread = threading.Thread(target=speak)
        thread.start()
        assert speaking.wait(PATIENCE_S)
        yield broker
        ending.set()
        thread.join()


@pytest.mark.network
def test_the_whole_examination_says_what_comes_what_does_not_fit_and_whose_clock_is_wrong(
    talking: PrivateBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THRUMCAST_WEB__BIND", "127.0.0.1:1")  # nobody
    monkeypatch.setenv("THRUMCAST_MQTT__RECEIVE_MAXIMUM", "100")
    arguments = ["doctor", "--json", "--quiet", "--data", str(tmp_path / "d"), "--seconds", "1", "--messages", "200"]
    said: dict[str, Any] = {"findings": []}
    findings: dict[str, dict[str, str]] = {}

    def examine() -> None:
        assert cli.run([*arguments, "--broker", f"mqtt://127.0.0.1:{talking.port}"]) == 0
        said.update(json.loads(capsys.readouterr().out))
        findings.clear()
        findings.update({finding["check"]: finding for finding in said["findings"]})

    heard = {"readings:strangers", "readings:payload", "readings:clock"}  # a second may be short for all of them
    wait_until(lambda: heard <= findings.keys(), examine, "word of everything that speaks")
    assert said["ok"]
    assert findings["readings:match"]["status"] == "pass"
    assert "2 streams" in findings["readings:match"]["found"]
    assert "factory/pump-03/vibration" in findings["readings:strangers"]["found"]
    assert findings["readings:payload"]["status"] == "warn"
    assert findings["readings:clock"]["status"] == "warn"
    assert findings["model:loaded"]["status"] == "warn"
    assert findings["broker:queue"]["status"] == "pass"
    assert said["promises"]["inputs"]["in_flight"] == 100
    assert said["promises"]["inputs"]["rate_per_s"] > 0
    assert not (tmp_path / "d").exists()


@pytest.mark.network
def test_a_template_that_fits_nothing_names_the_topics_that_were_seen(talking: PrivateBroker) -> None:
    flags = {"mqtt.port": talking.port, "mqtt.readings_topic": "hall/{machine}/{point}"}
    config = load(None, flags, environment={}).config
    ours = checkup.probe_settings(config)
    broker = checkup.look_at_broker(config, ours)[1]
    heard = checkup.Reception()

    def listen() -> None:
        nonlocal heard
        heard = checkup.listen(config, ours, broker, 0.5)

    wait_until(lambda: "factory/pump-03/vibration" in heard.strangers, listen, "a stranger")
    finding = checkup.judge(config, heard)[0]
    assert finding.status == "warn"
    assert "factory/pump-03/vibration" in finding.advice


def mapped(directory: Path, port: int = 1883) -> Config:
    path = directory / "config.toml"
    path.write_text(
        f"mqtt.port = {port}\n[[payloads]]\n"
        'topic = "sensors/{machine}/accel"\nformat = "json"\nsamples = { x = "$.x" }\n'
        'time = "$.t"\nrate_hz = 100.0\npoint = "main"\nunit = "g"\n'
    )
    return load(path, {}, environment={}).config


def test_messages_of_a_payloads_table_are_heard_as_the_service_reads_them(tmp_path: Path) -> None:
    config, heard = mapped(tmp_path), checkup.Reception(seconds=1.0)
    reader = payloads(config)
    now_s = time.time()
    for topic, payload in [
        ("sensors/esp-1/accel", json.dumps({"x": [0.1] * 50, "t": now_s})),
        ("sensors/esp-2/accel", json.dumps({"x": "broken", "t": now_s})),
        ("else/where", "{}"),
    ]:
        message = Message(topic, payload.encode(), 1, None, False, Receipt(1, 1, 1))
        checkup._hear(config, reader, message, heard)
    assert (heard.messages, heard.streams, heard.strangers) == (2, {"esp-1/main"}, {"else/where": 1})
    assert sum(heard.refused.values()) == 1
    found = {finding.check: finding for finding in checkup.judge(config, heard)}
    assert found["readings:match"].status == "pass"
    assert "sensors/esp-2/accel" in found["readings:payload"].found


@pytest.mark.network
def test_the_topics_of_payloads_tables_are_tried_at_the_broker(tmp_path: Path) -> None:
    with PrivateBroker(tmp_path / "b", kind="iotcore") as broker:
        ours = settings(broker, "probe", clean_start=True)
        findings, _ = checkup.look_at_broker(mapped(tmp_path, broker.port), ours)
    found = [finding.found for finding in findings if finding.check == "broker:subscribe"]
    assert found == ["plant/+/+/+/vibration allowed", "sensors/+/accel allowed"]


def test_without_a_broker_the_rest_is_still_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["doctor", "--json", "--data", str(tmp_path), "--broker", "mqtt://127.0.0.1:1"]) == 4
    said = json.loads(capsys.readouterr().out)
    assert not said["ok"]
    assert "disk:free" in {finding["check"] for finding in said["findings"]}
