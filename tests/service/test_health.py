"""Health, for scrapers and for systemd: judged by what is committed, fed by the loop itself."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.live import BLOCKS, send, stop_when_idle
from harness.watched import Linked, watched_service

from pipeline.edges.systemd import Notifier
from pipeline.errors import ArchiveError
from pipeline.service import health
from pipeline.service.client import parse_metrics
from pipeline.service.health import Endpoints, Probe, Sparing, Vitals, live_checks, ready_checks, worst
from pipeline.service.metrics import LoopWatch
from pipeline.telemetry import Telemetry

READY = Vitals(model="v0001")


pytestmark = pytest.mark.usefixtures("compiled")


def scraped(endpoints: Endpoints) -> dict[str, float]:
    return parse_metrics(endpoints.routes()["/metrics"]().body.decode())


def balance(metrics: dict[str, float]) -> float:
    others = ("committed_total", "duplicate_total", "late_total", "quarantined_total", "dropped_total", "in_flight")
    return metrics["messages_received_total"] - sum(metrics[f"messages_{name}"] for name in others)


# -- the judgement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vitals", "failing"),
    [
        (READY, None),
        (Vitals(model=None), "model:loaded"),
        (Vitals(model="v", connected=False), "mqtt:connection"),
        (Vitals(model="v", uncommitted_age_s=5.5, commit_limit_s=5.0), "commit:progress"),
        (Vitals(model="v", uncommitted_age_s=4.5, commit_limit_s=5.0), None),
        (Vitals(model="v", turn_age_s=12.0, turn_limit_s=11.0), "loop:turn"),
        (Vitals(model="v", turn_age_s=10.0, turn_limit_s=11.0), None),
        (Vitals(model="v", refusal="no space"), "archive:writable"),
        (Vitals(model="v", unwritable="read-only"), "archive:writable"),
        (Vitals(model="v", beat_age_s=11.0), "loop:beat"),
        (Vitals(model="v", silent_machines=("pump-01",)), None),  # a dead sensor restarts nothing
        (Vitals(model="v", waiting_ratio=1.0), None),
    ],
)
def test_each_thing_that_is_wrong_fails_its_own_check_and_no_other(vitals: Vitals, failing: str | None) -> None:
    failed = [check.name for check in ready_checks(vitals) if check.status == "fail"]
    assert failed == ([failing] if failing else [])
    assert (worst(ready_checks(vitals)) == "fail") == bool(failing)


def test_of_many_silent_machines_some_are_named_and_all_are_counted() -> None:
    silent = tuple(f"pump-{n:02d}" for n in range(1, 41))
    said = {check.name: check.output for check in ready_checks(replace(READY, silent_machines=silent))}
    assert said["machines:heard"] == "silent: pump-01, pump-02, pump-03, pump-04, pump-05 and 35 more"
    said = {check.name: check.output for check in ready_checks(replace(READY, silent_machines=silent[:5]))}
    assert said["machines:heard"] == "silent: pump-01, pump-02, pump-03, pump-04, pump-05"


def test_a_lost_broker_or_a_full_disk_does_not_restart_the_process() -> None:
    assert worst(live_checks(Vitals(connected=False, refusal="no space", model=None))) == "pass"
    assert worst(live_checks(Vitals(beat_age_s=60.0))) == "fail"


def test_a_directory_that_cannot_be_written_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.probe_directory(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert "No such file" in str(health.probe_directory(tmp_path / "gone"))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space" in str(health.probe_directory(tmp_path))


def test_a_disk_that_hangs_is_reported_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    monkeypatch.setattr(health, "probe_directory", lambda _: hang.wait(30.0) and None)
    monkeypatch.setattr(health, "PROBE_LIMIT_S", 0.0)
    probe = Probe(tmp_path)
    assert "not written within" in str(probe.unwritable(0.01))
    hang.set()


# -- the loop --------------------------------------------------------------------------------------------------------


def test_every_message_is_in_one_place_at_every_scrape_of_a_run(tmp_path: Path) -> None:
    broker = Linked()
    live, watched, endpoints = watched_service(tmp_path, broker)
    send(broker, [b for block in BLOCKS for b in (block, block)])
    broker.send("plant/a/pump-01/de/vibration", [b"bad", b""])
    sums: list[float] = []
    watched.notify, watched.notify_every_s = lambda _: sums.append(balance(scraped(endpoints))), 0.0
    live.run(stop_when_idle(broker))
    metrics = scraped(endpoints)
    assert set(sums) == {0.0}
    assert len(sums) > 5
    assert metrics["messages_received_total"] == 2 * len(BLOCKS) + 2
    assert metrics["messages_duplicate_total"] == len(BLOCKS)
    assert metrics["messages_quarantined_total"] == 2
    assert metrics["ready_ratio"] == 1


def test_what_is_counted_by_machine_is_the_sum_of_what_was_sent(tmp_path: Path) -> None:
    broker = Linked()
    live, watched, endpoints = watched_service(tmp_path, broker)
    send(broker, BLOCKS)
    live.run(stop_when_idle(broker))
    sent = sum(b.samples.shape[1] for b in BLOCKS if b.key.machine == "fan-02")
    assert watched.telemetry.value("samples_received_total", "fan-02") == sent
    assert watched.telemetry.value("windows_total", "fan-02") > 0
    streams = [watched.telemetry.value("streams", state) for state in ("warming_up", "normal", "warning", "alarm")]
    assert sum(streams) == len({block.key for block in BLOCKS})
    assert watched.machines == {block.key.machine for block in BLOCKS}
    assert b"thrumcast_turn_seconds_count 0" not in endpoints.routes()["/metrics"]().body


def test_while_the_disk_refuses_it_is_alive_and_not_ready_and_then_ready_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.drivers.disk.RETRY_S", 0.01)
    broker = Linked()
    live, watched, endpoints = watched_service(tmp_path, broker)
    real, refusals, seen = live.journal.commit, iter(range(3)), []

    def commit(what: object) -> None:
        if next(refusals, None) is not None:
            seen.append((endpoints.routes()["/readyz"]().status, endpoints.routes()["/livez"]().status))
            assert balance(scraped(endpoints)) == 0
            raise ArchiveError("no space left on device")
        real(what)  # type: ignore[arg-type]

    monkeypatch.setattr(live.journal, "commit", commit)
    send(broker, BLOCKS[:4])
    live.run(lambda: len(broker.acknowledged) == 4)
    assert seen == [(200, 200), (503, 200), (503, 200)]  # the first time nobody knew yet
    assert endpoints.routes()["/readyz"]().status == 200
    assert watched.oldest_s is None


def test_while_a_roll_does_not_end_the_loop_is_alive_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in hand, because no more messages come, and the connection is served: only the turn tells."""
    monkeypatch.setattr(health, "TURN_S", 0.2)
    broker = Linked()
    live, watched, endpoints = watched_service(tmp_path, broker)
    live.rhythm = replace(live.rhythm, roll_rows=1)
    monkeypatch.setattr("pipeline.drivers.disk.PATIENCE_S", 0.0)
    seen: list[tuple[int, int, bool]] = []
    real = live.archive.roll

    def roll(*arguments: object) -> object:
        if not seen:
            for wait_s in (0.0, 0.5):
                time.sleep(wait_s)
                routes = endpoints.routes()
                in_hand = watched.oldest_s is not None
                seen.append((routes["/readyz"]().status, routes["/livez"]().status, in_hand))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(live.archive, "roll", roll)
    send(broker, BLOCKS[:4])
    live.run(lambda: len(seen) == 2)
    assert seen == [(200, 200, False), (503, 200, False)]
    live.turn(lambda: True)
    assert endpoints.routes()["/readyz"]().status == 200


def test_a_loop_that_hangs_beats_no_more(tmp_path: Path) -> None:
    _, watched, endpoints = watched_service(tmp_path, Linked())
    watched.beat_s = time.monotonic() - health.ALIVE_S - 1
    assert endpoints.routes()["/livez"]().status == 503


# -- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5.0)
        yield sock


def test_the_watchdog_is_fed_by_the_loop_and_by_nothing_else(tmp_path: Path, manager: socket.socket) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
    assert notifier.watchdog_s == 30.0
    broker = Linked()
    watched = LoopWatch(broker, Telemetry(), lambda _: notifier.send("WATCHDOG=1", "STATUS=well"), notify_every_s=0.0)
    watched.take(1, 0.0)
    assert manager.recv(100) == b"WATCHDOG=1\nSTATUS=well"
    manager.settimeout(0.05)
    with pytest.raises(TimeoutError):
        manager.recv(100)
    watched.service(0.0)  # a wait for the disk is a sign of life, too
    assert manager.recv(100).startswith(b"WATCHDOG=1")


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Notifier.from_environment({}).send("READY=1")
    Notifier(str(tmp_path / "nobody")).send("READY=1")
    assert (
        Notifier.from_environment({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_s is None
    )  # meant for another


def test_a_value_that_takes_long_is_worked_out_one_hundredth_of_the_time_and_a_quick_one_always() -> None:
    now, took_s, calls = [0.0], [0.5], []

    def work_out() -> int:
        now[0] += took_s[0]
        calls.append(now[0])
        return len(calls)

    value = Sparing(work_out, lambda: now[0])
    assert [value(), value()] == [1, 1]
    now[0] = 49.9
    assert value() == 1
    now[0] = 50.0
    assert value() == 2
    took_s[0], now[0] = 0.001, 200.0
    assert [value(), value(), value()] == [3, 4, 5]
