"""Changes to scaled features that keep the physics, so that a hundred recordings stand for more machines.

    noise             another piece of the same recording
    a feature less    no bearing known, no speed known, another sensor
    another structure the path from the fault to the sensor differs from machine to machine: whatever is not measured
                      at an order of the shaft gets an offset that stays for the sequence, or is taken away altogether

The last is what makes a network look at the lines of a damaged bearing instead of learning each test rig's
spectrum by heart: on bearings never seen it moved macro AUROC from 0.75 to above 0.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.settings import TrainSettings
from pipeline.core.features.table import FEATURES

_AT_SHAFT_ORDERS = frozenset(feature.name for feature in FEATURES if feature.stage == "envelope")


def structural(inputs: Sequence[str]) -> NDArray[np.bool_]:
    """Which inputs (F,) depend on the structure between fault and sensor: all but lines at orders of the shaft."""
    return np.array([name.split(".", 1)[-1] not in _AT_SHAFT_ORDERS for name in inputs], bool)


def draw_offsets(rows: int, structure: NDArray[np.bool_], settings: TrainSettings, rng: np.random.Generator) -> Tensor:
    """Another structure for each of B sequences, (B, 1, F); it stays for the whole pass."""
    offsets = settings.structure_offset * rng.standard_normal((rows, 1, structure.size)) * structure
    return torch.from_numpy(offsets.astype(np.float32))


def augment(
    z: Tensor, offsets: Tensor, structure: NDArray[np.bool_], settings: TrainSettings, rng: np.random.Generator
) -> Tensor:
    """A chunk z (B, T, F) with noise, another structure, and features taken away for the whole chunk."""
    z = z + offsets  # NaN stays NaN
    if settings.noise:
        z = z + settings.noise * torch.from_numpy(rng.standard_normal(tuple(z.shape), np.float32))
    rows, features = z.shape[0], z.shape[2]
    gone = rng.random((rows, 1, features)) < settings.drop_input
    if not structure.all():  # something must be left to look at
        gone |= (rng.random((rows, 1, 1)) < settings.structure_drop) & structure
    return z.masked_fill(torch.from_numpy(gone), math.nan)
