"""Signs: the features of one window by name, over all channels, and the thresholds at which one of them stands out.

Levels in dB are over a local floor. Thresholds were set on simulated machines of many make-ups and looked at on real
recordings: nine windows of ten of sound machines stay below.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.features.table import BAND_COUNT, COLUMN, ORDERS
from pipeline.core.records import FeatureRow, Float32

FAMILY_DB = 11.0  # an envelope family over its local floor; nine windows of ten of sound machines stay below 9 dB ...
CAGE_DB = 8.0  # ... and the cage's, whose lines are narrow, below 5 dB
FAMILY_LEAD_DB = 3.0  # a family so far below the strongest one is explained by it: lines of all families lie close
LINE_DB = 15.0  # a shaft order over its local floor: deterministic lines of sound machines stand 10 dB high
DOUBLE_DB = 20.0  # 2x over its local floor
DOUBLE_BELOW_DB = 3.0  # that 2x may stand below 1x: the coupling works twice a turn
SUBHARMONIC_DB = 12.0  # 0.5x and 1.5x: sound machines have none
VELOCITY_SHARE = 0.6  # of 1x in the velocity's mean square
MOVES_MM_S = 1.4  # velocity RMS below which every machine is in zone A: its orders are those of a sound one
LOOSE_HARMONICS = 5  # of 3x to 10x over LINE_DB
MESH_DB = 12.0  # gear mesh and its sidebands over the local floor
CEPSTRUM_DB = 11.0  # cepstrum at the shaft period over its local floor
IMPULSIVE_KURTOSIS = 4.5  # a Gaussian has 3
HIGH_BANDS = 3  # the highest of the log bands ...
HIGH_SHARE = 0.8  # ... hold so much of the power, and ...
NOISE_FLATNESS_DB = -9.0  # ... the spectrum is that flat: flow noise
CHANGED_SIGMA = 6.0  # robust standard deviations from the stream's own baseline: worth a remark ...
DEPARTED_SIGMA = 2 * CHANGED_SIGMA  # ... and of the RMS: whatever the cause, somebody should look

FAMILIES = {  # failure mode -> feature and name of its envelope family
    "bearing_outer": ("env_bpfo", "BPFO"),
    "bearing_inner": ("env_bpfi", "BPFI"),
    "bearing_ball": ("env_2bsf", "2xBSF"),
    "bearing_cage": ("env_ftf", "FTF"),
}


class Signs:
    """The features of one window by name: the largest over the channels, and which channel that is."""

    __slots__ = ("_best", "_row")

    def __init__(self, row: FeatureRow) -> None:
        self._row = row
        self._best = np.fmax.reduce(row.values, axis=0)  # NaN only where no channel has a number

    def __getitem__(self, name: str) -> float:
        return float(self._best[COLUMN[name]])

    def at(self, name: str) -> str:
        """` (x)` for a stream of several channels."""
        if len(self._row.channels) == 1:
            return ""
        column = self._row.values[:, COLUMN[name]]
        return f" ({self._row.channels[int(np.nanargmax(column))]})"

    def table(self, *names: str) -> Float32:
        """Some features of every channel: (C, len(names))."""
        return self._row.values[:, [COLUMN[name] for name in names]]

    def same_channel(self, name: str, where: str) -> float:
        """The feature `name` on the channel on which `where` is largest."""
        column = self._row.values[:, COLUMN[where]]
        return float(self._row.values[int(np.nanargmax(column)), COLUMN[name]])


def family_least_db(name: str) -> float:
    """What an envelope family must reach alone."""
    return CAGE_DB if name == "env_ftf" else FAMILY_DB


def family_threshold_db(signs: Signs, name: str) -> float:
    """What an envelope family must reach, given how strong the others are."""
    strongest_db = max((db for one, _ in FAMILIES.values() if not math.isnan(db := signs[one])), default=0.0)
    return max(family_least_db(name), strongest_db - FAMILY_LEAD_DB)


def order_name(order: float) -> str:
    """0.5 -> ord_0_5."""
    return f"ord_{order:g}".replace(".", "_")


def double(signs: Signs) -> bool | None:
    """2x stands, and not far below 1x."""
    second = signs["ord_2"]
    if math.isnan(second):
        return None
    return second >= max(DOUBLE_DB, signs.same_channel("ord_1", "ord_2") - DOUBLE_BELOW_DB) and moves(signs)


def moves(signs: Signs) -> bool:
    """Whether the velocity is more than that of any sound machine, or is not known."""
    return not signs["velocity_rms"] < MOVES_MM_S


def high_orders(signs: Signs) -> int:
    """How many of 3x to 10x stand; none of a machine that hardly moves: a bearing's strikes raise them too."""
    if not moves(signs):
        return 0
    return sum(signs[order_name(order)] >= LINE_DB for order in ORDERS if order >= 3)


def high_share(signs: Signs) -> float:
    """Share of the power in the highest bands, on the channel where it is largest."""
    logs = signs.table(*(f"band_{k:02d}" for k in range(BAND_COUNT - HIGH_BANDS, BAND_COUNT)))
    return float(np.fmax.reduce((10.0 ** np.minimum(logs, 0.0)).sum(axis=1)))


def flow_noise(signs: Signs) -> bool:
    """Steady noise that fills the high bands."""
    flat = high_share(signs) >= HIGH_SHARE and signs["flatness"] >= NOISE_FLATNESS_DB
    return flat and not signs["kurtosis"] >= IMPULSIVE_KURTOSIS
