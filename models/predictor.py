"""Model versions in service: stateless, batched over streams, without torch. The arithmetic is in models/cells.py.

    NumpyPredictor   p = softmax(outputs / temperature), one failure mode per window; what the service runs
    ValuePredictor   values in their units: the next window's features, or remaining life

A model of one mode per sequence is stepped in the same way; its answer is the one at the last window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.bundle import CLASS_TASKS, VALUE_TASKS, Bundle, ModelSpec
from models.cells import Recurrence, softmax
from pipeline.errors import ModelError

Float32 = NDArray[np.float32]


class NumpyPredictor:
    """A `Predictor` of pipeline.core.records: (x, h) -> (p, h). It keeps nothing, so threads can share it.

    Raises:
        ModelError: the model predicts values, not failure modes.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._spec = bundle.spec
        self._recurrence = _recurrence(bundle, CLASS_TASKS)

    @property
    def version(self) -> str:
        """The model version that every prediction is stamped with."""
        return self._spec.version

    @property
    def classes(self) -> tuple[str, ...]:
        """The K failure modes, in the order of the probabilities."""
        return self._spec.classes

    @property
    def inputs(self) -> tuple[str, ...]:
        """The F column names in the order in which `step` wants them."""
        return self._spec.inputs

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """(M L, S) of one stream's hidden state: M members of L layers; a new sequence starts from zeros."""
        return self._spec.state_shape

    def initial(self, batch: int) -> Float32:
        """State of `batch` new sequences, (B, M L, S)."""
        return np.zeros((batch, *self.hidden_shape), np.float32)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams: x (B, F) raw features, h (B, M L, S) -> probabilities (B, K), h (B, M L, S).

        NaN in x is a missing feature; it is masked, not replaced.

        Raises:
            ModelError: x or h has another shape.
        """
        z = _scaled(self._spec, x, h)
        logits, h = self._recurrence.step(z, h)
        return softmax(logits / np.float32(self._spec.temperature)), h


class ValuePredictor:
    """Real numbers instead of failure modes: (x, h) -> (values in their units, h).

    Raises:
        ModelError: the model predicts failure modes, not values.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.spec = bundle.spec
        self._recurrence = _recurrence(bundle, VALUE_TASKS)

    def initial(self, batch: int) -> Float32:
        """State of `batch` new sequences, (B, M L, S)."""
        return np.zeros((batch, *self.spec.state_shape), np.float32)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams: x (B, F) raw features, h (B, M L, S) -> values (B, D) in units, h (B, M L, S).

        Raises:
            ModelError: x or h has another shape.
        """
        outputs, h = self._recurrence.step(_scaled(self.spec, x, h), h)
        scaler = self.spec.target_scaler
        return (outputs if scaler is None else scaler.invert(outputs)), h


def _recurrence(bundle: Bundle, tasks: tuple[str, ...]) -> Recurrence:
    spec = bundle.spec
    if spec.task not in tasks:
        msg = f"model {spec.version}: expected a model for {' or '.join(tasks)}, found: one for {spec.task}"
        raise ModelError(msg, hint="only a model of failure modes can serve; see `thrumcast models ls`")
    return Recurrence(spec.cell, spec.hidden, spec.layers, spec.members, bundle.weights)


def _scaled(spec: ModelSpec, x: Float32, h: Float32) -> Float32:
    """Check the shapes; raw features (B, F) -> scaled (B, F)."""
    features, shape = len(spec.inputs), spec.state_shape
    if x.ndim != 2 or x.shape[1] != features:
        msg = f"model {spec.version}: expected features of shape (B, {features}), found: {x.shape}"
        raise ModelError(msg, hint="pass the columns of `inputs`, in that order")
    if h.shape != (x.shape[0], *shape):
        msg = f"model {spec.version}: expected a state of shape {(x.shape[0], *shape)}, found: {h.shape}"
        raise ModelError(msg, hint="a state belongs to one model version; start from zeros and replay")
    return spec.scaler.apply(x.astype(np.float32, copy=False))
