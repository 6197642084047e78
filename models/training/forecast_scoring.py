"""How far a decoder is to be believed, and what its forecasts are worth beside guesses that know less.

Held-out machines say both. With p the decoder's probabilities, given the true modes before, and u what is usual:

    trust = argmax sum log(trust p + (1 - trust) u)    by expectation and maximisation, over held-out changes, with
                                                        DOUBTS changes more that speak for u

So few changes, or a decoder that is sure of what does not come, leave the naive guess. What is printed of a fold is
said with the steps and the trust that the other folds chose, or with UNTRIED where there is no other: nobody is scored
by a choice that has seen the answer.
Every change counts once, however many windows lie ahead of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.events import interval_90
from models.forecast import Forecaster
from models.training.forecast import CHECKS, MASKED, Futures

UNTRIED = CHECKS[2], 0.25  # steps and trust where nothing is held back: about what simulated plants have chosen
DOUBTS = 3.0
FIT_STEPS = 100  # of expectation and maximisation
LEAST = 1e-9  # a probability of 0 would cost everything
MODEL, DECODER = "model", "decoder alone"
USUAL, NOTHING, NAMED = "what mostly comes", "nothing else comes", "what mostly follows the mode it names"
TRUE = "what mostly follows the true mode"
NAIVE = (USUAL, NOTHING, NAMED)  # what can be guessed without knowing the truth

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One fold: what was learned from one side, and the futures of the other."""

    known: Futures
    test: Futures
    decoders: Mapping[int, Forecaster]  # by steps of training

    def parts(self, steps: int) -> tuple[Float64, Float64]:
        """The decoder's probabilities and the usual ones (N, k, K + 1) of every token, given the true ones before."""
        decoder, tokens = self.decoders[steps], self.test.tokens
        s = decoder.begin(self.test.states.reshape(len(tokens), *decoder.state_shape))
        before = np.full(len(tokens), decoder.start, np.int64)
        said, usual = [], []
        for token in np.where(tokens == MASKED, decoder.end, tokens).T:
            p, u, s = decoder.parts(before, s)
            said.append(p)
            usual.append(u)
            before = token
        return np.stack(said, axis=1).astype(np.float64), np.stack(usual, axis=1).astype(np.float64)

    def evidence(self, steps: int) -> Float64:
        """Rows p, u, weight of every token that is known."""
        p, u = (_of_truth(part, self.test.tokens)[self.test.tokens != MASKED] for part in self.parts(steps))
        weight = np.broadcast_to(self.test.weight[:, None], self.test.tokens.shape)[self.test.tokens != MASKED]
        return np.stack([p, u, weight])


def choose(evidence: Sequence[Mapping[int, Float64]]) -> tuple[int, float]:
    """Steps of training and trust with which the futures of these trials are most probable."""
    found = []
    for steps in evidence[0]:
        p, u, weight = np.concatenate([of_trial[steps] for of_trial in evidence], axis=1)
        trust = _trust(p, u, weight)
        found.append((-float((weight * np.log(trust * p + (1 - trust) * u)).sum()), steps, trust))
    _, steps, trust = min(found)
    return steps, trust


def _trust(p: Float64, u: Float64, weight: Float64) -> float:
    trust = 0.5
    for _ in range(FIT_STEPS):
        mine = trust * p / (trust * p + (1 - trust) * u)
        trust = float((weight * mine).sum() / (weight.sum() + DOUBTS))
    return trust


def score(trials: Sequence[Trial]) -> dict[str, Any]:
    """Steps and trust by all trials; accuracy and log loss of the model, its decoder alone and naive guesses."""
    evidence = [{steps: trial.evidence(steps) for steps in trial.decoders} for trial in trials]
    tallies: dict[str, list[Float64]] = {}
    for number, trial in enumerate(trials):
        others = evidence[:number] + evidence[number + 1 :]
        steps, trust = choose(others) if others else UNTRIED
        p, usual = trial.parts(steps)
        guesses = {MODEL: trust * p + (1 - trust) * usual, DECODER: p, **_naive(trial.known, trial.test, usual)}
        for who, guess in guesses.items():
            tallies.setdefault(who, []).append(_tally(guess, trial.test))
    pooled = {who: np.concatenate(each) for who, each in tallies.items()}  # (machines, k, 3)
    guesses_said = {who: _said(each.sum(axis=0)) for who, each in pooled.items()}
    naive = min(NAIVE, key=lambda who: float(guesses_said[who]["log_loss"]))
    pairs = list(zip(pooled[naive].sum(axis=1), pooled[MODEL].sum(axis=1), strict=True))

    def gain(some: Sequence[tuple[Float64, Float64]]) -> float:
        return float(sum(a[2] - b[2] for a, b in some) / sum(a[0] for a, _ in some))

    steps, trust = choose(evidence)
    return {
        "trained_steps": steps,
        "trust": trust,
        "windows": sum(len(trial.test.tokens) for trial in trials),
        "changes": sum(len(np.unique(trial.test.change)) for trial in trials),
        "machines": len(pairs),
        "guesses": guesses_said,
        "gain": {"over": naive, "log_loss": gain(pairs), "interval_90": interval_90(pairs, gain)},
    }


def _naive(known: Futures, test: Futures, usual: Float64) -> dict[str, Float64]:
    """What can be guessed from how often things came on the training side, (N, k, K + 1)."""
    tokens, classes = usual.shape[2], usual.shape[2] - 1
    often, first = known.usual(classes), known.tokens[:, 0]
    table = DOUBTS * np.broadcast_to(often, (tokens, tokens)).copy()
    np.add.at(table, (known.present, first), known.weight)
    np.fill_diagonal(table[:classes, :classes], 0.0)
    table /= np.maximum(table.sum(axis=1, keepdims=True), LEAST)
    ends = (known.weight[first == classes].sum() + 1) / (known.weight.sum() + 2)
    nothing = np.append(np.full(classes, (1 - ends) / classes), ends)
    before = np.where(test.tokens == MASKED, classes, test.tokens)[:, :-1]
    later = table[before]  # (N, k - 1, K + 1)
    return {
        USUAL: usual,
        NOTHING: np.broadcast_to(nothing, usual.shape),
        NAMED: np.concatenate([(test.named.astype(np.float64) @ table[:classes])[:, None], later], axis=1),
        TRUE: np.concatenate([table[test.present][:, None], later], axis=1),
    }


def _of_truth(p: Float64, tokens: Int64) -> Float64:
    """The probability (N, k) of what came."""
    there = np.where(tokens == MASKED, 0, tokens)[:, :, None]
    return np.maximum(np.take_along_axis(p, there, axis=2)[:, :, 0], LEAST)


def _tally(p: Float64, test: Futures) -> Float64:
    """Per machine and step: weight, hits, loss. Points of one machine see the same changes: together they are one."""
    weight = np.where(test.tokens == MASKED, 0.0, test.weight[:, None])
    hits, losses = p.argmax(axis=2) == test.tokens, -np.log(_of_truth(p, test.tokens))
    each = np.stack([weight, weight * hits, weight * losses], axis=2)  # (N, k, 3)
    return np.stack([each[test.machine == machine].sum(axis=0) for machine in np.unique(test.machine)])


def _said(tally: Float64) -> dict[str, Any]:
    weight, hits, loss = tally.sum(axis=0)
    steps = tally[tally[:, 0] > 0]
    return {
        "accuracy": float(hits / weight),
        "log_loss": float(loss / weight),
        "steps": {"accuracy": (steps[:, 1] / steps[:, 0]).tolist(), "log_loss": (steps[:, 2] / steps[:, 0]).tolist()},
    }
