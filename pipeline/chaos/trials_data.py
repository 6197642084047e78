"""Trials of what arrives: restarts and losses of the broker, copies, disorder, rubbish, new sessions."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from pipeline.chaos.ground import RATE_PER_S, Ground, Outcome
from pipeline.chaos.plant import RATE_HZ, SAMPLES, Plant, topic_of
from pipeline.chaos.rubbish import is_refused, rubbish
from pipeline.config.tables import ArchiveConfig
from pipeline.core.codec import encode

MOST_MEMORY_MB = 800  # of a service that receives rubbish; it takes 200 MB otherwise, and 5,500 MB without its limits
UNDER_WAY = 20_000  # rubbish messages that may wait at the broker, which drops messages beyond 256 MiB
TAIL = 40  # blocks per stream that declare what is missing before them


def broker_restarts(world: Ground, plant: Plant, *, count: int) -> Outcome:
    """The broker is stopped and started again, with its sessions on disk."""
    every = plant.messages // (count + 1)
    slowest_s, done = 0.0, 0
    service = world.service

    def harm(number: int) -> None:
        nonlocal slowest_s, done
        if number and number % every == 0 and done < count:
            before = service.connections()
            world.broker.restart()
            slowest_s = max(slowest_s, service.wait_for(lambda: service.connections() > before, "a new connection"))
            done += 1

    service.start_and_listen()
    world.send(plant, before=harm)
    expected = world.expected(plant.blocks())
    world.wait_for_windows(len(expected.features))
    status, _ = service.stop()
    result = world.audit(expected)
    figures = f"{done} restarts: {result.text()}; listening again after {slowest_s:.1f} s at most"
    kept = result.clean and status == 0 and slowest_s < 30 and done == count
    return world.outcome(3, "Broker restarted", kept, figures)


def broker_losses(world: Ground, plant: Plant, *, how: str) -> Outcome:
    """The broker loses messages by an `overflow` of its queue, or `killed` without its database: all are counted."""
    service = world.service
    service.start_and_listen()
    half = replace(plant, messages=plant.messages // 2 // plant.streams * plant.streams, _pool=[])
    world.send(half)
    world.wait_for_messages(half.messages)
    service.stop()
    rest = half.after(plant.messages - half.messages)
    world.send(rest)  # no service runs
    if how == "killed":
        world.broker.kill()
        (world.broker.directory / "mosquitto.db").unlink(missing_ok=True)
        world.broker.start()
    service.start_and_listen()
    world.wait_until_heard()  # the service has processed what the broker had queued
    tail = rest.after(TAIL * plant.streams)
    world.send(tail)
    world.wait_until_heard()
    service.stop()
    sent = half.messages + rest.messages + tail.messages
    missing = sent - world.counter("messages_committed")
    counted = world.counter("gap_samples")
    events = world.counter("link_session_lost")
    kept = counted == missing * SAMPLES and missing > 0 and events == (how == "killed")
    figures = (
        f"{how}: {missing} of {sent} messages gone, {missing * SAMPLES} samples missing, {counted} counted, "
        f"{events} session_lost event"
    )
    return world.outcome(3, "What the broker loses is reported", kept, figures)


def copies(world: Ground, plant: Plant, *, seed: int = 7, reach: int = 12) -> Outcome:
    """Every message is sent one to five times, out of order within the bound, over two connections."""
    rng = np.random.default_rng(seed)
    repeats = rng.integers(1, 6, plant.messages)
    numbers = np.repeat(np.arange(plant.messages), repeats)
    place = numbers + rng.uniform(0, reach * plant.streams, len(numbers))
    order = numbers[np.argsort(place)].tolist()
    service = world.service
    service.start_and_listen()
    pair = [world.publisher, world.another_publisher()]
    for sent, number in enumerate(order):
        topic, payload = plant.message(number)
        pair[sent % 2].publish(topic, payload)
        if sent % 16 == 0:
            for publisher in pair:
                publisher.drain()  # keeps the two connections together
            pair[0].rest(16 / (2 * RATE_PER_S))
    for publisher in pair:
        publisher.drain()
    expected = world.expected(plant.blocks())
    world.wait_for_messages(len(order))
    service.stop()
    result = world.audit(expected)
    again = result.counters.get("messages_duplicate", 0)
    kept = result.clean and again == len(order) - plant.messages
    figures = f"{len(order)} deliveries of {plant.messages} messages: {result.text()}; {again} counted as duplicates"
    return world.outcome(4, "Copies and disorder", kept, figures)


def beyond_the_bound(world: Ground, plant: Plant, *, every: int = 97, seconds: float = 4.0) -> Outcome:
    """Every `every`-th message comes too late: it is counted, and its windows are marked incomplete."""
    bound = int(seconds * RATE_HZ / SAMPLES) * plant.streams
    late = [n for n in range(plant.streams * 4, plant.messages - 2 * bound) if n % every == 0]
    order = sorted(range(plant.messages), key=lambda n: n + (bound if n in set(late) else 0))
    service = world.service
    service.start_and_listen()
    world.send(plant, numbers=order)
    world.wait_for_messages(plant.messages)
    service.stop()
    found = world.counter("messages_late")
    gaps = world.counter("gap_samples")
    kept = found == len(late) and gaps == len(late) * SAMPLES
    figures = (
        f"{len(late)} of {plant.messages} messages came {seconds:g} s late: {found} counted, {gaps} samples in gaps"
    )
    return world.outcome(4, "Beyond the bound", kept, figures)


def hostile(world: Ground, plant: Plant, *, count: int, seed: int = 13) -> Outcome:
    """Rubbish between valid messages."""
    service = world.service
    service.start_and_listen()
    refused = sent = 0
    per_message = count / plant.messages
    made = rubbish(count, seed)

    def harm(number: int) -> None:
        nonlocal refused, sent
        while sent < (number + 1) * per_message and sent < count:
            topic, payload = next(made)
            world.publisher.publish(topic, payload)
            refused += is_refused(topic, payload)
            sent += 1
        if number % 100 == 0:
            world.wait_for_messages(number + sent - UNDER_WAY)

    world.send(plant, before=harm, rate_per_s=2 * RATE_PER_S)
    world.wait_for_messages(plant.messages + sent, patience_s=300)
    alive = service.running and service.starts == 1  # then it is stopped, and started again
    service.stop()
    service.start_and_listen()
    time.sleep(2.0)  # unacknowledged messages would come again now
    service.stop()
    expected = world.expected(plant.blocks())
    result = world.audit(expected)
    wild = result.unexpected  # windows of absurd but valid messages: streams of their own
    result.unexpected = 0
    quarantined = result.counters.get("messages_quarantined", 0)
    received = result.counters["messages_received"]
    names, largest = len(world.channels()), service.largest_rss_bytes >> 20
    bounded = names <= ArchiveConfig().max_channels and largest < MOST_MEMORY_MB
    kept = result.clean and alive and quarantined >= refused > 0 and received == plant.messages + sent and bounded
    figures = (
        f"{sent} payloads: 0 exits, {refused} refused for themselves, {quarantined} quarantined with a reason, "
        f"{names} channel names in the archive, memory {largest} MB at most, "
        f"{received} of {plant.messages + sent} received and accounted for, none again after a restart; "
        f"good streams: {result.lost} lost, {result.features_differ} differ; {wild} windows of absurd but valid streams"
    )
    return world.outcome(5, "Rubbish", kept, figures)


def other_sessions(world: Ground, plant: Plant) -> Outcome:
    """Sensors that restart or change rate or channels, and clocks that jump an hour ahead or a year back."""
    service = world.service
    service.start_and_listen()
    world.send(plant)
    leap = [replace(b, t0_ns=b.t0_ns + 3600 * 10**9) for b in plant.after(plant.messages).blocks()]  # within a session
    for block in leap:
        world.publisher.publish(topic_of(block.key), encode(block))
    contradictions = 0
    for number in range(plant.streams):  # the same session, another form
        block = plant.after(plant.streams).block(number)
        for wrong in (replace(block, rate_hz=2 * RATE_HZ), replace(block, channels=("a", "b", "c"))):
            world.publisher.publish(topic_of(block.key), encode(wrong))
            contradictions += 1
    again = replace(plant, session=plant.session + 1, _pool=[])  # a reboot: counted from 0
    wider = replace(plant, session=plant.session + 2, extra=("temperature",), _pool=[])
    world.send(again)
    world.send(wider)
    back = [replace(b, session=9, t0_ns=b.t0_ns - 365 * 86_400 * 10**9) for b in plant.blocks()]  # the clock steps back
    for block in back:
        world.publisher.publish(topic_of(block.key), encode(block))
    world.publisher.drain()
    expected = world.expected(plant.blocks(), leap, again.blocks(), wider.blocks(), back)
    world.wait_for_messages(3 * plant.messages + contradictions + len(leap) + len(back))
    service.stop()
    result = world.audit(expected)
    quarantined = result.counters.get("messages_quarantined", 0)
    over = [row for row in expected.features.values() if row.end_ns - row.start_ns > 2 * 10**9]  # the leap
    judged = sum(not np.isnan(row.values).all() for row in over)
    kept = result.clean and quarantined == contradictions and len(over) == plant.streams and judged == 0
    figures = (
        f"{contradictions} contradictions, {quarantined} quarantined; a clock that leaps by an hour: {len(over)} "
        f"windows over the leap, {judged} judged; 4 sessions per stream: {result.text()}"
    )
    return world.outcome(9, "Reboots, other rates, clocks", kept, figures)
