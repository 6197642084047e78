"""Feature scaling: fitted on training rows, stored with the weights, applied in serving in the same way.

z = (x - center) / scale, clipped to +-8; NaN stays NaN (missing is masked later, never filled in here)

kind        center                scale
standard    mean                  standard deviation
minmax      (max + min) / 2       (max - min) / 2      -> z in [-1, 1] on the training rows
robust      median                interquartile range / 1.349 (= standard deviation of a Gaussian)
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Float32 = NDArray[np.float32]

KINDS = ("standard", "minmax", "robust")
CLIP = 8.0  # in units of `scale`; how much farther out a value lies carries no information
IQR_OF_GAUSSIAN = 1.349


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """Center and scale of F features."""

    kind: str
    center: Float32  # (F,)
    scale: Float32  # (F,) > 0

    @classmethod
    def fit(cls, x: Float32, kind: str) -> Self:
        """Fit on rows x (N, F); NaN is left out. A feature without spread gets scale 1.

        Raises:
            ConfigError: `kind` is none of the known ones.
        """
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            msg = f"scaler: expected one of {', '.join(KINDS)}, found: {kind}"
            raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else None)
        center = np.zeros(x.shape[1], np.float32)
        scale = np.ones(x.shape[1], np.float32)
        for feature in range(x.shape[1]):
            column = x[:, feature]
            values = column[np.isfinite(column)].astype(np.float64)
            if values.size == 0:
                continue
            middle, spread = _middle_and_spread(values, kind)
            center[feature] = middle
            # The rounding noise of a constant column must not be scaled to unit variance.
            if spread > 1e-6 * max(abs(middle), 1e-12):
                scale[feature] = max(spread, float(np.finfo(np.float32).tiny))
        return cls(kind, center, scale)

    def apply(self, x: Float32) -> Float32:
        """Scale x (..., F) -> z (..., F) in [-8, 8]; what is not finite becomes NaN."""
        with np.errstate(invalid="ignore", over="ignore"):
            z = (x - self.center) / self.scale
        np.maximum(z, -CLIP, out=z)
        np.minimum(z, CLIP, out=z)
        np.copyto(z, np.nan, where=~np.isfinite(x))
        return z.astype(np.float32, copy=False)

    def invert(self, z: Float32) -> Float32:
        """Back to units: z (..., F) -> x (..., F); exact except for clipped values."""
        return (z * self.scale + self.center).astype(np.float32, copy=False)


def _middle_and_spread(values: NDArray[np.float64], kind: str) -> tuple[float, float]:
    if kind == "standard":
        return float(values.mean()), float(values.std())
    if kind == "minmax":
        low, high = float(values.min()), float(values.max())
        return (high + low) / 2, (high - low) / 2
    low, middle, high = np.percentile(values, (25, 50, 75))
    spread = float(high - low) / IQR_OF_GAUSSIAN
    return float(middle), spread if spread > 0 else float(values.std())
