"""The page's API over a service in memory: what it shows is what is stored, and it cannot hold anything up."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from harness.live import BLOCKS, send
from harness.paged import ORIGIN, PUMP, Paged, paged
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.cli import run
from pipeline.core.alarm import AlarmState, Episode, episode_id
from pipeline.core.features.display import line_db
from pipeline.core.features.table import FEATURES
from pipeline.core.records import AlarmChange
from pipeline.edges.store.history import Points, build
from pipeline.edges.store.journal import Commit
from pipeline.edges.store.read import read_features
from pipeline.page.api import QUEUED, EventStream
from pipeline.page.live import SPARKS, TURNS_KEPT, Sparks, Turn
from pipeline.page.openapi import document
from pipeline.page.views import bucketed, unframe

pytestmark = pytest.mark.usefixtures("compiled")

UP = Episode("unbalance", 5, 0.9)
UP_ID = episode_id(PUMP, UP)
LABEL = {
    "machine": "pump-01", "point": "de", "start": "2023-11-14T22:13:20Z", "end": "2023-11-14T22:13:21Z",
    "verdict": "confirmed", "mode": "unbalance", "author": "jo", "client_token": "t-1",
}  # fmt: skip
SPAN = "from=1700000000000&to=1700000002000"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Paged]:
    with paged(tmp_path) as made:
        yield made


def raise_alarm(served: Paged) -> None:
    """As if the engine had raised an alarm of the pump with the last turn."""
    served.live.states[PUMP] = replace(served.live.states[PUMP], alarm=AlarmState(open=(UP,)))
    raised = AlarmChange(PUMP, "raised", UP_ID, "unbalance", 0.9, 9, 5)
    served.page.companion.turns.append(Turn([], [], [raised], [], [], [], 1e9))
    served.page.tick()


# -- what is shown is what is stored ---------------------------------------------------------------------------------


def test_the_fleet_shows_every_stream_with_its_newest_window(served: Paged) -> None:
    served.feed()
    fleet = served.get("fleet")
    assert [(s["machine"], s["point"], s["area"]) for s in fleet["streams"]] == [
        ("fan-02", "de", "main"),
        ("pump-01", "de", "main"),
    ]
    pump = fleet["streams"][1]
    known = served.page.plant.known(PUMP)
    assert known is not None
    assert known.prediction is not None
    assert (pump["state"], pump["mode"], pump["model"]) == (known.prediction.state, known.prediction.mode, "tiny")
    assert fleet["header"]["model"] == "tiny"
    assert fleet["header"]["broker"] is True
    one = served.get("streams/pump-01/de")
    assert sum(one["probabilities"].values()) == pytest.approx(1.0, abs=1e-3)
    assert one["orders"]["bpfo"] == 3.6


def test_a_spectrum_and_its_lines_are_those_of_the_archived_features(served: Paged) -> None:
    assert served.page.plant.window(PUMP, 0.0) is None  # somebody looks at it from now on
    served.feed()
    header, arrays = unframe(served.client.get("/api/v1/streams/pump-01/de/window?channel=y").content)
    rows = read_features(served.directory).to_pylist()
    (row,) = [
        r for r in rows
        if (r["machine"], str(r["session"]), r["window"]) == ("pump-01", header["session"], header["window"])
    ]  # fmt: skip
    assert row["start"].timestamp() * 1000 == pytest.approx(header["start"], abs=0.01)
    alone = [f.name for f in FEATURES if f.stage != "baseline"]
    shown = {name: header["values"][name] for name in alone}
    archived = {name: row[f"y.{name}"] for name in alone}
    numbers = {name for name, value in archived.items() if value is not None and np.isfinite(value)}
    assert len(numbers) > 20
    assert {name: shown[name] for name in numbers} == {name: archived[name] for name in numbers}  # to the last bit
    block = np.concatenate([b.samples for b in BLOCKS if b.key == PUMP], axis=1)[1]
    first = header["window"] * 128
    assert np.array_equal(arrays["waveform"], block[first : first + len(arrays["waveform"])])
    # A cursor on a line reads the feature of that line.
    lines = {line["label"]: line for line in header["lines"]}
    assert {"1x", "BPFO", "BPFI", "2BSF", "FTF"} <= set(lines)
    read = line_db(arrays["power"], lines["1x"]["hz"] / header["delta_f_hz"], header["slip"])
    assert read == pytest.approx(row["y.ord_1"], abs=1e-3)
    assert lines["1x"]["db"] == row["y.ord_1"]
    assert lines["BPFO"]["db"] == header["values"]["env_bpfo"]


def test_nobody_looking_means_no_samples_are_handed_over(served: Paged) -> None:
    send(served.broker, BLOCKS[:8])
    served.live.run(lambda: not served.broker.waiting)
    assert served.page.companion.turns
    assert all(turn.blocks == [] for turn in served.page.companion.turns)


def test_a_trend_has_the_extremes_of_every_archived_window(served: Paged) -> None:
    served.feed()
    table = read_features(served.directory, columns=["machine", "x.rms"], machines={"pump-01"})
    values = table.column("x.rms").to_numpy()
    header, arrays = unframe(
        served.client.get(f"/api/v1/streams/pump-01/de/trend?feature=rms&{SPAN}&buckets=4").content
    )
    assert header["rows"] == len(values)
    assert np.nanmin(arrays["min"]) == values.min()
    assert np.nanmax(arrays["max"]) == values.max()


def test_a_long_trend_reads_the_history_and_has_the_same_extremes(served: Paged) -> None:
    served.feed()
    served.live.archive.roll()
    span = "from=1697000000000&to=1704000000000&buckets=600"
    path = f"/api/v1/streams/pump-01/de/trend?feature=rms&{span}"
    before, rows = unframe(served.client.get(path).content)
    assert [built.kind for built in build(served.directory, date(2024, 1, 1))] == ["features", "predictions"]
    for part in (served.directory / "archive" / "features").rglob("*.parquet"):
        part.write_bytes(b"nobody reads me")
    after, buckets = unframe(served.client.get(path).content)
    assert after == before
    assert (before["level_s"], before["rows"] > 0) == (7200, True)
    for name in ("min", "max"):
        assert np.array_equal(rows[name], buckets[name], equal_nan=True)
    assert np.allclose(rows["mean"], buckets["mean"], equal_nan=True)


@given(st.lists(st.tuples(st.floats(0, 999.999), st.floats(-1e6, 1e6, width=32)), max_size=60), st.integers(1, 40))
def test_no_value_is_lost_in_buckets(points: list[tuple[float, float]], count: int) -> None:
    values = np.array([p[1] for p in points])
    at_us = np.array([int(1000 * p[0]) for p in points], np.int64)
    at, points_of = at_us / 1000, Points.of_rows(at_us, values.astype(np.float32))
    low, high, mean = bucketed(points_of, 0.0, 1000.0, count)
    place = np.minimum((at * count / 1000).astype(int), count - 1)
    for b in range(count):
        inside = values[place == b].astype(np.float32)
        assert np.isnan(low[b]) == (len(inside) == 0)
        if len(inside):
            assert (low[b], high[b]) == (inside.min(), inside.max())
            assert low[b] - 1e-3 * abs(low[b]) <= mean[b] <= high[b] + 1e-3 * abs(high[b])


@given(st.lists(st.floats(0.1, 5000.0), min_size=1, max_size=60), st.floats(0, 1e9))
def test_sparks_stay_small_and_keep_the_largest_value(steps: list[float], start: float) -> None:
    sparks, at = Sparks(), start
    for n, step in enumerate(steps):
        sparks.add(at, float(n))
        at += step
    assert len(sparks.values) <= SPARKS
    assert max(v for v in sparks.values if v == v) == len(steps) - 1


# -- labels and alarms -----------------------------------------------------------------------------------------------


def test_a_label_is_stored_once_and_the_command_prints_it(served: Paged, capsys: pytest.CaptureFixture[str]) -> None:
    served.feed()
    first, again = served.post("labels", LABEL).json(), served.post("labels", LABEL).json()
    assert (first["new"], again["new"]) == (True, False)
    assert first["label"]["id"] == again["label"]["id"]
    assert first["windows"] > 0
    assert run(["labels", "ls", "--data", str(served.directory), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)["labels"]
    assert (printed["mode"], printed["author"]) == ("unbalance", "jo")
    found = served.get("labels?machine=pump-01")
    assert found["not_in_model"] == [first["label"]["id"]]
    assert served.get("labels?machine=fan-02")["labels"] == []
    retracted = served.post(f"labels/{first['label']['id']}/retract", {"by": "jo"})
    assert retracted.json()["retracted"] is True
    assert served.get("labels")["labels"][0]["retracted"] is True


def test_a_preview_says_what_a_label_would_cover_and_stores_nothing(served: Paged) -> None:
    served.feed()
    found = served.post("labels/preview", LABEL).json()
    assert found["windows"] > 0
    assert found["last"] in ("healthy", "bearing_outer", "unbalance")
    assert served.get("labels")["labels"] == []


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"mode": "sad"}, 422, "mode of [modes]"),
        ({"start": "yesterday"}, 422, "expected a time"),
        ({"client_token": ""}, 422, "client_token"),
        ({"machine": "../x"}, 422, "a machine"),
    ],
)
def test_a_label_that_cannot_be_used_is_a_problem_with_the_reason(
    served: Paged, change: dict[str, str], status: int, says: str
) -> None:
    answer = served.post("labels", LABEL | change)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["title"]


def test_an_alarm_is_acknowledged_with_a_commit_like_a_request_over_mqtt(served: Paged) -> None:
    served.feed(BLOCKS[:4])
    raise_alarm(served)
    assert served.get("alarms")["open"][0]["acknowledged"] is None
    assert [s["alarm"] for s in served.get("fleet")["streams"]] == [None, "unbalance"]
    answers: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: answers.append(served.post("alarms/acknowledge", {"id": UP_ID}).json()))
    asking.start()
    while not served.page.companion._asked:
        time.sleep(0.01)
    send(served.broker, BLOCKS[4:6])
    served.live.run(lambda: not served.broker.waiting)
    asking.join(10.0)
    assert answers[0]["pending"] is False
    assert isinstance(answers[0]["acknowledged"], int)
    assert served.live.states[PUMP].alarm.open[0].acked_ns == answers[0]["acknowledged"]
    assert served.get("alarms")["open"][0]["acknowledged"] == answers[0]["acknowledged"]
    assert any(topic.endswith("events/alarms") for topic, *_ in served.broker.published)
    assert served.post("alarms/acknowledge", {"id": "pump-01/de/other/1"}).status_code == 404


def test_a_report_has_the_alarm_its_trends_and_what_was_said_of_it_and_no_markup_of_others(
    served: Paged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.feed()
    row = read_features(served.directory, machines={"pump-01"}).to_pylist()[-1]
    end_ns = round(row["end"].timestamp() * 1e6) * 1000
    raised = AlarmChange(PUMP, "raised", UP_ID, "unbalance", 0.9, end_ns, end_ns - 10**9)
    served.live.journal.commit(Commit(alarms=[raised]))
    assert served.post("labels", LABEL | {"note": "<script>alert(1)</script>", "end": "2023-11-14T23:13:21Z"}).json()[
        "new"
    ]
    answer = served.client.get("/api/v1/alarms/report", params={"id": UP_ID})
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-disposition"].startswith("attachment")
    text = answer.text
    for part in (
        "Alarm: unbalance at pump-01/de",
        "&lt;script&gt;alert(1)",
        "velocity_rms",
        "<polyline points=",
        "tiny",
    ):
        assert part in text, part
    assert "<script" not in text
    assert re.search(r"(href|src)=", text) is None
    file = tmp_path / "alarm.html"
    assert run(["report", UP_ID, "--data", str(served.directory), "--out", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(file)
    assert "Alarm: unbalance" in file.read_text()
    assert served.client.get("/api/v1/alarms/report?id=no/such").status_code == 404
    assert run(["report", "no/such", "--data", str(served.directory)]) == 1


# -- it holds nothing up ---------------------------------------------------------------------------------------------


def test_a_page_that_takes_nothing_loses_turns_and_the_service_commits_all(served: Paged) -> None:
    for _ in range(TURNS_KEPT + 10):
        served.page.companion.turns.append(Turn([], [], [], [], [], [], 0.0))
    send(served.broker, BLOCKS)
    served.live.run(lambda: not served.broker.waiting)
    assert len(served.page.companion.turns) == TURNS_KEPT
    assert served.page.companion.lost > 0
    assert served.live.counts["committed"] == len(BLOCKS)
    served.page.tick()
    assert served.get("fleet")["header"]["lost_turns"] == served.page.companion.lost


def test_an_alarm_in_a_lost_turn_is_read_from_the_journal(served: Paged) -> None:
    served.feed(BLOCKS[:4])
    raised = AlarmChange(PUMP, "raised", UP_ID, "unbalance", 0.9, 9, 5)
    served.page.plant.open_alarms = lambda: [raised]
    served.page.companion.lost += 1
    served.page.tick()
    assert [alarm["id"] for alarm in served.get("alarms")["open"]] == [UP_ID]


def test_a_slow_client_gets_a_snapshot_instead_of_a_queue() -> None:
    async def watch() -> list[bytes]:
        events = EventStream()
        slow = events.listen(lambda: b"snapshot")
        got = [await anext(slow)]
        for n in range(2 * QUEUED):
            events.publish(b"tick %d" % n)
        await asyncio.sleep(0)
        for _ in range(4):
            got.append(await anext(slow))
        assert events.dropped > 0
        events.end()
        await asyncio.sleep(0)
        assert [event async for event in slow] == []
        return got

    got = asyncio.run(watch())
    assert got[0] == b"snapshot"
    assert got[1] == b"snapshot"  # the ticks before were dropped
    assert got[2].startswith(b"tick ")


# -- the description -------------------------------------------------------------------------------------------------


def test_every_route_is_described_and_every_description_has_its_route(served: Paged) -> None:
    described = {(path, method) for path, entry in document()["paths"].items() for method in entry}
    routes = {
        (route.path, method.lower())
        for route in served.page._application().routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD" and route.path.startswith("/api")
    }
    assert described == routes
    assert served.client.get("/api/openapi.json").json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", ["models", "quality", "settings", "features", "alarms", "labels"])
def test_every_view_answers_without_and_with_data(served: Paged, path: str) -> None:
    assert served.get(path)
    served.feed()
    assert served.get(path)


def test_what_is_not_there_is_a_problem(served: Paged) -> None:
    served.feed(BLOCKS[:8])
    for path in ("nothing", "streams/pump-09/de", "streams/pump-01/de/window?channel=q", "streams/a%20b/c"):
        answer = served.client.get(f"/api/v1/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
    answer = served.client.get(f"/api/v1/streams/pump-01/de/trend?feature=sadness&{SPAN}")
    assert answer.status_code == 404
    assert served.client.get("/api/v1/streams/pump-01/de/trend?from=5&to=2").status_code == 422
    for content, status in ((b"[1]", 422), (b"{1", 400), (b'{"id": 5}', 422), (b'{"id": "a", "sad": "b"}', 422)):
        headers = ORIGIN | {"Content-Type": "application/json"}
        assert served.client.post("/api/v1/alarms/acknowledge", content=content, headers=headers).status_code == status
    assert served.client.post("/api/v1/fleet").status_code == 405
    assert "GET" in served.client.put("/api/v1/fleet", headers=ORIGIN).headers["allow"]
