"""All faults at random against an undisturbed twin that is fed the same messages: one minute, or hours by an option."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from harness import faultfs
from harness.grammar import CLIENT, PAYLOADS, wild_messages
from harness.promises import check

from pipeline.chaos.ground import BACKLOG, Ground
from pipeline.chaos.plant import Plant
from pipeline.edges.store.read import read_kind
from pipeline.errors import ThrumcastError
from pipeline.service.upkeep import compacted

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]
RATE_PER_S = 100.0
SESSIONS = 4  # the sensors restart; the later ones have channels that nobody has seen
FAULT_EVERY_S = 2.0
DISK = ("write ENOSPC", "write EIO 0.3", "fsync EIO", "fsync sleep 0.3", "rename EIO")
MOST_GROWTH_MB = 150


def test_a_minute_of_all_faults_leaves_the_archive_of_an_undisturbed_twin(world: World, tmp_path: Path) -> None:
    all_faults(world, tmp_path, seconds=45, seed=4)


@pytest.mark.slow
def test_hours_of_all_faults(world: World, tmp_path: Path) -> None:
    """THRUMCAST_HOURS=6 for the long form; ten minutes otherwise."""
    seed = int(os.environ.get("THRUMCAST_SEED", time.time()))
    all_faults(world, tmp_path, seconds=3600 * float(os.environ.get("THRUMCAST_HOURS", 1 / 6)), seed=seed)


class Faults:
    """One fault after the other, at random times, while the plant sends."""

    def __init__(self, world: Ground, layer: faultfs.FaultFS, seed: int) -> None:
        self.world, self.layer, self.chance = world, layer, random.Random(seed)
        self.done: Counter[str] = Counter()
        self._wild = wild_messages(10**9, seed)
        self._next_s = self._healed_s = 0.0
        self._connections = 0  # of the runs before the present one

    def harm(self, number: int) -> None:
        """Before a message is sent."""
        now_s = time.monotonic()
        if self._healed_s and now_s > self._healed_s:
            self._heal()
        if now_s < self._next_s:
            return
        assert self.world.service.running, f"it ended by itself: {self.world.service.log()[-2000:]}"
        self._next_s = now_s + self.chance.expovariate(1 / FAULT_EVERY_S)
        fault = self.chance.choice((self.kill, self.stop, self.freeze, self.broker, self.disk, self.wild, self.reload))
        fault()
        self.done[fault.__name__] += 1

    def kill(self) -> None:
        self._heal()  # a start on a disk that refuses is an error, and ends
        self.world.service.kill()
        self._start()

    def stop(self) -> None:
        self._heal()
        status, seconds = self.world.service.stop()
        assert (status in (0, -signal.SIGTERM), seconds < 30) == (True, True), (status, seconds)
        self._start()

    def freeze(self) -> None:
        process = self.world.service.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 1.0))
        process.send_signal(signal.SIGCONT)

    def broker(self) -> None:
        self.world.broker.restart()

    def disk(self) -> None:
        if not self._listens():
            return
        self.layer.order(self.chance.choice(DISK))
        self._healed_s = time.monotonic() + self.chance.uniform(0.2, 2.0)

    def wild(self) -> None:
        for _ in range(20):
            topic, payload, retained = next(self._wild)
            if not topic.startswith("plant/main/pump-"):
                self.world.publisher.publish(topic, payload, retain=retained)

    def reload(self) -> None:
        process = self.world.service.process
        if process is not None and self._listens():
            process.send_signal(signal.SIGHUP)

    def _start(self) -> None:
        self._connections = self.world.service.connections()
        self.world.service.start()

    def _listens(self) -> bool:
        return self.world.service.connections() > self._connections

    def _heal(self) -> None:
        self.layer.order("")
        self._healed_s = 0.0


def all_faults(world: World, tmp_path: Path, *, seconds: float, seed: int) -> None:
    (tmp_path / "config.toml").write_text(PAYLOADS)
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data")
    settings = layer.environment | {"THRUMCAST_MQTT__CLIENT_ID": CLIENT, "THRUMCAST_MQTT__COMMANDS": "true"}
    with world(settings=settings, broker_config=BACKLOG) as made:
        service = made.service
        service.directory = tmp_path
        service.start_and_listen()
        each = int(seconds * RATE_PER_S / SESSIONS) // 8 * 8
        plants = [
            Plant(messages=each, session=1 + n, extra=tuple(f"c{k}" for k in range(n // 2))) for n in range(SESSIONS)
        ]
        first = replace(plants[0], messages=80, _pool=[])
        made.send(first)
        made.wait_for_messages(80)
        before = service.rss_bytes()
        plants[0] = first.after(each - 80)
        faults = Faults(made, layer, seed)
        for plant in plants:
            made.send(plant, before=faults.harm, rate_per_s=RATE_PER_S, confirmed=False)
        layer.order("")
        made.publisher.drain()
        assert service.running, service.log()[-2000:]
        expected = made.expected(first.blocks(), *(plant.blocks() for plant in plants))
        made.wait_until_heard()
        grown = (service.largest_rss_bytes - before) >> 20
        status, _ = service.stop()
        result = made.audit(expected)
        wild, result.unexpected = result.unexpected, 0
        files = merged(made)
        kept = result.clean and status == 0 and grown < MOST_GROWTH_MB and not files
        figures = (
            f"{SESSIONS * each} messages in {seconds:.0f} s, seed {seed}, {dict(faults.done)}: {result.text()}, "
            f"{len(expected.alarms)} changes of alarms, {wild} windows of wild streams; memory {grown:+d} MB at most; "
            f"left over by the faults: {files or 'no file'}"
        )
        check(made.outcome(13, "All faults at random", kept and len(faults.done) > 5, figures))


def merged(made: Ground) -> list[str]:
    """Files that the faults have left: a merged archive has one part per kind and day, as that of the twin has."""
    with suppress(ThrumcastError):
        compacted(made.data_dir)
    root = made.data_dir / "archive"
    days = Counter(path.parent for path in root.glob("*/date=*/*.parquet"))
    left = [str(path.relative_to(root)) for path in (root / ".staging").rglob("*")]
    left += [str(path) for path, count in days.items() if count > 1]
    assert read_kind(made.data_dir, "features").num_rows
    return left
