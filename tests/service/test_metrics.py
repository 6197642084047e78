"""Gauges of each stream, and counters that others keep: what a scrape shows is what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import specs
from harness.labels import label, retraction
from harness.live import BLOCKS, send, service, stop_when_idle
from harness.streams import ENGINE, recording
from harness.watched import Linked
from msgspec.structs import replace

from pipeline.commands import status as status_command
from pipeline.core.engine import Engine, Step
from pipeline.core.features.table import COLUMN
from pipeline.core.records import AlarmChange, Block, StreamKey
from pipeline.drivers.intake import TimedPredictor
from pipeline.edges.labels import LabelFile
from pipeline.edges.ports import Batch
from pipeline.edges.store.read import read_predictions
from pipeline.service.checkup import look_at_senders
from pipeline.service.client import ServiceReport
from pipeline.service.health import Vitals, ready_checks
from pipeline.service.metrics import STATES, LabelCounts, Lag, LagWatch, LoopWatch, StreamGauges
from pipeline.telemetry import MAX_LABELS, Telemetry


def test_a_scrape_shows_state_probabilities_and_velocity_of_every_streams_newest_window(tmp_path: Path) -> None:
    broker = Linked()
    live = service(tmp_path, broker)
    live.engine = dataclasses.replace(live.engine, predictor=TimedPredictor(ENGINE.predictor))
    telemetry = Telemetry()
    watched, gauges = LoopWatch(broker, telemetry), StreamGauges(lambda: live.engine.predictor)
    live.source, live.companions = watched, (watched, gauges)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    live.journal.close()
    gauges.show(telemetry)
    order = [("session", "ascending"), ("window", "ascending")]
    for machine in ("pump-01", "fan-02"):
        said = [p for p in read_predictions(tmp_path).sort_by(order).to_pylist() if p["machine"] == machine][-1]
        states = {s: telemetry.value("machine_state", machine, "de", s) for s in STATES}
        assert states == {s: float(s == said["state"]) for s in STATES}
        for mode in ENGINE.predictor.classes:
            shown = telemetry.value("failure_probability_ratio", machine, "de", mode)
            assert shown == pytest.approx(said[f"p_{mode}"], abs=1e-6)
    text = telemetry.text()
    turns = float(text.split("thrumcast_inference_seconds_count ")[1].split("\n")[0])
    assert 1 < turns <= len(BLOCKS)
    for name in ("inference", "feature"):
        assert float(text.split(f"thrumcast_{name}_seconds_sum ")[1].split("\n")[0]) > 0


def test_an_alarm_that_is_cleared_or_revoked_is_not_open() -> None:
    telemetry = Telemetry()
    watched = LoopWatch(Linked(), telemetry)
    key = StreamKey("pump-01", "de")
    for number, end in enumerate(("cleared", "revoked", "acked")):
        changes = [AlarmChange(key, type_, f"a{number}", "unbalance", 0.9, 5, 1) for type_ in ("raised", end)]
        watched.committed(Batch([]), Step(alarms=changes))
    assert watched.open_alarms == {"a2"}
    assert telemetry.value("alarms_active") == 1


def test_streams_have_their_velocity_in_base_units_and_those_beyond_the_bound_have_no_gauges() -> None:
    engine = Engine(lambda _: specs.stream(alarm=specs.alarm(merge_s=0.0)), ENGINE.predictor)
    noise = np.random.default_rng(1).standard_normal((1, 20_000)).astype(np.float32)
    step = engine.step({}, [Block(StreamKey("p", "de"), 1, 0, 10**18, 10_000.0, ("x",), "m/s2", noise)])
    row, prediction = step.features[0], step.predictions[0]
    gauges, telemetry = StreamGauges(lambda: engine.predictor), Telemetry()
    for number in range(MAX_LABELS + 20):
        key = StreamKey(f"pump-{number}", "de")
        gauges.committed(Batch([]), Step(features=[replace(row, key=key)], predictions=[replace(prediction, key=key)]))
    gauges.show(telemetry)
    shown = telemetry.value("velocity_rms_meters_per_second", "pump-7", "de")
    assert shown == pytest.approx(float(row.values[0, COLUMN["velocity_rms"]]) / 1000, abs=1e-7)
    assert shown > 0
    lines = telemetry.text().splitlines()
    assert sum(line.startswith("thrumcast_velocity_rms") for line in lines) == MAX_LABELS
    assert sum(line.startswith("thrumcast_machine_state{") for line in lines) == MAX_LABELS * len(STATES)


def test_probabilities_of_a_model_that_serves_no_more_are_not_shown() -> None:
    served = ENGINE.predictor
    gauges = StreamGauges(lambda: served)
    gauges.committed(Batch([]), ENGINE.step({}, recording(1)))
    telemetry = Telemetry()
    gauges.show(telemetry)
    assert telemetry.value("failure_probability_ratio", "pump-01", "de", "healthy") > 0
    served = None
    gauges.show(telemetry)
    assert "thrumcast_failure_probability_ratio{" not in telemetry.text()


def test_labels_are_counted_by_verdict_as_they_come(tmp_path: Path) -> None:
    telemetry, counts, file = Telemetry(), LabelCounts(tmp_path), LabelFile(tmp_path)
    counts.show(telemetry)
    assert telemetry.value("labels_total", "confirmed") == 0
    assert 'thrumcast_labels_total{verdict="missed"} 0' in telemetry.text()
    file.add([label("a", 0, 10), label("b", 10, 20, verdict="missed")])
    counts.show(telemetry)
    file.add([retraction("a"), label("c", 0, 10)])
    counts.show(telemetry)
    assert telemetry.value("labels_total", "confirmed") == 2
    assert telemetry.value("labels_total", "missed") == 1


def block(key: StreamKey, end_s: float, length_s: float = 0.5) -> Block:
    samples = np.zeros((1, round(1000 * length_s)), np.float32)
    return Block(key, 1, 0, round((end_s - length_s) * 1e9), 1000.0, ("x",), "g", samples)


def test_lag_is_that_of_the_stream_furthest_behind_and_counts_the_messages_of_all() -> None:
    watch, now_s = LagWatch(), 1_700_000_000.0
    assert watch.worst(now_s) is None
    fine, behind, replayed = (StreamKey(name, "de") for name in ("fine", "behind", "replayed"))
    watch.committed([block(fine, now_s - 1), block(behind, now_s - 600), block(replayed, now_s - 30 * 86_400)], now_s)
    lag = watch.worst(now_s)
    assert lag is not None
    assert (lag.key, round(lag.seconds), lag.recovery_s) == (behind, 600, None)
    assert 1200 <= lag.messages <= 1203
    assert "behind/de is 600 s behind" in lag.text
    assert "not shrinking" in lag.text
    for second in range(1, 21):  # three seconds of the plant in every second
        watch.committed([block(behind, now_s - 600 + 3 * second)], now_s + second)
    lag = watch.worst(now_s + 20)
    assert lag is not None
    assert round(lag.seconds) == 560
    assert lag.recovery_s == pytest.approx(560 / 2, rel=0.05)
    assert watch.worst(now_s + 90) is None, "a silent stream is silent, not behind"


def test_health_warns_of_lag_and_never_fails_for_it() -> None:
    key = StreamKey("pump-01", "de")
    for seconds, status in ((59.0, "pass"), (61.0, "warn"), (1e5, "warn")):
        (check,) = [c for c in ready_checks(Vitals(lag=Lag(seconds, key, 7, None))) if c.name == "lag:event_time"]
        assert check.status == status
    (check,) = [c for c in ready_checks(Vitals()) if c.name == "lag:event_time"]
    assert check.status == "pass"


def test_messages_that_a_broker_dropped_are_counted_by_the_senders_own_counters(tmp_path: Path) -> None:
    broker = Linked()
    live = service(tmp_path, broker)
    telemetry = Telemetry()
    live.source = watched = LoopWatch(broker, telemetry)
    live.companions = (watched,)
    noise = np.random.default_rng(1).standard_normal((1, 4000)).astype(np.float32)
    blocks = [
        Block(StreamKey(f"m{size}", "de"), 1, at, 10**18 + at * 10**6, 1000.0, ("x",), "g", noise[:, at : at + size])
        for size in (100, 50)
        for at in range(0, 4000, size)
    ]
    lost = {5, 6, 7, 20, 50, 51}  # of 40 and 80
    send(broker, [block for n, block in enumerate(blocks) if n not in lost])
    live.run(stop_when_idle(broker))
    live.journal.close()
    assert telemetry.value("gap_samples_total") == 4 * 100 + 2 * 50
    assert telemetry.value("messages_missing_total") == len(lost)
    metrics = {name: telemetry.value(name) for name in ("messages_missing_total", "gap_samples_total")}
    report = ServiceReport("127.0.0.1:8080", True, {"checks": {}}, metrics)
    [found] = look_at_senders(report)
    assert (found.check, found.status) == ("readings:missing", "warn")
    assert "about 6 messages, 500 samples" in found.found
    assert "about 6 messages, 500 samples" in status_command._text(report)
    assert look_at_senders(ServiceReport("127.0.0.1:8080", True, {"checks": {}}, {})) == []
