"""The recurrent cells in plain numpy: what a served model computes at every window.

With sigma the logistic function, * element by element, a = W_i x + b_i from the input and c = W_h h + b_h from the
state, both split into the gates of the cell:

    gru        r = sigma(a_r + c_r), u = sigma(a_u + c_u), n = tanh(a_n + r * c_n)
               h' = n + u * (h - n)                                    Cho et al. 2014, arXiv:1406.1078
    lstm       i, f, o = sigma(a + c), g = tanh(a_g + c_g)
               cell' = f * cell + i * g, h' = o * tanh(cell')          Hochreiter & Schmidhuber 1997; Gers et al. 2000
    rnn_tanh   h' = tanh(a + c)                                        Elman 1990
    rnn_relu   h' = max(0, a + c)

Shapes: B streams, M members of an ensemble (each with its own weights and state), L layers, H units, G gates,
S = width of the state: H, or 2H for an lstm, whose state is [h, cell] side by side.

Results equal those of torch within 1e-6 over hundreds of steps (tests/models/test_predictor.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

DIRECT = "direct_weight"  # name of W_direct (O, 2F) among the weights, see models/places.py


class Cell(NamedTuple):
    """What a kind of cell is made of."""

    family: str  # first part of the names of its weights, as in torch
    gates: int  # G: rows of the weights, in units of H
    states: int  # width of the state, in units of H


CELLS = {
    "gru": Cell("gru", 3, 1),
    "lstm": Cell("lstm", 4, 2),
    "rnn_tanh": Cell("rnn", 1, 1),
    "rnn_relu": Cell("rnn", 1, 1),
}


class Recurrence:
    """The network of a model version: scaled features and state in, outputs and state out. It keeps nothing."""

    def __init__(self, cell: str, hidden: int, layers: int, members: int, weights: Mapping[str, Float32]) -> None:
        self._cell, self._hidden, self._members = cell, hidden, members
        self._width = hidden * CELLS[cell].states
        family = CELLS[cell].family
        self._layers = tuple(
            _Layer(
                _left(weights[f"{family}.weight_ih_l{layer}"], members),
                _left(weights[f"{family}.weight_hh_l{layer}"], members),
                weights[f"{family}.bias_ih_l{layer}"].reshape(members, 1, -1),
                weights[f"{family}.bias_hh_l{layer}"].reshape(members, 1, -1),
            )
            for layer in range(layers)
        )
        self._head = _left(weights["head.weight"], members)  # (M, H, O)
        self._head_bias = weights["head.bias"].reshape(members, 1, -1)  # (M, 1, O)
        self._direct = _left(weights[DIRECT], members) if DIRECT in weights else None  # (M, 2F, O)

    def step(self, z: Float32, h: Float32) -> tuple[Float32, Float32]:
        """Run one window of B streams: z (B, F), h (B, M L, S) -> outputs (B, O), h (B, M L, S).

        z holds scaled features, NaN = missing. The outputs are the mean over the members.
        """
        rows, features = z.shape
        present = z == z  # False for NaN
        x = np.zeros((rows, 2 * features), np.float32)  # [z * m, m] as in models/network.py
        np.copyto(x[:, :features], z, where=present)
        x[:, features:] = present

        y = x[None]  # (1, B, 2F): the same input for every member
        before = h.reshape(rows, self._members, len(self._layers), self._width)  # (B, M, L, S)
        after = np.empty(before.shape, np.float32)
        for number, layer in enumerate(self._layers):
            state = _step(self._cell, layer, y, before[:, :, number].transpose(1, 0, 2))  # (M, B, S)
            after[:, :, number] = state.transpose(1, 0, 2)
            y = state[:, :, : self._hidden]  # (M, B, H)

        outputs = y @ self._head  # (M, B, O)
        outputs += self._head_bias
        if self._direct is not None:
            outputs += x @ self._direct
        averaged = outputs[0] if self._members == 1 else outputs.mean(axis=0)  # (B, O)
        return averaged, after.reshape(h.shape)


class _Layer(NamedTuple):
    """Weights of one layer of all members, transposed so that a batch multiplies from the left."""

    from_input: Float32  # (M, I, G H)
    from_state: Float32  # (M, H, G H)
    input_bias: Float32  # (M, 1, G H)
    state_bias: Float32  # (M, 1, G H)


def _step(cell: str, layer: _Layer, x: Float32, state: Float32) -> Float32:
    """One step of one layer: x (M, B, I) or (1, B, I), state (M, B, S) -> state (M, B, S)."""
    units = layer.from_state.shape[1]
    h = state[:, :, :units]
    a = x @ layer.from_input  # (M, B, G H)
    a += layer.input_bias
    c = h @ layer.from_state  # (M, B, G H)
    c += layer.state_bias
    if cell == "gru":
        return gru_step(a, c, h)
    a += c
    if cell == "lstm":
        i, f, g, o = (a[:, :, k * units : (k + 1) * units] for k in range(4))  # gates in torch's order, (M, B, H) each
        memory = sigmoid(f) * state[:, :, units:] + sigmoid(i) * np.tanh(g)
        return np.concatenate((sigmoid(o) * np.tanh(memory), memory), axis=2)
    return np.tanh(a) if cell == "rnn_tanh" else np.maximum(a, np.float32(0))


def gru_step(a: Float32, c: Float32, h: Float32) -> Float32:
    """One GRU step from gate values of the input a (..., 3H) and of the state c (..., 3H): h (..., H) -> h (..., H)."""
    units = h.shape[-1]
    gates = sigmoid(a[..., : 2 * units] + c[..., : 2 * units])  # (..., 2H)
    reset, update = gates[..., :units], gates[..., units:]
    new: Float32 = reset * c[..., 2 * units :]  # (..., H)
    new += a[..., 2 * units :]
    np.tanh(new, out=new)
    return new + update * (h - new)


def sigmoid(x: Float32) -> Float32:
    """Logistic function 1 / (1 + e^-x) = (1 + tanh(x/2)) / 2, which overflows at neither end."""
    half = np.float32(0.5)
    y: Float32 = x * half
    np.tanh(y, out=y)
    y *= half
    y += half
    return y


def softmax(logits: Float32) -> Float32:
    """Probabilities (..., K) of logits (..., K); they sum to 1 along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _left(weight: Float32, members: int) -> Float32:
    """Transpose weights (O, I) of one member, or (M, O, I) of several, to (M, I, O)."""
    return np.ascontiguousarray(weight.reshape(members, *weight.shape[-2:]).transpose(0, 2, 1))
