"""Quality: what keeps a window from being judged, and what is worth knowing about its signal all the same.

Bits of the `quality` column; 0 is a good window without remarks. `STOPS` are reasons not to step the network; the
other bits are notes: real machines near the end of their life do clip their sensors, and a healthy one in a noisy
plant is full of mains hum. All rules look at one window alone; a recorded threshold is a named constant below.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from pipeline.core.features.baseline import Baseline
from pipeline.core.features.table import COLUMN, RELATIVE
from pipeline.core.quality_scan import scan
from pipeline.core.records import FeatureRow, Float32, Window

STANDSTILL_RPM = 30.0  # below this a shaft counts as stopped ...
STANDSTILL_SHARE = 0.1  # ... and below this share of its nominal speed
STANDSTILL_LEVEL = 0.05  # all channels below this share of their usual RMS (-26 dB): the machine is off
MAINS_SHARE = 0.5  # of the power at the mains frequency and its harmonics


class Quality(IntFlag):
    """What may be said of a window. New bits may come; a bit never changes its meaning."""

    GOOD = 0
    INCOMPLETE = 1  # stops: samples are missing
    NON_FINITE = 2  # stops, sensor: NaN or infinity among the samples
    FLATLINE = 4  # stops, sensor: a channel does not move, hangs at a value, or knows fewer than 8 values
    NOT_RUNNING = 8  # stops: the shaft stands still, or the level is far below the usual one
    DROPOUT = 16  # stops, sensor: a run of zeros, or a piece of the signal that comes twice
    SATURATED = 32  # stops, sensor: so many samples lie at the ends of the range that the shape is lost
    CLIPPED = 64  # note: peaks are cut off
    BIASED = 128  # note: the mean is many times the vibration
    MAINS_HUM = 256  # note: most of the power lies at the mains frequency and its harmonics
    SKI_SLOPE = 512  # note: slow drift outweighs the vibration; an integrated velocity means nothing

    @property
    def stops(self) -> bool:
        """Whether the network is not stepped."""
        return bool(self & STOPS)

    @property
    def sensor_fault(self) -> bool:
        """Whether the sensor, and not the machine, is to be looked at."""
        return bool(self & SENSOR)

    def words(self) -> list[str]:
        """The bits that are set, in words, lowest first."""
        return [str(bit.name).lower() for bit in Quality if bit & self]


SENSOR = Quality.NON_FINITE | Quality.FLATLINE | Quality.DROPOUT | Quality.SATURATED
STOPS = SENSOR | Quality.INCOMPLETE | Quality.NOT_RUNNING
NO_VELOCITY = Quality.SKI_SLOPE | Quality.SATURATED | Quality.CLIPPED  # bits that make a velocity RMS meaningless


def judge(window: Window, *, values: Float32 | None = None) -> Quality:
    """All that a window says by itself; `values` are its features (C, F), for the rules that need a spectrum."""
    found = 0
    if window.speed_rpm is not None and window.speed_rpm < STANDSTILL_RPM:
        found |= _NOT_RUNNING
    if window.samples is None:
        return Quality(found | _INCOMPLETE)
    for samples in window.samples:
        found |= scan(np.ascontiguousarray(samples), window.rate_hz)
    if values is not None and not found & _STOPS and (values[:, COLUMN["mains_hum"]] > MAINS_SHARE).any():  # NaN is not
        found |= _MAINS_HUM
    return Quality(found)


def stands_still(row: FeatureRow, nominal_rpm: float | None, baseline: Baseline | None) -> bool:
    """Whether the machine is off by what is known of its stream: its nominal speed, and the RMS of its baseline."""
    if nominal_rpm is not None and row.speed_rpm is not None and row.speed_rpm < STANDSTILL_SHARE * nominal_rpm:
        return True
    if baseline is None or baseline.centre is None or row.quality & _STOPS:
        return False
    if (baseline.schema, baseline.channels) != (row.schema, row.channels):
        return False  # made of other numbers
    usual = 10.0 ** (baseline.centre[:, _RMS] / 20)  # the baseline is in dB
    return bool((row.values[:, COLUMN["rms"]] < STANDSTILL_LEVEL * usual).all())


# Plain numbers: an operation on a flag costs more than the scan of a short window.
_INCOMPLETE, _NOT_RUNNING, _MAINS_HUM = int(Quality.INCOMPLETE), int(Quality.NOT_RUNNING), int(Quality.MAINS_HUM)
_STOPS = int(STOPS)
_RMS = RELATIVE.index("rms")
