"""Which models serve, and how another one takes over without forgetting.

A hidden state belongs to one model version. So before another version serves, its state of every stream is built by
stepping it over the stream's last archived windows; `state_age` counts them. What the alarms knew stays: a model that
changed is no reason to clear an alarm. A *shadow* is a second model that predicts beside the first: its predictions are
archived under its own version and never published, it raises no alarm, and if it fails the service goes on without it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.alarm import acknowledge, waits_begin_anew
from pipeline.core.engine import Engine, States, Step
from pipeline.core.records import FeatureRow, Float32, Foretell, Future, Prediction, Predictor, StreamKey, changed
from pipeline.core.state import StreamState

log = logging.getLogger("thrumcast.serving")

# The archived rows that end at each stream's time or before.
ReadLast = Callable[[Mapping[StreamKey, int]], dict[StreamKey, list[FeatureRow]]]


@dataclass(frozen=True, slots=True)
class Serving:
    """The models of a service at one time."""

    predictor: Predictor | None
    is_unknown: Callable[[Float32, Float32], NDArray[np.bool_]] | None = None
    shadow: Predictor | None = None
    foretell: Foretell | None = None

    def on(self, engine: Engine) -> Engine:
        """The engine with these models; it keeps everything else."""
        return replace(engine, predictor=self.predictor, is_unknown=self.is_unknown, foretell=self.foretell)


@dataclass(slots=True)
class Extra:
    """Forecasts beside the predictions: a model that fails at them is let go, the plant is not its business."""

    inner: Foretell
    failed: bool = False

    def __call__(self, h: Float32) -> list[list[Future]]:
        """See `Foretell`; nothing at all once it has failed."""
        if not self.failed:
            try:
                return self.inner(h)
            except MemoryError:
                raise
            except Exception:
                log.exception("forecast_failed")
                self.failed = True
        return [[] for _ in h]


@dataclass(slots=True)
class Timed:
    """A predictor, and how long it has worked."""

    inner: Predictor
    seconds: float = 0.0

    @property
    def version(self) -> str:
        """See `Predictor`; as the others."""
        return self.inner.version

    @property
    def classes(self) -> tuple[str, ...]:
        """K modes."""
        return self.inner.classes

    @property
    def inputs(self) -> tuple[str, ...]:
        """F columns."""
        return self.inner.inputs

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(L, H)."""
        return self.inner.hidden_shape

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams."""
        began_s = time.perf_counter()
        try:
            return self.inner.step(x, h)
        finally:
            self.seconds += time.perf_counter() - began_s


class ModelWatch(Protocol):
    """Knows when other models are to serve."""

    def look_again(self) -> None:
        """Whatever was seen before: look again, as if something had changed."""

    def due(self) -> Serving | None:
        """What is to serve from now on; None while nothing has changed. Asked between commits, so it must be quick."""


def remembered(engine: Engine, states: States, read_last: ReadLast) -> dict[StreamKey, StreamState]:
    """States under the engine's model for the streams whose hidden state is another model's."""
    predictor = engine.predictor
    if predictor is None:
        return {}
    foreign = {
        key: state.last_end_ns
        for key, state in states.items()
        if state.model != predictor.version and state.last_end_ns is not None
    }
    if not foreign:
        return {}
    replayed = engine.predict({}, read_last(foreign)).states
    warmed: dict[StreamKey, StreamState] = {}
    for key in foreign:
        fresh = replayed.get(key, StreamState())
        warmed[key] = changed(
            states[key],
            hidden=fresh.hidden,
            state_age=fresh.state_age,
            model=None if fresh.hidden is None else predictor.version,
            alarm=waits_begin_anew(states[key].alarm),
        )
    return warmed


@dataclass(slots=True)
class Shadow:
    """A model that predicts beside the one that serves. Its states live here; a restart builds them again."""

    engine: Engine
    read_last: ReadLast
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    failed: bool = False  # it raised something, and is silent from then on

    @property
    def version(self) -> str:
        """Whose predictions these are."""
        return self.engine.predictor.version if self.engine.predictor else ""

    def predict(self, rows: Iterable[FeatureRow]) -> Step:
        """Predictions of rows that the service has just made; the states count once `keep` is told of the commit."""
        by_stream: dict[StreamKey, list[FeatureRow]] = {}
        for row in rows:
            by_stream.setdefault(row.key, []).append(row)
        new = {key: some[0].end_ns - 1 for key, some in by_stream.items() if key not in self.states}
        known = dict(self.states)
        if new:
            known |= self.engine.predict({}, self.read_last(new)).states
        return self.engine.predict(known, by_stream)

    def beside(self, rows: Iterable[FeatureRow]) -> Step:
        """As `predict`; a shadow that fails is let go, the plant is not its business."""
        if self.failed:
            return Step()
        try:
            return self.predict(rows)
        except MemoryError:
            raise
        except Exception:
            log.exception("shadow_failed model=%s", self.version)
            self.failed = True
            return Step()

    def keep(self, step: Step) -> None:
        """The step is committed."""
        self.states |= step.states


def acknowledged(states: States, queue: SimpleQueue[tuple[StreamKey, str]], step: Step) -> None:
    """Put what people have acknowledged (stream, alarm id) since the last look into a step."""
    with contextlib.suppress(Empty):
        while True:
            key, alarm_id = queue.get_nowait()
            state = step.states.get(key) or states.get(key)
            if state is not None:
                alarm, changes = acknowledge(state.alarm, key, alarm_id, time.time_ns())
                step.alarms += changes
                step.states[key] = changed(state, alarm=alarm)


def together(
    served: Sequence[Prediction], classes: tuple[str, ...], shadowed: Sequence[Prediction], others: tuple[str, ...]
) -> tuple[list[Prediction], tuple[str, ...]]:
    """Predictions of two models for one commit, over the union of their classes; NaN where one has no such class."""
    union = (*classes, *(name for name in others if name not in classes))
    return [*_widened(served, classes, union), *_widened(shadowed, others, union)], union


def _widened(rows: Sequence[Prediction], classes: tuple[str, ...], union: tuple[str, ...]) -> list[Prediction]:
    if classes == union:
        return list(rows)
    place = [union.index(name) for name in classes]
    wide = []
    for row in rows:
        p = np.full(len(union), np.nan, np.float32)
        p[place] = row.probabilities
        wide.append(changed(row, probabilities=p))
    return wide
