"""The recurrent network on one page.

    z (B, T, F)     scaled features of B sequences of T windows; NaN = missing
      -> x = [z * m, m]  (B, T, 2F)      m = 1 where z is present, else 0: the network sees what is missing
      -> gru | lstm | rnn_tanh | rnn_relu, one step per window; the formulas are in models/cells.py
      -> y (B, T, H)
      -> dropout -> outputs = W_head y + b_head  (B, T, O)
      + W_direct x                       optional and constant: bearing lines act on their modes, see models/places.py

The outputs are logits of the failure modes, or scaled real numbers. The network keeps nothing between calls: the state
h goes in and comes out, and a new sequence starts from zeros. The state of an lstm is [h, cell], side by side.

This module trains. models/cells.py is the same arithmetic in numpy; it serves, and needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.cells import CELLS, DIRECT


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of a network. models/settings.py owns the defaults."""

    inputs: int  # F features
    outputs: int  # O: K failure modes, or D real numbers
    hidden: int  # H units per layer
    layers: int  # L
    dropout: float  # share of y set to 0 in training: before the head, and between layers
    cell: str  # a key of CELLS
    direct: NDArray[np.float32] | None = field(default=None, compare=False)  # W_direct (O, 2F); None: there is none

    @property
    def width(self) -> int:
        """S, the width of the state (L, B, S): H, or 2H for an lstm."""
        return self.hidden * CELLS[self.cell].states


class RecurrentNetwork(nn.Module):
    """Recurrent cell and linear head: outputs for every window."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        # The cell is a child named after its family, so a file of weights says what it holds: gru.weight_ih_l0.
        self.add_module(CELLS[config.cell].family, _torch_cell(config))
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.outputs)
        if config.direct is not None:
            self.register_buffer(DIRECT, torch.from_numpy(config.direct.copy()))

    def initial(self, batch: int) -> Tensor:
        """State (L, B, S) of new sequences: zeros."""
        return self.head.weight.new_zeros(self.config.layers, batch, self.config.width)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run T windows of B sequences: z (B, T, F), h (L, B, S) -> outputs (B, T, O), h (L, B, S)."""
        present = torch.isfinite(z)
        x = torch.cat((torch.where(present, z, 0.0), present.to(z.dtype)), dim=-1)  # (B, T, 2F)
        y, h = self._recur(x, h)  # (B, T, H), (L, B, S)
        outputs: Tensor = self.head(self.drop(y))  # (B, T, O)
        if self.config.direct is not None:
            outputs = outputs + nn.functional.linear(x, self.get_buffer(DIRECT))
        return outputs, h

    def _recur(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run the cell: x (B, T, 2F), h (L, B, S) -> y (B, T, H) of the top layer, h (L, B, S) after T windows."""
        cell = self.get_submodule(CELLS[self.config.cell].family)
        if self.config.cell != "lstm":
            return cell(x, h)
        units = self.config.hidden
        y, (hidden, memory) = cell(x, (h[..., :units].contiguous(), h[..., units:].contiguous()))
        return y, torch.cat((hidden, memory), dim=-1)


def _torch_cell(config: NetworkConfig) -> nn.RNNBase:
    """Return torch's module of the cell; torch applies its dropout between layers only."""
    sizes = (2 * config.inputs, config.hidden, config.layers)
    between = config.dropout if config.layers > 1 else 0.0
    if config.cell == "gru":
        return nn.GRU(*sizes, batch_first=True, dropout=between)
    if config.cell == "lstm":
        return nn.LSTM(*sizes, batch_first=True, dropout=between)
    activation = config.cell.removeprefix("rnn_")
    return nn.RNN(*sizes, nonlinearity=activation, batch_first=True, dropout=between)
