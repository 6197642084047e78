"""A physical veto: does the spectrum of the envelope bear out where in a bearing the network places a fault?

A fault of a bearing's part makes its own family of lines. Where speed and bearing are known and no family stands above
the floor, the network may be right that the bearing is damaged, but nothing says where: the alarm then reads "bearing,
location unconfirmed", and nobody should order an inner ring because of it. The probabilities stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.core.features.table import COLUMN
from pipeline.core.records import FeatureRow

Confirms = Callable[[str, FeatureRow], bool | None]  # None: nothing can be said

FAMILY_DB = 9.0  # a family of envelope lines over its local floor
FAMILIES = {
    "bearing_outer": "env_bpfo",
    "bearing_inner": "env_bpfi",
    "bearing_ball": "env_2bsf",
    "bearing_cage": "env_ftf",
}
UNCONFIRMED = "bearing, location unconfirmed"


def family_stands(mode: str, row: FeatureRow) -> bool | None:
    """Whether the envelope lines of a bearing's part stand on any channel; None for other modes, or unknown orders."""
    if mode not in FAMILIES:
        return None
    values = row.values[:, COLUMN[FAMILIES[mode]]]
    known = values[np.isfinite(values)]
    return bool(known.max() >= FAMILY_DB) if known.size else None


def shown_mode(mode: str, row: FeatureRow | None, confirms: Confirms = family_stands) -> str:
    """How a mode is shown to people: a place in a bearing only where the evidence does not contradict it."""
    if row is not None and mode in FAMILIES and confirms(mode, row) is False:
        return UNCONFIRMED
    return mode
