"""Engine: many streams at once.

Routes blocks to their streams, computes the features of all windows that became complete in one
batch, then steps the network in *wavefronts*: the first pending row of every stream, then the second,
and so on, their hidden states stacked. What comes out for a stream does not depend on the others.

`step` changes nothing. It returns the new states beside the rows; whoever drives the engine takes
them over once they are safe, or drops both and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from pipeline.core import alarm, stream
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.forecast import Forecast, Foretell
from pipeline.core.quality import STOPS, Quality
from pipeline.core.records import (
    AlarmChange,
    Block,
    FeatureRow,
    Float32,
    Prediction,
    Predictor,
    Rejected,
    StreamKey,
    Trouble,
    Window,
)
from pipeline.core.state import StreamSpec, StreamState

_NOTHING = np.zeros(0, np.float32)  # no hidden state yet
_STOPS = int(STOPS)  # a plain number: an operation on a flag costs more than a window's share of the network

States = Mapping[StreamKey, StreamState]


@dataclass(slots=True)
class Step:
    """What a step would change, and what it found."""

    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    features: list[FeatureRow] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    alarms: list[AlarmChange] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    rejected: list[Block] = field(default_factory=list)  # those that contradict their session

    @property
    def rows(self) -> int:
        """How many rows for the archive these are."""
        return len(self.features) + len(self.predictions) + len(self.forecasts) + len(self.alarms)


@dataclass(frozen=True, slots=True)
class Engine:
    """The pure part of thrumcast, ready to be driven. Without a predictor it computes features only."""

    spec_of: Callable[[StreamKey], StreamSpec]
    predictor: Predictor | None = None
    is_unknown: Callable[[Float32, Float32], NDArray[np.bool_]] | None = None  # (B, F) inputs, (B, K) -> (B,)
    zone_of: Callable[[FeatureRow], str | None] | None = None  # vibration severity, a floor under the alarms
    foretell: Foretell | None = None
    foretell_every: int = 1  # windows: those are foretold whose number it divides, whoever drives the engine

    def step(self, states: States, blocks: Iterable[Block]) -> Step:
        """Take blocks in the order in which they came."""
        result = Step()
        windows: dict[StreamKey, list[Window]] = {}
        of_stream: dict[StreamKey, list[Block]] = {}
        for block in blocks:
            of_stream.setdefault(block.key, []).append(block)
        for key, some in of_stream.items():
            spec = self.spec_of(key)
            state = states.get(key) or stream.initial(spec)
            result.states[key], windows[key], troubles = stream.advance(spec, state, some)
            result.troubles += troubles
        result.rejected = [trouble.block for trouble in result.troubles if isinstance(trouble, Rejected)]
        return self._finish(result, windows)

    def flush(self, states: States) -> Step:
        """Nothing more will come for any of these streams."""
        result = Step()
        windows: dict[StreamKey, list[Window]] = {}
        for key, state in states.items():
            result.states[key], windows[key], troubles = stream.release(self.spec_of(key), state)
            result.troubles += troubles
        return self._finish(result, windows)

    def predict(self, states: States, rows: Mapping[StreamKey, list[FeatureRow]]) -> Step:
        """Only the network and the alarms, over feature rows that are there already."""
        result = Step(states={key: states.get(key) or stream.initial(self.spec_of(key)) for key in rows})
        if self.predictor is not None:
            self._predict(self.predictor, result, rows)
        return result

    def _finish(self, result: Step, windows: dict[StreamKey, list[Window]]) -> Step:
        rows = self._feature_rows(windows)
        for key, of_stream in rows.items():
            result.states[key] = stream.related(self.spec_of(key), result.states[key], of_stream)
        result.features = [row for of_stream in rows.values() for row in of_stream]
        if self.predictor is not None:
            self._predict(self.predictor, result, rows)
        return result

    def _feature_rows(self, windows: dict[StreamKey, list[Window]]) -> dict[StreamKey, list[FeatureRow]]:
        """Feature rows per stream; streams under the same settings are computed together."""
        rows: dict[StreamKey, list[FeatureRow]] = {}
        alike: dict[object, list[StreamKey]] = {}
        for key, complete in windows.items():
            if complete:
                alike.setdefault(self.spec_of(key).features, []).append(key)
        for keys in alike.values():
            batch = iter(stream.feature_rows(self.spec_of(keys[0]), [w for key in keys for w in windows[key]]))
            rows |= {key: [next(batch) for _ in windows[key]] for key in keys}
        return rows

    def _predict(self, predictor: Predictor, result: Step, rows: Mapping[StreamKey, list[FeatureRow]]) -> None:
        memories = [_Memory(self.spec_of(key), result.states[key]) for key in rows]
        streams = list(zip(memories, rows.values(), strict=True))
        for front in range(max(map(len, rows.values()), default=0)):
            judged: list[tuple[_Memory, FeatureRow]] = []
            for memory, of_stream in streams:
                if front < len(of_stream):
                    row = of_stream[front]
                    memory.begin_anew_if_due(predictor, row)
                    if not row.quality & _STOPS:
                        judged.append((memory, row))
                    else:
                        result.predictions.append(_not_judged(predictor, row, memory))
            if judged:
                self._step_network(predictor, result, judged)
        result.states |= {key: memory.state() for key, memory in zip(rows, memories, strict=True)}

    def _step_network(self, predictor: Predictor, result: Step, judged: list[tuple[_Memory, FeatureRow]]) -> None:
        x = _inputs(predictor.inputs, [row for _, row in judged])
        h = np.concatenate([memory.hidden for memory, _ in judged]).reshape(len(judged), *predictor.hidden_shape)
        probabilities, h = predictor.step(x, h)
        strange = self.is_unknown(x, probabilities).tolist() if self.is_unknown else [False] * len(judged)
        classes, version = predictor.classes, predictor.version
        best, listed = probabilities.argmax(axis=1).tolist(), probabilities.tolist()
        for (memory, row), hidden, of_row, k, p, unknown in zip(
            judged, h, probabilities, best, listed, strange, strict=True
        ):
            memory.hidden, memory.last_end_ns = hidden, row.end_ns
            memory.age = age = memory.age + 1
            name = "alarm" if memory.alarm.open else "warming_up"  # a fresh memory is no reason to forget an alarm
            spec = memory.spec
            if age > spec.warm_up_windows:
                memory.alarm, changes = alarm.judge(
                    spec.alarm,
                    memory.alarm,
                    row.key,
                    dict(zip(classes, p, strict=True)),
                    row.start_ns,
                    row.end_ns,
                    unknown=unknown,
                    zone=self.zone_of(row) if self.zone_of else None,
                )
                name = memory.alarm.name
                result.alarms += changes
            result.predictions.append(_prediction(row, classes[k], p[k], of_row, name, age, version))
        if self.foretell is not None:
            self._foretell(self.foretell, predictor, result, judged)

    def _foretell(
        self, foretell: Foretell, predictor: Predictor, result: Step, judged: list[tuple[_Memory, FeatureRow]]
    ) -> None:
        """What may come after those of the rows whose turn it is, and whose memory is warm."""
        due = [
            (memory.hidden, row)
            for memory, row in judged
            if row.window % self.foretell_every == 0 and memory.age > memory.spec.warm_up_windows
        ]
        if due:
            h = np.stack([hidden for hidden, _ in due])
            result.forecasts += [
                Forecast(row.key, row.session, row.window, row.start_ns, row.end_ns, tuple(futures), predictor.version)
                for (_, row), futures in zip(due, foretell(h), strict=True)
            ]


class _Memory:
    """What the network and the alarms remember of a stream, while a step works through its windows."""

    __slots__ = ("_before", "age", "alarm", "hidden", "last_end_ns", "longest_pause_ns", "model", "spec")

    def __init__(self, spec: StreamSpec, state: StreamState) -> None:
        self.spec, self._before = spec, state
        self.alarm, self.age, self.last_end_ns, self.model = (
            state.alarm,
            state.state_age,
            state.last_end_ns,
            state.model,
        )
        self.hidden = _NOTHING if state.hidden is None else state.hidden
        self.longest_pause_ns = spec.max_gap_s * 1e9

    def begin_anew_if_due(self, predictor: Predictor, row: FeatureRow) -> None:
        """A long pause, or another model than the one whose hidden state this is, begins a new sequence."""
        paused_ns = 0 if self.last_end_ns is None else abs(row.start_ns - self.last_end_ns)
        too_long = paused_ns > self.longest_pause_ns + (row.end_ns - row.start_ns)
        if too_long or self.hidden is _NOTHING or self.model != predictor.version:
            self.hidden = np.zeros(predictor.hidden_shape, np.float32)
            self.age, self.model, self.last_end_ns = 0, predictor.version, row.start_ns
            if too_long:
                self.alarm = alarm.waits_begin_anew(self.alarm)

    def state(self) -> StreamState:
        """The stream's state with all this in it."""
        return replace(
            self._before,
            hidden=None if self.hidden is _NOTHING else self.hidden,
            state_age=self.age,
            last_end_ns=self.last_end_ns,
            model=self.model,
            alarm=self.alarm,
        )


def inputs(names: tuple[str, ...], row: FeatureRow) -> Float32:
    """The network's inputs (F,) by column name `<channel>.<feature>`; NaN where the stream has no such channel."""
    return _inputs(names, [row])[0]


def _inputs(names: tuple[str, ...], rows: Sequence[FeatureRow]) -> Float32:
    """The inputs (B, F) of several rows; rows of the same channels are gathered at once."""
    if any(row.channels != rows[0].channels for row in rows):
        return np.stack([inputs(names, row) for row in rows])
    columns, missing = _columns(names, rows[0].channels)
    x = np.concatenate([row.values for row in rows]).reshape(len(rows), -1)[:, columns]
    x[:, missing] = np.nan
    return x


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...], channels: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each input stands among the values (C, F) of a row, flattened; and which inputs the row has not."""
    channel_of = {channel: i for i, channel in enumerate(channels)}
    columns, missing = np.zeros(len(names), np.int64), []
    for i, name in enumerate(names):
        channel, _, feature = name.rpartition(".")
        if channel in channel_of:
            columns[i] = channel_of[channel] * len(NAMES) + COLUMN[feature]
        else:
            missing.append(i)
    return columns, np.array(missing, np.int64)


def _prediction(
    row: FeatureRow, mode: str | None, p: float, probabilities: Float32, state: str, state_age: int, model: str
) -> Prediction:
    return Prediction(
        key=row.key,
        session=row.session,
        window=row.window,
        start_ns=row.start_ns,
        end_ns=row.end_ns,
        mode=mode,
        p=p,
        probabilities=probabilities,
        state=state,
        state_age=state_age,
        model=model,
        feature_schema=row.schema,
    )


def _not_judged(predictor: Predictor, row: FeatureRow, memory: _Memory) -> Prediction:
    """The network was not stepped; the hidden state waits."""
    quality = Quality(row.quality)
    if quality & Quality.NOT_RUNNING:
        name = "not_running"
    else:
        name = "sensor_fault" if quality.sensor_fault else memory.alarm.name
    nothing = np.full(len(predictor.classes), np.nan, np.float32)
    return _prediction(row, None, float("nan"), nothing, name, memory.age, predictor.version)
