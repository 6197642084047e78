"""Promises about the service's own life: kills, exits, stops, restarts, rivals. Long forms: `make promises`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fault_points import fault_points
from harness.promises import check

from pipeline.chaos import trials
from pipeline.chaos.ground import BACKLOG, Ground, Outcome
from pipeline.chaos.plant import Plant
from pipeline.chaos.process import Service
from pipeline.edges.broker import PrivateBroker

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]
# Places of the service's own turn and roll; those of archive upkeep have tests of their own.
SERVICE = ("drivers/live.py", "edges/store/journal.py", "edges/store/archive.py")
PLACES = [name for name in fault_points(*SERVICE) if not name.startswith("append_")]


@pytest.fixture
def small(world: World) -> Iterator[Ground]:
    with world() as made:
        yield made


def test_ten_kills_at_random_moments_lose_nothing_and_double_nothing(small: Ground) -> None:
    check(trials.kills(small, Plant(messages=6400), count=10))


@pytest.mark.slow
def test_a_hundred_kills_in_sixty_thousand_messages_lose_nothing_and_double_nothing(world: World) -> None:
    with world(broker_config=BACKLOG) as roomy:  # on a busy machine more waits than fits otherwise
        check(trials.kills(roomy, Plant(messages=60_000), count=100))


def test_an_exit_between_commit_and_acknowledgement_changes_nothing(small: Ground) -> None:
    check(trials.exits(small, ["turn_committed"]))


@pytest.mark.slow
@pytest.mark.parametrize("places", [PLACES[i : i + 4] for i in range(0, len(PLACES), 4)], ids="-".join)
def test_an_exit_at_any_step_twice_in_a_row_changes_nothing(small: Ground, places: list[str]) -> None:
    check(trials.exits(small, places))


def test_a_stop_under_load_is_quick_and_nothing_committed_comes_again(small: Ground) -> None:
    check(trials.stops(small, Plant(messages=1200), count=2))


@pytest.mark.slow
def test_twenty_stops_under_load(small: Ground) -> None:
    check(trials.stops(small, Plant(messages=16_000), count=20))


def restarts(world: Ground, plant: Plant, *, count: int = 10) -> Outcome:
    """As many restarts as seconds, by turns killed and stopped."""
    service = world.service
    service.start_and_listen()
    every = max(1, plant.messages // (count + 1))
    times_s: list[float] = []

    def harm(number: int) -> None:
        if number and number % every == 0 and service.starts <= count:
            times_s.append(time.monotonic())
            if service.starts % 2:
                service.kill()
            else:
                service.stop()
            service.start()

    world.send(plant, rate_per_s=1000.0, before=harm)
    took_s = times_s[-1] - times_s[0]
    expected = world.expected(plant.blocks())
    world.wait_for_windows(len(expected.features))
    service.stop()
    result = world.audit(expected)
    figures = f"{service.starts - 1} restarts in {took_s:.1f} s: {result.text()}"
    return world.outcome(10, "Restarts in quick succession", result.clean and service.starts > count, figures)


@pytest.mark.slow
def test_ten_restarts_in_quick_succession_lose_nothing(small: Ground) -> None:
    check(restarts(small, Plant(messages=4000)))


@pytest.mark.slow
def test_a_start_with_ten_thousand_messages_queued_commits_soon(world: World) -> None:
    with world(broker_config=BACKLOG) as roomy:
        check(trials.queued(roomy, Plant(messages=10_000)))


def test_a_second_process_is_refused_or_takes_over_for_good(small: Ground) -> None:
    found = trials.rivals(small, Plant(messages=800))
    check(found)
    assert "True" not in found.figures  # what came of it is said in words


@pytest.mark.usefixtures("compiled")
def test_on_one_machine_a_second_service_under_one_client_id_is_refused_whatever_the_broker(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    first, second = Service(tmp_path / "first", broker.port), Service(tmp_path / "second", broker.port)
    with first.watched(), second.watched():
        first.start_and_listen()
        second.start()
        second.wait_for(lambda: not second.running, "the end of the second")
        assert second.process is not None
        assert first.process is not None
        assert second.process.returncode == 3
        assert f"'thrumcast', found it held by process: {first.process.pid}" in second.log()
        assert first.connections() == 1
        assert first.stop()[0] == 0
        second.start_and_listen()
