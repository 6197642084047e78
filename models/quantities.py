"""Every physical quantity once: what an analyst would read off the features of a window.

Features are many, because a network finds out by itself which of them say the same. A distance does not: fourteen
bands of a spectrum outvote the one line by which a fault differs, and three axes count it three times. So neighbours
that say the same become one number, and so do the channels, where the one that shows it best has a say of its own:

    v_qc = mean of the scaled inputs of quantity q on channel c
    v_q  = (mean over c of v_qc + max over c of v_qc) / 2

What is missing is left out of both; a quantity of which nothing is there is NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

ALIKE = {  # a feature that is not here is a quantity of its own
    "low bands": tuple(f"band_{k:02d}" for k in range(7)),
    "high bands": tuple(f"band_{k:02d}" for k in range(7, 14)),
    "place of the spectrum": ("centroid", "spread", "rolloff_85", "rolloff_95", "zero_crossing", "dominant"),
    "impulsiveness": ("kurtosis", "crest", "impulse", "clearance", "shape", "tkeo_kurtosis", "env_kurtosis"),
    "half orders": ("ord_0_5", "ord_1_5"),
    "high orders": tuple(f"ord_{k}" for k in range(4, 11)),
    "level": ("rms", "peak", "p2p"),
}
_QUANTITY_OF = {feature: quantity for quantity, features in ALIKE.items() for feature in features}


@dataclass(frozen=True, slots=True, eq=False)
class Quantities:
    """How inputs `channel.feature` become quantities."""

    names: tuple[str, ...]  # Q of them
    used: tuple[str, ...]  # inputs that say something, quantity by quantity, in each channel by channel
    columns: Int64  # where those are among all inputs
    cells: Int64  # where among them the next quantity of a channel begins
    starts: Int64  # where among the cells the next quantity begins

    @classmethod
    def of(cls, inputs: Sequence[str], used: Sequence[str] | None = None) -> Quantities:
        """All quantities of these inputs, or of those of them that are to be used."""
        place = {name: number for number, name in enumerate(inputs)}
        names = list(dict.fromkeys(_quantity(name) for name in used or inputs))
        rows = sorted((names.index(_quantity(name)), name.rpartition(".")[0], name) for name in used or inputs)
        cells = _beginnings([(quantity, channel) for quantity, channel, _ in rows])
        sorted_names = tuple(name for _, _, name in rows)
        columns = np.array([place[name] for name in sorted_names])
        return cls(tuple(names), sorted_names, columns, cells, _beginnings([rows[cell][0] for cell in cells]))

    def read(self, z: Float32) -> Float64:
        """Scaled inputs z (B, F), NaN = missing -> quantities (B, Q); a row comes out the same in any batch."""
        z = z[:, self.columns]
        there = np.isfinite(z)
        sums = np.add.reduceat(np.where(there, z, 0.0), self.cells, axis=1, dtype=np.float64)
        counts = np.add.reduceat(there, self.cells, axis=1, dtype=np.float64)
        each, seen = sums / np.maximum(counts, 1.0), counts > 0
        channels = np.add.reduceat(seen, self.starts, axis=1, dtype=np.float64)
        mean = np.add.reduceat(each, self.starts, axis=1) / np.maximum(channels, 1.0)
        best = np.maximum.reduceat(np.where(seen, each, -np.inf), self.starts, axis=1)
        found: Float64 = np.where(channels > 0, (mean + best) / 2, np.nan)
        return found


def _beginnings(groups: Sequence[Hashable]) -> Int64:
    """Where one that is not the same as the one before it stands."""
    return np.array([n for n, group in enumerate(groups) if n == 0 or group != groups[n - 1]])


def _quantity(name: str) -> str:
    """Of an input."""
    feature = name.rpartition(".")[2]
    return _QUANTITY_OF.get(feature, feature)
