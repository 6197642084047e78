"""Promises about disks that are full, broken or slow, with a file layer that fails on demand under the real service."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from harness import faultfs
from harness.promises import check
from harness.proxy import Proxy

from pipeline.chaos import trials, trials_disk
from pipeline.chaos.ground import BACKLOG, Ground, Outcome
from pipeline.chaos.plant import Plant

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]


def refusing(world: World, tmp_path: Path, order: str, *, seconds: float, messages: int = 1600) -> Outcome:
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data")
    with world(settings=layer.environment) as made, Proxy(made.broker.port) as proxy:
        made.service.port = proxy.port
        return trials_disk.refusing_disk(
            made,
            Plant(messages=messages),
            refuse=lambda on: layer.order(order if on else ""),
            seconds=seconds,
            name=order,
            acknowledged=lambda: proxy.pubacks,
        )


def test_a_full_disk_stops_nothing_but_the_acknowledgements(world: World, tmp_path: Path) -> None:
    check(refusing(world, tmp_path, "write ENOSPC", seconds=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", ["write EIO", "write EROFS", "fsync EIO", "fsync ENOSPC", "write ENOSPC 0.3", "fsync EIO 0.3"]
)
def test_a_broken_disk_stops_nothing_but_the_acknowledgements(world: World, tmp_path: Path, order: str) -> None:
    check(refusing(world, tmp_path, order, seconds=8))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["rename ENOSPC", "rename EIO"])
def test_a_part_that_cannot_be_renamed_waits_in_the_journal(world: World, tmp_path: Path, order: str) -> None:
    check(refusing(world, tmp_path, order, seconds=8))


def slow(world: World, tmp_path: Path, seconds: float, messages: int) -> Outcome:
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data")
    with world(settings=layer.environment | {"THRUMCAST_MQTT__KEEPALIVE_S": "5"}) as made:
        plant = Plant(messages=messages)
        made.service.start_and_listen()
        layer.order(f"fsync sleep {seconds}")
        made.send(plant)
        expected = made.expected(plant.blocks())
        took_s = made.wait_for_windows(len(expected.features))
        connections = made.service.connections()
        status, stop_s = made.service.stop()
        result = made.audit(expected)
        kept = result.clean and status == 0 and connections == 1 and stop_s < 10
        figures = f"fsync takes {seconds:g} s: {connections - 1} disconnects at a keep-alive of 5 s, {result.text()}"
        figures += f", all stored {took_s:.1f} s after the last message, stopped in {stop_s:.1f} s"
        return made.outcome(6, "A slow disk", kept, figures)


def test_a_slow_disk_makes_it_slower_and_not_wrong(world: World, tmp_path: Path) -> None:
    check(slow(world, tmp_path, 0.5, 400))


@pytest.mark.slow
def test_a_very_slow_disk_makes_it_slower_and_not_wrong(world: World, tmp_path: Path) -> None:
    check(slow(world, tmp_path, 2.0, 1600))


def test_a_label_on_a_disk_that_hangs_holds_up_neither_connection_nor_acknowledgements(
    world: World, tmp_path: Path
) -> None:
    """Only the labels' folder hangs, for two keep-alives and more: what is in the journal is acknowledged meanwhile."""
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data" / "labels")
    settings = layer.environment | {"THRUMCAST_MQTT__KEEPALIVE_S": "3", "THRUMCAST_MQTT__COMMANDS": "true"}
    label = {"machine": "pump-00", "mode": "unbalance", "from": "2026-05-01T10:00:00Z", "to": "2026-05-01T12:00:00Z"}
    with world(settings=settings) as made, Proxy(made.broker.port) as proxy:
        made.service.port = proxy.port
        made.service.start_and_listen()
        first = Plant(messages=400)
        made.send(first)
        made.wait_for_messages(400)
        layer.order("fsync hold")
        rest = first.after(80)
        for number in range(rest.messages):
            made.publisher.publish(*rest.message(number))
        made.publisher.publish("thrumcast/cmd/label", json.dumps(label).encode())
        acknowledged_s = made.service.wait_for(lambda: proxy.pubacks >= 480, "the readings' acknowledgements")
        made.wait_for_messages(481)
        time.sleep(6.0)
        early = proxy.pubacks - 480
        layer.order("")
        made.service.wait_for(lambda: proxy.pubacks >= 481, "the label's acknowledgement")
        expected = made.expected(first.blocks(), rest.blocks())
        connections = made.service.connections()
        made.service.stop()
        result = made.audit(expected)
        kept = result.clean and connections == 1 and not early
        figures = (
            f"readings acknowledged after {acknowledged_s:.1f} s, the label once its fsync was let go, 6 s later; "
            f"{connections - 1} disconnects at a keep-alive of 3 s: {result.text()}"
        )
        check(made.outcome(6, "A label on a disk that hangs", kept, figures))


@pytest.mark.slow
def test_a_stop_on_a_very_slow_disk_is_quick_all_the_same(world: World, tmp_path: Path) -> None:
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data")
    with world(settings=layer.environment) as made:
        layer.order("fsync sleep 2")
        check(trials.stops(made, Plant(messages=3200), count=7, rate_per_s=80.0))


@pytest.mark.slow
def test_a_sink_that_hangs_for_a_while_keeps_memory_and_connection(world: World, tmp_path: Path) -> None:
    """Writes hang in the kernel while ten minutes' worth of messages come."""
    layer = faultfs.build(tmp_path, tmp_path / "trial" / "data")
    with world(settings=layer.environment, broker_config=BACKLOG) as made:
        plant = Plant(messages=48_800)
        check(
            trials_disk.stalled(made, plant, refuse=lambda on: layer.order("write hold" if on else ""), rate_per_s=1200)
        )


@pytest.mark.slow
def test_a_consumer_that_is_frozen_keeps_memory_and_goes_on_where_it_was(world: World) -> None:
    with world(broker_config=BACKLOG) as made:

        def freeze(on: bool) -> None:
            assert made.service.process is not None
            made.service.process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

        plant = Plant(messages=10_400)
        check(trials_disk.stalled(made, plant, refuse=freeze, rate_per_s=800, frozen=True))


@pytest.mark.slow
def test_a_sink_that_refuses_keeps_memory_and_connection(world: World) -> None:
    with world(broker_config=BACKLOG) as made:
        check(trials_disk.stalled(made, Plant(messages=4000), rate_per_s=800))


@pytest.mark.slow
def test_a_real_file_system_that_is_full_stops_nothing_but_the_acknowledgements(world: World, tmp_path: Path) -> None:
    """A small file system in memory, filled to the brim; needs the right to mount."""
    place = tmp_path / "trial" / "data"
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount")
    ballast = place / "ballast"

    def fill(on: bool) -> None:
        if not on:
            ballast.unlink()
            return
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return  # full: what we want

    try:
        with world() as made:
            check(trials_disk.refusing_disk(made, Plant(messages=1600), refuse=fill, seconds=8, name="a full tmpfs"))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
