"""The network in serving: plain numpy, stateless, batched over streams, no torch.

Equal to models/network.py within 1e-6 over hundreds of carried steps (tests/test_predictor.py).
Per layer, with sigma the logistic function and * element by element:

    r = sigma(W_ir x + b_ir + W_hr h + b_hr)
    u = sigma(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = n + u * (h - n)

and on top p = softmax((W h' + b) / temperature).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from pipeline.errors import ModelError

Float32 = NDArray[np.float32]


class _Layer(NamedTuple):
    """Weights of one GRU layer, transposed so that a batch multiplies from the left; gates in the order r, u, n."""

    from_input: Float32  # (I, 3H)
    from_state: Float32  # (H, 3H)
    input_bias: Float32  # (3H,)
    state_bias: Float32  # (3H,)


class NumpyPredictor:
    """A `Predictor` of pipeline.core.records: (x, h) -> (p, h). Safe to share between threads: it remembers nothing."""

    def __init__(self, bundle: Bundle) -> None:
        spec, weights = bundle.spec, bundle.weights
        self._spec = spec
        self._layers = tuple(
            _Layer(
                np.ascontiguousarray(weights[f"gru.weight_ih_l{layer}"].T),
                np.ascontiguousarray(weights[f"gru.weight_hh_l{layer}"].T),
                weights[f"gru.bias_ih_l{layer}"],
                weights[f"gru.bias_hh_l{layer}"],
            )
            for layer in range(spec.layers)
        )
        # The temperature is part of the head: one division here instead of one per window.
        self._head = np.ascontiguousarray(weights["head.weight"].T / np.float32(spec.temperature))  # (H, K)
        self._head_bias = weights["head.bias"] / np.float32(spec.temperature)  # (K,)

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
        """(L, H) of one stream's hidden state; a new sequence starts from zeros."""
        return self._spec.layers, self._spec.hidden

    @property
    def temperature(self) -> float:
        """Divisor of the logits, fitted on held-out machines."""
        return self._spec.temperature

    @property
    def feature_schema(self) -> str:
        """Name of the feature table the inputs come from."""
        return self._spec.feature_schema

    def initial(self, batch: int) -> Float32:
        """State of `batch` fresh sequences, (B, L, H)."""
        return np.zeros((batch, *self.hidden_shape), np.float32)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        """One window of B streams: x (B, F) raw features, h (B, L, H) -> probabilities (B, K), h (B, L, H).

        NaN in x is a missing feature; it is masked, not replaced.

        Raises:
            ModelError: x or h has another shape.
        """
        features, shape = len(self._spec.inputs), self.hidden_shape
        if x.ndim != 2 or x.shape[1] != features:
            msg = f"model {self.version}: expected features of shape (B, {features}), found: {x.shape}"
            raise ModelError(msg, hint="pass the columns of `inputs`, in that order")
        if h.shape != (x.shape[0], *shape):
            msg = f"model {self.version}: expected a state of shape {(x.shape[0], *shape)}, found: {h.shape}"
            raise ModelError(msg, hint="a state belongs to one model version; start from zeros and replay")
        z = self._spec.scaler.apply(x.astype(np.float32, copy=False))  # (B, F)
        missing = np.isnan(z)
        y = np.empty((x.shape[0], 2 * features), np.float32)  # (B, 2F)
        y[:, :features] = np.where(missing, np.float32(0), z)
        y[:, features:] = ~missing
        h_next = np.empty_like(h, dtype=np.float32)  # (B, L, H)
        for number, layer in enumerate(self._layers):
            y = _gru_step(layer, y, h[:, number, :])  # (B, H)
            h_next[:, number, :] = y
        return _softmax(y @ self._head + self._head_bias), h_next


def _gru_step(layer: _Layer, x: Float32, h: Float32) -> Float32:
    """One GRU layer: x (B, I), h (B, H) -> h (B, H)."""
    units = h.shape[1]
    from_input = x @ layer.from_input + layer.input_bias  # (B, 3H)
    from_state = h @ layer.from_state + layer.state_bias  # (B, 3H)
    gates = _sigmoid(from_input[:, : 2 * units] + from_state[:, : 2 * units])  # (B, 2H)
    reset, update = gates[:, :units], gates[:, units:]
    new = np.tanh(from_input[:, 2 * units :] + reset * from_state[:, 2 * units :])  # (B, H)
    return new + update * (h - new)


def _sigmoid(x: Float32) -> Float32:
    """Logistic function by way of tanh: no overflow at either end."""
    half = np.float32(0.5)
    return half + half * np.tanh(half * x)


def _softmax(logits: Float32) -> Float32:
    """(B, K) -> (B, K), rows sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
