"""Rehearsal: two seconds of noise go through an engine, so that every kernel is compiled and loaded.

Numba compiles a kernel when it is first called. A service that compiled while it is connected would keep its broker
waiting. Any spec calls the same kernels, so this one depends on no configuration.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.alarm import AlarmSpec
from pipeline.core.engine import Engine, Step
from pipeline.core.features import FeatureSpec
from pipeline.core.order import OrderSpec
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamSpec
from pipeline.core.window import WindowSpec

RATE_HZ = 48_000  # above twice the features' bandwidth, so that the resampler runs too
DURATION_S = 2
SPEED_RPM = 1500.0  # a known speed calls the kernels of the lines

SPEC = StreamSpec(
    order=OrderSpec(max_wait_s=1.0, rate_tolerance=0.005),
    window=WindowSpec(length_s=1.0, hop_s=0.5, max_time_step_s=1.0),
    features=FeatureSpec(
        bandwidth_hz=5000.0,
        envelope_low_hz=1000.0,
        envelope_high_hz=5000.0,
        slip_tolerance=0.02,
        mains_hz=50.0,
        envelope_band="fixed",
        speed_confidence=0.2,
        vector="complete",
    ),
    alarm=AlarmSpec(enter_p=1.0, leave_p=1.0, enter_s=0.0, leave_s=0.0, cooldown_s=0.0, merge_s=0.0, rename_s=0.0),
    speed_rpm=SPEED_RPM,
    speed_source=None,
    orders=None,
    unit=None,
    gear_teeth=(),
    impossible=(),
    speed_min_rpm=None,
    speed_max_rpm=None,
    commissioning_windows=0,
    limits=None,
    max_gap_s=1.0,
    warm_up_windows=0,
    false_alarms_per_year=0.0,
)


def rehearse() -> Step:
    """Step an engine through the noise and return what came out.

    This costs half a minute of processor time the first time on a machine, and a quarter of a second after that.
    """
    noise = np.random.default_rng(0).standard_normal((1, DURATION_S * RATE_HZ), np.float32)
    block = Block(StreamKey("rehearsal", "rehearsal"), 1, 0, 0, float(RATE_HZ), ("x",), "g", noise)
    return Engine(lambda key: SPEC).step({}, [block])
