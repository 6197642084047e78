"""Backfill: recordings -> archive, on all cores, with the engine of the live service.

Worker processes read recordings and step the engine; this process alone writes. Rows of many recordings become one
Parquet part. They are written together with the marks of their recordings, or not at all: an interrupted run continues
where it was, and a second run finds nothing to do. A recording that cannot be read is reported, and the others go on.

A `Job` is a recording to be read, an `Outcome` what a worker made of it, and a `Share` several outcomes with their
rows, as tables that travel cheaply to the process that writes.
"""

from __future__ import annotations

import hashlib
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.core.engine import Engine, Step
from pipeline.core.quality import STOPS
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamState
from pipeline.core.window import LEAST_SAMPLES, is_too_slow
from pipeline.drivers.backfill_pool import pool
from pipeline.drivers.intake import Channels
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts
from pipeline.edges.recordings import recording as recordings
from pipeline.edges.recordings.recording import ChannelMap, Options, Place, RecordedStream
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.schema import (
    FeatureSchema,
    Rows,
    feature_tables,
    forecast_table,
    packed,
    prediction_table,
    unpacked,
)
from pipeline.errors import RecordingError, ThrumcastError
from pipeline.telemetry import few

BLOCK_S = 30.0
STEP_SAMPLES = 1 << 22  # of all channels, 16 MiB: bounds the memory, and keeps the feature batches full
PART_ROWS = 10_000  # larger parts are hardly smaller per row, and are held in memory until they are written
KEEP_S = 30.0  # how much work a crash may cost
LEAST_BYTES, MOST_BYTES = 1 << 21, 1 << 24  # of recordings that a worker takes at a time
SHARES = 4  # a worker takes a quarter of its part of the remaining jobs, so that all workers end together
_STOPS = int(STOPS)


@dataclass(frozen=True, slots=True)
class Job:
    """One recording, or the files of one run, and how they are to be read."""

    path: Path
    channels: ChannelMap | None
    rate_hz: float | None  # for recordings that do not say
    context: str  # what else would make it another input: feature schema and model
    cut: str = ""  # how it is cut into windows; a data directory holds only one cut of a recording
    options: Options = field(default_factory=Options)  # how its format is to be read
    where: Place | None = None  # what file and folder say about the machine
    more: tuple[Path, ...] = ()  # the files that follow in time: snapshots of one run, whose state goes on

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order of their times."""
        return (self.path, *self.more)


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process needs; made once in each."""

    engine: Engine
    resolve: Callable[[str], str]  # names of failure modes -> the taxonomy
    finished: Mapping[str, str]  # inputs of earlier runs, and how recordings were cut
    schema: FeatureSchema


@dataclass(slots=True)
class Outcome:
    """What a worker made of a recording, without its rows."""

    path: Path
    inputs: dict[str, str] = field(default_factory=dict)  # what is finished with it, by id
    known: bool = False  # finished in an earlier run
    error: str | None = None
    left_out: tuple[str, ...] = ()  # columns without numbers, if no channels were chosen
    notes: tuple[str, ...] = ()  # what a person should know about the reading
    windows: int = 0
    predictions: int = 0
    incomplete: int = 0  # windows that lack the samples or the quality to be judged
    facts: dict[StreamKey, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """Some recordings and all their rows. They are written in one step, or not at all."""

    done: list[Outcome]
    packed: list[tuple[str, tuple[str, ...], bytes]]

    @property
    def channels(self) -> set[str]:
        """Names of all channels in the rows."""
        return {name for kind, extras, _ in self.packed if kind == "features" for name in extras}

    @property
    def rows(self) -> list[Rows]:
        """The rows, by kind and columns."""
        return [Rows(kind, extras, unpacked(content)) for kind, extras, content in self.packed]


def read(worker: Worker, jobs: Sequence[Job]) -> Share:
    """Read recordings and compute their rows."""
    found, done = Step(), list[Outcome]()
    for job in jobs:
        outcomes, rows = _job(worker, job)
        done += outcomes
        _extend(found, rows)
    tables = [("features", channels, table) for channels, table in feature_tables(found.features, worker.schema)]
    if found.predictions and worker.engine.predictor is not None:
        classes = worker.engine.predictor.classes
        tables.append(("predictions", classes, prediction_table(found.predictions, classes)))
    if found.forecasts:
        tables.append(("forecast", (), forecast_table(found.forecasts)))
    return Share(done, [(kind, extras, packed(table)) for kind, extras, table in tables])


def _unexpected(path: Path, error: Exception) -> str:
    """A failure that no reader expected, with the place in the code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = (str(error).strip() or "no message").splitlines()[0][:200]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return f"expected a recording that gives windows, found {path}: {type(error).__name__}: {reason} ({where})"


def _job(worker: Worker, job: Job) -> tuple[list[Outcome], Step]:
    """All rows of a job, and what became of each of its files. One file never ends the others."""
    found, states = Step(), dict[StreamKey, StreamState]()
    outcomes = [Outcome(path) for path in job.paths]
    marks: dict[str, str] = {}
    for one in outcomes:
        with _failures(one):
            marks |= _marks(worker, job, one)
    if job.more:  # the state of a file follows from all files before it
        run = hashlib.sha256("".join(marks).encode()).hexdigest()
        marks = {run: str(job.path.parent)}
    if marks and marks.keys() <= worker.finished.keys():
        for one in outcomes:
            one.known = one.error is None
        return outcomes, found
    for one in outcomes:
        if one.error is None:
            with _failures(one):
                _add_rows(worker, job, one, states, found)
    with _failures(outcomes[-1]):
        _extend(found, worker.engine.flush(states), outcomes[-1])
    if not any(one.error for one in outcomes):
        outcomes[-1].inputs |= marks
    return outcomes, found


@contextmanager
def _failures(one: Outcome) -> Iterator[None]:
    """Any failure becomes the reason why a file is left out, with everything that was found in it."""
    try:
        yield
        return
    except ThrumcastError as error:
        reason = str(error)
    except Exception as error:
        reason = _unexpected(one.path, error)
    one.error, one.inputs, one.facts = reason, {}, {}
    one.windows = one.predictions = one.incomplete = 0


def _marks(worker: Worker, job: Job, one: Outcome) -> dict[str, str]:
    """The mark that says that a file is finished. How it is cut is noted in `one.inputs`."""
    options = replace(job.options, rate_hz=job.rate_hz)
    how: tuple[object, ...] = (job.channels, job.rate_hz)
    how += (options.words(),) if options.words() else ()  # ids of plain readings stay as they are
    content, whole = recordings.input_ids(one.path, how, (*how, job.context))
    content = f"cut-{content}"
    before = worker.finished.get(content, job.cut)
    if before != job.cut:
        msg = f"expected windows of {one.path} as before, {_in_words(before)}, found: {_in_words(job.cut)}"
        raise RecordingError(msg, hint="a data directory holds a recording cut one way only: use another --data")
    one.inputs = {content: job.cut}
    return {whole: str(one.path)}


def _add_rows(worker: Worker, job: Job, one: Outcome, states: dict[StreamKey, StreamState], found: Step) -> None:
    """Adds the rows and facts of one file. `states` are those of the files before it; a failure changes nothing."""
    rows, after = Step(), dict(states)
    options = replace(job.options, rate_hz=job.rate_hz)
    for recording in recordings.open_recordings(one.path, options, job.where):
        if job.channels is None:
            one.left_out += recording.left_out
        one.notes += tuple(note for note in recording.notes if note not in one.notes)
        for stream in recordings.streams(recording, job.channels):
            _check_rate(worker, one.path, stream)
            one.notes += _pauses(worker, stream)
            for step in step_stream(worker.engine, stream, worker.resolve, after):
                _extend(rows, step, one)
            one.facts[stream.key] = _facts(job, stream)
    _extend(found, rows)
    states |= after


def _extend(found: Step, step: Step, one: Outcome | None = None) -> None:
    """Adds the rows of a step, and counts them as those of a file."""
    found.features += step.features
    found.predictions += step.predictions
    found.forecasts += step.forecasts
    if one is not None:
        one.windows += len(step.features)
        one.predictions += len(step.predictions)
        one.incomplete += sum(row.quality & _STOPS != 0 for row in step.features)


def _check_rate(worker: Worker, path: Path, stream: RecordedStream) -> None:
    window, rate_hz = worker.engine.spec_of(stream.key).window, stream.recording.rate_hz
    if is_too_slow(window, rate_hz):
        msg = f"expected at least {LEAST_SAMPLES} samples in a window of {window.length_s:g} s, found in {path}: "
        msg += f"a rate of {rate_hz:g} Hz"
        raise RecordingError(msg, hint="make window.length_s longer, or correct the rate")


def _pauses(worker: Worker, stream: RecordedStream) -> tuple[str, ...]:
    """A note if the network forgets a machine between two snapshots of its run."""
    period_s, most_s = stream.recording.metadata.get("snapshot_period_s"), worker.engine.spec_of(stream.key).max_gap_s
    if not isinstance(period_s, int | float) or period_s <= most_s:
        return ()
    return (
        f"a snapshot every {period_s:g} s, and model.max_gap_s is {most_s:g}: the network's memory begins anew with "
        f"each (THRUMCAST_MODEL__MAX_GAP_S={1.5 * period_s:g} keeps it)",
    )


def _facts(job: Job, stream: RecordedStream) -> dict[str, Any]:
    recording = stream.recording
    facts = recording_facts(
        recording.metadata,
        recording.machine,
        rate_hz=recording.rate_hz,
        unit=recording.unit,
        speed_rpm=recording.speed_rpm,
        orders=stream.orders,
    )
    if recording.specimen is not None:
        facts["specimen"] = recording.specimen
    if recording.specimen is not None and job.where is not None:
        facts["folder"] = job.where.folder
    return facts


def _in_words(cut: str) -> str:
    """`WindowConfig(length_s=1.0, hop_s=0.5)`, as data directories keep it -> `length 1 s, hop 0.5 s`."""
    return ", ".join(f"{name} {float(value):g} s" for name, value in re.findall(r"(\w+)_s=([^,)]+)", cut)) or cut


def step_stream(
    engine: Engine, stream: RecordedStream, resolve: Callable[[str], str], states: dict[StreamKey, StreamState]
) -> Iterator[Step]:
    """Step the engine through one recorded stream. `states` goes along."""
    blocks: list[Block] = []
    samples = 0
    for block in stream.blocks(BLOCK_S):
        blocks.append(block if block.truth is None else replace(block, truth=resolve(block.truth)))
        samples += block.samples.size
        if samples >= STEP_SAMPLES:
            step = engine.step(states, blocks)
            states |= step.states
            blocks.clear()
            samples = 0
            yield step
    step = engine.step(states, blocks)
    states |= step.states
    yield step


@dataclass(slots=True)
class Report:
    """How a backfill went."""

    inputs: int = 0
    known: int = 0
    made: int = 0  # windows
    kept: Counter[str] = field(default_factory=Counter)  # new rows by kind; rows that the archive already has stay
    incomplete: int = 0  # windows that lack the samples or the quality to be judged
    streams: set[StreamKey] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)  # recordings without a single window
    empty_rates_hz: set[float] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)  # path -> why

    @property
    def windows(self) -> int:
        """Windows that the archive did not have."""
        return self.kept["features"]

    def count(self, done: Outcome) -> None:
        """Count one more recording."""
        if done.error is not None:
            self.skipped[str(done.path)] = done.error
            return
        self.known += done.known
        self.made += done.windows
        self.incomplete += done.incomplete
        self.streams |= done.facts.keys()
        if not done.windows and not done.known:
            self.empty.append(str(done.path))
            self.empty_rates_hz |= {facts["rate_hz"] for facts in done.facts.values()}


@dataclass(slots=True)
class _PendingShares:
    """Shares that are made and not written yet."""

    archive: Archive
    machines: MachinesFile
    report: Report
    shares: list[Share] = field(default_factory=list)
    rows: int = 0
    since_s: float = 0.0

    def add(self, share: Share) -> None:
        """Take a share; write when there are enough rows for a part, or after `KEEP_S`."""
        if not self.shares:
            self.since_s = time.monotonic()
        self.shares.append(share)
        self.rows += sum(done.windows + done.predictions for done in share.done)
        if self.rows >= PART_ROWS or time.monotonic() - self.since_s >= KEEP_S:
            self.write()

    def write(self) -> None:
        """Write facts first: they hold for the machines with or without these rows."""
        shares, self.shares, self.rows = self.shares, [], 0
        finished = [done for share in shares for done in share.done if done.inputs]
        if finished:
            self.machines.update_all({key: facts for done in finished for key, facts in done.facts.items()})
            inputs = {name: what for done in finished for name, what in done.inputs.items()}
            for part in self.archive.append([rows for share in shares for rows in share.rows], inputs):
                self.report.kept[part.kind] += part.rows


def backfill(
    jobs: Sequence[Job],
    make_worker: Callable[[], Worker],
    archive: Archive,
    *,
    workers: int,
    channels: Channels | None = None,
    on_done: Callable[[Outcome], None] = lambda done: None,
) -> Report:
    """Process all jobs. `make_worker` is called in every worker process, so it must be importable.

    Recordings for whose `channels` the directory has no room are skipped.
    """
    report = Report(inputs=sum(len(job.paths) for job in jobs))
    pending = _PendingShares(archive, MachinesFile(archive.journal.directory / MACHINES_NAME), report)
    try:
        for share in _fitting(_run(jobs, make_worker, workers), jobs, make_worker, channels):
            pending.add(share)
            for done in share.done:
                report.count(done)
                on_done(done)
    finally:  # also after Ctrl-C
        pending.write()
    return report


def _shares(jobs: Sequence[Job], workers: int) -> Iterator[list[Job]]:
    """Jobs as workers take them: large files first, in ever smaller shares.

    Files of about the same size stay in order, which keeps the rows of neighbours in one part.
    """
    sizes = {job: sum(path.stat().st_size for path in job.paths if path.is_file()) for job in jobs}
    left, share, size = sum(sizes.values()), list[Job](), 0
    for job in sorted(jobs, key=lambda job: -sizes[job].bit_length()):
        share.append(job)
        size += sizes[job]
        if size >= min(MOST_BYTES, max(LEAST_BYTES, left // (SHARES * workers))):
            yield share
            left, share, size = left - size, [], 0
    if share:
        yield share


def _run(jobs: Sequence[Job], make_worker: Callable[[], Worker], workers: int) -> Iterator[Share]:
    """Shares as they are finished; the number under way is limited, which bounds the memory."""
    shares = _shares(jobs, workers)
    if workers == 1 or len(jobs) == 1:
        worker = make_worker()
        yield from (read(worker, share) for share in shares)
        return
    lost: list[Job] = []
    processes = pool(workers, partial(_start, make_worker))
    try:
        running: dict[Future[Share], list[Job]] = {}
        for share in islice(shares, 2 * workers):
            running[processes.submit(_work, share)] = share
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                taken = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:  # a worker was killed: by a library that crashed, or for want of memory
                    lost += taken
                    continue
                if not lost:
                    for share in islice(shares, 1):
                        running[processes.submit(_work, share)] = share
                yield result
    except BrokenProcessPool:  # while a share was handed over
        lost += [job for taken in running.values() for job in taken] + share
    finally:
        processes.shutdown(wait=True, cancel_futures=True)
    if lost:
        yield from _alone([*lost, *(job for share in shares for job in share)], make_worker)


def _alone(jobs: Sequence[Job], make_worker: Callable[[], Worker]) -> Iterator[Share]:
    """Jobs one by one, in a process that may die with any of them."""
    processes = None
    for job in jobs:
        processes = processes or pool(1, partial(_start, make_worker))
        try:
            yield processes.submit(_work, [job]).result()
        except BrokenProcessPool:
            processes.shutdown(wait=True, cancel_futures=True)
            processes = None
            why = f"expected a recording, found {job.path}: reading it ended the process (a crash, or no memory)"
            yield Share([Outcome(path, error=why) for path in job.paths], [])
    if processes is not None:
        processes.shutdown(wait=True, cancel_futures=True)


def _fitting(
    finished: Iterable[Share], jobs: Sequence[Job], make_worker: Callable[[], Worker], channels: Channels | None
) -> Iterator[Share]:
    """The shares that fit; one that names too many channels is read again, one recording at a time."""
    worker = cache(make_worker)
    for share in finished:
        if channels is None or channels.admit(share.channels):
            yield share
            continue
        paths = {done.path for done in share.done}
        for job in (job for job in jobs if job.path in paths):
            one = share if len(paths) == len(job.paths) else read(worker(), [job])
            if not channels.admit(one.channels):
                names = few(sorted(one.channels - channels.known))
                error = f"expected at most archive.max_channels = {channels.most} channel names in a data directory, "
                error += f"found new in {job.path}: {names}; name channels alike (--channels), or raise that key"
                one = Share([Outcome(path, error=error) for path in job.paths], [])
            yield one


_worker: Worker | None = None


def _start(make_worker: Callable[[], Worker]) -> None:
    global _worker  # set once, when a worker process starts
    _worker = make_worker()


def _work(share: list[Job]) -> Share:
    if _worker is None:
        msg = "a worker process is started with its engine"
        raise RuntimeError(msg)
    return read(_worker, share)
