"""`thrumcast replay` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import run
from pipeline.commands.replay import _timed
from pipeline.config.sources import load
from pipeline.core.codec import decode, encode
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.recordings.recording import open_recording, streams, write_recording


@pytest.mark.network
def test_what_holds_for_many_recordings_is_said_once_as_backfill_says_it(
    tmp_path: Path, mosquitto: PrivateBroker, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = rng.standard_normal((1, 4096)).astype(np.float32)
    for name in ("a", "b", "c"):
        write_recording(tmp_path / f"{name}.parquet", samples, ("x",), {"sample_rate_hz": 1024.0, "recording": name})
    write_recording(tmp_path / "d.parquet", samples, ("y",), {"sample_rate_hz": 1024.0, "recording": "d"})
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 but not really")
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    assert run(["replay", str(tmp_path), "--channels", "y", "--speed", "0", "--broker", broker, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert len(document["skipped"]) == 4
    assert document["streams"] == 1
    assert document["messages"] == document["acknowledged"] == 16
    assert f"skipped: 3 files, the first one: expected a channel of {tmp_path / 'a.parquet'}, found: y" in err
    assert err.count("torn.parquet") == 1
    assert err.count("warning:") == 2


@pytest.mark.network
def test_a_replay_that_is_interrupted_says_what_it_had_skipped(
    tmp_path: Path, mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, torn = tmp_path / "a.csv", tmp_path / "torn.csv"
    whole.write_text("x,note\n" + "\n".join(f"{i % 7},ok" for i in range(2048)))
    torn.write_text("")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.edges.mqtt.MqttPublisher.drain", interrupted)
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    assert run(["replay", str(whole), str(torn), "--rate", "1024", "--speed", "0", "--broker", broker]) == 130
    err = capsys.readouterr().err
    assert f"read only in part: {whole}: columns without numbers are ignored: note" in err
    assert f"skipped: expected a readable csv file, found {torn}" in err


def test_a_replay_tells_of_a_recording_only_what_a_message_may_say(tmp_path: Path, rng: np.random.Generator) -> None:
    known = {"note": "long " * 200, "orders": "many", "odd name": 1, "load_hp": 2, "sample_rate_hz": 1024.0}
    samples = rng.standard_normal((1, 2048)).astype(np.float32)
    write_recording(tmp_path / "a.parquet", samples, ("x",), known | {f"k{i}": i for i in range(100)})
    stream = streams(open_recording(tmp_path / "a.parquet"))[0]
    block, _ = next(_timed(load(None, {}, environment={}).config, stream, 0.5))
    assert block.about is not None
    assert block.about["load_hp"] == 2
    again = decode(encode(block), block.key, max_payload_bytes=2**20)
    assert again.about == block.about


@pytest.mark.network
def test_a_replay_sends_no_longer_blocks_than_the_service_takes_and_nothing_that_is_too_slow(
    tmp_path: Path, mosquitto: PrivateBroker, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = rng.standard_normal((1, 200_000)).astype(np.float32)
    write_recording(tmp_path / "hours.parquet", samples, ("x",), {"sample_rate_hz": 32.0, "recording": "hours"})
    write_recording(tmp_path / "quick.parquet", samples, ("x",), {"sample_rate_hz": 20_000.0, "recording": "quick"})
    write_recording(tmp_path / "slow.parquet", samples, ("x",), {"sample_rate_hz": 1.0, "recording": "slow"})
    broker = f"mqtt://{mosquitto.host}:{mosquitto.port}"
    limit = {"THRUMCAST_MQTT__MAX_PAYLOAD_BYTES": "600000"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limit.items():
            patch.setenv(name, value)
        assert run(["replay", str(tmp_path), "--block-s", "7200", "--speed", "0", "--broker", broker, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["messages"] == 4 + 3  # of 4,096 windows each, and of 300,000 bytes
    assert next(iter(document["skipped"]))["input"].endswith("slow.parquet")
    assert "expected at least 32 samples in a window of 1 s" in err
