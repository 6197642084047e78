"""Quality: what keeps a window from being judged. Bits of the `quality` column; 0 is a good window."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from pipeline.core.records import Window

FLAT_RATIO = 1e-6  # a channel whose peak-to-peak is below this share of its largest value carries no vibration
STANDSTILL_RPM = 30.0  # below this a shaft counts as stopped


class Quality(IntFlag):
    """Reasons not to step the network. New reasons get new bits; a bit never changes its meaning."""

    GOOD = 0
    INCOMPLETE = 1  # samples are missing
    NON_FINITE = 2  # NaN or infinity among the samples
    FLATLINE = 4  # a channel does not move
    NOT_RUNNING = 8  # the shaft stands still

    @property
    def sensor_fault(self) -> bool:
        """Whether the sensor, and not the machine, is to be looked at."""
        return bool(self & (Quality.NON_FINITE | Quality.FLATLINE))


def judge(window: Window) -> Quality:
    """All reasons that apply to a window."""
    quality = Quality.GOOD
    if window.speed_rpm is not None and window.speed_rpm < STANDSTILL_RPM:
        quality |= Quality.NOT_RUNNING
    if window.samples is None:
        return quality | Quality.INCOMPLETE
    low, high = window.samples.min(axis=1), window.samples.max(axis=1)  # NaN and infinity show in these
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return quality | Quality.NON_FINITE
    if (high - low <= FLAT_RATIO * np.maximum(abs(low), abs(high))).any():
        quality |= Quality.FLATLINE
    return quality
