"""Trials of the service's life: kills, exits at fault points, stops, a long queue, a second service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipeline.chaos.ground import RATE_PER_S, Ground, Outcome, reading
from pipeline.chaos.plant import Plant
from pipeline.chaos.process import Service

STARTS_HIT = 0.2  # share of the starts that are killed within START_S; as many are killed after they have connected
START_S = 2.0
AIMED = 3  # every third kill waits for a commit, so that some kills fall between a commit and its acknowledgements
ENOUGH = 50  # with this many kills, some messages must have come twice


@dataclass
class Hits:
    """How many kills hit a service in which state."""

    at_work: int = 0  # it had committed since its start
    under_way: int = 0  # it had committed, and sent messages were not yet committed
    starting: int = 0  # it had not connected
    fresh: int = 0  # it had connected and committed nothing
    down: int = 0  # messages that were sent while no service ran

    def text(self) -> str:
        """The counts in words."""
        return (
            f"{self.at_work} kills of a service that had committed since its start, {self.under_way} of them with "
            f"messages under way, {self.starting} while it started and {self.fresh} between connection and first "
            f"commit; {self.down} messages sent while it was down"
        )


def kills(world: Ground, plant: Plant, *, count: int, rate_per_s: float = RATE_PER_S, seed: int = 20240229) -> Outcome:
    """SIGKILL at random moments: while the service works, and sometimes while it starts. A reader opens every file.

    The messages are divided among the kills. Some are sent while the service starts, most after its first commit, with
    the kill among them, and a few after the kill, while no service runs.
    """
    rng, service, hits = np.random.default_rng(seed), world.service, Hits()
    shares = np.array_split(np.arange(plant.messages), count + 1)  # the last share is sent after the last kill
    before = (0, 0)  # connections and commits before the present run of the service
    service.start_and_listen()
    with reading(world.data_dir) as seen:
        for number, share in enumerate(shares[:-1]):
            while_starting, at_work = share[: len(share) // 3], share[len(share) // 3 :]
            world.send(plant, numbers=while_starting.tolist(), rate_per_s=rate_per_s)
            service.wait_for(partial(_works_again, world, before), "a commit of this run")
            last = int(rng.choice(at_work))
            world.send(plant, numbers=range(int(at_work[0]), last), rate_per_s=rate_per_s, confirmed=False)
            if number % AIMED == AIMED - 1:
                _wait_for_a_commit(world)
            hits.at_work += service.kill()
            before = _done(world)
            hits.under_way += world.sent > before[1]
            unheard = range(last, int(share[-1]) + 1)
            world.send(plant, numbers=unheard, rate_per_s=rate_per_s)
            hits.down += len(unheard)
            service.start()
            if (drawn := rng.random()) < 2 * STARTS_HIT:
                if drawn < STARTS_HIT:
                    time.sleep(rng.uniform(0.0, START_S))
                else:
                    service.wait_for(partial(_connected_again, world, before), "a connection of this run")
                struck, then, before = service.kill(), before, _done(world)
                hits.starting += struck and before[0] == then[0]
                hits.fresh += struck and before[0] > then[0] and before[1] == then[1]
                service.start()
        world.send(plant, numbers=shares[-1].tolist(), rate_per_s=rate_per_s)
        expected = world.expected(plant.blocks())
        world.wait_for_windows(len(expected.features))
        status, _ = service.stop()
    result = world.audit(expected)
    came = result.counters["messages_committed"]
    twice = result.counters.get("messages_duplicate", 0)
    kept = result.clean and status == 0 and came == plant.messages and not seen["unreadable"] and not seen["doubled"]
    # Kills that hit no working service prove nothing.
    hit = hits.at_work == count and hits.under_way > 0 and hits.down >= 5 * count
    hit = hit and (count < ENOUGH or (3 * hits.under_way > count and min(twice, hits.starting, hits.fresh) > 0))
    figures = (
        f"{plant.messages} messages: {hits.text()}; {result.text()}; {twice} messages came twice; a reader looked "
        f"{seen['passes']} times, {seen['opened']} files read: {len(seen['unreadable'])} unreadable, "
        f"{seen['doubled']} doubled rows"
    )
    return world.outcome(1, "SIGKILL at random moments", kept and hit, figures)


def _done(world: Ground) -> tuple[int, int]:
    """How many connections the service has made and how many messages it has committed, over all its runs."""
    return world.service.connections(), world.counter("messages_committed")


def _wait_for_a_commit(world: Ground, patience_s: float = 0.5) -> None:
    """Returns right after the next commit, or after `patience_s`, because there may be nothing left to commit."""
    before, began_s = world.counter("messages_committed"), time.monotonic()
    while world.counter("messages_committed") == before and time.monotonic() - began_s < patience_s:
        pass


def _connected_again(world: Ground, before: tuple[int, int]) -> bool:
    """Whether the service has connected since."""
    return world.service.connections() > before[0]


def _works_again(world: Ground, before: tuple[int, int]) -> bool:
    """Whether the service has connected and committed since."""
    return all(now > then for now, then in zip(_done(world), before, strict=True))


def exits(world: Ground, points: Sequence[str], *, messages: int = 320, in_a_row: Sequence[int] = (1, 2)) -> Outcome:
    """The process dies at each of these fault points, as many times in a row as `in_a_row` says."""
    plants: list[Plant] = []
    died = 0
    service = world.service
    if any("rewrite" in point for point in points):  # only older parts are rewritten
        plants.append(Plant(messages=messages, session=1000))
        service.start_and_listen()
        world.send(plants[-1])
        service.stop()
    for number, (point, times) in enumerate((point, times) for point in points for times in in_a_row):
        # A new channel makes the archive rewrite its older parts.
        extra = (f"c{number}",) if "rewrite" in point else ()
        plants.append(Plant(messages=messages, session=1 + number, extra=extra))
        service.start_and_listen(THRUMCAST_FAULT_AT=point)
        world.send(plants[-1])
        for turn in range(times):
            if turn:
                service.start(THRUMCAST_FAULT_AT=point)
                plants.append(Plant(messages=160, session=1001 + number, extra=tuple(f"{name}b" for name in extra)))
                world.send(plants[-1])  # work for the new run, in case everything was done
            service.wait_for(lambda: not service.running, f"an exit at {point}")
            died += service.process is not None and service.process.returncode == 137
        service.start_and_listen()
        status, _seconds = service.stop()
    service.start_and_listen()
    expected = world.expected(*(plant.blocks() for plant in plants))
    world.wait_for_windows(len(expected.features))
    status, _seconds = service.stop()
    result = world.audit(expected)
    kept = result.clean and status == 0 and died == len(points) * sum(in_a_row)
    rows = " and ".join(str(times) for times in in_a_row)
    figures = f"{died} exits at {len(points)} places, {rows} in a row: {result.text()}"
    return world.outcome(2, "Exit at every step", kept, figures)


def stops(world: Ground, plant: Plant, *, count: int, rate_per_s: float = RATE_PER_S) -> Outcome:
    """SIGTERM under load: the stop is quick, and no committed message comes again."""
    service = world.service
    every = plant.messages // (count + 1)
    slowest_s = 0.0
    statuses: set[tuple[int, int]] = set()

    def harm(number: int) -> None:
        nonlocal slowest_s
        if number and number % every == 0 and len(statuses) < count + 1:
            status, seconds = service.stop()
            statuses.add((number, status))
            slowest_s = max(slowest_s, seconds)
            service.start_and_listen()

    service.start_and_listen()
    world.send(plant, rate_per_s=rate_per_s, before=harm)
    expected = world.expected(plant.blocks())
    world.wait_for_windows(len(expected.features))
    status, seconds = service.stop()
    slowest_s = max(slowest_s, seconds)
    result = world.audit(expected)
    again = result.counters.get("messages_duplicate", 0)
    kept = result.clean and again == 0 and slowest_s < 10 and {s for _, s in statuses} | {status} == {0}
    figures = f"{len(statuses) + 1} stops under load, slowest {slowest_s:.1f} s: {result.text()}; {again} came twice"
    return world.outcome(10, "SIGTERM", kept, figures)


def queued(world: Ground, plant: Plant) -> Outcome:
    """A start with a long queue at the broker: the first commit comes soon, and nothing is lost."""
    service = world.service
    service.start_and_listen()
    service.stop()
    world.send(plant, rate_per_s=20_000)
    began_s = time.monotonic()
    service.start()
    service.wait_for(lambda: world.counter("messages_received") > 0, "the first commit")
    first_s = time.monotonic() - began_s
    expected = world.expected(plant.blocks())
    all_s = first_s + world.wait_for_windows(len(expected.features))
    service.stop()
    result = world.audit(expected)
    figures = f"{plant.messages} queued: first commit after {first_s:.1f} s, all after {all_s:.1f} s: {result.text()}"
    return world.outcome(10, "Start with a long queue", result.clean and first_s < 10, figures)


def rivals(world: Ground, plant: Plant, *, watch_s: float = 6.0) -> Outcome:
    """A second service on the same data directory, and one under the same client id."""
    service = world.service
    service.start_and_listen()
    half = plant.messages // 2 // plant.streams * plant.streams
    same_place = Service(world.data_dir, world.broker.port, {**service.settings, "THRUMCAST_MQTT__CLIENT_ID": "rival"})
    log_before = len(service.log())
    same_place.start()
    same_place.wait_for(lambda: not same_place.running, "the end of the second process on one data directory")
    refused = same_place.process is not None and same_place.process.returncode != 0
    refused = refused and "held by process" in service.log()[log_before:]
    world.send(replace(plant, messages=half, _pool=[]))
    # Another address of the broker, as if from another machine. With the same one a local lock would refuse it first.
    other = Service(world.directory / "other", world.broker.port, service.settings, host="0.0.0.0")
    with other.watched():
        other.start_and_listen()
        service.wait_for(lambda: not service.running, "the end of the replaced service", patience_s=30)
        fenced = service.process is not None and service.process.returncode == 3 and "client id" in service.log()
        made = service.connections() + other.connections()
        time.sleep(watch_s)
        quiet = service.connections() + other.connections() <= made + 1  # the winner may come back once
        world.send(replace(plant, messages=plant.messages - half, first_block=half // plant.streams, _pool=[]))

        def total() -> int:
            return world.counter("messages_committed") + _committed(other)

        other.wait_for(lambda: total() >= plant.messages, "every message to be committed by one of the two")
        other.stop()
    figures = (
        f"same data directory: {'' if refused else 'NOT '}refused by name; same client id: the older one "
        f"{'ended' if fenced else 'did NOT end'}, {made} connections until then, {'' if quiet else 'NOT '}quiet for "
        f"{watch_s:g} s after; {total()} of {plant.messages} committed"
    )
    return world.outcome(8, "A second process", refused and fenced and quiet and total() == plant.messages, figures)


def _committed(service: Service) -> int:
    from pipeline.edges.store.database import view_journal

    view = view_journal(service.data_dir, ()) if (service.data_dir / "journal.db").exists() else None
    return 0 if view is None else view.counters.get("messages_committed", 0)
