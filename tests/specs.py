"""Specs to test with: the configuration's defaults, with what a test says otherwise.

specs.alarm(enter_s=3.0)     specs.stream(window=specs.window(length_s=0.256, hop_s=0.128))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.config.specs import default_spec
from pipeline.core.alarm import AlarmSpec
from pipeline.core.features import FeatureSpec
from pipeline.core.order import OrderSpec
from pipeline.core.state import StreamSpec
from pipeline.core.window import WindowSpec

USUAL = default_spec()


def order(**changes: Any) -> OrderSpec:
    return replace(USUAL.order, **changes)


def window(**changes: Any) -> WindowSpec:
    return replace(USUAL.window, **changes)


def features(**changes: Any) -> FeatureSpec:
    return replace(USUAL.features, **changes)


def alarm(**changes: Any) -> AlarmSpec:
    return replace(USUAL.alarm, **changes)


def stream(**changes: Any) -> StreamSpec:
    return replace(USUAL, **changes)
