"""The forecast of failure modes: training of its decoder, and honest numbers about it. Serving is models/forecast.py.

    network that serves -> its states at every window (forecast_examples) -> decoder (fit_decoder) -> steps and trust
    that held-out machines choose (choose) -> a version with a decoder (with_forecast)

The network stays as it is. Its states are stepped as in serving, so a forecast depends on exactly the state that the
live service carries.

Windows are many and changes of mode are few: all windows ahead of one change have the same future. So a decoder starts
from the naive guess whatever the state, every change is drawn as often as any other, and strong weight decay keeps the
weights small. The decoder is trained with teacher forcing: each step is given the true mode before it. With scheduled
sampling (Bengio et al. 2015, arXiv:1506.03099) a share of the steps, growing from 0 to 1 - teacher over the training,
is given the decoder's own last token instead.

Held-out machines decide how long a decoder is trained and how far it is trusted. With p the decoder's probabilities,
given the true modes before, and u the naive guess (how often each mode came next in the training data):

    trust = argmax sum log(trust p + (1 - trust) u)    by expectation and maximisation over held-out changes,
                                                       with DOUBTS additional changes that speak for u

With few changes, or a decoder that is sure and wrong, the naive guess remains. Each fold is scored with the steps and
the trust that the other folds chose, or with UNTRIED where there is no other fold, so no fold influences its own score.
Every change counts once, however many windows lie ahead of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.bundle import Bundle
from models.cells import Recurrence, softmax
from models.data.dataset import UNKNOWN, Dataset, WindowSequence
from models.data.splits import Fold, Split
from models.evaluation.events import interval_90
from models.forecast import Forecaster
from models.settings import TrainSettings
from models.training.folds import CrossValidation, final_fit
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

MASKED = -100  # a token that is not known
STEPS, BATCH = 600, 64
DECAY = 1.0  # weight decay of the decoder; with that of the network it would learn every change by heart
NEVER = -30.0  # logit of a token that never comes in the training data
CHECKS = (10, 30, 75, 150, 300, STEPS)  # steps after which the decoder is kept, to choose from

UNTRIED = CHECKS[2], 0.25  # steps and trust where nothing is held out: about what simulated plants choose
DOUBTS = 3.0  # changes that speak against the decoder
FIT_STEPS = 100  # of expectation and maximisation
LEAST = 1e-9  # least probability: the log of 0 is infinite
MODEL, DECODER = "model", "decoder alone"
USUAL, NOTHING, NAMED = "what mostly comes", "nothing else comes", "what mostly follows the mode it names"
TRUE = "what mostly follows the true mode"
NAIVE = (USUAL, NOTHING, NAMED)  # guesses that need no true mode

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Facts = Mapping[StreamKey, Mapping[str, object]]


def with_forecast(
    bundle: Bundle,
    dataset: Dataset,
    settings: TrainSettings,
    facts: Facts,
    split: Split | None,
    held_out: CrossValidation | None,
    warn: Callable[[str], None],
) -> Bundle:
    """Return the version with a decoder and, where something was held back, `metrics.forecast`.

    Raises:
        ThrumcastError: no mode ever follows another in these data.
    """
    trials = []
    for fold in [] if split is None or held_out is None else split.folds:
        try:
            trials.append(_trial(bundle, dataset, settings, facts, fold, held_out))
        except ThrumcastError:  # a fold without a change of mode has no numbers
            continue
    numbers = score(trials) if trials else None
    steps, trust = UNTRIED if numbers is None else (numbers["trained_steps"], numbers["trust"])
    if numbers is None:
        warn(f"forecast: no change of mode is held out to decide how far the decoder is trusted; assumed: {trust:.0%}")
    decoded = _decoded(bundle, dataset, settings, facts)[0][steps]
    if numbers is not None:
        decoded.metrics["forecast"] = numbers
    return replace(decoded, spec=replace(decoded.spec, trust=trust))


def _trial(
    bundle: Bundle,
    dataset: Dataset,
    settings: TrainSettings,
    facts: Facts,
    fold: Fold,
    held_out: CrossValidation | None,
) -> Trial:
    """Train decoders on a network of the fold's own: that of the version has seen the held-out machines."""
    side = replace(dataset, sequences=fold.train)
    model = final_fit(side, settings, held_out, lambda *_: None)
    if model.cut_short:
        raise KeyboardInterrupt
    spec = replace(bundle.spec, scaler=model.scaler, members=model.members)
    own, known = _decoded(replace(bundle, spec=spec, weights=model.weights), side, settings, facts)
    test = future_windows(next(iter(own.values())), fold.test, facts, settings.forecast).foreseeable(known)
    if not len(test.tokens):
        msg = "forecast: expected held-out changes to modes that occur on the training side, found: none"
        raise ThrumcastError(msg)
    return Trial(known, test, {steps: Forecaster(decoded) for steps, decoded in own.items()})


def _decoded(
    bundle: Bundle, dataset: Dataset, settings: TrainSettings, facts: Facts
) -> tuple[dict[int, Bundle], FutureWindows]:
    """Train the decoder on the states of the network on these sequences; return the version at each of CHECKS."""
    known = future_windows(bundle, dataset.sequences, facts, settings.forecast)
    usual = tuple(known.usual(len(dataset.classes)).tolist())
    spec = replace(bundle.spec, decoder=settings.decoder, horizon=known.horizon, usual=usual)
    seen = fit_decoder(known, len(dataset.classes), settings)
    return {
        steps: replace(bundle, spec=spec, weights=bundle.weights | weights) for steps, weights in seen.items()
    }, known


class Decoder(nn.Module):
    """Predicts the next token from those before and a state of the network; models/forecast.py is its numpy twin."""

    def __init__(self, state: int, classes: int, units: int) -> None:
        super().__init__()
        self.end, self.start = classes, classes + 1
        self.embed = nn.Embedding(classes + 2, units)
        self.bridge = nn.Linear(state, units)
        self.gru = nn.GRU(units, units, batch_first=True)
        self.out = nn.Linear(units, classes + 1)

    def forward(self, h: Tensor, tokens: Tensor, own: float = 0.0) -> Tensor:
        """Return logits (B, k, K + 1) for k steps, given flat states h (B, M L S) and the true tokens (B, k).

        `own` is the share of the steps that are given the decoder's own last token instead of the true one.
        """
        s = torch.tanh(self.bridge(h))[None]  # (1, B, D)
        given = torch.full_like(tokens[:, 0], self.start)
        logits = []
        for step in range(tokens.shape[1]):
            y, s = self.gru(self.embed(given)[:, None], s)
            logits.append(self.out(y[:, 0]))
            true = tokens[:, step].clamp(min=0)
            mine = logits[-1].detach().argmax(dim=1)
            given = torch.where(torch.rand(len(true)) < own, mine, true)
        return torch.stack(logits, dim=1)


def next_modes(y: Int64, horizon: int, end: int, *, ended: bool) -> Int64:
    """Return tokens (T, horizon): the modes that follow the mode of each window, each once, then END if `ended`.

    What comes after a recording that merely stops is MASKED, because it is not known. At windows of unknown mode all
    tokens are MASKED.
    """
    tokens = np.full((len(y), horizon), MASKED, np.int64)
    ahead: list[int] = [end] if ended else []
    later = None
    for t in range(len(y) - 1, -1, -1):
        if y[t] == UNKNOWN:
            continue
        if later is not None and y[t] != later:
            ahead = [int(later), *ahead]
        later = y[t]
        tokens[t, : min(horizon, len(ahead))] = ahead[:horizon]
    return tokens


@dataclass(frozen=True, slots=True, eq=False)
class FutureWindows:
    """Windows whose future is known."""

    states: Float32  # (N, M L S) of the live network after the window
    present: Int64  # (N,) mode
    tokens: Int64  # (N, k) the modes that follow
    named: Float32  # (N, K) probabilities that the network gives the window
    machine: Int64  # (N,) number of the machine
    change: Int64  # (N,) number of the next change of mode; all windows ahead of one change have the same future

    @property
    def weight(self) -> NDArray[np.float64]:
        """Weights (N,): the windows ahead of one change weigh 1 together."""
        return 1.0 / np.bincount(self.change)[self.change]

    @property
    def horizon(self) -> int:
        """Largest number of modes ahead that are known."""
        return int((self.tokens != MASKED).any(axis=0).sum())

    def usual(self, classes: int) -> NDArray[np.float64]:
        """Shares (K + 1,) of the tokens that came next. Every token that occurs at all counts once more."""
        counts = np.bincount(self.tokens[:, 0], self.weight, classes + 1)
        counts[np.unique(self.tokens[self.tokens != MASKED])] += 1
        return counts / counts.sum()

    def foreseeable(self, learned: FutureWindows) -> FutureWindows:
        """Return the windows with their tokens cut at the first that a decoder could not learn from `learned`."""
        known = np.isin(self.tokens, learned.tokens[learned.tokens != MASKED])
        known[:, learned.horizon :] = False
        known = np.logical_and.accumulate(known, axis=1)
        mine = known[:, 0]
        tokens = np.where(known, self.tokens, MASKED)[mine]
        return FutureWindows(
            self.states[mine], self.present[mine], tokens, self.named[mine], self.machine[mine], self.change[mine]
        )


@dataclass(slots=True)
class Wait:
    """Consecutive windows of a stream that are ahead of one change."""

    machine: str
    present: int
    next: int
    first_ns: int  # start of the first window
    last_ns: int = 0  # start of the last window


def check_foreseeable(sequences: Sequence[WindowSequence], facts: Facts, horizon: int) -> None:
    """Refuse a forecast for data in which no mode follows another, before any network is trained.

    Raises:
        ThrumcastError: a forecast is asked for, and no mode ever follows another.
    """
    if horizon and not any((_ahead(each, facts, horizon, 0)[:, 0] != MASKED).any() for each in sequences):
        raise _no_future()


def _ahead(sequence: WindowSequence, facts: Facts, horizon: int, end: int) -> Int64:
    ended = bool(facts.get(sequence.key, {}).get("run_to_failure"))
    return next_modes(sequence.y, horizon, end, ended=ended)


def _no_future() -> ThrumcastError:
    return ThrumcastError(
        "forecast: expected sequences in which one mode follows another, found: none",
        hint="recordings of one condition each have no next mode; train on live data and labels",
    )


def future_windows(bundle: Bundle, sequences: Sequence[WindowSequence], facts: Facts, horizon: int) -> FutureWindows:
    """Step the serving network through the sequences; keep the windows whose next mode is known.

    Raises:
        ThrumcastError: no mode ever follows another.
    """
    spec = bundle.spec
    recurrence = Recurrence(spec.cell, spec.hidden, spec.layers, spec.members, bundle.weights)
    states, present, tokens, named = [], [], [], []
    places: list[int] = []  # of each window: in which wait it lies
    waits: list[Wait] = []
    for sequence in sequences:
        ahead = _ahead(sequence, facts, horizon, len(spec.classes))
        h = np.zeros((1, *spec.state_shape), np.float32)
        z = spec.scaler.apply(sequence.x)
        before = None
        for t in range(len(sequence)):
            outputs, h = recurrence.step(z[t : t + 1], h)
            if ahead[t, 0] == MASKED:
                continue
            if (now := (int(sequence.y[t]), *ahead[t].tolist())) != before:
                before = now
                waits.append(Wait(sequence.key.machine, now[0], now[1], int(sequence.start_ns[t])))
            waits[-1].last_ns = int(sequence.start_ns[t])
            states.append(h.reshape(-1))
            present.append(now[0])
            tokens.append(ahead[t])
            named.append(softmax(outputs[0] / np.float32(spec.temperature)))
            places.append(len(waits) - 1)
    if not tokens:
        raise _no_future()
    machines = {name: number for number, name in enumerate(dict.fromkeys(wait.machine for wait in waits))}
    change = changes_of(waits)
    return FutureWindows(
        np.stack(states),
        np.array(present, np.int64),
        np.stack(tokens),
        np.stack(named),
        np.array([machines[waits[place].machine] for place in places], np.int64),
        change[places],
    )


def changes_of(waits: Sequence[Wait]) -> Int64:
    """Return the number of the change (W,) that ends each wait; two points of a machine can wait for the same one."""
    change = np.zeros(len(waits), np.int64)
    latest: dict[tuple[str, int, int], tuple[int, int]] = {}  # what is waited for -> until when, and its number
    for number in sorted(range(len(waits)), key=lambda number: waits[number].first_ns):
        wait = waits[number]
        what = (wait.machine, wait.present, wait.next)
        until_ns, same = latest.get(what, (wait.first_ns, number))
        change[number] = same if wait.first_ns <= until_ns else number
        latest[what] = max(until_ns, wait.last_ns), int(change[number])
    return np.unique(change, return_inverse=True)[1]


def fit_decoder(known: FutureWindows, classes: int, settings: TrainSettings) -> dict[int, dict[str, Float32]]:
    """Train a decoder on the states of a fixed network; return its weights `decoder.*` at each of CHECKS."""
    seen: dict[int, dict[str, Float32]] = {}
    never, share = np.setdiff1d(np.arange(classes + 1), known.tokens), known.weight / known.weight.sum()
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        decoder = Decoder(known.states.shape[1], classes, settings.decoder)
        with torch.no_grad():
            decoder.out.weight.zero_()
            decoder.out.bias.copy_(torch.from_numpy(np.log(np.maximum(known.usual(classes), np.exp(NEVER)))))
        optimiser = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=DECAY)
        states, tokens = torch.from_numpy(known.states), torch.from_numpy(known.tokens)
        for step in range(STEPS):
            rows = torch.from_numpy(rng.choice(len(states), BATCH, p=share))
            logits = decoder(states[rows], tokens[rows], own=(1 - settings.teacher) * step / STEPS)
            optimiser.zero_grad()
            functional.cross_entropy(logits.flatten(0, 1), tokens[rows].flatten(), ignore_index=MASKED).backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), settings.clip_norm)
            optimiser.step()
            if step + 1 in CHECKS:
                weights = decoder.state_dict().items()
                seen[step + 1] = {f"decoder.{name}": value.detach().numpy().copy() for name, value in weights}
                seen[step + 1]["decoder.out.bias"][never] = NEVER
    return seen


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One fold: the windows of its training side and of its test side, and the decoders trained on the first."""

    known: FutureWindows
    test: FutureWindows
    decoders: Mapping[int, Forecaster]  # steps of training -> decoder

    def parts(self, steps: int) -> tuple[Float64, Float64]:
        """Return p of the decoder and of the naive guess, (N, k, K + 1) each, given the true tokens before."""
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
        """Return p, u and weight of every known token, (3, tokens)."""
        p, u = (_of_truth(part, self.test.tokens)[self.test.tokens != MASKED] for part in self.parts(steps))
        weight = np.broadcast_to(self.test.weight[:, None], self.test.tokens.shape)[self.test.tokens != MASKED]
        return np.stack([p, u, weight])


def choose(evidence: Sequence[Mapping[int, Float64]]) -> tuple[int, float]:
    """Return the steps of training and the trust that make the held-out futures most probable."""
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
    """Return steps and trust as all trials choose them, and numbers of the model, its decoder and naive guesses."""
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


def _naive(known: FutureWindows, test: FutureWindows, usual: Float64) -> dict[str, Float64]:
    """Return guesses (N, k, K + 1) from the frequencies of the training side."""
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
    """Return the probability (N, k) of the token that came."""
    there = np.where(tokens == MASKED, 0, tokens)[:, :, None]
    return np.maximum(np.take_along_axis(p, there, axis=2)[:, :, 0], LEAST)


def _tally(p: Float64, test: FutureWindows) -> Float64:
    """Return weight, hits and loss per machine and step (machines, k, 3); points of a machine share its changes."""
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
