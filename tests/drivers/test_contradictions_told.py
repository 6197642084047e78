"""Senders that contradict themselves: named once in the log, counted in the metrics, shown by `status` and `doctor`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from harness.live import Broker, send, service, stop_when_idle, stored

from pipeline.commands.logs import RepeatFilter
from pipeline.commands.status import _text
from pipeline.core.codec import encode
from pipeline.core.records import Block, StreamKey
from pipeline.service.checkup import look_at_senders
from pipeline.service.client import ServiceReport, parse_troubles
from pipeline.service.metrics import LoopWatch
from pipeline.telemetry import Telemetry

T0_NS = 1_700_000_000 * 10**9
RNG = np.random.default_rng(3)


def block(machine: str, session: int, index: int, at_s: float, **changes: object) -> Block:
    samples = RNG.standard_normal((1, 250)).astype(np.float32)
    key = StreamKey(machine, "de")
    one = Block(key, session, index, T0_NS + round(at_s * 1e9), 1000.0, ("x",), "g", samples)
    return replace(one, **changes)  # type: ignore[arg-type]


def test_every_kind_of_sender_is_kept_named_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broker, telemetry = Broker(), Telemetry()
    live = service(tmp_path, broker)
    live.companions = (LoopWatch(broker, telemetry),)  # type: ignore[arg-type]
    for i in range(40):
        send(broker, [block("reboot", 1, 250 * (i % 20), i / 4 + 30 * (i // 20)), block("idx0", 1, 0, i / 4)])
        send(broker, [block("twins", 5, 250 * i, i / 4), block("twins", 6, 250 * i, i / 4)])
    with caplog.at_level("INFO", logger="thrumcast.live"):
        live.run(stop_when_idle(broker))
    live.journal.close()
    counts = live.counts
    assert (counts["duplicate"], counts["late"], counts["quarantined"]) == (0, 0, 39)
    assert counts["committed"] == 160 - 39
    rows = stored(tmp_path)[0]
    assert {row["machine"] for row in rows} == {"reboot", "idx0", "twins"}
    told = [line.partition(" detail=")[0] for line in caplog.messages if line.startswith("contradiction ")]
    assert sorted(told) == [
        "contradiction kind=counter_restarted stream=reboot/de",
        "contradiction kind=index_contradicts_t0 stream=idx0/de",
        "contradiction kind=two_senders stream=twins/de",
    ]
    contradictions, refused = parse_troubles(telemetry.text())
    assert contradictions == {
        "idx0/de": {"index_contradicts_t0": 39}, "reboot/de": {"counter_restarted": 1}, "twins/de": {"two_senders": 39},
    }  # fmt: skip
    assert refused == {"two_senders": 39}
    report = ServiceReport("here", True, {"version": "0"}, {}, contradictions, refused)
    text = _text(report)
    assert "warn  reboot/de: counter_restarted (1 blocks): send a new `session` at each start" in text
    assert "quarantined: two_senders 39" in text
    found = {finding.found for finding in look_at_senders(report)}
    assert found == {
        "idx0/de: index_contradicts_t0, 39 blocks", "reboot/de: counter_restarted, 1 blocks",
        "twins/de: two_senders, 39 blocks",
    }  # fmt: skip


def test_first_refusals_of_other_topics_and_reasons_are_not_held_back(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    passed: list[str] = []
    only = RepeatFilter(10.0)
    for about in ("time a", "time b", "unit a", "time a"):
        record = logging.LogRecord("thrumcast.live", logging.WARNING, "", 0, "refusal topic=x", (), None)
        record.about = about
        if only.filter(record):
            passed.append(about)
    assert passed == ["time a", "time b", "unit a"]


def test_an_unknown_unit_is_named_once_and_its_features_have_no_velocity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    live = service(tmp_path, broker)
    for i in range(12):
        plain = block("fan", 1, 250 * i, i / 4)
        message = msgspec.msgpack.decode(encode(plain)) | {"unit": "furlong"}
        broker.send("plant/a/fan/de/vibration", [msgspec.msgpack.encode(message)])
    with caplog.at_level("WARNING", logger="thrumcast.live"):
        live.run(stop_when_idle(broker))
    live.journal.close()
    told = [line for line in caplog.messages if "unit_unknown" in line]
    assert len(told) == 1
    assert "found: 'furlong'; kept as `unknown`: severity is not assessable" in told[0]
    rows = stored(tmp_path)[0]
    assert rows
    assert all(np.isnan(row["x.velocity_rms"]) for row in rows)
