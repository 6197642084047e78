"""The forecast of failure modes in service: which modes come next, from the live hidden state. No torch.

    the network's state h of a stream (M L S numbers, as served)
      -> s_0 = tanh(bridge(h))
      -> s_k = gru(embed[token_(k-1)], s_(k-1)),  p_k = softmax(out(s_k))         Sutskever et al. 2014, arXiv:1409.3215

Tokens are the K modes, END (nothing else comes) and START (the first input, never an output). A forecast is the modes
that follow the present one, each once for as long as it lasts: healthy -> bearing_outer -> END, not one token per
window. No forecast is longer than the futures in the training data.

A plant shows few changes of mode, and a decoder soon knows them by heart. So the forecast is a mixture with the naive
guess, how often each mode came next:

    p = trust p_k + (1 - trust) usual        trust is chosen on held-out machines, see models/training/forecast.py

    greedy    the most probable token at every step
    sampled   drawn from p^(1/temperature), with a seed: the same seed gives the same futures
    beam      the most probable futures as a whole, among those that `width` hypotheses reach
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.cells import gru_step, softmax
from pipeline.core.forecast import Future
from pipeline.errors import ModelError

Float32 = NDArray[np.float32]

_Choose = Callable[[Float32], NDArray[np.int64]]


class Forecaster:
    """The decoder of a version. It keeps nothing.

    Raises:
        ModelError: the version was trained without a forecast.
    """

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.spec
        if not spec.decoder:
            msg = f"model {spec.version}: expected a decoder for forecasts, found: none"
            raise ModelError(msg, hint="train one: `thrumcast train --set forecast=3`")
        self.classes = spec.classes
        self.end, self.start = len(spec.classes), len(spec.classes) + 1
        self.horizon, self.trust = spec.horizon, spec.trust
        self.usual = np.array(spec.usual or np.ones(self.end + 1), np.float32)
        self.state_shape = spec.state_shape
        self._weights = {name.removeprefix("decoder."): w for name, w in bundle.weights.items() if "decoder." in name}

    def begin(self, h: Float32) -> Float32:
        """Hidden state of the live network (B, M L, S) -> state of the decoder (B, D).

        Raises:
            ModelError: the state is that of another model.
        """
        if h.shape[1:] != self.state_shape:
            msg = f"expected a state of shape (B, {self.state_shape[0]}, {self.state_shape[1]}), found: {h.shape}"
            raise ModelError(msg, hint="a forecast goes with the hidden state of the same version")
        flat = h.reshape(len(h), -1)
        return np.tanh(flat @ self._weights["bridge.weight"].T + self._weights["bridge.bias"])

    def step(self, token: NDArray[np.int64], s: Float32) -> tuple[Float32, Float32]:
        """One token of B futures: token (B,), s (B, D) -> the decoder's p (B, K + 1) with END last, s (B, D)."""
        w = self._weights
        x = w["embed.weight"][token]  # (B, D)
        s = gru_step(
            x @ w["gru.weight_ih_l0"].T + w["gru.bias_ih_l0"], s @ w["gru.weight_hh_l0"].T + w["gru.bias_hh_l0"], s
        )
        return softmax(s @ w["out.weight"].T + w["out.bias"]), s

    def greedy(self, h: Float32, k: int) -> list[Future]:
        """The most probable next token, k times or until END, for B streams."""
        return self._roll(h, k, lambda p: p.argmax(axis=1))

    def sampled(self, h: Float32, k: int, *, temperature: float = 1.0, seed: int = 0) -> list[Future]:
        """Draw a future for each of B streams; low temperatures come close to `greedy`.

        Raises:
            ModelError: the temperature is not above 0.
        """
        if not temperature > 0:
            msg = f"expected a temperature above 0, found: {temperature}"
            raise ModelError(msg)
        rng = np.random.default_rng(seed)

        def draw(p: Float32) -> NDArray[np.int64]:
            sharper = softmax((np.log(np.maximum(p, 1e-30)) / temperature).astype(np.float64))
            edges = np.cumsum(sharper, axis=1)
            return (rng.random((len(p), 1)) * edges[:, -1:] > edges).sum(axis=1)

        return self._roll(h, k, draw)

    def beam(self, h: Float32, k: int, *, width: int = 4) -> list[list[Future]]:
        """The most probable futures of up to k modes for B streams, best first, at most `width` each."""
        return [self._beam(row, k, width) for row in self.begin(h)]

    def _beam(self, s: Float32, k: int, width: int) -> list[Future]:
        alive: list[tuple[float, tuple[int, ...], tuple[float, ...], Float32]] = [(0.0, (), (), s)]
        done: list[tuple[float, tuple[int, ...], tuple[float, ...]]] = []
        for _ in range(min(k, self.horizon)):
            last = np.array([tokens[-1] if tokens else self.start for _, tokens, _, _ in alive])
            p, states = self._next(last, np.stack([state for *_, state in alive]))
            longer = [
                (score + float(np.log(max(p[n, token], 1e-30))), (*tokens, token), (*ps, float(p[n, token])), states[n])
                for n, (score, tokens, ps, _) in enumerate(alive)
                for token in range(self.end + 1)
            ]
            longer.sort(key=lambda each: -each[0])
            done += [(score, tokens, ps) for score, tokens, ps, _ in longer[:width] if tokens[-1] == self.end]
            alive = [each for each in longer[:width] if each[1][-1] != self.end]
            if not alive:
                break
        done += [(score, tokens, ps) for score, tokens, ps, _ in alive]
        done.sort(key=lambda each: -each[0])
        return [self._future(tokens, ps) for _, tokens, ps in done[:width]]

    def parts(self, token: NDArray[np.int64], s: Float32) -> tuple[Float32, Float32, Float32]:
        """Return p of the decoder and of the naive guess, and s, as `step`. In neither does a mode follow itself."""
        p, s = self.step(token, s)
        return _not_itself(p, token), _not_itself(np.broadcast_to(self.usual, p.shape), token), s

    def _next(self, token: NDArray[np.int64], s: Float32) -> tuple[Float32, Float32]:
        """Return the mixture of both, and s."""
        p, usual, s = self.parts(token, s)
        trust = np.float32(self.trust)
        return trust * p + (1 - trust) * usual, s

    def _roll(self, h: Float32, k: int, choose: _Choose) -> list[Future]:
        s = self.begin(h)
        token = np.full(len(h), self.start, np.int64)
        tokens: list[list[int]] = [[] for _ in h]
        chances: list[list[float]] = [[] for _ in h]
        for _ in range(min(k, self.horizon)):
            p, s = self._next(token, s)
            token = choose(p)
            for row, said in enumerate(token.tolist()):
                if not tokens[row] or tokens[row][-1] != self.end:
                    tokens[row].append(said)
                    chances[row].append(float(p[row, said]))
        return [self._future(tuple(said), tuple(ps)) for said, ps in zip(tokens, chances, strict=True)]

    def _future(self, tokens: tuple[int, ...], chances: tuple[float, ...]) -> Future:
        ends = bool(tokens) and tokens[-1] == self.end
        modes = tuple(self.classes[token] for token in tokens if token != self.end)
        return Future(modes, ends, float(np.prod(chances)), chances)


def _not_itself(p: Float32, token: NDArray[np.int64]) -> Float32:
    """Set the probability of the previous token (B,) to 0 in p (B, K + 1). END may repeat; nothing after it is read."""
    end = p.shape[1] - 1
    p = np.where(np.arange(end + 1) == np.where(token == end, -1, token)[:, None], np.float32(0), p)
    return p / np.maximum(p.sum(axis=1, keepdims=True), np.float32(1e-30))
