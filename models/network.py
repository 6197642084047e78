"""The recurrent network on one page.

    z (B, T, F) scaled features, NaN = missing
      -> concat(z * m, m), m = 1 where z is there        a missing value is said to be missing, never made up
      -> gru | lstm | rnn_tanh | rnn_relu                state carried on; formulas in models/cells.py
      -> dropout -> linear -> outputs (B, T, O)          logits of the failure modes, or real numbers
      + W [z * m, m]                                     bearing lines speak for themselves, see models/places.py

The hidden state is an argument and a result. A new sequence starts from zeros. An lstm's state is [h, cell].
models/cells.py is the same arithmetic without torch.
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
    """Sizes of the network."""

    inputs: int  # F
    outputs: int  # O: K failure modes, or D real numbers
    hidden: int = 48  # H; a hundred recordings feed no more than that
    layers: int = 1  # L
    dropout: float = 0.2  # between cell and linear layer, and between layers; in training only
    cell: str = "gru"
    direct: NDArray[np.float32] | None = field(default=None, compare=False)  # W (O, 2F), constant

    @property
    def width(self) -> int:
        """S of the state (L, B, S)."""
        return self.hidden * CELLS[self.cell].states


class RecurrentNetwork(nn.Module):
    """Cell, linear layer, outputs per window."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (2 * config.inputs, config.hidden, config.layers)
        between = config.dropout if config.layers > 1 else 0.0
        kinds = {"gru": nn.GRU, "lstm": nn.LSTM}
        cell: nn.RNNBase
        if config.cell in kinds:
            cell = kinds[config.cell](*sizes, batch_first=True, dropout=between)
        else:
            act = config.cell.removeprefix("rnn_")
            cell = nn.RNN(*sizes, nonlinearity=act, batch_first=True, dropout=between)
        # Weights are named after the cell's family (gru.weight_ih_l0): a file of weights says what it is.
        self.add_module(CELLS[config.cell].family, cell)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.outputs)
        if config.direct is not None:
            self.register_buffer(DIRECT, torch.from_numpy(config.direct.copy()))

    def initial(self, batch: int) -> Tensor:
        """State of `batch` fresh sequences."""
        return self.head.weight.new_zeros(self.config.layers, batch, self.config.width)  # (L, B, S)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run T windows of B sequences: z (B, T, F), h (L, B, S) -> outputs (B, T, O), h (L, B, S)."""
        y, h = self.encode(z, h)
        outputs: Tensor = self.head(self.drop(y))  # (B, T, O)
        if self.config.direct is not None:
            outputs = outputs + nn.functional.linear(_masked(z), self.get_buffer(DIRECT))
        return outputs, h  # (B, T, O), (L, B, S)

    def encode(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but without the head: y (B, T, H), the top layer's state after every window."""
        x = _masked(z)
        cell = self.get_submodule(CELLS[self.config.cell].family)
        if self.config.cell != "lstm":
            return cell(x, h)  # (B, T, H), (L, B, H)
        units = self.config.hidden
        y, (hidden, memory) = cell(x, (h[..., :units].contiguous(), h[..., units:].contiguous()))
        return y, torch.cat((hidden, memory), dim=-1)  # (B, T, H), (L, B, 2H)

    def step(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run one window of B sequences: z (B, F), h (L, B, S) -> outputs (B, O), h (L, B, S)."""
        outputs, h = self.forward(z[:, None, :], h)  # (B, 1, O), (L, B, S)
        return outputs[:, 0, :], h  # (B, O), (L, B, S)


def _masked(z: Tensor) -> Tensor:
    """[z * m, m]: (B, T, F) -> (B, T, 2F)."""
    there = torch.isfinite(z)
    return torch.cat((torch.where(there, z, 0.0), there.to(z.dtype)), dim=-1)
