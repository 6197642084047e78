"""Trials of what arrives: a broker that restarts or drops, copies, disorder, rubbish, disks that refuse."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.chaos.ground import RATE_PER_S, Ground, Outcome, reading
from pipeline.chaos.plant import RATE_HZ, SAMPLES, Plant, topic_of
from pipeline.chaos.rubbish import is_refused, rubbish
from pipeline.core.codec import encode
from pipeline.core.state import from_bytes
from pipeline.edges.journal import Journal
from pipeline.edges.journal_read import JOURNAL_NAME
from pipeline.errors import ArchiveError, ThrumcastError

TAIL = 40  # blocks per stream that declare what is missing before them
READY_WITHIN_S = 5.0
RESUME_WITHIN_S = 10.0


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
    """What a broker loses (`overflow` of its queue, or `killed` without its database) is counted to the sample."""
    service = world.service
    service.start_and_listen()
    half = replace(plant, messages=plant.messages // 2 // plant.streams * plant.streams, _pool=[])
    world.send(half)
    world.wait_for_messages(half.messages)
    service.stop()
    rest = half.after(plant.messages - half.messages)
    world.send(rest)  # while nobody listens
    if how == "killed":
        world.broker.kill()
        (world.broker.directory / "mosquitto.db").unlink(missing_ok=True)
        world.broker.start()
    service.start_and_listen()
    if how == "overflow":  # what did get into the queue comes first
        time.sleep(2.0)
    tail = rest.after(TAIL * plant.streams)
    world.send(tail)
    service.wait_for(lambda: world.counter("gap_samples") > 0, "a gap")
    time.sleep(3.0)  # the last blocks of the tail
    service.stop()
    sent = half.messages + rest.messages + tail.messages
    missing = sent - world.counter("messages_committed")
    counted = world.counter("gap_samples")
    kept = counted == missing * SAMPLES and missing > 0
    figures = f"{how}: {missing} of {sent} messages gone, {missing * SAMPLES} samples missing, {counted} counted"
    return world.outcome(3, "What the broker loses is reported", kept, figures)


def copies(world: Ground, plant: Plant, *, seed: int = 7, reach: int = 12) -> Outcome:
    """Every message one to five times, out of order within the bound, over two connections."""
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
                publisher.drain()  # or one of the two would run ahead of the bound
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
    """Every so many messages one comes far too late: it is counted, and its windows say that they are not whole."""
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
    """Rubbish between good messages."""
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

    world.send(plant, before=harm, rate_per_s=2 * RATE_PER_S)
    world.wait_for_messages(plant.messages + sent, patience_s=300)
    alive = service.running and service.starts == 1
    service.stop()
    expected = world.expected(plant.blocks())
    result = world.audit(expected)
    wild = result.unexpected  # absurd, but valid: streams of their own
    result.unexpected = 0
    quarantined = result.counters.get("messages_quarantined", 0)
    received = result.counters["messages_received"]
    kept = result.clean and alive and quarantined >= refused > 0 and received == plant.messages + sent
    figures = (
        f"{sent} payloads: 0 exits, {refused} refused by the codec, {quarantined} quarantined with a reason, "
        f"{received} of {plant.messages + sent} received and accounted for; good streams: {result.lost} lost, "
        f"{result.features_differ} differ; {wild} windows of absurd but valid streams"
    )
    return world.outcome(5, "Rubbish", kept, figures)


def refusing_disk(
    world: Ground, plant: Plant, *, refuse: Callable[[bool], None] | None = None, seconds: float, name: str = "EFBIG"
) -> Outcome:
    """The disk takes nothing for a while (by default: no file of the process may be written, by its resource limit)."""
    service = world.service
    service.start_and_listen()
    refuse = refuse or (lambda on: _forbid_writing(world, on))
    third = plant.messages // 3 // plant.streams * plant.streams
    world.send(replace(plant, messages=third, _pool=[]))
    world.wait_for_messages(third)
    rss_before = service.rss_bytes()
    with reading(world.data_dir) as seen:
        refuse(True)
        broken_s = time.monotonic()
        middle = replace(plant, messages=third, _pool=[]).after(third)
        world.send(middle)
        time.sleep(max(0.0, seconds - (time.monotonic() - broken_s)))
        committed = world.counter("messages_committed")
        grown = service.rss_bytes() - rss_before
        refuse(False)
        mended_s = time.monotonic()
        world.wait_for_messages(committed + 1)
        resumed_s = time.monotonic() - mended_s
        world.send(middle.after(plant.messages - 2 * third))
        expected = world.expected(plant.blocks())
        world.wait_for_windows(len(expected.features))
        status, _ = service.stop()
    result = world.audit(expected)
    unready_s = next((at - broken_s for at, ready in service.scrapes.ready if not ready and at > broken_s), None)
    quick = unready_s is not None and unready_s < READY_WITHIN_S
    kept = result.clean and status == 0 and service.starts == 1 and resumed_s < RESUME_WITHIN_S and quick
    kept = kept and not seen["unreadable"] and grown < 50 * 2**20
    figures = (
        f"{name} for {seconds:g} s: {committed - third} of {middle.messages} committed meanwhile, /readyz 503 after "
        f"{'-' if unready_s is None else f'{unready_s:.1f}'} s, resumed after {resumed_s:.1f} s, memory "
        f"{grown / 2**20:+.0f} MB: {result.text()}; {len(seen['unreadable'])} unreadable files"
    )
    return world.outcome(6, "A disk that refuses", kept, figures)


def _forbid_writing(world: Ground, on: bool) -> None:
    process = world.service.process
    if process is not None:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0 if on else hard, hard))


def other_sessions(world: Ground, plant: Plant) -> Outcome:
    """Sensors that restart, change their rate or channels, and clocks that jump back by a year."""
    service = world.service
    service.start_and_listen()
    world.send(plant)
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
    expected = world.expected(plant.blocks(), again.blocks(), wider.blocks(), back)
    world.wait_for_messages(3 * plant.messages + contradictions + len(back))
    service.stop()
    result = world.audit(expected)
    quarantined = result.counters.get("messages_quarantined", 0)
    kept = result.clean and quarantined == contradictions
    figures = f"{contradictions} contradictions, {quarantined} quarantined; 4 sessions per stream: {result.text()}"
    return world.outcome(9, "Reboots, other rates, clocks", kept, figures)


def damaged_journal(world: Ground, plant: Plant, *, count: int, seed: int = 3) -> Outcome:
    """Flipped bits and cut ends of the journal: named and left as it is, or harmless; never silently different."""
    service = world.service
    service.settings = {
        **service.settings,
        "THRUMCAST_ARCHIVE__ROLL_S": "3600",
        "THRUMCAST_ARCHIVE__ROLL_ROWS": "10000",
    }
    service.start_and_listen()
    world.send(plant)
    world.wait_for_messages(plant.messages)
    service.kill()  # with rows pending
    whole = world.directory / "whole.db"
    with sqlite3.connect(world.data_dir / JOURNAL_NAME) as source, sqlite3.connect(whole) as copy:
        source.backup(copy)
    source.close()
    copy.close()
    content = whole.read_bytes()
    rng = np.random.default_rng(seed)
    true = _content(world, content)
    named = harmless = silent = touched = 0
    for number in range(count):
        damaged = bytearray(content)
        if number % 10 == 0:
            damaged = damaged[: int(rng.integers(1, len(content)))]
        else:
            damaged[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        found = _content(world, bytes(damaged))
        named += found is None
        harmless += found == true
        silent += found is not None and found != true
        touched += found is None and (world.directory / "damaged" / JOURNAL_NAME).read_bytes() != bytes(damaged)
    kept = silent == 0 and named > 0 and touched == 0
    figures = (
        f"{count} damages: {named} refused by name, {harmless} in unused bytes, {silent} unnoticed, {touched} altered"
    )
    return world.outcome(12, "A damaged journal", kept, figures)


def _content(world: Ground, content: bytes) -> object:
    """Everything a journal says, or None if it is refused by name."""
    directory = world.directory / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / JOURNAL_NAME).write_bytes(content)
    try:
        with Journal(directory) as journal:
            states = journal.states()
            for key, data in states.items():  # as the service does when it starts
                from_bytes(world.engine.spec_of(key), data)
            view = journal.view(("features", "predictions", "alarms", "quarantine"))
            tables = {kind: [table.to_pydict() for table in p.tables] for kind, p in view.pending.items()}
            return repr((states, journal.counters(), journal.open_alarms(), view.parts, view.extras, tables))
    except (ArchiveError, ThrumcastError):
        return None


def stalled(world: Ground, plant: Plant, *, refuse: Callable[[bool], None] | None = None, rate_per_s: float) -> Outcome:
    """The disk takes nothing while ten minutes' worth of messages come: memory stays, the backlog is the broker's."""
    service = world.service
    service.start_and_listen()
    refuse = refuse or (lambda on: _forbid_writing(world, on))
    first = replace(plant, messages=plant.streams * 100, _pool=[])
    world.send(first)
    world.wait_for_messages(first.messages)
    before = service.rss_bytes()
    refuse(True)
    rest = first.after(plant.messages - first.messages)
    largest = 0

    def look(number: int) -> None:
        nonlocal largest
        if number % 200 == 0:
            largest = max(largest, service.rss_bytes())

    world.send(rest, rate_per_s=rate_per_s, before=look)
    connections = service.connections()
    refuse(False)
    expected = world.expected(plant.blocks())
    recovered_s = world.wait_for_windows(len(expected.features), patience_s=300)
    service.stop()
    result = world.audit(expected)
    grown = (largest - before) / 2**20
    kept = result.clean and grown <= 50 and connections == 1
    figures = (
        f"{rest.messages} messages ({rest.messages / 80:.0f} s of the plant) while nothing could be written: memory "
        f"{grown:+.0f} MB, {connections - 1} disconnects, all stored {recovered_s:.0f} s after: {result.text()}"
    )
    return world.outcome(7, "A stalled sink", kept, figures)
