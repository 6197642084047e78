"""Backfill: recordings -> archive, on all cores, with the engine and the journal of the live service.

Worker processes read recordings and step the engine; this process alone writes. A recording is finished
when its rows and its mark are in the journal, in one transaction: an interrupted run goes on where it
was, and a second run finds nothing left to do. A recording that cannot be read is reported, and the
others go on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.core.engine import Engine, Step
from pipeline.core.quality import Quality
from pipeline.core.records import Block, FeatureRow, Prediction, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges import recordings
from pipeline.edges.archive import Archive
from pipeline.edges.journal import Commit, Journal
from pipeline.edges.machines import MACHINES_NAME, MachinesFile, recording_facts
from pipeline.edges.recordings import ChannelMap, RecordedStream
from pipeline.errors import RecordingError, ThrumcastError

BLOCK_S = 10.0
BLOCKS_PER_STEP = 64  # snapshots are short; a step over many keeps the feature batches full
ROLL_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Job:
    """One recording, and how it is to be read."""

    path: Path
    channels: ChannelMap | None
    rate_hz: float | None  # for recordings that do not say
    context: str  # what else makes it another input: feature schema and model
    cut: str = ""  # how it is cut into windows; a data directory holds a recording cut one way only


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process needs; made once in each."""

    engine: Engine
    resolve: Callable[[str], str]  # names of failure modes -> the taxonomy
    finished: Mapping[str, str]  # inputs of earlier runs, and how recordings were cut then


@dataclass(slots=True)
class Done:
    """What a worker made of a recording."""

    path: Path
    input_id: str = ""
    content_id: str = ""
    cut: str = ""
    known: bool = False  # finished in an earlier run
    error: str | None = None
    features: list[FeatureRow] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    facts: dict[StreamKey, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """How a backfill went."""

    inputs: int = 0
    known: int = 0
    windows: int = 0
    predictions: int = 0
    incomplete: int = 0  # windows that could not be judged, for lack of samples or of quality
    streams: set[StreamKey] = field(default_factory=set)
    empty: list[str] = field(default_factory=list)  # recordings without a single window
    skipped: dict[str, str] = field(default_factory=dict)  # path -> why


def backfill(
    jobs: Sequence[Job],
    make_worker: Callable[[], Worker],
    journal: Journal,
    archive: Archive,
    *,
    classes: tuple[str, ...],
    workers: int,
    on_done: Callable[[Done], None] = lambda done: None,
) -> Report:
    """Work through all jobs; `make_worker` must be importable, it is called in every worker process."""
    report = Report(inputs=len(jobs))
    machines = MachinesFile(journal.directory / MACHINES_NAME)
    pending_rows = journal.pending_rows()
    for done in _run(jobs, make_worker, workers):
        if done.error is not None:
            report.skipped[str(done.path)] = done.error
        elif done.known:
            report.known += 1
        else:
            machines.update_all(done.facts)
            journal.commit(
                Commit(
                    features=done.features,
                    predictions=done.predictions,
                    classes=classes,
                    inputs={done.input_id: str(done.path), done.content_id: done.cut},
                )
            )
            pending_rows += len(done.features) + len(done.predictions)
            _count(report, done)
        if pending_rows >= ROLL_ROWS:
            archive.roll()
            pending_rows = 0
        on_done(done)
    archive.roll()
    return report


def run_stream(engine: Engine, stream: RecordedStream, resolve: Callable[[str], str]) -> Iterator[Step]:
    """Step the engine through one recorded stream, to its end."""
    states: dict[StreamKey, StreamState] = {}
    blocks: list[Block] = []
    for block in stream.blocks(BLOCK_S):
        blocks.append(block if block.truth is None else replace(block, truth=resolve(block.truth)))
        if len(blocks) == BLOCKS_PER_STEP:
            step = engine.step(states, blocks)
            states |= step.states
            blocks.clear()
            yield step
    step = engine.step(states, blocks)
    states |= step.states
    yield step
    yield engine.flush(states)


def _count(report: Report, done: Done) -> None:
    report.windows += len(done.features)
    report.predictions += len(done.predictions)
    report.incomplete += sum(Quality(row.quality).stops for row in done.features)
    report.streams |= done.facts.keys()
    if not done.features:
        report.empty.append(str(done.path))


def _run(jobs: Sequence[Job], make_worker: Callable[[], Worker], workers: int) -> Iterator[Done]:
    """Results in the order in which they come; few enough jobs are under way to bound the memory."""
    if workers == 1 or len(jobs) == 1:
        worker = make_worker()
        yield from (_read(worker, job) for job in jobs)
        return
    waiting = iter(jobs)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(make_worker,))
    try:
        running: set[Future[Done]] = {pool.submit(_work, job) for job in islice(waiting, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                running |= {pool.submit(_work, job) for job in [next(waiting, None)] if job is not None}
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Worker | None = None


def _start(make_worker: Callable[[], Worker]) -> None:
    global _worker  # what a worker process is for, set once when it starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes
    _worker = make_worker()


def _work(job: Job) -> Done:
    if _worker is None:
        msg = "a worker process is started with its engine"
        raise RuntimeError(msg)
    return _read(_worker, job)


def _read(worker: Worker, job: Job) -> Done:
    """One recording from file to rows."""
    done = Done(job.path, cut=job.cut)
    try:
        done.content_id = f"cut-{recordings.input_id(job.path, job.channels, job.rate_hz)}"
        before = worker.finished.get(done.content_id, job.cut)
        if before != job.cut:
            msg = f"windows as before expected, {before}, found: {job.cut}"
            raise RecordingError(msg, hint="a data directory holds a recording cut one way only: use another --data")
        done.input_id = recordings.input_id(job.path, job.channels, job.rate_hz, job.context)
        if done.input_id in worker.finished:
            done.known = True
            return done
        recording = recordings.open_recording(job.path, job.rate_hz)
        for stream in recordings.streams(recording, job.channels):
            for step in run_stream(worker.engine, stream, worker.resolve):
                done.features += step.features
                done.predictions += step.predictions
            done.facts[stream.key] = recording_facts(
                recording.metadata,
                recording.machine,
                rate_hz=recording.rate_hz,
                unit=recording.unit,
                speed_rpm=recording.speed_rpm,
                orders=stream.orders,
            )
    except ThrumcastError as error:
        done.error = str(error)
    return done
