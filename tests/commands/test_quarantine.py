"""`thrumcast quarantine`: what was refused and why, and how it is taken again, once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.live import Broker, schema, service, stop_when_idle

from pipeline.cli import run
from pipeline.core.codec import REASONS, encode
from pipeline.core.records import Block, StreamKey
from pipeline.core.remedies import REMEDIES
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.check import verify
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.quarantine import NO_DETAIL, refusals
from pipeline.edges.store.read import read_features
from pipeline.edges.store.schema import QUARANTINE_BYTES, Quarantined

NS = 10**9
T0_NS = 1_700_000_000 * NS
RNG = np.random.default_rng(1)
ROOT = Path(__file__).parents[2]


def blocks(machine: str, n: int = 12) -> list[Block]:
    samples = RNG.standard_normal((1, n * 250)).astype(np.float32)
    key = StreamKey(machine, "de")
    return [
        Block(key, 7, 250 * i, T0_NS + i * NS // 4, 1000.0, ("x",), "g", samples[:, 250 * i : 250 * (i + 1)])
        for i in range(n)
    ]


def quarantined(directory: Path, messages: list[tuple[str, bytes, str, str]]) -> None:
    with Journal(directory) as journal:
        journal.commit(
            Commit(
                quarantined=[
                    Quarantined(topic, T0_NS + i * NS, reason, payload, len(payload), detail)
                    for i, (topic, payload, reason, detail) in enumerate(messages)
                ]
            )
        )


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """Twelve readable messages below another topic, one of bad content, one that is too long to be kept whole."""
    messages = [(f"/hall/{b.key.machine}/de", encode(b), "topic", "another topic") for b in blocks("pump-01")]
    messages.append(("plant/a/m/p/vibration", b"{}", "malformed", "a json map expected, found: no `v`"))
    messages.append(("/hall/pump-02/de", encode(blocks("pump-02")[0]).ljust(QUARANTINE_BYTES + 1, b"\0"), "topic", "t"))
    quarantined(tmp_path, messages)
    return tmp_path


def test_refusals_are_listed_by_topic_and_reason_with_detail_and_remedy(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, "quarantine", "ls", "--data", str(plant))
    assert found["messages"] == 14
    assert [(one["count"], one["topic"], one["reason"]) for one in found["refusals"]] == [
        (12, "/hall/pump-01/de", "topic"), (1, "/hall/pump-02/de", "topic"), (1, "plant/a/m/p/vibration", "malformed"),
    ]  # fmt: skip
    assert found["refusals"][2]["detail"] == "a json map expected, found: no `v`"
    assert found["refusals"][2]["remedy"] == REMEDIES["malformed"]


def test_messages_are_shown_with_their_bytes(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "quarantine", "show", "--reason", "malformed", "--data", str(plant))
    assert [(m["payload"], m["whole"], m["detail"]) for m in found["messages"]] == [
        ("e30=", True, "a json map expected, found: no `v`")
    ]
    assert run(["quarantine", "show", "--data", str(plant)]) == 0
    assert f"{QUARANTINE_BYTES + 1} bytes, {QUARANTINE_BYTES} kept: cannot be taken again" in capsys.readouterr().out


def test_messages_are_taken_once_when_the_configuration_says_how(
    plant: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRUMCAST_MQTT__READINGS_TOPIC", "/hall/{machine}/{point}")
    command = ("quarantine", "replay", "--data", str(plant))
    tried = asked(capsys, *command, "--dry-run")
    assert (tried["taken"], tried["windows"]) == (12, 5)
    assert read_features(plant).num_rows == 0
    found = asked(capsys, *command)
    assert (found["messages"], found["taken"], found["windows"], found["streams"]) == (14, 12, 5, ["pump-01/de"])
    reasons = {one["topic"]: one["reason"] for one in found["left_out"]}
    assert reasons["/hall/pump-02/de"] == f"only {QUARANTINE_BYTES} of {QUARANTINE_BYTES + 1} bytes were kept"
    assert reasons["plant/a/m/p/vibration"].startswith("topic: ")
    columns = ["machine", "session", "window", "x.rms"]
    rows = read_features(plant).select(columns)
    again = asked(capsys, *command)
    assert (again["taken"], again["taken_before"]) == (0, 12)
    assert read_features(plant).select(columns) == rows
    assert rows.num_rows == 5
    assert not verify(plant).problems


def test_nothing_that_can_be_taken_is_an_error(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quarantine", "replay", "--reason", "malformed", "--data", str(plant)]) == 1
    assert "expected messages that can be taken" in capsys.readouterr().err


def test_the_readings_of_a_second_sender_are_taken_only_under_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = "plant/a/pump-01/de/vibration"
    quarantined(tmp_path, [(topic, encode(b), "two_senders", "two") for b in blocks("pump-01")])
    command = ("quarantine", "replay", "--data", str(tmp_path))
    assert run([*command]) == 1
    found = asked(capsys, *command, "--as", "pump-09/de")
    assert (found["taken"], found["streams"]) == (12, ["pump-09/de"])
    assert run([*command, "--as", "pump 9"]) == 2


def test_the_service_keeps_the_whole_sentence(tmp_path: Path) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    late = replace(blocks("pump-01")[0], t0_ns=1_700_000_000_000)  # ms instead of ns
    broker.send("plant/a/pump-01/de/vibration", [encode(late), encode(late)])
    broker.send("elsewhere", [b"x"])
    live.run(stop_when_idle(broker))
    live.journal.close()
    found = {(one.topic, one.reason): (one.count, one.detail) for one in refusals(tmp_path)}
    assert found["plant/a/pump-01/de/vibration", "time"] == (
        2, "`t0` in ns since 1970, years 2000 to 2099, expected, found: 1700000000000",
    )  # fmt: skip
    assert "mqtt.readings_topic" in found["elsewhere", "topic"][1]


def test_an_archive_without_the_column_stays_readable_and_intact(plant: Path) -> None:
    with Journal(plant) as journal:
        Archive(plant, journal, schema()).roll()
        parts = journal.view(()).parts
        for part in (p for p in parts if p.kind == "quarantine"):
            path = plant / "archive" / part.relative
            table = pq.read_table(path, partitioning=None)
            old = table.drop_columns(["detail"]).replace_schema_metadata(table.schema.metadata)
            sink = pa.BufferOutputStream()
            pq.write_table(old, sink)
            path.write_bytes(sink.getvalue().to_pybytes())
            content = path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            journal.update_parts([replace(part, sha256=sha256, bytes=len(content))])
    assert {one.detail for one in refusals(plant)} == {NO_DETAIL}
    assert not verify(plant).problems


def test_every_reason_has_a_remedy_and_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "quarantine.md").read_text(encoding="utf-8")
    assert set(REASONS) <= set(REMEDIES)
    assert [reason for reason in REMEDIES if f"| `{reason}` |" not in text] == []
