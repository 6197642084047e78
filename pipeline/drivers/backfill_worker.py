"""What a backfill worker does: recordings -> rows, as tables that travel cheaply to the process that writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core.engine import Engine, Step
from pipeline.core.quality import STOPS
from pipeline.core.records import Block, FeatureRow, Forecast, Prediction, StreamKey
from pipeline.core.state import StreamState
from pipeline.core.window import LEAST_SAMPLES, is_too_slow
from pipeline.edges.archive_tables import Rows, feature_tables, forecast_table, packed, prediction_table, unpacked
from pipeline.edges.machines import recording_facts
from pipeline.edges.recordings import recording as recordings
from pipeline.edges.recordings.recording import ChannelMap, RecordedStream
from pipeline.edges.store.schema import FeatureSchema
from pipeline.errors import RecordingError, ThrumcastError

BLOCK_S = 30.0
STEP_SAMPLES = 1 << 22  # of all channels, 16 MiB: bounds the memory, and keeps the feature batches full
_STOPS = int(STOPS)


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
    schema: FeatureSchema


@dataclass(slots=True)
class Done:
    """What a worker made of a recording, but for its rows."""

    path: Path
    inputs: dict[str, str] = field(default_factory=dict)  # what is finished with it: ids and what they were
    known: bool = False  # finished in an earlier run
    error: str | None = None
    left_out: tuple[str, ...] = ()  # columns that hold no number, where nobody chose the channels
    windows: int = 0
    predictions: int = 0
    incomplete: int = 0  # windows that could not be judged, for lack of samples or of quality
    facts: dict[StreamKey, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """Some recordings and all of their rows, which belong together: they are written in one step, or not at all."""

    done: list[Done]
    packed: list[tuple[str, tuple[str, ...], bytes]]

    @property
    def channels(self) -> set[str]:
        """Names of all channels in the rows."""
        return {name for kind, extras, _ in self.packed if kind == "features" for name in extras}

    @property
    def rows(self) -> list[Rows]:
        """The rows, by kind and columns."""
        return [Rows(kind, extras, unpacked(content)) for kind, extras, content in self.packed]


def read(worker: Worker, jobs: Sequence[Job]) -> Turn:
    """Several recordings from file to rows."""
    features: list[FeatureRow] = []
    predictions: list[Prediction] = []
    forecasts: list[Forecast] = []
    done = []
    for job in jobs:
        one = Done(job.path)
        try:
            found = _rows(worker, job, one)
        except ThrumcastError as error:
            one.error = str(error)
        else:
            features += found.features
            predictions += found.predictions
            forecasts += found.forecasts
        done.append(one)
    tables = [("features", channels, table) for channels, table in feature_tables(features, worker.schema)]
    if predictions and worker.engine.predictor is not None:
        classes = worker.engine.predictor.classes
        tables.append(("predictions", classes, prediction_table(predictions, classes)))
    if forecasts:
        tables.append(("forecast", (), forecast_table(forecasts)))
    return Turn(done, [(kind, extras, packed(table)) for kind, extras, table in tables])


def _rows(worker: Worker, job: Job, done: Done) -> Step:
    """All rows of one recording; notes in `done` what there is to say of it."""
    found = Step()
    how = (job.channels, job.rate_hz)
    content, whole = recordings.input_ids(job.path, how, (*how, job.context))
    content = f"cut-{content}"
    before = worker.finished.get(content, job.cut)
    if before != job.cut:
        msg = f"expected windows of {job.path} as before, {_in_words(before)}, found: {_in_words(job.cut)}"
        raise RecordingError(msg, hint="a data directory holds a recording cut one way only: use another --data")
    if whole in worker.finished:
        done.known = True
        return found
    recording = recordings.open_recording(job.path, job.rate_hz)
    if job.channels is None:
        done.left_out = recording.left_out
    for stream in recordings.streams(recording, job.channels):
        window = worker.engine.spec_of(stream.key).window
        if is_too_slow(window, recording.rate_hz):
            msg = (
                f"expected at least {LEAST_SAMPLES} samples in a window of {window.length_s:g} s, found in {job.path}: "
            )
            msg += f"a rate of {recording.rate_hz:g} Hz"
            raise RecordingError(msg, hint="make window.length_s longer, or correct the rate")
        for step in run_stream(worker.engine, stream, worker.resolve):
            found.features += step.features
            found.predictions += step.predictions
            found.forecasts += step.forecasts
        done.facts[stream.key] = recording_facts(
            recording.metadata,
            recording.machine,
            rate_hz=recording.rate_hz,
            unit=recording.unit,
            speed_rpm=recording.speed_rpm,
            orders=stream.orders,
        )
    done.windows, done.predictions = len(found.features), len(found.predictions)
    done.incomplete = sum(row.quality & _STOPS != 0 for row in found.features)
    done.inputs = {whole: str(job.path), content: job.cut}
    return found


def _in_words(cut: str) -> str:
    """`WindowConfig(length_s=1.0, hop_s=0.5)`, as data directories keep it -> `length 1 s, hop 0.5 s`."""
    return ", ".join(f"{name} {float(value):g} s" for name, value in re.findall(r"(\w+)_s=([^,)]+)", cut)) or cut


def run_stream(engine: Engine, stream: RecordedStream, resolve: Callable[[str], str]) -> Iterator[Step]:
    """Step the engine through one recorded stream, to its end."""
    states: dict[StreamKey, StreamState] = {}
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
    yield engine.flush(states)
