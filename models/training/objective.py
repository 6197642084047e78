"""The losses that a training minimises. Windows of unknown truth carry no loss.

modes    cross-entropy, with class weights 1, 1/sqrt(count) or 1/count, or with logit adjustment:
         the loss uses logits + log(share of the class), serving uses the logits alone
         Menon et al. 2021, arXiv:2007.07314, eq. (10) with tau = 1
values   mean squared error of scaled values over those that are known
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.data.dataset import UNKNOWN
from models.settings import TrainSettings


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One scaled sequence."""

    z: NDArray[np.float32]  # (T, F), NaN = missing
    y: NDArray[np.int64] | NDArray[np.float32]  # (T,) classes, UNKNOWN = masked; or (T, D) scaled values, NaN = masked
    weight: NDArray[np.float32] | None = None  # (T,) how much a window counts: the certainty of its label; None = 1


class Objective(Protocol):
    """A loss over the windows with known truth."""

    @property
    def blank(self) -> float:
        """The value that stands for an unknown truth."""

    def known(self, truth: Tensor) -> Tensor:
        """Where there is a truth: (B, T, ...) -> (B, T) bool."""

    def loss(self, outputs: Tensor, truth: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums of losses and weights over known windows: outputs (N, O), truth (N, ...), weight (N,) of certainty."""


@dataclass(frozen=True, slots=True, eq=False)
class ModeObjective:
    """Cross-entropy over K failure modes."""

    weights: Tensor  # (K,)
    log_prior: Tensor  # (K,), zero without logit adjustment
    smoothing: float
    blank: float = UNKNOWN

    def known(self, truth: Tensor) -> Tensor:
        """Where there is a truth: (B, T) -> (B, T)."""
        return truth != UNKNOWN

    def loss(self, outputs: Tensor, truth: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy: outputs (N, K), truth (N,), weight (N,)."""
        weights = self.weights.to(outputs.device)
        losses = functional.cross_entropy(
            outputs + self.log_prior.to(outputs.device),
            truth,
            weight=weights,
            label_smoothing=self.smoothing,
            reduction="sum" if weight is None else "none",
        )
        if weight is None:
            return losses, weights[truth].sum()
        return (losses * weight).sum(), (weights[truth] * weight).sum()


@dataclass(frozen=True, slots=True, eq=False)
class ValueObjective:
    """Mean squared error."""

    blank: float = float("nan")

    def known(self, truth: Tensor) -> Tensor:
        """Where any value is known: (B, T, D) -> (B, T)."""
        return torch.isfinite(truth).any(dim=-1)

    def loss(self, outputs: Tensor, truth: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sum over known values of (output - truth)^2, and their number: outputs (N, D), truth (N, D)."""
        there = torch.isfinite(truth)
        gap = torch.where(there, outputs - torch.where(there, truth, 0.0), 0.0)
        return gap.square().sum(), there.sum().to(outputs.dtype)


def objective_of(examples: Sequence[Example], outputs: int, settings: TrainSettings) -> Objective:
    """Choose the loss that fits the truth of the examples."""
    if examples and examples[0].y.ndim == 2:
        return ValueObjective()
    counts = class_counts(examples, outputs)
    prior = torch.zeros(outputs)
    if settings.balance == "logit":
        # A class that is not there keeps a small share: its logit must stay finite.
        prior = torch.tensor(np.log(np.maximum(counts, 0.5) / max(counts.sum(), 1.0)), dtype=torch.float32)
    return ModeObjective(class_weights(examples, outputs, settings.balance), prior, settings.label_smoothing)


def class_counts(examples: Sequence[Example], classes: int) -> NDArray[np.float64]:
    """Windows of each class (K,)."""
    counts = np.zeros(classes)
    for example in examples:
        counts += np.bincount(example.y[example.y != UNKNOWN].astype(np.int64), minlength=classes)
    return counts


def class_weights(examples: Sequence[Example], classes: int, balance: str) -> Tensor:
    """Weights (K,) with mean 1 over the windows: 1 (also under logit adjustment), 1/sqrt(count) or 1/count."""
    counts = class_counts(examples, classes)
    power = {"none": 0.0, "logit": 0.0, "sqrt": 0.5, "full": 1.0}[balance]
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0.0)
    total = float((weights * counts).sum())
    return torch.tensor(weights * (counts.sum() / total if total else 1.0), dtype=torch.float32)
