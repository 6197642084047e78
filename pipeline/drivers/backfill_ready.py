"""Imported once, by the process from which backfill workers are forked: loads what they share, kernels included.

A compiled kernel is loaded when it is first called, so importing this module steps an engine through a second of a
recording.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.engine import Engine
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamSpec
from pipeline.drivers import backfill_worker  # and with it all that reads recordings and makes tables

__all__ = ["backfill_worker"]

_RATE_HZ = 48_000.0  # above the usual bandwidth, so that the filter is called too


def _load_kernels() -> None:
    samples = np.random.default_rng(0).standard_normal((1, round(2 * _RATE_HZ)), np.float32)
    block = Block(StreamKey("machine", "point"), 1, 0, 0, _RATE_HZ, ("x",), "g", samples, speed_rpm=1500.0)
    Engine(lambda key: StreamSpec()).step({}, [block])


_load_kernels()
