"""`thrumcast run` as its operator sees it: systemd, HTTP, the log, and upkeep, on a real broker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from harness.broker import settings

from pipeline.core.codec import encode
from pipeline.core.records import Block, StreamKey
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttConnection, MqttPublisher
from pipeline.edges.store.check import verify
from pipeline.errors import NotReachable
from pipeline.service.client import ask
from pipeline.service.upkeep import ask as ask_for

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
pytestmark = [pytest.mark.network, pytest.mark.usefixtures("compiled")]


@dataclass
class Running:
    """A service in a process of its own, and what it tells systemd and the log."""

    process: subprocess.Popen[str]
    manager: socket.socket
    data: Path
    log: list[dict[str, str]] = field(default_factory=list)

    def event(self, name: str) -> dict[str, str]:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            for line in list(self.log):
                if line.get("event") == name:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"never logged: {name}; but {self.log}")

    def told(self, word: str) -> str:
        """The next datagram to the service manager that has this word."""
        self.manager.settimeout(PATIENCE_S)
        while word not in (text := self.manager.recv(4096).decode()):
            pass
        return text

    @property
    def address(self) -> str:
        return self.event("web_listening")["address"]


@pytest.fixture
def running(mosquitto: PrivateBroker, tmp_path: Path) -> Iterator[Running]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "400000", "THRUMCAST_WEB__BIND": "127.0.0.1:0", "THRUMCAST_COMMIT__INTERVAL_S": "0.1",
        }  # fmt: skip
        command = [sys.executable, "-m", "pipeline", "run", "--data",
                   str(tmp_path / "data"), "--broker", f"mqtt://127.0.0.1:{mosquitto.port}"]  # fmt: skip
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            made = Running(process, manager, tmp_path / "data")

            def read() -> None:
                assert process.stderr
                for line in process.stderr:
                    if line.startswith("{"):
                        made.log.append(json.loads(line))

            reader = threading.Thread(target=read)
            reader.start()
            yield made
            process.kill()
            reader.join()


def send(broker: PrivateBroker, count: int) -> None:
    with MqttPublisher(settings(broker, "plant")).connect() as plant:
        for number in range(count):
            samples = np.random.default_rng(number).standard_normal((1, 500)).astype(np.float32)
            block = Block(StreamKey("pump-01", "de"), 7, 500 * number, time.time_ns(), 1000.0, ("x",), "g", samples)
            plant.publish("plant/a/pump-01/de/vibration", encode(block))
        plant.publish("plant/a/pump-01/de/vibration", b"rubbish")
        plant.drain()


def test_a_service_tells_its_manager_its_health_and_its_end(running: Running, mosquitto: PrivateBroker) -> None:
    assert "STATUS=" in running.told("READY=1")
    assert "model none" in running.told("WATCHDOG=1")
    running.event("connected")
    send(mosquitto, 20)
    until_s = time.monotonic() + PATIENCE_S
    while (found := ask(running.address, 10.0)).messages["committed"] < 20 and time.monotonic() < until_s:
        m = found.messages
        assert m.pop("received") == sum(m.values())
        time.sleep(0.05)
    assert {name: n for name, n in found.messages.items() if n} == {"received": 21, "committed": 20, "quarantined": 1}
    assert found.checks["model:loaded"][0] == "fail"
    assert found.checks["mqtt:connection"][0] == "pass"
    assert found.metrics["process_open_fds"] > 3
    assert "1 machines, 20 messages committed" in running.told("20 messages committed")
    mosquitto.terminate()
    running.event("disconnected")
    until_s = time.monotonic() + 5.0  # the limit of the contract
    while (status := ask(running.address, 10.0).checks["mqtt:connection"][0]) != "fail" and time.monotonic() < until_s:
        time.sleep(0.05)
    assert status == "fail"
    running.told("WATCHDOG=1")  # a lost broker is no reason to restart
    running.process.send_signal(signal.SIGTERM)
    running.told("STOPPING=1")
    assert running.process.wait(PATIENCE_S) == 0
    with pytest.raises(NotReachable):
        ask(running.address, 1.0)
    report = verify(running.data)
    assert report.problems == ()
    assert report.pending_rows == 0


def test_a_running_service_takes_new_thresholds_on_a_signal(
    running: Running, mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    running.event("connected")
    (tmp_path / "config.toml").write_text(
        "[alarm]\nenter_p = 0.95\n[commit]\ninterval_s = 0.1\n[window]\nhop_s = 0.1\n"
    )
    running.process.send_signal(signal.SIGHUP)
    assert running.event("reloaded")["keys"] == "alarm.enter_p"
    assert running.event("restart_needed")["keys"] == "window.hop_s"
    assert running.process.poll() is None


def test_a_running_service_compacts_when_asked_from_another_process(running: Running, mosquitto: PrivateBroker) -> None:
    running.event("connected")
    send(mosquitto, 4)
    assert ask_for(running.data, {"action": "compact"}, pick_up_s=PATIENCE_S) == []  # nothing is in files yet
    assert ask_for(running.data, {"action": "prune", "before": "2000-01-01"}) == []
    assert running.process.poll() is None


def test_an_address_in_use_is_a_warning_and_the_readings_go_on(tmp_path: Path, mosquitto: PrivateBroker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "THRUMCAST_WEB__BIND": f"127.0.0.1:{taken.getsockname()[1]}",
        }  # fmt: skip
        command = [sys.executable, "-m", "pipeline", "run", "--data", str(tmp_path / "d"),
                   "--broker", f"mqtt://127.0.0.1:{mosquitto.port}", "--seconds", "1"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '"event": "web_unavailable"' in done.stderr


# -- what is deployed ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / "thrumcast.service"
    text = (ROOT / "deploy" / "thrumcast.service").read_text()
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_line_for_the_broker_gives_its_reason() -> None:
    commented = False
    for line in (ROOT / "deploy" / "mosquitto.conf").read_text().splitlines():
        assert not line or line.startswith("#") or commented, f"no reason above: {line}"
        commented = bool(line) and (line.startswith("#") or commented)


TOPICS = (
    "plant/hall/press-1/de/vibration", "plant/hall/pump-1/de/vibration", "thrumcast/machines/pump-1/de/alarm",
    "thrumcast/clients/thrumcast", "thrumcast/status", "thrumcast/cmd/label", "thrumcast/cmd/reload",
)  # fmt: skip
READS = {  # user -> what it may read of those
    "press-1": (),
    "sensor-gateway": (),
    "thrumcast": TOPICS,
    "operator": TOPICS[2:],
    "dashboard": TOPICS[2:],
}
RIGHTS = {  # user of deploy/mosquitto.acl -> where it may publish
    "press-1": TOPICS[:1],
    "sensor-gateway": TOPICS[:2],
    "thrumcast": TOPICS[2:],
    "operator": TOPICS[5:],
    "dashboard": (),
}


def test_the_broker_takes_its_configuration_and_denies_what_it_does_not_allow(
    tmp_path: Path,
) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.touch()
    for user in RIGHTS:
        subprocess.run([tool, "-b", str(passwords), user, "x"], check=True, capture_output=True)
    acl.write_text((ROOT / "deploy" / "mosquitto.acl").read_text())
    for path in (passwords, acl):
        path.chmod(0o644)
    text = (ROOT / "deploy" / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/passwords", str(passwords)).replace("/etc/mosquitto/acl", str(acl))
    text = re.sub(r"^listener 8883\n(\w+ .*\n)+", "", text, flags=re.MULTILINE)  # TLS has tests of its own
    ours = {"listener", "persistence", "persistence_location", "allow_anonymous", "set_tcp_nodelay", "sys_interval",
            "max_queued_messages", "max_queued_bytes", "max_inflight_messages", "log_dest"}  # fmt: skip
    extra = "\n".join(
        line for line in text.splitlines()
        if line.split(" ")[0] not in ours and line.split(" ")[0] != "per_listener_settings"
    )  # fmt: skip
    password = tmp_path / "password"
    password.write_text("x\n")
    with PrivateBroker(tmp_path / "b", kind="mosquitto", anonymous=False, extra_config=f"\n{extra}\n") as broker:
        for user, allowed in RIGHTS.items():
            given = settings(broker, user, username=user, password_file=password)
            with MqttPublisher(given).connect() as client:
                for topic in TOPICS:
                    before = client.refused
                    client.publish(topic, b"")
                    client.drain()
                    assert (client.refused == before) == (topic in allowed), (user, topic)
        dropped = "$SYS/broker/publish/messages/dropped"
        for user, readable in READS.items():
            given = settings(broker, f"{user}-reads", username=user, password_file=password)
            with MqttConnection(given, subscriptions=["#", "$SYS/#", dropped]) as reader:
                reader.connect()
                heard: set[str] = set()
                for writer in ("sensor-gateway", "thrumcast"):
                    given = settings(broker, writer, username=writer, password_file=password)
                    with MqttPublisher(given).connect() as client:
                        for topic in RIGHTS[writer]:
                            client.publish(topic, b"read me")
                        client.drain()
                until_s = time.monotonic() + (PATIENCE_S if readable else 1.0)
                while time.monotonic() < until_s and not set(readable) <= heard:
                    heard |= {message.topic for message in reader.take(100, 0.1)}
                heard |= {message.topic for message in reader.take(100, 0.5)}
            system = {topic for topic in heard if topic.startswith("$SYS")}
            assert heard - system == set(readable), user
            assert system <= ({dropped} if user == "thrumcast" else set()), user
