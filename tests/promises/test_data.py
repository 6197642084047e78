"""Promises about what arrives: copies, disorder, rubbish, other sessions, damaged journals, brokers that lose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from harness.promises import check

from pipeline.chaos import trials_data as trials
from pipeline.chaos import trials_disk
from pipeline.chaos.ground import RATE_PER_S, Ground, Outcome
from pipeline.chaos.plant import SAMPLES, Plant

pytestmark = pytest.mark.network
World = Callable[..., AbstractContextManager[Ground]]


def test_a_broker_that_restarts_loses_nothing(world: World) -> None:
    with world() as made:
        check(trials.broker_restarts(made, Plant(messages=800), count=1))


@pytest.mark.slow
def test_twenty_restarts_of_the_broker_lose_nothing(world: World) -> None:
    with world() as made:
        check(trials.broker_restarts(made, Plant(messages=16_000), count=20))


@pytest.mark.slow
def test_what_a_full_queue_drops_is_counted_to_the_sample(world: World) -> None:
    with world(broker_config="max_queued_messages 500\n") as made:
        check(trials.broker_losses(made, Plant(messages=3200), how="overflow"))


@pytest.mark.slow
def test_what_a_killed_broker_forgets_is_counted_to_the_sample(world: World) -> None:
    with world() as made:
        check(trials.broker_losses(made, Plant(messages=3200), how="killed"))


def broker_forgets(world: Ground, plant: Plant, *, kill: bool) -> Outcome:
    """A broker without persistence is restarted under a running service: an event, and gaps to the sample."""
    service = world.service
    service.start_and_listen()
    third = replace(plant, messages=plant.messages // 3 // plant.streams * plant.streams, _pool=[])
    world.send(third)
    world.wait_for_messages(third.messages)
    before = service.connections()
    world.broker.restart(kill=kill)
    lost = third.after(third.messages)
    world.send(lost, rate_per_s=4 * RATE_PER_S)  # while nobody has subscribed, or in part
    service.wait_for(lambda: service.connections() > before, "a new connection")
    world.wait_until_heard()  # it has subscribed again
    tail = lost.after(trials.TAIL * plant.streams)
    world.send(tail)
    sent = third.messages + lost.messages + tail.messages
    world.wait_until_heard()
    status, _ = service.stop()
    missing, counted = sent - world.counter("messages_committed"), world.counter("gap_samples")
    events = world.counter("link_session_lost")
    kept = counted == missing * SAMPLES and missing > 0 and events == 1 and status == 0
    how = "killed" if kill else "restarted"
    figures = (
        f"{how} without persistence: {missing} of {sent} messages gone, {missing * SAMPLES} samples missing, "
        f"{counted} counted, {events} session_lost event"
    )
    return world.outcome(3, "A broker that forgets the session", kept, figures)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "restarted"])
def test_a_broker_that_forgets_the_session_of_a_running_service_is_an_event_and_counted_to_the_sample(
    world: World, kill: bool
) -> None:
    with world(broker_config="persistence false\n") as made:
        check(broker_forgets(made, Plant(messages=2400), kill=kill))


def test_copies_and_disorder_within_the_bound_change_nothing(world: World) -> None:
    with world() as made:
        check(trials.copies(made, Plant(messages=1200)))


@pytest.mark.slow
def test_copies_and_disorder_of_many_messages_change_nothing(world: World) -> None:
    with world() as made:
        check(trials.copies(made, Plant(messages=16_000)))


@pytest.mark.slow
def test_what_comes_beyond_the_bound_is_late_and_counted_exactly(world: World) -> None:
    with world() as made:
        check(trials.beyond_the_bound(made, Plant(messages=2400)))


def test_rubbish_is_quarantined_and_good_streams_beside_it_are_untouched(world: World) -> None:
    with world() as made:
        check(trials.hostile(made, Plant(messages=800), count=3000))


@pytest.mark.slow
def test_a_hundred_thousand_payloads_of_rubbish_stop_nothing(world: World) -> None:
    with world() as made:
        check(trials.hostile(made, Plant(messages=8000), count=100_000))


def test_reboots_other_rates_and_clocks_that_step_never_make_a_wrong_window(world: World) -> None:
    with world() as made:
        check(trials.other_sessions(made, Plant(messages=320)))


def test_a_damaged_journal_is_named_and_never_silently_different(world: World) -> None:
    with world() as made:
        check(trials_disk.damaged_journal(made, Plant(messages=320), count=100))


@pytest.mark.slow
def test_two_thousand_damages_of_a_journal(world: World) -> None:
    with world() as made:
        check(trials_disk.damaged_journal(made, Plant(messages=320), count=2000))
