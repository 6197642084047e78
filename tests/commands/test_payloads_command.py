"""`thrumcast payloads try`: a stored or live message, read by its table or with a proposed one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from harness.broker import Site

from pipeline import cli
from pipeline.edges.broker import PrivateBroker

pytestmark = pytest.mark.usefixtures("no_configuration")
TABLE = """
[[payloads]]
topic = "s/{machine}/acc"
samples = { x = "$.x" }
time = "$.ts"
rate_hz = 100.0
unit = "g"
point = "de"
"""
MESSAGE = {"ts": 1_764_518_400_000, "x": [3.0, -4.0]}


def try_(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], payload: object, topic: str, table: str = TABLE
) -> tuple[int, dict]:  # type: ignore[type-arg]
    (tmp_path / "config.toml").write_text(table, encoding="utf-8")
    (tmp_path / "message").write_text(json.dumps(payload), encoding="utf-8")
    arguments = ["payloads", "try", str(tmp_path / "message"), "--topic", topic, "--json"]
    code = cli.run([*arguments, "--config", str(tmp_path / "config.toml")])
    return code, json.loads(capsys.readouterr().out)


def test_a_message_that_a_table_knows_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = try_(tmp_path, capsys, MESSAGE, "s/m1/acc")
    assert code == 0
    (block,) = document["blocks"]
    assert (block["machine"], block["samples"], block["counted_by"]) == ("m1", 2, "time")
    assert block["rms"][0] == pytest.approx(3.5355, abs=1e-3)


def test_a_message_that_its_table_cannot_read_says_where_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = try_(tmp_path, capsys, {"ts": 1, "x": [1]}, "s/m1/acc")
    assert (code, document["reason"]) == (1, "time")
    assert "$.ts" in document["error"]


def test_the_table_that_is_proposed_for_an_unknown_message_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = try_(tmp_path, capsys, MESSAGE, "other/m1/acc")
    assert code == 0
    code, document = try_(tmp_path, capsys, MESSAGE, "other/m1/acc", document["proposal"])
    assert (code, document["ok"]) == (0, True)


@pytest.mark.network
def test_a_live_message_is_heard(mosquitto: PrivateBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text(TABLE, encoding="utf-8")
    stop = threading.Event()

    def send() -> None:
        with Site(mosquitto) as site:
            while not stop.wait(0.2):
                site.send(json.dumps(MESSAGE).encode(), topic="s/m1/acc")

    sender = threading.Thread(target=send)
    sender.start()
    try:
        arguments = ["payloads", "try", "--topic", "s/+/acc", "--broker", f"mqtt://{mosquitto.host}:{mosquitto.port}"]
        code = cli.run([*arguments, "--config", str(tmp_path / "config.toml")])
    finally:
        stop.set()
        sender.join()
    assert code == 0
    assert "stream   m1/de" in capsys.readouterr().out


def test_nothing_to_try_is_a_wrong_use(tmp_path: Path) -> None:
    assert cli.run(["payloads", "try"]) == 2
