"""The private broker: answers when started, keeps its port over a restart, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.broker import PATIENCE_S

import pipeline.edges.broker as broker_module
from pipeline.edges.broker import PrivateBroker, handshake, is_available
from pipeline.errors import NotReachable

pytestmark = pytest.mark.network

ROOT = Path(__file__).resolve().parents[2]


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_answers_on_loopback_as_soon_as_it_has_started(broker: PrivateBroker) -> None:
    assert broker.host == "127.0.0.1"
    assert handshake(broker.host, broker.port) == 0


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_keeps_the_port_and_changes_the_process(broker: PrivateBroker, kill: bool) -> None:
    port, pid = broker.port, broker.pid
    broker.restart(kill=kill)
    assert broker.port == port
    assert broker.pid != pid
    assert handshake(broker.host, broker.port) == 0


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_stopped_one_does_not_answer_and_can_be_started_again(broker: PrivateBroker, end: str) -> None:
    getattr(broker, end)()
    assert not broker.running
    assert broker.pid is None
    assert handshake(broker.host, broker.port) is None
    broker.start()
    assert handshake(broker.host, broker.port) == 0


def test_starting_a_running_one_changes_nothing(broker: PrivateBroker) -> None:
    pid = broker.pid
    broker.start()
    assert broker.pid == pid


def test_no_process_and_no_temporary_file_is_left_behind() -> None:
    with PrivateBroker() as broker:
        pid, directory = broker.pid, broker.directory
        assert directory.is_dir()
    assert pid is not None
    assert not lives(pid)
    assert not directory.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent has died")
@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_it_dies_with_a_parent_that_is_killed(kind: str, tmp_path: Path) -> None:
    if not is_available(kind):  # type: ignore[arg-type]
        pytest.skip(f"{kind} is not installed")
    program = (
        "import pathlib, time; from pipeline.edges.broker import PrivateBroker\n"
        f"broker = PrivateBroker(pathlib.Path({str(tmp_path)!r}), kind={kind!r}).start()\n"
        "print(broker.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert lives(pid)
        parent.kill()
    deadline_s = time.monotonic() + PATIENCE_S
    while lives(pid):
        assert time.monotonic() < deadline_s, "the broker outlived its parent"
        time.sleep(0.02)


def test_a_port_that_is_taken_is_an_error_that_quotes_the_log(broker: PrivateBroker, tmp_path: Path) -> None:
    with pytest.raises(NotReachable, match=str(broker.port)) as caught:
        PrivateBroker(tmp_path / "second", kind=broker.kind, port=broker.port).start()
    assert "broker.log" in str(caught.value.hint)
    assert handshake(broker.host, broker.port) == 0


def test_without_any_broker_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "is_available", lambda kind: False)
    with pytest.raises(NotReachable, match="neither") as caught:
        PrivateBroker()
    assert "pip install iotcore" in str(caught.value.hint)
    with pytest.raises(NotReachable, match="mosquitto") as caught:
        PrivateBroker(kind="mosquitto")
    assert "apt install" in str(caught.value.hint)


def test_mosquitto_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(broker_module, "is_available", lambda kind: True)
    assert PrivateBroker(tmp_path).kind == "mosquitto"
    monkeypatch.setattr(broker_module, "is_available", lambda kind: kind == "iotcore")
    assert PrivateBroker(tmp_path).kind == "iotcore"


def test_a_handshake_with_nobody_is_none() -> None:
    assert handshake("127.0.0.1", 1, timeout_s=0.5) is None


def test_its_files_belong_to_whoever_runs_it(broker: PrivateBroker) -> None:
    assert {path.stat().st_uid for path in broker.directory.iterdir()} == {os.getuid()}
