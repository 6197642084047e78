"""What the service reports about itself: metrics that Prometheus reads, and log lines that programs read."""

from __future__ import annotations

import ast
import json
import logging
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline.commands.logs import JsonLines, RepeatFilter, fields
from pipeline.telemetry import EVENTS, MAX_LABELS, METRICS, OTHER, Telemetry

ROOT = Path(__file__).resolve().parents[2]
LABEL = r'[a-z_]+="(\\.|[^"\\\n])*"'
LINE = re.compile(rf"thrumcast_[a-z_]+(\{{{LABEL}(,{LABEL})*\}})? -?[0-9.e+-]+")


@given(st.text(max_size=20), st.integers(0, 10**12))
def test_every_line_is_of_the_text_format_whatever_a_label_holds(label: str, n: int) -> None:
    telemetry = Telemetry()
    telemetry.add("windows_total", n, label or "x")
    telemetry.set_series("machine_state", {("pump", label, "normal"): 1.0, ("fan", "de", label): 0.5})
    telemetry.observe("turn_seconds", n / 1e6)
    for line in telemetry.text().rstrip("\n").split("\n"):
        assert line.startswith("#") or LINE.fullmatch(line), line


@given(st.text(min_size=1, max_size=20), st.floats(0, 1e15))
def test_prometheus_reads_back_every_value_and_label_as_it_was_set(label: str, value: float) -> None:
    telemetry = Telemetry()
    telemetry.add("windows_total", value, label)
    telemetry.set("disk_free_bytes", value)
    read = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(telemetry.text())
        for sample in family.samples
    }
    assert read["thrumcast_windows_total", label] == value
    assert read["thrumcast_disk_free_bytes",] == value
    assert read["thrumcast_messages_received_total",] == 0


def test_every_metric_without_a_label_is_there_from_the_start() -> None:
    text = Telemetry().text()
    for metric in METRICS:
        assert f"# TYPE thrumcast_{metric.name} {metric.kind}" in text
        if not metric.labels:
            name = f"thrumcast_{metric.name}" + ("_count" if metric.kind == "histogram" else "")
            assert f"\n{name} 0.0\n" in text


def test_names_follow_the_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not re.search(r"_(ms|us|minutes|kb|mb|percent)(_|$)", metric.name), metric.name
        assert metric.kind != "histogram" or metric.buckets == tuple(sorted(metric.buckets)) != ()


def test_a_label_has_a_bounded_number_of_values() -> None:
    telemetry = Telemetry()
    for number in range(MAX_LABELS + 50):
        telemetry.add("windows_total", 1, f"pump-{number}")
    series = [line for line in telemetry.text().splitlines() if line.startswith("thrumcast_windows_total{")]
    assert len(series) == MAX_LABELS + 1
    assert telemetry.value("windows_total", OTHER) == 50


def test_a_histogram_counts_each_duration_in_every_bucket_above_it() -> None:
    telemetry = Telemetry()
    for seconds in (0.004, 0.3, 1e9, -5.0):
        telemetry.observe("turn_seconds", seconds)
    text = telemetry.text()
    assert 'thrumcast_turn_seconds_bucket{le="0.005"} 2.0' in text  # a clock that is ahead counts as 0
    assert 'thrumcast_turn_seconds_bucket{le="0.5"} 3.0' in text
    assert 'thrumcast_turn_seconds_bucket{le="60"} 3.0' in text
    assert 'thrumcast_turn_seconds_bucket{le="+Inf"} 4.0' in text


def test_values_that_belong_together_are_never_seen_apart() -> None:
    telemetry, stop, sums = Telemetry(), threading.Event(), set()

    def scrape() -> None:
        while not stop.is_set():
            values = telemetry.values()
            sums.add(values["messages_received_total"] - values["messages_committed_total"])

    reader = threading.Thread(target=scrape)
    reader.start()
    for n in range(5000):
        telemetry.set_all({"messages_received_total": n, "messages_committed_total": n})
    stop.set()
    reader.join()
    assert sums == {0}


def test_an_unknown_metric_or_a_missing_label_is_a_bug_that_shows() -> None:
    with pytest.raises(KeyError):
        Telemetry().add("nosuch_total")
    with pytest.raises(ValueError, match="label"):
        Telemetry().add("windows_total")


# -- events ----------------------------------------------------------------------------------------------------------


def logged_events() -> set[str]:
    """The first word of every log message in the code; `%s` stands for what is only known when it happens."""
    found = set()
    for path in [*(ROOT / "pipeline").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and getattr(node.func.value, "id", None) == "log" and node.args:
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{path}: a log message begins with its event"
                found.add(str(first.value).split()[0])
    return found


def test_every_log_event_is_in_the_table() -> None:
    events = logged_events()
    assert len(events) > 5
    for event in events:
        pattern = re.compile(re.escape(event).replace("%s", "[a-z_]+"))
        assert any(pattern.fullmatch(name) for name in EVENTS), f"not in pipeline.telemetry.EVENTS: {event}"


def record(message: str, level: int = logging.WARNING, at_s: float = 0.0) -> logging.LogRecord:
    made = logging.LogRecord("thrumcast.test", level, __file__, 1, message, None, None)
    made.created = at_s
    return made


def test_the_keys_of_a_message_become_fields() -> None:
    assert fields("commit_failed err=expected to write x, found: no space attempts=3") == {
        "event": "commit_failed",
        "err": "expected to write x, found: no space",
        "attempts": "3",
    }
    assert fields("connected 127.0.0.1:1883") == {"event": "connected", "detail": "127.0.0.1:1883"}
    assert fields("ready") == {"event": "ready"}


def test_a_number_is_a_json_number_and_a_name_of_digits_stays_a_name() -> None:
    made = record("memory_rebuilt duration_s=%.1f streams=%d model=%s spread=%g %s")
    made.args = (0.14, 40, "0012", 1e-7, "length=3 machine=12b")
    found = json.loads(JsonLines().format(made))
    assert found.items() >= {
        "duration_s": 0.1, "streams": 40, "model": "0012", "spread": 1e-7, "length": 3, "machine": "12b",
    }.items()  # fmt: skip
    made = record("model_switched from=%s to=%s shift=%.1f")
    made.args = ("6", "7", float("nan"))
    found = json.loads(JsonLines().format(made))
    assert (found["from"], found["to"], found["shift"]) == ("6", "7", "nan")  # JSON has no number for that


@given(st.text(max_size=60))
def test_every_message_becomes_one_line_of_json(message: str) -> None:
    line = JsonLines().format(record(message.replace("%", "")))
    assert "\n" not in line
    assert {"ts", "level", "logger", "event"} <= json.loads(line).keys()


def test_a_repeated_warning_is_held_back_and_counted() -> None:
    repeats = RepeatFilter(every_s=10.0)
    assert repeats.filter(record("gaps count=1", at_s=0.0))
    assert not any(repeats.filter(record(f"gaps count={n}", at_s=n / 10)) for n in range(1, 8))
    assert repeats.filter(record("quarantined topic=1", at_s=1.0))  # another event
    later = record("gaps count=9", at_s=11.0)
    assert repeats.filter(later)
    assert json.loads(JsonLines().format(later))["repeated"] == 7
    assert repeats.filter(record("connected", logging.INFO, 11.1))
    assert repeats.filter(record("connected", logging.INFO, 11.2))
