"""Engine: all streams of a plant in one step.

    blocks      -> windows       stream by stream            stream.advance
    windows     -> feature rows  all streams in one batch    stream.feature_rows, stream.related
    rows        -> predictions   wavefront by wavefront      predictor.step
    predictions -> alarms        stream by stream            alarm.judge

A *wavefront* is the first pending row of every stream, then the second of every stream, and so on. The network takes
a wavefront in one step, with the hidden states of its streams stacked. What comes out for a stream does not depend on
the other streams.

The engine changes none of its arguments: it returns the new states beside the rows. A driver takes both over once they
are safe, or drops both and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from pipeline.core import alarm, budget, stream
from pipeline.core.faults import HEALTHY
from pipeline.core.features.table import stacked_inputs
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

_NO_HIDDEN_STATE = np.zeros(0, np.float32)
LEAST_POSSIBLE = 0.2  # of the probability must be on modes that the machine can have; else nobody knows what it is
_STOPS = int(STOPS)  # a plain number: an operation on a flag costs more than a window's share of the network

States = Mapping[StreamKey, StreamState]
Rows = Mapping[StreamKey, list[FeatureRow]]


@dataclass(slots=True)
class Step:
    """What a step found: the new states of the streams it took part in, and the rows for the archive."""

    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    features: list[FeatureRow] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    alarms: list[AlarmChange] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows this is for the archive."""
        return len(self.features) + len(self.predictions) + len(self.forecasts) + len(self.alarms)

    @property
    def rejected(self) -> list[Block]:
        """The blocks that contradict their session."""
        return [trouble.block for trouble in self.troubles if isinstance(trouble, Rejected)]


@dataclass(frozen=True, slots=True)
class Engine:
    """The pure part of thrumcast, ready to be driven. Without a predictor it computes features only."""

    spec_of: Callable[[StreamKey], StreamSpec]
    predictor: Predictor | None = None
    is_unknown: Callable[[Float32, Float32], NDArray[np.bool_]] | None = None  # inputs (B, F), p (B, K) -> (B,)
    zone_of: Callable[[FeatureRow], str | None] | None = None  # vibration severity, a floor under the alarms
    foretell: Foretell | None = None
    foretell_every: int = 1  # a forecast is made for window numbers that this divides, the same under every driver

    def step(self, states: States, blocks: Iterable[Block]) -> Step:
        """Take blocks in the order in which they came."""
        result = Step()
        blocks_of: dict[StreamKey, list[Block]] = {}
        windows: dict[StreamKey, list[Window]] = {}
        for block in blocks:
            blocks_of.setdefault(block.key, []).append(block)
        for key, some in blocks_of.items():
            spec = self.spec_of(key)
            state = states.get(key) or stream.initial(spec)
            result.states[key], windows[key], troubles = stream.advance(spec, state, some)
            result.troubles += troubles
        return self._finish(result, windows)

    def flush(self, states: States) -> Step:
        """Use what was held back, because no more blocks will come for any of these streams."""
        result = Step()
        windows: dict[StreamKey, list[Window]] = {}
        for key, state in states.items():
            result.states[key], windows[key], troubles = stream.release(self.spec_of(key), state)
            result.troubles += troubles
        return self._finish(result, windows)

    def predict(self, states: States, rows: Rows) -> Step:
        """Run only the network and the alarms, over feature rows that already exist."""
        result = Step(states={key: states.get(key) or stream.initial(self.spec_of(key)) for key in rows})
        if self.predictor is not None:
            self._predict(self.predictor, result, rows)
        return result

    def _finish(self, result: Step, windows: Mapping[StreamKey, list[Window]]) -> Step:
        rows = self._feature_rows(windows)
        for key in rows:
            result.states[key], rows[key] = stream.related(self.spec_of(key), result.states[key], rows[key])
            result.states[key], doubts = stream.doubted(result.states[key], rows[key])
            result.troubles += doubts
            result.features += rows[key]
        if self.predictor is not None:
            self._predict(self.predictor, result, rows)
        return result

    def _feature_rows(self, windows: Mapping[StreamKey, list[Window]]) -> dict[StreamKey, list[FeatureRow]]:
        """Feature rows per stream. Streams with the same feature settings are computed in one batch."""
        alike: dict[object, list[StreamKey]] = {}
        for key, complete in windows.items():
            if complete:
                alike.setdefault(self.spec_of(key).features, []).append(key)
        rows: dict[StreamKey, list[FeatureRow]] = {}
        for keys in alike.values():
            batch = iter(stream.feature_rows(self.spec_of(keys[0]), [w for key in keys for w in windows[key]]))
            rows |= {key: [next(batch) for _ in windows[key]] for key in keys}
        return rows

    def _predict(self, predictor: Predictor, result: Step, rows: Rows) -> None:
        """Step the network through all rows, one wavefront at a time."""
        memories = {key: _Memory(self.spec_of(key), result.states[key]) for key in rows}
        for wavefront in _wavefronts(memories, rows):
            judged = []
            for memory, row in wavefront:
                memory.reset_if_due(predictor, row)
                if row.quality & _STOPS:  # the network must not see this window, and the hidden state stays as it is
                    p = np.full(len(predictor.classes), np.nan, np.float32)
                    result.predictions.append(
                        _prediction(predictor, memory, row, _reason(memory, row), None, np.nan, p)
                    )
                else:
                    judged.append((memory, row))
            if judged:
                self._judge(predictor, result, judged)
                self._forecast(predictor, result, judged)
        result.states |= {key: memory.state() for key, memory in memories.items()}

    def _judge(self, predictor: Predictor, result: Step, judged: list[tuple[_Memory, FeatureRow]]) -> None:
        """One step of the network, then the alarms of each stream."""
        x = stacked_inputs(predictor.inputs, [row for _, row in judged])
        h = np.concatenate([memory.hidden for memory, _ in judged]).reshape(len(judged), *predictor.hidden_shape)
        probabilities, h = predictor.step(x, h)
        unknown = self.is_unknown(x, probabilities).tolist() if self.is_unknown else [False] * len(judged)
        blind = np.all(np.isnan(x), axis=1)  # no input at all: the network would say what is usual
        for i, (memory, _) in enumerate(judged):
            unknown[i] = unknown[i] or bool(blind[i])
            if memory.spec.impossible:
                probabilities[i], kept = _possible(probabilities[i], predictor.classes, memory.spec.impossible)
                unknown[i] = unknown[i] or kept < LEAST_POSSIBLE
        best, listed = probabilities.argmax(axis=1).tolist(), probabilities.tolist()
        for i, (memory, row) in enumerate(judged):
            memory.hidden, memory.last_end_ns, memory.age = h[i], row.end_ns, memory.age + 1
            p = dict(zip(predictor.classes, listed[i], strict=True))
            state, changes = self._alarms(memory, row, p, predictor.version, unknown=unknown[i])
            result.alarms += changes
            mode = predictor.classes[best[i]]
            result.predictions.append(_prediction(predictor, memory, row, state, mode, p[mode], probabilities[i]))

    def _alarms(
        self, memory: _Memory, row: FeatureRow, p: dict[str, float], model: str, *, unknown: bool
    ) -> tuple[str, list[AlarmChange]]:
        """The name of the stream's state after this window, and the alarms that changed."""
        if memory.age <= memory.spec.warm_up_windows:  # an open alarm stays open while the network warms up
            return ("alarm" if memory.alarm.open else "warming_up"), []
        zone, spec, enter_p = self.zone_of(row) if self.zone_of else None, memory.spec.alarm, None
        if memory.spec.budgeted and not unknown:
            if not memory.alarm.open:
                fault_p = max((value for mode, value in p.items() if mode != HEALTHY), default=0.0)
                per_year, span = memory.spec.false_alarms_per_year, (row.start_ns, row.end_ns)
                memory.sound = budget.learn(memory.sound, per_year, spec.enter_s, model, fault_p, *span)
            enter_p = budget.threshold(memory.sound, model, spec.enter_p, spec.leave_p)
        memory.alarm, changes = alarm.judge(
            spec, memory.alarm, row.key, p, row.start_ns, row.end_ns, unknown=unknown, zone=zone, enter_p=enter_p
        )
        return memory.alarm.name, changes

    def _forecast(self, predictor: Predictor, result: Step, judged: list[tuple[_Memory, FeatureRow]]) -> None:
        """Forecast from the hidden states of the streams whose turn it is and whose network has warmed up."""
        if self.foretell is None:
            return
        due = [
            (memory.hidden, row)
            for memory, row in judged
            if row.window % self.foretell_every == 0 and memory.age > memory.spec.warm_up_windows
        ]
        if due:
            h = np.stack([hidden for hidden, _ in due])
            result.forecasts += [
                Forecast(*_address(row), tuple(futures), predictor.version)
                for (_, row), futures in zip(due, self.foretell(h), strict=True)
            ]


class _Memory:
    """What the network and the alarms remember of a stream, while a step works through its rows."""

    __slots__ = ("_before", "age", "alarm", "hidden", "last_end_ns", "longest_pause_ns", "model", "sound", "spec")

    def __init__(self, spec: StreamSpec, state: StreamState) -> None:
        self.spec, self._before = spec, state
        self.hidden = _NO_HIDDEN_STATE if state.hidden is None else state.hidden
        self.age, self.last_end_ns, self.model = state.state_age, state.last_end_ns, state.model
        self.alarm, self.sound = state.alarm, state.sound
        self.longest_pause_ns = spec.max_gap_s * 1e9

    def reset_if_due(self, predictor: Predictor, row: FeatureRow) -> None:
        """Begin a new sequence after a long pause, or under another model than the hidden state is from."""
        pause_ns = 0 if self.last_end_ns is None else abs(row.start_ns - self.last_end_ns)
        too_long = pause_ns > self.longest_pause_ns + (row.end_ns - row.start_ns)
        if too_long or self.hidden is _NO_HIDDEN_STATE or self.model != predictor.version:
            self.hidden = np.zeros(predictor.hidden_shape, np.float32)
            self.age, self.model, self.last_end_ns = 0, predictor.version, row.start_ns
            if too_long:
                self.alarm = alarm.waits_begin_anew(self.alarm)

    def state(self) -> StreamState:
        """The stream's state with all this in it."""
        return replace(
            self._before,
            hidden=None if self.hidden is _NO_HIDDEN_STATE else self.hidden,
            state_age=self.age,
            last_end_ns=self.last_end_ns,
            model=self.model,
            alarm=self.alarm,
            sound=self.sound,
        )


def _wavefronts(memories: Mapping[StreamKey, _Memory], rows: Rows) -> Iterator[list[tuple[_Memory, FeatureRow]]]:
    for i in range(max(map(len, rows.values()), default=0)):
        yield [(memories[key], some[i]) for key, some in rows.items() if i < len(some)]


def _possible(p: Float32, classes: tuple[str, ...], impossible: tuple[str, ...]) -> tuple[Float32, float]:
    """The probabilities (K,) of what the machine can have, which sum to 1, and what these were together before."""
    rest: Float32 = np.where(_can(classes, impossible), p, np.float32(0.0)).astype(np.float32)
    kept = rest.sum()
    return (np.divide(rest, kept) if kept > 0 else p), float(kept)


@lru_cache(maxsize=64)
def _can(classes: tuple[str, ...], impossible: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([name not in impossible for name in classes])


def _reason(memory: _Memory, row: FeatureRow) -> str:
    """The state of the stream at a window that the network must not see."""
    quality = Quality(row.quality)
    if quality & Quality.NOT_RUNNING:
        return "not_running"
    return "sensor_fault" if quality.sensor_fault else memory.alarm.name


def _prediction(
    predictor: Predictor, memory: _Memory, row: FeatureRow, state: str, mode: str | None, p: float, all_p: Float32
) -> Prediction:
    return Prediction(*_address(row), mode, p, all_p, state, memory.age, predictor.version, row.schema)


def _address(row: FeatureRow) -> tuple[StreamKey, int, int, int, int]:
    """The fields with which every record about a window begins."""
    return row.key, row.session, row.window, row.start_ns, row.end_ns
