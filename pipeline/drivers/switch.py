"""Which models serve, and how another one takes over without forgetting.

A hidden state belongs to one model version. Before another version serves, its state of every stream is built by
stepping it over the stream's last archived windows; `state_age` counts these. The alarms keep what they know: another
model is no reason to clear an alarm.

A *shadow* is a second model that predicts beside the first. Its predictions are archived under its own version and
never published, and it raises no alarm. If it fails, it is switched off and logged, and the service goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.alarm import waits_begin_anew
from pipeline.core.engine import Engine, States, Step
from pipeline.core.forecast import Foretell
from pipeline.core.records import FeatureRow, Float32, Prediction, Predictor, StreamKey
from pipeline.core.state import StreamState
from pipeline.errors import ArchiveError

log = logging.getLogger("thrumcast.serving")

# For each stream the archived rows that end at the given time or before.
ReadLast = Callable[[Mapping[StreamKey, int]], dict[StreamKey, list[FeatureRow]]]


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The models of a service at one time."""

    predictor: Predictor | None
    is_unknown: Callable[[Float32, Float32], NDArray[np.bool_]] | None = None
    shadow: Predictor | None = None
    foretell: Foretell | None = None

    def on(self, engine: Engine) -> Engine:
        """The engine with these models; everything else stays."""
        return replace(engine, predictor=self.predictor, is_unknown=self.is_unknown, foretell=self.foretell)


class ModelWatch(Protocol):
    """Knows when other models are to serve."""

    def look_again(self) -> None:
        """Make the next `due` look as if something had changed."""

    def due(self) -> ModelSet | None:
        """What is to serve from now on; None while nothing has changed. Asked once a turn, so it must be quick."""


@dataclass(slots=True)
class Shadow:
    """A model that predicts beside the one that serves. Its states live here; after a restart they are built again."""

    engine: Engine
    read_last: ReadLast
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    failed: bool = False  # it has raised something, and is switched off

    @property
    def version(self) -> str:
        """The version of its predictions."""
        return self.engine.predictor.version if self.engine.predictor else ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Its K modes."""
        return self.engine.predictor.classes if self.engine.predictor else ()

    def predict(self, rows: Iterable[FeatureRow]) -> Step:
        """Predictions of rows that the service has just made; empty once it has failed."""
        if self.failed:
            return Step()
        try:
            return self._predict(rows)
        except MemoryError:
            raise
        except Exception:
            log.exception("shadow_failed model=%s", self.version)
            self.failed = True
            return Step()

    def _predict(self, rows: Iterable[FeatureRow]) -> Step:
        by_stream: dict[StreamKey, list[FeatureRow]] = {}
        for row in rows:
            by_stream.setdefault(row.key, []).append(row)
        new = {key: some[0].end_ns - 1 for key, some in by_stream.items() if key not in self.states}
        known = dict(self.states)
        if new:
            known |= self.engine.predict({}, self.read_last(new)).states
        return self.engine.predict(known, by_stream)

    def keep(self, step: Step) -> None:
        """Take over the states of a step that is committed."""
        self.states |= step.states


@dataclass(slots=True)
class ModelSwitch:
    """The models beside a live loop. `due`, `memory` and `shadow_step` read files: they belong to the disk's thread."""

    watch: ModelWatch | None = None  # None: the engine's model serves for ever
    read_last: ReadLast = lambda until_ns: {}
    shadow: Shadow | None = None

    def due(self) -> ModelSet | None:
        """The models that are to serve from now on; None while nothing has changed."""
        return self.watch.due() if self.watch is not None else None

    def memory(self, engine: Engine, states: States) -> dict[StreamKey, StreamState]:
        """New states for the streams whose hidden state belongs to another model than the engine's.

        If the archive cannot be read, there are none: the memory then begins empty, as for a new stream.
        """
        try:
            return rebuilt(engine, states, self.read_last)
        except ArchiveError as error:
            log.error("memory_not_rebuilt err=%s", error.message)
            return {}

    def shadow_with(self, engine: Engine, models: ModelSet) -> None:
        """Let the shadow of these models predict from now on, if they have one."""
        self.shadow = Shadow(Engine(engine.spec_of, models.shadow), self.read_last) if models.shadow else None

    def shadow_step(self, rows: Sequence[FeatureRow]) -> Step:
        """The shadow's predictions; empty without one. Its states count once `keep` has been told of the commit."""
        return self.shadow.predict(rows) if self.shadow is not None else Step()

    def keep(self, shadowed: Step) -> None:
        """The shadow's step is committed."""
        if self.shadow is not None:
            self.shadow.keep(shadowed)

    def merged(self, engine: Engine, step: Step, shadowed: Step) -> tuple[list[Prediction], tuple[str, ...]]:
        """The predictions of the engine's model and of the shadow for one commit, over the union of their classes.

        A probability is NaN where a model does not have the class.
        """
        served = engine.predictor.classes if engine.predictor else ()
        others = self.shadow.classes if self.shadow is not None else ()
        union = (*served, *(name for name in others if name not in served))
        return [*_widened(step.predictions, served, union), *_widened(shadowed.predictions, others, union)], union


def rebuilt(engine: Engine, states: States, read_last: ReadLast) -> dict[StreamKey, StreamState]:
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
        warmed[key] = msgspec.structs.replace(
            states[key],
            hidden=fresh.hidden,
            state_age=fresh.state_age,
            model=None if fresh.hidden is None else predictor.version,
            alarm=waits_begin_anew(states[key].alarm),
        )
    return warmed


def _widened(rows: Sequence[Prediction], classes: tuple[str, ...], union: tuple[str, ...]) -> list[Prediction]:
    if classes == union:
        return list(rows)
    place = [union.index(name) for name in classes]
    wide = []
    for row in rows:
        p = np.full(len(union), np.nan, np.float32)
        p[place] = row.probabilities
        wide.append(msgspec.structs.replace(row, probabilities=p))
    return wide
