"""Trials of the disk: it refuses for a while, it stalls for several keep-alives, and the journal is damaged."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from pipeline.chaos.ground import Ground, Outcome, reading
from pipeline.chaos.plant import Plant
from pipeline.core.state import from_bytes
from pipeline.edges.store.database import JOURNAL_NAME
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.witness import WITNESS_NAME
from pipeline.errors import ArchiveError, ThrumcastError

READY_WITHIN_S = 5.0
RESUME_WITHIN_S = 10.0
KEEPALIVE_S = 3  # in trials that stall; mosquitto disconnects a client that is silent for 1.5 times as long
STALLED_S = 4.0 * KEEPALIVE_S  # shortest stall


def refusing_disk(
    world: Ground,
    plant: Plant,
    *,
    refuse: Callable[[bool], None] | None = None,
    seconds: float,
    name: str = "EFBIG",
    acknowledged: Callable[[], int] | None = None,
) -> Outcome:
    """The disk refuses every write for some seconds; by default a resource limit forbids the process to write files.

    `acknowledged` returns how many acknowledgements have reached the broker, if the trial counts them.
    """
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
        told = acknowledged() if acknowledged is not None else 0
        committed = world.counter("messages_committed")
        grown = service.rss_bytes() - rss_before
        refuse(False)
        mended_s = time.monotonic()
        world.wait_for_messages(min(committed + 1, 2 * third))  # all, if the disk took some writes in between
        resumed_s = time.monotonic() - mended_s
        world.send(middle.after(plant.messages - 2 * third))
        expected = world.expected(plant.blocks())
        world.wait_for_windows(len(expected.features))
        status, _ = service.stop()
    result = world.audit(expected)
    unready_s = next((at - broken_s for at, ready in service.scrapes.ready if not ready and at > broken_s), None)
    quick = committed > third or (unready_s is not None and unready_s < READY_WITHIN_S)  # or some writes got through
    # The fault must have shown itself. A disk that takes no file at all takes no line of the log either.
    struck = unready_s is not None or any(f'"{what}_failed"' in service.log() for what in ("commit", "roll"))
    kept = result.clean and status == 0 and service.starts == 1 and resumed_s < RESUME_WITHIN_S and quick and struck
    kept = kept and not seen["unreadable"] and grown < 50 * 2**20 and told <= committed
    figures = (
        f"{name} for {seconds:.2g} s: {committed - third} of {middle.messages} committed meanwhile, "
        f"{f'{max(0, told - committed)} acknowledged beyond that, ' if acknowledged else ''}/readyz 503 after "
        f"{'-' if unready_s is None else f'{unready_s:.1f}'} s, resumed after {resumed_s:.1f} s, memory "
        f"{grown / 2**20:+.0f} MB: {result.text()}; {len(seen['unreadable'])} unreadable files"
    )
    return world.outcome(6, "A disk that refuses", kept, figures)


def _forbid_writing(world: Ground, on: bool) -> None:
    process = world.service.process
    if process is not None:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0 if on else hard, hard))


def stalled(
    world: Ground,
    plant: Plant,
    *,
    refuse: Callable[[bool], None] | None = None,
    rate_per_s: float,
    frozen: bool = False,
) -> Outcome:
    """The disk refuses every write for several keep-alives: memory stays the same, and the broker keeps the backlog.

    If the whole process is `frozen`, the broker disconnects it and keeps its session.
    """
    service = world.service
    service.settings = {**service.settings, "THRUMCAST_MQTT__KEEPALIVE_S": str(KEEPALIVE_S)}
    service.start_and_listen()
    refuse = refuse or (lambda on: _forbid_writing(world, on))
    first = replace(plant, messages=plant.streams * 100, _pool=[])
    world.send(first)
    world.wait_for_messages(first.messages)
    before = service.rss_bytes()
    refuse(True)
    stalled_s = time.monotonic()
    rest = first.after(plant.messages - first.messages)
    largest = 0

    def look(number: int) -> None:
        nonlocal largest
        if number % 200 == 0:
            largest = max(largest, service.rss_bytes())

    world.send(rest, rate_per_s=rate_per_s, before=look)
    while (left_s := stalled_s + STALLED_S - time.monotonic()) > 0:
        service.check_time()
        world.publisher.rest(min(left_s, 0.5))
    stalled_s = time.monotonic() - stalled_s
    taken = world.counter("messages_received") - first.messages  # must be 0 in a stall
    expected = world.expected(plant.blocks())
    refuse(False)
    recovered_s = world.wait_for_windows(len(expected.features), patience_s=300)
    connections = service.connections()
    service.stop()
    result = world.audit(expected)
    grown = (largest - before) / 2**20
    whole = connections > 1 if frozen else connections == 1  # a frozen process was disconnected
    kept = result.clean and taken == 0 and grown <= 50 and whole and not world.counter("link_session_lost")
    figures = (
        f"{rest.messages} messages ({rest.messages / 80:.0f} s of the plant) in {stalled_s:.0f} s in which nothing "
        f"could be written, {taken} of them committed meanwhile: memory {grown:+.0f} MB, {connections - 1} "
        f"disconnects at a keep-alive of {KEEPALIVE_S} s, all stored {recovered_s:.0f} s after: {result.text()}"
    )
    return world.outcome(7, "A frozen consumer" if frozen else "A stalled sink", kept, figures)


def damaged_journal(world: Ground, plant: Plant, *, count: int, seed: int = 3) -> Outcome:
    """Flipped bits and cut ends of database, log and witness: named and left as they are, or harmless."""
    service = world.service
    service.settings = {
        **service.settings,
        "THRUMCAST_ARCHIVE__ROLL_S": "3600",
        "THRUMCAST_ARCHIVE__ROLL_ROWS": "10000",
    }
    service.start_and_listen()
    world.send(plant)
    world.wait_for_messages(plant.messages)
    service.kill()  # with rows pending, and the last commits in the log
    names = (JOURNAL_NAME, f"{JOURNAL_NAME}-wal", WITNESS_NAME)
    whole = {name: (world.data_dir / name).read_bytes() for name in names}
    rng = np.random.default_rng(seed)
    true = _content(world, whole)
    named = harmless = silent = touched = 0
    for number in range(count):
        name = names[number % len(names)]
        damaged = bytearray(whole[name])
        if number % 10 == 0:
            damaged = damaged[: int(rng.integers(len(damaged)))]
        else:
            damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        files = whole | {name: bytes(damaged)}
        found = _content(world, files)
        named += found is None
        harmless += found == true
        silent += found is not None and found != true
        touched += found is None and any((world.directory / "damaged" / n).read_bytes() != files[n] for n in names)
    kept = true is not None and silent == 0 and named > 0 and touched == 0
    figures = (
        f"{count} damages: {named} refused by name, {harmless} in unused bytes, {silent} unnoticed, {touched} altered"
    )
    return world.outcome(12, "A damaged journal", kept, figures)


def _content(world: Ground, files: Mapping[str, bytes]) -> object:
    """Everything a journal says, or None if it is refused by name."""
    directory = world.directory / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    try:
        with Journal(directory) as journal:
            states = journal.states()
            for key, data in states.items():  # as at the start of the service
                from_bytes(world.engine.spec_of(key), data)
            view = journal.view(("features", "predictions", "alarms", "quarantine"))
            tables = {kind: [table.to_pydict() for table in p.tables] for kind, p in view.pending.items()}
            return repr((states, journal.counters(), journal.open_alarms(), view.parts, view.extras, tables))
    except (ArchiveError, ThrumcastError):
        return None
