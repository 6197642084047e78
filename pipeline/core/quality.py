"""Quality: what keeps a window from being judged, and what is worth knowing about its signal all the same.

Bits of the `quality` column; 0 is a good window without remarks. `STOPS` are reasons not to step the network; the
other bits are notes: real machines near the end of their life do clip their sensors, and a healthy one in a noisy
plant is full of mains hum. All rules look at one window alone; a recorded threshold is a named constant below.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.baseline import Baseline
from pipeline.core.features.kernel import address_of
from pipeline.core.features.table import COLUMN, RELATIVE
from pipeline.core.quality_scan import scan_rows
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
    if window.samples is None:
        return Quality(incomplete(window))
    samples = np.ascontiguousarray(window.samples, np.float32)
    address = address_of(samples) + samples.strides[0] * np.arange(len(samples))
    spectral = np.full((len(samples), len(COLUMN)), np.nan, np.float32) if values is None else values
    return Quality(judge_alike([window], samples.shape[1], address, spectral[None])[0])


def incomplete(window: Window) -> int:
    """The bits of a window that has no samples."""
    return _INCOMPLETE | _stopped(window)


def judge_alike(windows: Sequence[Window], length: int, address: NDArray[np.int64], values: Float32) -> list[int]:
    """The bits of windows of one rate and shape, in one scan; address and values as in `features.batch.Alike`."""
    found = np.zeros(len(windows), np.int64)
    scan_rows(address, length, windows[0].rate_hz, found)
    hums = (values[:, :, COLUMN["mains_hum"]] > MAINS_SHARE).any(axis=1)  # NaN is not
    found |= np.array([_stopped(window) for window in windows])
    return np.where(hums & (found & _STOPS == 0), found | _MAINS_HUM, found).tolist()


def _stopped(window: Window) -> int:
    return _NOT_RUNNING if window.speed_rpm is not None and window.speed_rpm < STANDSTILL_RPM else 0


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
