"""Baseline: what a stream looked like while it was known to be healthy, and how far it is from that now.

A stream that is declared healthy at its beginning has a baseline: the median and MAD of its first
`commissioning_windows` good windows, frozen from then on. Any other stream has none, and its relative features stay
NaN, so that no fault is learned as normal. Levels are in dB, so that a machine that is twice as loud as its sister is
no further from its own baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from pipeline.core.features.table import COLUMN, RELATIVE, stage_columns
from pipeline.core.records import FeatureRow, Float32

VERSION = 1  # of the way a baseline is made; one of another version counts as none
SIGMA_PER_MAD = 1.4826  # of a Gaussian
LEAST_SPREAD_DB = 0.25  # bounds the sensitivity for a machine that did not change at all
LARGEST_SIGMA = 50.0
LEAST_SHARE = 0.5  # of the commissioning windows in which a feature must have had a value

_COLUMNS = [COLUMN[name] for name in RELATIVE]
_TARGET = stage_columns("baseline")
_LEVELS = [i for i, name in enumerate(RELATIVE) if name in ("rms", "velocity_rms", "kurtosis")]
_LOG10 = [i for i, name in enumerate(RELATIVE) if name.startswith("band_")]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """Collected values until there are enough, then their centre and spread."""

    version: int = VERSION
    schema: str = ""  # of the features that it was made of
    channels: tuple[str, ...] = ()
    collected: Float32 | None = None  # (windows, C, R) in dB
    centre: Float32 | None = None  # (C, R); None = still commissioning
    spread: Float32 | None = None


def relate(
    commissioning_windows: int, baseline: Baseline | None, row: FeatureRow, *, good: bool
) -> tuple[Baseline | None, FeatureRow]:
    """Return the baseline with this window in it, and the row with its relative features where there are any."""
    if commissioning_windows <= 0:
        return baseline, row
    if baseline is None:
        baseline = Baseline(schema=row.schema, channels=row.channels)
    if (baseline.version, baseline.schema, baseline.channels) != (VERSION, row.schema, row.channels):
        return baseline, row  # made of other numbers: it says nothing about these
    if not good:
        return baseline, row
    levels = _in_db(row.values)
    if baseline.centre is None or baseline.spread is None:
        return _collected(commissioning_windows, baseline, levels), row
    sigma = (levels - baseline.centre) / baseline.spread
    values = row.values.copy()
    values[:, _TARGET] = np.clip(sigma, -LARGEST_SIGMA, LARGEST_SIGMA)
    return baseline, msgspec.structs.replace(row, values=values)


def _collected(commissioning_windows: int, baseline: Baseline, levels: Float32) -> Baseline:
    before = baseline.collected
    collected = levels[None] if before is None else np.concatenate([before, levels[None]])
    if len(collected) < commissioning_windows:
        return replace(baseline, collected=collected)
    known = np.isfinite(collected).mean(axis=0) >= LEAST_SHARE
    filled = np.where(known, collected, np.float32(0))  # nanmedian warns of columns of NaN
    centre = np.nanmedian(filled, axis=0)
    mad = np.nanmedian(abs(filled - centre), axis=0)
    return replace(
        baseline,
        collected=None,
        centre=np.where(known, centre, np.nan).astype(np.float32),
        spread=np.maximum(SIGMA_PER_MAD * mad, LEAST_SPREAD_DB).astype(np.float32),
    )


def _in_db(values: Float32) -> Float32:
    """The features that a baseline is made of, in dB: (C, F) -> (C, R)."""
    found = values[:, _COLUMNS]
    with np.errstate(divide="ignore", invalid="ignore"):
        found[:, _LEVELS] = 20 * np.log10(found[:, _LEVELS])
    found[:, _LOG10] *= 10
    found[~np.isfinite(found)] = np.nan
    return found
