"""What the broker keeps for a service that is away: whether it is still there when the service comes back is said."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.broker import PATIENCE_S, SUBSCRIPTION, Site, settings, wait_until
from harness.live import BLOCKS, TOPICS
from harness.wire import Wire

from pipeline import cli
from pipeline.config.tables import CommitConfig, Config, DataConfig, MqttConfig
from pipeline.core.codec import encode
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttConnection
from pipeline.service.compose import service

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("compiled")]
KEY = BLOCKS[0].key
TOPIC = TOPICS.format(machine=KEY.machine, point=KEY.point)


def life(site: Site, directory: Path, client_id: str, *, count: int) -> int:
    """A service that starts, takes the next messages and stops; how often its journal says that a session was lost."""
    config = Config(
        data=DataConfig(dir=str(directory)),
        mqtt=MqttConfig(host=site.broker.host, port=site.broker.port, client_id=client_id),
        commit=CommitConfig(interval_s=0.05),
    )
    with service(config, wait=False) as (live, _, _):
        before = live.journal.counters().get("messages_received", 0)
        site.send(*(encode(block) for block in BLOCKS[before : before + count]), topic=TOPIC)
        wait_until(lambda: live.counts["received"] >= count, lambda: live.turn(lambda: False), "the messages")
        live.run(lambda: True)
        return live.journal.counters().get("link_session_lost", 0)


def forget(broker: PrivateBroker) -> None:
    """The broker is killed, and its database is gone."""
    broker.kill()
    (broker.directory / "mosquitto.db").unlink(missing_ok=True)
    broker.start()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The session_lost lines of the log since the last look."""
    found = [m for record in caplog.records if (m := record.getMessage()).startswith("session_lost")]
    caplog.clear()
    return found


def test_a_session_that_was_lost_while_the_service_was_down_is_counted_and_logged_and_a_first_start_is_no_loss(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "thrumcast")
    assert life(site, tmp_path, "one", count=1) == 0
    assert life(site, tmp_path, "one", count=1) == 0
    assert said(caplog) == []
    forget(site.broker)
    assert life(site, tmp_path, "one", count=1) == 1
    assert said(caplog) == ["session_lost no session of one: the broker lost it, or it expired after 604800 s"]
    assert life(site, tmp_path, "one", count=1) == 1
    assert said(caplog) == []


def test_a_service_that_heard_nothing_before_it_was_stopped_had_a_session_all_the_same(
    site: Site, tmp_path: Path
) -> None:
    life(site, tmp_path, "one", count=0)
    forget(site.broker)
    assert life(site, tmp_path, "one", count=1) == 1


def test_another_client_id_is_a_loss_of_what_is_kept_for_the_former_one_and_says_so(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "thrumcast")
    life(site, tmp_path, "one", count=1)
    assert life(site, tmp_path, "two", count=1) == 1
    assert said(caplog) == [
        "session_lost no session of two: the earlier one was of one; messages queued for it will not arrive"
    ]
    assert life(site, tmp_path, "two", count=1) == 1


# -- who leaves no session behind ------------------------------------------------------------------------------------


def sessions_left(broker: PrivateBroker) -> set[str]:
    """Of all clients that the broker's log has seen come and go: whom it still keeps a session for."""
    log = (broker.directory / "broker.log").read_text()
    left = set()
    for name in set(re.findall(r"New client connected from \S+ as (\S+) \(", log)):
        with MqttConnection(settings(broker, name), subscriptions=[SUBSCRIPTION], former_id=name) as again:
            again.connect()
            if "session_lost" not in {event.kind for event in again.events()}:
                left.add(name)
    return left


def test_a_service_leaves_its_session_at_the_broker(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    with Site(mosquitto) as site:
        life(site, tmp_path, "one", count=1)
    assert sessions_left(mosquitto) == {"one"}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_a_recorder_leaves_no_session_at_the_broker_however_it_ends(
    mosquitto: PrivateBroker, tmp_path: Path, end: signal.Signals
) -> None:
    command = [sys.executable, "-m", "pipeline", "record", "--broker", f"mqtt://127.0.0.1:{mosquitto.port}"]
    with subprocess.Popen([*command, "--data", str(tmp_path)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("recording ")
        process.send_signal(end)
        process.communicate(timeout=PATIENCE_S)
    gone = re.compile(r"Client thrumcast-record-\d+ (disconnected|closed its connection)")
    wait_until(
        lambda: gone.search((mosquitto.directory / "broker.log").read_text()) is not None,
        lambda: time.sleep(0.01),
        "the end of the recorder's connection",
    )
    assert sessions_left(mosquitto) == set()


def test_a_recorder_says_when_readings_are_missing(site: Site, tmp_path: Path) -> None:
    with Wire(site.broker.port) as wire:
        command = [sys.executable, "-m", "pipeline", "record", "--json", "--broker", f"mqtt://127.0.0.1:{wire.port}"]
        with subprocess.Popen(
            [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("recording ")
            wire.cut()
            assert process.stderr.readline().startswith("warning: connection lost, readings are missing")
            process.terminate()
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert json.loads(out)["connections_lost"] == 1


@pytest.mark.parametrize("command", ["doctor --seconds 0.1 --messages 20", "sim --machines 1 --seconds 1"])
def test_no_command_but_the_service_leaves_a_session_at_the_broker(
    mosquitto: PrivateBroker, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run([*command.split(), "--broker", f"mqtt://127.0.0.1:{mosquitto.port}"]) == 0
    assert sessions_left(mosquitto) == set()
