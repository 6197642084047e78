"""Loads what backfill workers share, kernels included; imported once, by the process from which they are forked.

A compiled kernel is loaded when it is first called, and pyarrow imports pandas for its first table: so importing this
module steps an engine through two seconds of a recording and makes a table of the rows.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.engine import Engine
from pipeline.core.features.table import FEATURES
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamSpec
from pipeline.drivers import backfill as backfill_worker  # and with it all that reads recordings
from pipeline.edges.store.schema import FeatureSchema, feature_tables, packed

__all__ = ["backfill_worker"]

_RATE_HZ = 48_000.0  # above the usual bandwidth, so that the filter is called too


def _load() -> None:
    samples = np.random.default_rng(0).standard_normal((1, round(2 * _RATE_HZ)), np.float32)
    block = Block(StreamKey("machine", "point"), 1, 0, 0, _RATE_HZ, ("x",), "g", samples, speed_rpm=1500.0)
    rows = Engine(lambda key: StreamSpec()).step({}, [block]).features
    names, units = zip(*[(feature.name, feature.unit) for feature in FEATURES], strict=True)
    for _, table in feature_tables(rows, FeatureSchema(rows[0].schema, names, units)):
        packed(table)


_load()
