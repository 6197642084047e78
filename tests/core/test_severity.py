"""Zones of vibration severity: the table, its boundaries, and when nothing can be said."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import specs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import severity as iso
from pipeline.core.alarm import AlarmState, judge
from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.core.severity import Limits, assess, limits_of_class

CLASSES = [(group, support) for group in (1, 2) for support in ("rigid", "flexible")]
RATE_HZ = 12_000.0


@given(st.sampled_from(CLASSES), st.lists(st.floats(0, 50), min_size=2, max_size=20))
def test_zones_rise_with_the_velocity(of: tuple[int, str], velocities: list[float]) -> None:
    limits = limits_of_class(*of)  # type: ignore[arg-type]
    zones = [assess(v, limits, RATE_HZ).zone for v in sorted(velocities)]
    assert all(zone in ("A", "B", "C", "D") for zone in zones)
    assert all(one <= other for one, other in pairwise(zones))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("of", "boundaries"),
    [
        ((1, "rigid"), (2.3, 4.5, 7.1)),
        ((1, "flexible"), (3.5, 7.1, 11.0)),
        ((2, "rigid"), (1.4, 2.8, 4.5)),
        ((2, "flexible"), (2.3, 4.5, 7.1)),
    ],
)
def test_a_value_on_a_boundary_belongs_to_the_lower_zone(of: tuple[int, str], boundaries: tuple[float, ...]) -> None:
    limits = limits_of_class(*of)  # type: ignore[arg-type]
    for boundary, below, above in zip(boundaries, "ABC", "BCD", strict=True):
        assert assess(boundary, limits, RATE_HZ).zone == below
        assert assess(math.nextafter(boundary, 99), limits, RATE_HZ).zone == above


def test_every_answer_names_its_table() -> None:
    note = assess(3.0, limits_of_class(2, "rigid"), RATE_HZ).note
    assert note == "ISO 10816-3:2009, group 2, rigid support"
    assert assess(3.0, Limits(1.0, 2.0, 3.0, "maker"), RATE_HZ).note == "maker"


@pytest.mark.parametrize(
    ("velocity", "limits", "rate_hz", "why"),
    [
        (3.0, None, RATE_HZ, "class"),
        (None, limits_of_class(1, "rigid"), RATE_HZ, "unit"),
        (math.nan, limits_of_class(1, "rigid"), RATE_HZ, "unit"),
        (3.0, limits_of_class(1, "rigid"), 2000.0, "1 kHz"),
        (3.0, limits_of_class(1, "rigid"), 2105.0, "1 kHz"),
    ],
)
def test_what_cannot_be_assessed_is_no_zone_and_says_why(
    velocity: float | None, limits: Limits | None, rate_hz: float, why: str
) -> None:
    found = assess(velocity, limits, rate_hz)
    assert found.zone is None
    assert found.note.startswith("not assessable: ")
    assert why in found.note


def test_a_rate_that_just_carries_the_band_is_enough() -> None:
    assert assess(3.0, limits_of_class(1, "rigid"), 2106.0).zone == "B"


def row(rel_rms: list[float], velocity_mm_s: float = math.nan) -> FeatureRow:
    values = np.full((len(rel_rms), len(NAMES)), np.nan, np.float32)
    values[:, COLUMN["rel_rms"]], values[:, COLUMN["velocity_rms"]] = rel_rms, velocity_mm_s
    channels = tuple("xyz"[: len(rel_rms)])
    return FeatureRow(StreamKey("m", "p"), 1, 0, 0, 1, RATE_HZ, None, 1.0, 0, None, channels, values, "s")


@pytest.mark.parametrize(
    ("sigmas", "expected"),
    [([5.9], "A"), ([6.0], "C"), ([-20.0], "A"), ([1.0, 12.0], "D"), ([math.nan, 7.0], "C"), ([math.nan], None)],
)
def test_a_machine_that_leaves_its_own_baseline_is_raised_also_where_the_standard_says_nothing(
    sigmas: list[float], expected: str | None
) -> None:
    assert iso.floor(row(sigmas), None) == expected


def test_the_worse_of_zone_and_departure_counts() -> None:
    limits = limits_of_class(2, "rigid")
    assert iso.floor(row([1.0], 3.0), limits) == "C"
    assert iso.floor(row([7.0], 1.0), limits) == "C"
    assert iso.floor(row([7.0], 5.0), limits) == "D"
    assert iso.floor(row([math.nan], 2.0), limits) == "B"
    assert iso.severity(row([50.0], 1.0), limits).zone == "A"  # what is shown as the standard's zone stays its own


def test_an_alarm_for_leaving_the_baseline_clears_when_the_machine_is_back() -> None:
    spec, state, told = specs.alarm(enter_s=3.0, leave_s=15.0, merge_s=0.0), AlarmState(), []
    for number, sigma in enumerate([1.0] * 5 + [20.0] * 5 + [8.0] * 30 + [2.0] * 40):
        at_ns = number * 1_000_000_000
        zone = iso.floor(row([sigma]), None)
        state, changes = judge(spec, state, StreamKey("m", "p"), {"healthy": 1.0}, at_ns, at_ns + 10**9, zone=zone)
        told += [(number, change.type, change.mode) for change in changes]
    assert told == [(7, "raised", "other"), (54, "cleared", "other")]
