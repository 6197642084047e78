"""Promises of a service with several engine processes, whose number changes from start to start."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from harness.promises import check

from models.bundle import load
from models.registry import Registry
from pipeline.chaos import trials
from pipeline.chaos.ground import BACKLOG, Ground, Outcome
from pipeline.chaos.plant import Plant
from pipeline.chaos.process import ROOT
from pipeline.edges.store.database import view_journal
from pipeline.edges.store.read import read_predictions

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]
RUNS = ((1, "kill"), (2, "kill"), (3, "kill one"), (2, "stop"), (1, "stop"), (3, "kill"), (1, "kill"))
KILL_TIME_S = 5.0  # in which the processes of a service that was killed have ended


@pytest.fixture
def small(world: World) -> Iterator[Ground]:
    with world() as made:
        yield made


def processes(world: Ground) -> list[int]:
    """The engine processes of the newest run."""
    found = re.findall(r'"engines_started", "pids": "([\d,]+)"', world.service.log())
    return [int(pid) for pid in found[-1].split(",")]


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/stat").exists() and "Z" not in _state(pid) for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def changes(world: Ground, plant: Plant, runs: tuple[tuple[int, str], ...]) -> Outcome:
    """Each run has another number of processes and is killed, loses a process or is stopped, under load."""
    service, rng = world.service, np.random.default_rng(7)
    statuses: list[tuple[str, int]] = []
    slowest_s, orphans = 0.0, 0
    shares = np.array_split(np.arange(plant.messages), len(runs) + 1)
    for (count, harm), share in zip(runs, shares, strict=False):
        before = world.counter("messages_committed")
        service.start_and_listen(THRUMCAST_RUN__WORKERS=str(count))
        pids = processes(world) if count > 1 else []
        half = len(share) // 2
        world.send(plant, numbers=share[:half].tolist(), rate_per_s=400.0)
        service.wait_for(lambda before=before: world.counter("messages_committed") > before, "a commit of this run")
        world.send(plant, numbers=share[half:].tolist(), rate_per_s=1000.0, confirmed=harm == "stop")
        if harm == "kill one":
            os.kill(int(rng.choice(pids)), signal.SIGKILL)
            service.wait_for(lambda: not service.running, "the end of a service that has lost a process")
            assert service.process is not None
            statuses.append((harm, service.process.returncode))
        elif harm == "kill":
            service.kill()
            began_s = time.monotonic()
            while not are_gone(pids) and time.monotonic() - began_s < KILL_TIME_S:
                time.sleep(0.05)
        else:
            status, seconds = service.stop()
            statuses.append((harm, status))
            slowest_s = max(slowest_s, seconds)
        orphans += not are_gone(pids)
    service.start_and_listen(THRUMCAST_RUN__WORKERS="2")
    world.send(plant, numbers=shares[-1].tolist(), rate_per_s=400.0)
    expected = world.expected(plant.blocks())
    world.wait_for_windows(len(expected.features))
    statuses.append(("stop", service.stop()[0]))
    result = world.audit(expected)
    came = result.counters["messages_committed"]
    kept = result.clean and came == plant.messages and orphans == 0 and slowest_s < 10
    kept = kept and set(statuses) <= {("stop", 0), ("kill one", 1)}
    counts = ", ".join(f"{count} ({harm})" for count, harm in runs)
    figures = (
        f"{plant.messages} messages, processes {counts}: {result.text()}; slowest stop {slowest_s:.1f} s, "
        f"{orphans} processes left over, statuses {statuses}"
    )
    return world.outcome(1, "Another number of processes at every start", kept, figures)


def test_another_number_of_processes_at_every_start_loses_nothing_and_doubles_nothing(small: Ground) -> None:
    check(changes(small, Plant(messages=2400), RUNS[:5]))


@pytest.mark.slow
def test_thirty_runs_with_other_numbers_of_processes(world: World) -> None:
    with world(broker_config=BACKLOG) as roomy:
        check(changes(roomy, Plant(messages=24_000), RUNS * 4))


@pytest.mark.slow
def test_kills_of_a_service_of_two_processes_lose_nothing_and_double_nothing(world: World) -> None:
    with world(settings={"THRUMCAST_RUN__WORKERS": "2"}) as made:
        check(trials.kills(made, Plant(messages=6400), count=10))


@pytest.mark.slow
def test_exits_of_a_service_of_two_processes_at_the_steps_of_a_turn(world: World) -> None:
    with world(settings={"THRUMCAST_RUN__WORKERS": "2"}) as made:
        check(trials.exits(made, ["turn_taken", "turn_stepped", "turn_committed", "turn_acknowledged"]))


def test_a_process_that_hangs_makes_the_service_unready_and_another_model_reaches_every_process(small: Ground) -> None:
    service, plant = small.service, Plant(messages=1200)
    service.start_and_listen(THRUMCAST_RUN__WORKERS="2")
    small.send(plant, numbers=range(400), rate_per_s=400.0)
    small.wait_for_messages(400)
    victim = processes(small)[0]
    os.kill(victim, signal.SIGSTOP)
    small.send(plant, numbers=range(400, 800), rate_per_s=400.0)
    service.wait_for(lambda: not service.scrapes.ready[-1][1], "a service that is not ready")
    os.kill(victim, signal.SIGCONT)
    service.wait_for(lambda: service.scrapes.ready[-1][1], "a service that is ready again")
    small.wait_for_messages(800)
    registry = Registry(small.data_dir)
    registry.point("champion", registry.add(load(ROOT / "models" / "pretrained")), why="the same again")
    service.wait_for(lambda: "model_switched" in service.log(), "the other model")
    small.send(plant, numbers=range(800, 1200), rate_per_s=400.0)
    expected = small.expected(plant.blocks())
    small.wait_for_windows(len(expected.features))
    with urllib.request.urlopen(f"http://{service._web}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert [f'thrumcast_engine_streams{{engine="{i}"}} 4.0' in metrics for i in (0, 1)] == [True, True]
    assert service.stop()[0] == 0
    result = small.audit(expected)
    assert result.clean, result
    models = read_predictions(small.data_dir).column("model").to_pylist()
    assert set(models) == {"v0001", "v0002"}
    assert small.outcome(1, "", True, "").kept  # the account was right at every scrape
    assert view_journal(small.data_dir).pending["features"].rows == 0
