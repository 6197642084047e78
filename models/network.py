"""The recurrent network on one page.

    z (B, T, F) scaled features, NaN = missing
      -> concat(z * m, m), m = 1 where z is there        a missing value is said to be missing, never made up
      -> GRU, state carried from window to window        Cho et al. 2014, arXiv:1406.1078
      -> dropout -> linear -> logits (B, T, K)           one failure mode per window

The hidden state is an argument and a result. A new sequence starts from zeros.
models/predictor.py is the same arithmetic without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class GruConfig:
    """Sizes of the network."""

    inputs: int  # F
    classes: int  # K
    hidden: int = 48  # H; a hundred recordings feed no more than that
    layers: int = 1  # L
    dropout: float = 0.2  # between GRU and linear layer, and between GRU layers; in training only


class GruClassifier(nn.Module):
    """GRU, linear layer, logits per window."""

    def __init__(self, config: GruConfig) -> None:
        super().__init__()
        self.config = config
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(2 * config.inputs, config.hidden, config.layers, batch_first=True, dropout=between)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.classes)

    def initial(self, batch: int) -> Tensor:
        """State of `batch` fresh sequences."""
        return torch.zeros(self.config.layers, batch, self.config.hidden)  # (L, B, H)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run T windows of B sequences: z (B, T, F), h (L, B, H) -> logits (B, T, K), h (L, B, H)."""
        there = torch.isfinite(z)  # (B, T, F)
        x = torch.cat((torch.where(there, z, 0.0), there.to(z.dtype)), dim=-1)  # (B, T, 2F)
        y, h = self.gru(x, h)  # (B, T, H), (L, B, H)
        return self.head(self.drop(y)), h  # (B, T, K), (L, B, H)

    def step(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run one window of B sequences: z (B, F), h (L, B, H) -> logits (B, K), h (L, B, H)."""
        logits, h = self.forward(z[:, None, :], h)  # (B, 1, K), (L, B, H)
        return logits[:, 0, :], h  # (B, K), (L, B, H)
