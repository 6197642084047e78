"""The settings that decide what the numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.features.table import schema_name


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Settings of the feature stage; all of them are part of the schema's name."""

    bandwidth_hz: float = 5000.0
    envelope_low_hz: float = 1000.0
    envelope_high_hz: float = 5000.0
    slip_tolerance: float = 0.02
    mains_hz: float = 50.0
    envelope_band: Literal["fixed", "kurtogram"] = "fixed"
    speed_confidence: float = 0.2  # an estimated speed of less confidence counts as unknown
    vector: Literal["complete", "core"] = "complete"  # core: a third of the columns is NaN, and the cost halved

    @property
    def schema(self) -> str:
        """Name of the feature schema under these settings."""
        return schema_name(repr(self))
