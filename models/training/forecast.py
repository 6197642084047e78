"""Training of the mode forecast's decoder: teacher forcing, scheduled sampling, on live states or end to end.

    frozen   the network that serves stays as it is; its states at every window, stepped as in serving, are the
             examples. What is foretold is conditioned on exactly the state that the live service carries
    joint    encoder and decoder are trained together on sequences and the tokens that follow them (for tasks where the
             present mode says little about what comes); the encoder's own loss is the present mode

Windows are many and changes few: all windows ahead of one change have the same future. So a decoder begins with saying
what is usual, whatever the state; every change is drawn as often as any other; and the weights are held small.

With scheduled sampling (Bengio et al. 2015, arXiv:1506.03099) the decoder is given its own last token instead of the
true one in a share of the steps, which grows from 0 to 1 - teacher over the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.bundle import Bundle
from models.cells import Recurrence, softmax
from models.data.dataset import UNKNOWN, WindowSequence
from models.network import NetworkConfig, RecurrentNetwork
from models.settings import TrainSettings
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

MASKED = -100  # a token that nobody knows
STEPS, BATCH = 600, 64
DECAY = 1.0  # of the decoder's weights: that of the network would leave it free to know every change by heart
NEVER = -30.0  # logit of a token that no window of the training data was ahead of
CHECKS = (10, 30, 75, 150, 300, STEPS)  # steps after which a decoder is looked at

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Facts = Mapping[StreamKey, Mapping[str, object]]


class Decoder(nn.Module):
    """Tokens and a state of the network -> the next token; models/forecast.py is the same without torch."""

    def __init__(self, state: int, classes: int, units: int) -> None:
        super().__init__()
        self.end, self.start = classes, classes + 1
        self.embed = nn.Embedding(classes + 2, units)
        self.bridge = nn.Linear(state, units)
        self.gru = nn.GRU(units, units, batch_first=True)
        self.out = nn.Linear(units, classes + 1)

    def forward(self, h: Tensor, tokens: Tensor, own: float = 0.0) -> Tensor:
        """Logits (B, k, K + 1) of tokens (B, k) from flat states h (B, M L S); `own` = share of its own last token."""
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
    """Tokens (T, horizon): the modes that follow the one at each window, each once, then END if `ended`.

    What comes after a recording that just stops is MASKED: nobody knows it. So is all at windows of unknown mode.
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
class Futures:
    """Windows whose future is known."""

    states: Float32  # (N, M L S) of the live network after the window
    present: Int64  # (N,) mode
    tokens: Int64  # (N, k)
    named: Float32  # (N, K) what the network says of the window
    machine: Int64  # (N,) number of the machine
    change: Int64  # (N,) number of the change of the machine that lies ahead; the windows ahead of it have one future

    @property
    def weight(self) -> NDArray[np.float64]:
        """(N,): all changes weigh 1, however many windows, of however many points, lie ahead of them."""
        return 1.0 / np.bincount(self.change)[self.change]

    @property
    def horizon(self) -> int:
        """How many modes ahead anything is known."""
        return int((self.tokens != MASKED).any(axis=0).sum())

    def usual(self, classes: int) -> NDArray[np.float64]:
        """(K + 1,): how often each token came next, each one that was ever ahead counted once more."""
        counts = np.bincount(self.tokens[:, 0], self.weight, classes + 1)
        counts[np.unique(self.tokens[self.tokens != MASKED])] += 1
        return counts / counts.sum()

    def foreseeable(self, learned: Futures) -> Futures:
        """Without what was never ahead, or never so far ahead, in what a decoder learned from, and what comes after."""
        known = np.isin(self.tokens, learned.tokens[learned.tokens != MASKED])
        known[:, learned.horizon :] = False
        known = np.logical_and.accumulate(known, axis=1)
        mine = known[:, 0]
        tokens = np.where(known, self.tokens, MASKED)[mine]
        return Futures(
            self.states[mine], self.present[mine], tokens, self.named[mine], self.machine[mine], self.change[mine]
        )


@dataclass(slots=True)
class Wait:
    """Windows of a stream one after the other that are ahead of one change."""

    machine: str
    present: int
    next: int
    first_ns: int  # start of its first window
    last_ns: int = 0  # and of its last


def check_foreseeable(sequences: Sequence[WindowSequence], facts: Facts, horizon: int) -> None:
    """Refuse a forecast of data in which nothing follows anything, before a network is trained on them.

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
        hint="recordings of one condition each have no future; live data and labels do",
    )


def futures(bundle: Bundle, sequences: Sequence[WindowSequence], facts: Facts, horizon: int) -> Futures:
    """Step the network that serves through the sequences; keep the windows whose next mode is known.

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
    return Futures(
        np.stack(states),
        np.array(present, np.int64),
        np.stack(tokens),
        np.stack(named),
        np.array([machines[waits[place].machine] for place in places], np.int64),
        change[places],
    )


def changes_of(waits: Sequence[Wait]) -> Int64:
    """Number of the change (W,) that each wait is for: what two points of a machine wait for meanwhile is one."""
    change = np.zeros(len(waits), np.int64)
    latest: dict[tuple[str, int, int], tuple[int, int]] = {}  # what is waited for -> until when, and its number
    for number in sorted(range(len(waits)), key=lambda number: waits[number].first_ns):
        wait = waits[number]
        what = (wait.machine, wait.present, wait.next)
        until_ns, same = latest.get(what, (wait.first_ns, number))
        change[number] = same if wait.first_ns <= until_ns else number
        latest[what] = max(until_ns, wait.last_ns), int(change[number])
    return np.unique(change, return_inverse=True)[1]


def fit_decoder(known: Futures, classes: int, settings: TrainSettings) -> dict[int, dict[str, Float32]]:
    """Train a decoder on the states of a network that stays as it is; return the weights `decoder.*` at each check."""
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


def fit_joint(
    sequences: Sequence[tuple[Float32, Int64, Int64]],
    config: NetworkConfig,
    settings: TrainSettings,
    *,
    steps: int = STEPS,
) -> tuple[RecurrentNetwork, Decoder]:
    """Train encoder and decoder together.

    Args:
        sequences: scaled features z (T, F), modes y (T,) and the tokens (T, k) that follow each window.
        config: sizes of the encoder.
        settings: decoder, teacher, learning_rate, batch, seed.
        steps: of the optimiser.
    """
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        encoder = RecurrentNetwork(config)
        decoder = Decoder(config.layers * config.width, config.outputs, settings.decoder)
        weights = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        shortest = min(len(y) for _, y, _ in sequences)
        for step in range(steps):
            # All rows of a batch are cut to one length: the state after it is the last valid one of every row.
            rows, length = rng.integers(0, len(sequences), settings.batch), int(rng.integers(1, shortest + 1))
            z, y, tokens = (
                torch.from_numpy(np.stack([sequences[row][part][:length] for row in rows])) for part in range(3)
            )
            outputs, h = encoder(z, encoder.initial(len(rows)))
            logits = decoder(flat(h), tokens[:, -1], own=(1 - settings.teacher) * step / steps)
            optimiser.zero_grad()
            losses = [
                functional.cross_entropy(said.flatten(0, 1), truth.flatten(), ignore_index=masked, reduction="sum")
                / max(1, int((truth != masked).sum()))
                for said, truth, masked in ((outputs, y, UNKNOWN), (logits, tokens[:, -1], MASKED))
            ]
            torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            optimiser.step()
    return encoder.eval(), decoder.eval()


def flat(h: Tensor) -> Tensor:
    """State of the network (L, B, S) -> (B, L S), as a served state is laid out."""
    return h.transpose(0, 1).flatten(1)
