"""Truncated back-propagation through time with carried state: the loop, and nothing else.

    for every pass over the data
      for every batch of sequences (rows keep their sequence for the whole pass, starts are at random offsets)
        h = 0
        for every chunk of K windows
          with probability reset_p a row's h = 0 again     a cold start is what serving begins with
          logits, h = network(augment(z), h)               models/augment.py
          loss = weighted cross-entropy where the truth is known, burn-in after a cold start excepted
          step on the clipped gradient (AdamW, cosine schedule)
          h = h.detach()                                   carried, but not differentiated through

Zeroing h at every chunk would not be TBPTT; keeping h of old weights for the whole pass is, and small steps
keep it fresh enough. No file, clock or print here; whoever calls watches through `after_epoch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.augment import augment, draw_offsets
from models.dataset import UNKNOWN
from models.network import GruClassifier, GruConfig
from models.settings import TrainSettings

STEPS_WANTED = 1200  # of the optimiser, when epochs = 0
EPOCHS_RANGE = (6, 160)
PREDICT_CHUNK = 512  # windows per forward pass outside training

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One scaled sequence."""

    z: Float32  # (T, F), NaN = missing
    y: Int64  # (T,), UNKNOWN = masked


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What `after_epoch` is told."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean training loss
    gradient_norm: float  # largest before clipping


AfterEpoch = Callable[[EpochReport, GruClassifier], bool]  # False = stop


def epochs_for(examples: Sequence[Example], settings: TrainSettings) -> int:
    """Passes over the data that make about STEPS_WANTED steps, unless set."""
    if settings.epochs:
        return settings.epochs
    steps = sum(
        math.ceil(max(len(examples[row].y) for row in batch) / settings.chunk)
        for batch in _batches(examples, settings.batch, np.random.default_rng(0))
    )
    low, high = EPOCHS_RANGE
    return min(high, max(low, math.ceil(STEPS_WANTED / max(1, steps))))


def fit(
    examples: Sequence[Example],
    config: GruConfig,
    settings: TrainSettings,
    *,
    epochs: int,
    schedule_epochs: int | None = None,
    structure: NDArray[np.bool_] | None = None,
    after_epoch: AfterEpoch | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> GruClassifier:
    """Train a fresh network. The same examples, settings and seed give the same weights on the same machine.

    Args:
        examples: scaled sequences.
        config: sizes of the network.
        settings: everything else.
        epochs: passes over the data.
        schedule_epochs: length of the learning-rate schedule; epochs may stop earlier on it.
        structure: which inputs (F,) depend on the machine's structure, see models/augment.py; none by default.
        after_epoch: called after every pass; returns False to stop.
        start: weights to begin with instead of fresh ones.
    """
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = GruClassifier(config)
        if start is not None:
            network.load_state_dict(start)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        weights = class_weights(examples, config.classes, settings.balance)
        structure = np.zeros(config.inputs, bool) if structure is None else structure
        for epoch in range(1, epochs + 1):
            rate = _cosine((epoch - 1) / (schedule_epochs or epochs))
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate
            loss, norm = _one_pass(network, optimiser, examples, weights, structure, settings, rng)
            report = EpochReport(epoch, epochs, loss, norm)
            if after_epoch is not None and not after_epoch(report, network):
                break
    return network.eval()


def class_weights(examples: Sequence[Example], classes: int, balance: str) -> Tensor:
    """Weights (K,) with mean 1 over the windows: 1, 1/sqrt(count) or 1/count."""
    counts = np.zeros(classes)
    for example in examples:
        counts += np.bincount(example.y[example.y != UNKNOWN], minlength=classes)
    power = {"none": 0.0, "sqrt": 0.5, "full": 1.0}[balance]
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0.0)
    total = float((weights * counts).sum())
    return torch.tensor(weights * (counts.sum() / total if total else 1.0), dtype=torch.float32)


@torch.no_grad()
def predict(network: GruClassifier, examples: Sequence[Example], *, batch: int = 64) -> list[Float32]:
    """Logits (T, K) of every sequence, state carried from zeros through all of it."""
    was_training = network.training
    network.eval()
    logits: list[Float32] = [np.empty((0, network.config.classes), np.float32)] * len(examples)
    order = np.argsort([len(example.y) for example in examples], kind="stable")
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        longest = max(len(examples[row].y) for row in rows)
        z, _ = _padded([examples[row] for row in rows], longest)  # (B, T, F)
        h = network.initial(len(rows))  # (L, B, H)
        parts = []
        for start in range(0, longest, PREDICT_CHUNK):
            part, h = network(z[:, start : start + PREDICT_CHUNK], h)
            parts.append(part.numpy())
        joined = np.concatenate(parts, axis=1)  # (B, T, K)
        for place, row in enumerate(rows):
            logits[row] = joined[place, : len(examples[row].y)].copy()
    network.train(was_training)
    return logits


def _one_pass(
    network: GruClassifier,
    optimiser: torch.optim.Optimizer,
    examples: Sequence[Example],
    weights: Tensor,
    structure: NDArray[np.bool_],
    settings: TrainSettings,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Pass once over all sequences; return the mean loss and the largest gradient norm."""
    network.train()
    loss_sum, weight_sum, largest = 0.0, 0.0, 0.0
    for rows in _batches(examples, settings.batch, rng):
        started = [_random_start(examples[row], settings.chunk, rng) for row in rows]
        longest = max(len(example.y) for example in started)
        z, y = _padded(started, longest)  # (B, T, F), (B, T)
        h = network.initial(len(rows))  # (L, B, H)
        offsets = draw_offsets(len(rows), structure, settings, rng)  # (B, 1, F)
        for first in range(0, longest, settings.chunk):
            cold = np.ones(len(rows), bool) if first == 0 else rng.random(len(rows)) < settings.reset_p
            h = h * torch.from_numpy(~cold).to(h.dtype)[None, :, None]
            part = slice(first, first + settings.chunk)
            logits, h = network(augment(z[:, part], offsets, structure, settings, rng), h)  # (B, K, classes)
            h = h.detach()
            truth = y[:, part].clone()
            burning = torch.from_numpy(cold) & ((truth != UNKNOWN).sum(1) > settings.burn_in)
            truth[burning, : settings.burn_in] = UNKNOWN
            known = truth != UNKNOWN
            if not bool(known.any()):
                continue
            weight = weights[truth[known]].sum()
            loss = functional.cross_entropy(
                logits[known], truth[known], weight=weights, label_smoothing=settings.label_smoothing, reduction="sum"
            )
            optimiser.zero_grad()
            (loss / weight).backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimiser.step()
            loss_sum, weight_sum = loss_sum + float(loss.detach()), weight_sum + float(weight)
            largest = max(largest, float(norm))
    return (loss_sum / weight_sum if weight_sum else math.nan), largest


def _batches(examples: Sequence[Example], batch: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Rows of about equal length side by side, in random order."""
    lengths = np.array([len(example.y) for example in examples])
    order = np.argsort(lengths * rng.uniform(0.8, 1.25, lengths.size), kind="stable")
    starts = np.arange(0, order.size, batch)
    for first in rng.permutation(starts):
        yield order[first : first + batch]


def _random_start(example: Example, chunk: int, rng: np.random.Generator) -> Example:
    """Leave out up to a chunk, or a third of a short sequence, at the start."""
    first = int(rng.integers(0, min(chunk, len(example.y) // 3) + 1))
    return Example(example.z[first:], example.y[first:])


def _padded(examples: Sequence[Example], length: int) -> tuple[Tensor, Tensor]:
    """Side by side, (B, T, F) padded with NaN and (B, T) padded with UNKNOWN."""
    z = np.full((len(examples), length, examples[0].z.shape[1]), np.nan, np.float32)
    y = np.full((len(examples), length), UNKNOWN, np.int64)
    for row, example in enumerate(examples):
        z[row, : len(example.y)] = example.z
        y[row, : len(example.y)] = example.y
    return torch.from_numpy(z), torch.from_numpy(y)


def _cosine(progress: float) -> float:
    """Learning rate from 1 down to 0.05 of itself."""
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
