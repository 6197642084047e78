"""The one list of features. Columns of the archive are named `<channel>.<name>` in this order.

`stage` says which function computes it: `time` from the samples, `spectrum` from the one-sided power
spectrum, `envelope` from the spectrum of the squared envelope. All stages see the window brought to
the common bandwidth, mean removed (`mean` excepted). `gain_free` features do not change when the
sensor's gain does; they are what a model is given unless told otherwise. A feature whose needs are
not met is NaN, never a made-up number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

BAND_COUNT = 14
BAND_LOW_HZ = 10.0


@dataclass(frozen=True, slots=True)
class Feature:
    """One column per channel."""

    name: str
    unit: str  # "" = a ratio; "unit" = that of the samples
    formula: str
    source: str
    stage: str  # time, spectrum, envelope
    gain_free: bool = True
    needs: tuple[str, ...] = ()  # speed, bearing, unit


_RANDALL = "Randall, Vibration-based Condition Monitoring, 2nd ed."
_ANTONI = "Randall & Antoni, MSSP 25 (2011) 485"

FEATURES: tuple[Feature, ...] = (
    Feature("mean", "unit", "mean x: the sensor's bias, not the machine's", _RANDALL, "time", gain_free=False),
    Feature("rms", "unit", "sqrt(mean x^2)", _RANDALL, "time", gain_free=False),
    Feature("peak", "unit", "max |x|", _RANDALL, "time", gain_free=False),
    Feature("crest", "", "peak / rms", _RANDALL, "time"),
    Feature("kurtosis", "", "mean x^4 / rms^4; a Gaussian has 3", _RANDALL, "time"),
    Feature("skewness", "", "mean x^3 / rms^3", _RANDALL, "time"),
    Feature("shape", "", "rms / mean |x|", _RANDALL, "time"),
    Feature("impulse", "", "peak / mean |x|", _RANDALL, "time"),
    Feature("clearance", "", "peak / (mean sqrt|x|)^2", _RANDALL, "time"),
    Feature("zero_crossing", "Hz", "sign changes per second / 2", _RANDALL, "time"),
    *(
        Feature(f"band_{k:02d}", "log10", f"log10(power in log band {k} / total power)", _RANDALL, "spectrum")
        for k in range(BAND_COUNT)
    ),
    Feature("centroid", "Hz", "sum f P / sum P", "Peeters, CUIDADO (2004) 6.1.1", "spectrum"),
    Feature("spread", "Hz", "sqrt(sum (f - centroid)^2 P / sum P)", "Peeters, CUIDADO (2004) 6.1.2", "spectrum"),
    Feature("entropy", "", "-sum p ln p / ln(bins), p = P / sum P", "Misra et al., ICASSP 2004", "spectrum"),
    Feature("dominant", "Hz", "frequency of the largest P", _RANDALL, "spectrum"),
    Feature(
        "velocity_rms",
        "mm/s",
        "sqrt(sum of P / (2 pi f)^2 from 10 to 1000 Hz)",
        "ISO 10816-3:2009",
        "spectrum",
        gain_free=False,
        needs=("unit",),
    ),
    *(
        Feature(f"env_{line}", "dB", f"{what}: 20 log10 of line over local floor", _ANTONI, "envelope", needs=needs)
        for line, what, needs in (
            ("bpfo", "outer race, harmonics 1 to 3", ("speed", "bearing")),
            ("bpfi", "inner race, harmonics 1 to 3", ("speed", "bearing")),
            ("2bsf", "rolling element (twice its spin), harmonics 1 to 3", ("speed", "bearing")),
            ("ftf", "cage, harmonics 1 to 3", ("speed", "bearing")),
            ("shaft", "shaft, harmonics 1 to 3", ("speed",)),
        )
    ),
)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COLUMN: dict[str, int] = {name: i for i, name in enumerate(NAMES)}


def stage_names(stage: str) -> tuple[str, ...]:
    """Names of one stage's features, in order."""
    return tuple(feature.name for feature in FEATURES if feature.stage == stage)


def band_edges_hz(high_hz: float) -> np.ndarray:
    """Edges (BAND_COUNT + 1,) of the log bands, from BAND_LOW_HZ to the common bandwidth."""
    return np.geomspace(BAND_LOW_HZ, high_hz, BAND_COUNT + 1)


def schema_name(settings: str) -> str:
    """Name of what the columns mean: changes when a feature, its formula or a setting that it depends on does."""
    meaning = "\n".join([*(f"{f.name}|{f.unit}|{f.formula}" for f in FEATURES), settings])
    return f"features-{hashlib.sha256(meaning.encode()).hexdigest()[:10]}"
