"""Vibration severity: zones A to D from the velocity RMS of non-rotating parts.

    A  as newly commissioned            C  fit for a limited time
    B  fit for unrestricted operation   D  may damage the machine

The limits are those of ISO 10816-3:2009, tables A.1 and A.2 (upper limits of zones A, B and C), or a machine's own with
their source. Later editions draw the zones differently, so every result names the table that it used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.core.evidence import DEPARTED_SIGMA
from pipeline.core.faults import CHANGED_SIGMA
from pipeline.core.features.table import COLUMN
from pipeline.core.quality import NO_VELOCITY
from pipeline.core.records import FeatureRow

Support = Literal["rigid", "flexible"]
Zone = Literal["A", "B", "C", "D"]

STANDARD = "ISO 10816-3:2009"
BAND_HIGH_HZ = 1000.0  # the evaluation band ends here
_NO_VELOCITY = int(NO_VELOCITY)  # a plain number: flags are slow
BAND_PER_RATE = 0.475  # a spectrum can be trusted up to this share of the sampling rate: 1 kHz needs 2,106 Hz


@dataclass(frozen=True, slots=True)
class Limits:
    """Velocity RMS, mm/s, at the upper end of zones A, B and C."""

    a_b_mm_s: float
    b_c_mm_s: float
    c_d_mm_s: float
    source: str


# Group 1: above 300 kW up to 50 MW, or electrical machines with a shaft height of 315 mm or more.
# Group 2: above 15 kW up to 300 kW, or electrical machines with a shaft height of 160 up to 315 mm.
_TABLE: dict[tuple[int, Support], tuple[float, float, float]] = {
    (1, "rigid"): (2.3, 4.5, 7.1),
    (1, "flexible"): (3.5, 7.1, 11.0),
    (2, "rigid"): (1.4, 2.8, 4.5),
    (2, "flexible"): (2.3, 4.5, 7.1),
}


@dataclass(frozen=True, slots=True)
class Assessment:
    """A zone, or none. `note` names the table, or the reason why there is no zone."""

    zone: Zone | None
    note: str


def limits_of_class(group: Literal[1, 2], support: Support) -> Limits:
    """The standard's limits for a machine group on a support."""
    return Limits(*_TABLE[group, support], f"{STANDARD}, group {group}, {support} support")


def assess(velocity_rms_mm_s: float | None, limits: Limits | None, rate_hz: float) -> Assessment:
    """The zone of the largest velocity RMS over all axes of a point. A value on a boundary is in the lower zone.

    A zone is never guessed. It takes a machine class or limits, a rate that carries 1 kHz, and a velocity, which needs
    a known unit. Without one of these the point is "not assessable".
    """
    if limits is None:
        return Assessment(None, "not assessable: neither machine class nor limits are known")
    if rate_hz * BAND_PER_RATE < BAND_HIGH_HZ:
        return Assessment(None, f"not assessable: a rate of {rate_hz:g} Hz does not carry 1 kHz")
    if velocity_rms_mm_s is None or not math.isfinite(velocity_rms_mm_s):
        return Assessment(None, "not assessable: no velocity, for lack of unit or band")
    if velocity_rms_mm_s <= limits.a_b_mm_s:
        return Assessment("A", limits.source)
    if velocity_rms_mm_s <= limits.b_c_mm_s:
        return Assessment("B", limits.source)
    return Assessment("C" if velocity_rms_mm_s <= limits.c_d_mm_s else "D", limits.source)


def velocity_rms_mm_s(row: FeatureRow) -> float | None:
    """The velocity RMS of the channel that vibrates most; None if unit, rate or quality do not allow one."""
    if row.quality & _NO_VELOCITY:
        return None
    values = [v for v in row.values[:, COLUMN["velocity_rms"]].tolist() if math.isfinite(v)]
    return round(max(values), 4) if values else None


def floor(row: FeatureRow, limits: Limits | None) -> Zone | None:
    """The zone that is a floor under the alarms: the window's zone, or a worse one if its RMS has left the baseline.

    A rise above the machine's own baseline counts like zone C or D, even where the standard says nothing. None without
    a zone and a baseline.
    """
    zones = [severity(row, limits).zone]
    if sigmas := [sigma for sigma in row.values[:, COLUMN["rel_rms"]].tolist() if math.isfinite(sigma)]:
        sigma = max(sigmas)
        zones.append("D" if sigma >= DEPARTED_SIGMA else "C" if sigma >= CHANGED_SIGMA else "A")
    return max((zone for zone in zones if zone is not None), default=None)


def severity(row: FeatureRow, limits: Limits | None) -> Assessment:
    """The zone of one window."""
    return assess(velocity_rms_mm_s(row), limits, row.rate_hz)
