"""Truncated back-propagation through time (TBPTT) with carried state.

    for every pass over the data
      for every batch of sequences (each row keeps its sequence for the whole pass; starts are at random offsets)
        h = 0
        for every chunk of K windows
          with probability reset_p a row's h = 0 again     serving begins with such a cold start
          outputs, h = network(augment(z), h)              models/training/augment.py
          loss where the truth is known, except in the burn-in after a cold start   models/training/objective.py
          step on the clipped gradient (AdamW, cosine schedule)
          h = h.detach()                                   carried, but not differentiated through

The carried h comes from slightly older weights. That is what TBPTT means, and small steps keep the error small.
On a GPU the products are in bfloat16 (autocast); weights, state and loss are in float32. There is no file, clock or
print here: a caller follows a training through `after_epoch`, and can resume it from a `FitState`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network import NetworkConfig, RecurrentNetwork
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.objective import Example, Objective, objective_of
from pipeline.errors import ConfigError

STEPS_WANTED = 400  # of the optimiser, when epochs = 0; with more, a network learns few machines by heart
EPOCHS_RANGE = (16, 160)
PREDICT_CHUNK = 512  # windows per forward pass outside training

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FitState:
    """All that a training needs to resume after `epoch` whole passes as if it had never stopped."""

    epoch: int
    tensors: dict[str, Tensor]  # network.*, optimiser.*, random
    rng: dict[str, Any]  # of numpy's generator


@dataclass(frozen=True, slots=True, eq=False)
class EpochReport:
    """What `after_epoch` gets."""

    epoch: int  # from 1
    epochs: int
    loss: float  # mean training loss
    gradient_norm: float  # largest before clipping
    state: Callable[[], FitState]  # copies the state to resume from
    member: int = 0  # of an ensemble
    aim: str = ""  # see models/training/folds.py


AfterEpoch = Callable[[EpochReport, RecurrentNetwork], bool]  # False = stop


def epochs_for(examples: Sequence[Example], settings: TrainSettings) -> int:
    """Return the passes over the data that the settings give, or that make about STEPS_WANTED steps."""
    if settings.epochs:
        return settings.epochs
    # One mode per sequence gives one step per batch: only its last chunk carries a loss.
    steps = sum(
        1 if settings.task == "sequence" else math.ceil(max(len(examples[row].y) for row in batch) / settings.chunk)
        for batch in _batches(examples, settings.batch, np.random.default_rng(0))
    )
    low, high = EPOCHS_RANGE
    return min(high, max(low, math.ceil(STEPS_WANTED / max(1, steps))))


def network_config(inputs: int, outputs: int, settings: TrainSettings, direct: Float32 | None = None) -> NetworkConfig:
    """Sizes of the network that these settings ask for."""
    return NetworkConfig(
        inputs, outputs, settings.hidden, settings.layers, settings.dropout, settings.cell, direct=direct
    )


def device_of(settings: TrainSettings) -> torch.device:
    """Return where to train: as the settings say, or on a GPU if there is one.

    Raises:
        ConfigError: the settings ask for a GPU and there is none.
    """
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        msg = "--set device=cuda: expected a GPU, found: none that torch can use"
        raise ConfigError(msg, hint="leave it out, or install a build of torch for your GPU")
    return torch.device(settings.device if settings.device != "auto" else "cuda" if there else "cpu")


def fit(
    examples: Sequence[Example],
    config: NetworkConfig,
    settings: TrainSettings,
    *,
    epochs: int,
    schedule_epochs: int | None = None,
    augmentation: Augmentation | None = None,
    objective: Objective | None = None,
    start: FitState | None = None,
    after_epoch: AfterEpoch | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> RecurrentNetwork:
    """Train a fresh network. The same examples, settings and seed give the same weights on the same machine.

    Args:
        examples: scaled sequences.
        config: sizes of the network.
        settings: of the training.
        epochs: passes over the data.
        schedule_epochs: length of the learning-rate schedule; epochs may stop earlier on it.
        augmentation: see models/training/augment.py; noise and missing features only by default.
        objective: the loss; by default the one that fits the truth of the examples.
        start: resume from here, with the same examples and settings.
        after_epoch: called after every pass; returns False to stop.
        weights: initial weights instead of random ones.
    """
    rng = np.random.default_rng(settings.seed)
    device = device_of(settings)
    augmentation = augmentation or Augmentation.plain(config.inputs, settings)
    objective = objective or objective_of(examples, config.outputs, settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = RecurrentNetwork(config).to(device)
        if weights is not None:
            network.load_state_dict(weights)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        if start is not None:
            _go_on(start, network, optimiser, rng)
        loop = _Loop(network, optimiser, examples, objective, augmentation, settings, rng)
        for epoch in range(1 if start is None else start.epoch + 1, epochs + 1):
            rate = _cosine((epoch - 1) / (schedule_epochs or epochs))
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate
            loss, norm = loop.one_pass()
            report = EpochReport(epoch, epochs, loss, norm, lambda: _state(epoch, network, optimiser, rng))  # noqa: B023
            if after_epoch is not None and not after_epoch(report, network):
                break
    return network.eval()


@torch.no_grad()
def predict(network: RecurrentNetwork, examples: Sequence[Example], *, batch: int = 64) -> list[Float32]:
    """Outputs (T, O) of every sequence, state carried from zeros through all of it."""
    was_training, device = network.training, network.head.weight.device
    network.eval()
    outputs: list[Float32] = [np.empty((0, network.config.outputs), np.float32)] * len(examples)
    order = np.argsort([len(example.y) for example in examples], kind="stable")
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        longest = max(len(examples[row].y) for row in rows)
        z, _ = _padded([examples[row] for row in rows], longest, math.nan)  # (B, T, F)
        h = network.initial(len(rows))  # (L, B, S)
        parts = []
        for start in range(0, longest, PREDICT_CHUNK):
            part, h = network(z[:, start : start + PREDICT_CHUNK].to(device), h)
            parts.append(part.cpu().numpy())
        joined = np.concatenate(parts, axis=1)  # (B, T, O)
        for place, row in enumerate(rows):
            outputs[row] = joined[place, : len(examples[row].y)].copy()
    network.train(was_training)
    return outputs


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """A pass over the data, and what it needs."""

    network: RecurrentNetwork
    optimiser: torch.optim.Optimizer
    examples: Sequence[Example]
    objective: Objective
    augmentation: Augmentation
    settings: TrainSettings
    rng: np.random.Generator

    def one_pass(self) -> tuple[float, float]:
        """Pass once over all sequences; return the mean loss and the largest gradient norm."""
        settings, rng, objective = self.settings, self.rng, self.objective
        network, device = self.network.train(), self.network.head.weight.device
        half = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
        loss_sum, weight_sum, largest = 0.0, 0.0, 0.0
        for rows in _batches(self.examples, settings.batch, rng):
            started = [_random_start(self.examples[row], settings, rng) for row in rows]
            longest = max(len(example.y) for example in started)
            z, y = _padded(started, longest, objective.blank)  # (B, T, F), (B, T) or (B, T, D)
            weights = _padded_weights(started, longest)  # (B, T)
            h = network.initial(len(rows))  # (L, B, S)
            drawn = self.augmentation.draw(len(rows), rng)
            for first in range(0, longest, settings.chunk):
                cold = np.ones(len(rows), bool) if first == 0 else rng.random(len(rows)) < settings.reset_p
                h = h * torch.from_numpy(~cold).to(device, h.dtype)[None, :, None]
                part = slice(first, first + settings.chunk)
                changed = self.augmentation.apply(z[:, part], drawn, rng).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    outputs, h = network(changed, h)  # (B, K, O)
                h = h.detach().float()
                truth = y[:, part].clone()
                burning = torch.from_numpy(cold) & (objective.known(truth).sum(1) > settings.burn_in)
                truth[burning, : settings.burn_in] = objective.blank
                known = objective.known(truth)  # (B, K)
                if not bool(known.any()):
                    continue
                certainty = None if weights is None else weights[:, part][known].to(device)
                loss, weight = objective.loss(outputs[known.to(device)].float(), truth[known].to(device), certainty)
                self.optimiser.zero_grad()
                (loss / weight).backward()
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
                self.optimiser.step()
                loss_sum, weight_sum = loss_sum + float(loss.detach()), weight_sum + float(weight)
                largest = max(largest, float(norm)) if math.isfinite(float(norm)) else math.inf
        return (loss_sum / weight_sum if weight_sum else math.nan), largest


def _batches(examples: Sequence[Example], batch: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Yield batches of sequences of similar length, in random order."""
    lengths = np.array([len(example.y) for example in examples])
    order = np.argsort(lengths * rng.uniform(0.8, 1.25, lengths.size), kind="stable")
    starts = np.arange(0, order.size, batch)
    for first in rng.permutation(starts):
        yield order[first : first + batch]


def _random_start(example: Example, settings: TrainSettings, rng: np.random.Generator) -> Example:
    """Drop a random beginning: up to a chunk, or up to a share of a short sequence."""
    first = int(rng.integers(0, min(settings.chunk, int(len(example.y) * settings.crop)) + 1))
    return Example(example.z[first:], example.y[first:], None if example.weight is None else example.weight[first:])


def _padded(examples: Sequence[Example], length: int, blank: float) -> tuple[Tensor, Tensor]:
    """Side by side: z (B, T, F) padded with NaN, y (B, T, ...) padded with `blank`."""
    truth = examples[0].y
    z = np.full((len(examples), length, examples[0].z.shape[1]), np.nan, np.float32)
    y = np.full((len(examples), length, *truth.shape[1:]), 0 if math.isnan(blank) else blank, truth.dtype)
    if truth.ndim == 2:
        y[:] = blank
    for row, example in enumerate(examples):
        z[row, : len(example.y)] = example.z
        y[row, : len(example.y)] = example.y
    return torch.from_numpy(z), torch.from_numpy(y)


def _padded_weights(examples: Sequence[Example], length: int) -> Tensor | None:
    """Side by side, (B, T); None where every window counts fully."""
    if all(example.weight is None for example in examples):
        return None
    weights = np.ones((len(examples), length), np.float32)
    for row, example in enumerate(examples):
        if example.weight is not None:
            weights[row, : len(example.weight)] = example.weight
    return torch.from_numpy(weights)


def _state(
    epoch: int, network: RecurrentNetwork, optimiser: torch.optim.Optimizer, rng: np.random.Generator
) -> FitState:
    """Copy weights, the optimiser's moments and both random states."""
    tensors = {f"network.{name}": value.detach().cpu().clone() for name, value in network.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value.detach().cpu().clone() for name, value in moments.items()}
    tensors["random"] = torch.random.get_rng_state()
    if network.head.weight.is_cuda:
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return FitState(epoch, tensors, dict(rng.bit_generator.state))


def _go_on(
    start: FitState, network: RecurrentNetwork, optimiser: torch.optim.Optimizer, rng: np.random.Generator
) -> None:
    """Restore all that `_state` copied."""
    parts = {"network": dict[str, Tensor](), "optimiser": dict[str, Tensor]()}
    for name, value in start.tensors.items():
        kind, _, rest = name.partition(".")
        if kind in parts:
            parts[kind][rest] = value
    network.load_state_dict(parts["network"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimiser"].items():
        number, _, what = name.partition(".")
        moments.setdefault(int(number), {})[what] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    torch.random.set_rng_state(start.tensors["random"])
    if "random.cuda" in start.tensors and network.head.weight.is_cuda:
        torch.cuda.set_rng_state(start.tensors["random.cuda"])
    rng.bit_generator.state = start.rng


def _cosine(progress: float) -> float:
    """Learning rate from 1 down to 0.05 of itself."""
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
