"""The one list of features. Columns of the archive are named `<channel>.<name>` in this order.

To add a feature, write one line here and compute it in the function of its stage: `out[AT.name] = value`. Every column
number is derived from this list, so lines may stand in any order. Then run `python tests/features_golden.py`.

`stage` says which part of this package computes the feature, and from what: see STAGES.
`gain_free` features do not change with the gain of the sensor. A model is given these unless it asks for others.
A feature whose needs are not met is NaN, never a made-up number.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import BearingOrders, FeatureRow, Float32

BAND_COUNT = 14  # log bands of the spectrum
BAND_LOW_HZ = 10.0


@dataclass(frozen=True, slots=True)
class Feature:
    """One column per channel."""

    name: str
    unit: str  # "" = a ratio; "unit" = that of the samples
    formula: str
    source: str
    stage: str  # of STAGES
    gain_free: bool = True
    needs: tuple[str, ...] = ()  # speed, bearing, unit, gear, baseline
    core: bool = False  # also part of the small vector: see FeatureSpec.vector


STAGES = {  # how each stage looks at a window; the schema's name holds the formulas and the settings, not this text
    "time": "the samples, brought to features.bandwidth_hz, mean removed (`mean` excepted)",
    "spectrum": "P = one-sided power spectrum of those samples under a Hann window; its lowest two bins do not count",
    "orders": "P; a line is the largest P within max(1/2 bin, features.slip_tolerance x its frequency), its floor the "
    "geometric mean of the 24 bins on each side",
    "cepstrum": "the transform of log P; a line of it, as in P",
    "envelope": "the spectrum of the squared envelope of the band from features.envelope_low_hz to envelope_high_hz, "
    "whitened in stretches of 64 Hz; a line as in P, but bins at multiples of the shaft do not count for a bearing; a "
    "family is the mean amplitude ratio of its harmonics 1 to 3, or 1 to 5 where the window is too short to tell its "
    "slip",
    "speed": "as the block or the configuration says. A nominal, nameplate or estimated speed is refined on the comb "
    "of shaft harmonics in P. If none is stated, it is the comb of harmonics in P that stands out most between "
    "speed_min_rpm and speed_max_rpm of the machine",
    "baseline": "the row itself beside the stream's first machines.ID.commissioning_windows good windows",
}

_RANDALL = "Randall, Vibration-based Condition Monitoring, 2nd ed."
_ANTONI = "Randall & Antoni, MSSP 25 (2011) 485"
_KAISER = "Kaiser, ICASSP 1990"
_PEETERS = "Peeters, CUIDADO (2004)"
_ISO = "ISO 10816-3:2009"

LEVELS = ("mean", "rms", "peak", "p2p")  # known even of a window in which nothing moves

_TIME = (
    Feature("mean", "unit", "mean x: the sensor's bias, not the machine's", _RANDALL, "time", False, core=True),
    Feature("rms", "unit", "sqrt(mean x^2)", _RANDALL, "time", False, core=True),
    Feature("peak", "unit", "max |x|", _RANDALL, "time", False, core=True),
    Feature("p2p", "unit", "max x - min x", _RANDALL, "time", False, core=True),
    Feature("crest", "", "peak / rms", _RANDALL, "time", core=True),
    Feature("kurtosis", "", "mean x^4 / rms^4; a Gaussian has 3", _RANDALL, "time", core=True),
    Feature("skewness", "", "mean x^3 / rms^3", _RANDALL, "time", core=True),
    Feature("shape", "", "rms / mean |q|, q = x less the mean of its quarter", _RANDALL, "time", core=True),
    Feature("impulse", "", "peak / mean |q|", _RANDALL, "time", core=True),
    Feature("clearance", "", "peak / (mean sqrt|q|)^2", _RANDALL, "time", core=True),
    Feature("zero_crossing", "Hz", "sign changes of q per second / 2", _RANDALL, "time", core=True),
    Feature("tkeo_kurtosis", "", "kurtosis of q_i^2 - q_(i-1) q_(i+1)", _KAISER, "time"),
)

BANDS = tuple(f"band_{k:02d}" for k in range(BAND_COUNT))

_SPECTRUM = (
    *(
        Feature(name, "log10", f"log10(power in log band {k} / total power)", _RANDALL, "spectrum", core=True)
        for k, name in enumerate(BANDS)
    ),
    Feature("centroid", "Hz", "sum f P / sum P", f"{_PEETERS} 6.1.1", "spectrum", core=True),
    Feature("spread", "Hz", "sqrt(sum (f - centroid)^2 P / sum P)", f"{_PEETERS} 6.1.2", "spectrum", core=True),
    Feature("entropy", "", "-sum p ln p / ln(bins), p = P / sum P", "Misra et al., ICASSP 2004", "spectrum", core=True),
    Feature("flatness", "dB", "10 log10(geometric / arithmetic mean of P)", f"{_PEETERS} 9.1", "spectrum", core=True),
    Feature("rolloff_85", "Hz", "85 % of the power lie below", f"{_PEETERS} 6.1.6", "spectrum", core=True),
    Feature("rolloff_95", "Hz", "95 % of the power lie below", f"{_PEETERS} 6.1.6", "spectrum"),
    Feature("dominant", "Hz", "frequency of the largest P", _RANDALL, "spectrum", core=True),
    Feature(
        "flux",
        "",
        "sum over log bands |s - s'| / 2, s and s' the band shares under the windows hann (1 +- sin(2 pi t / T)) / 2",
        f"{_PEETERS} 6.2.1, between the halves of one window",
        "spectrum",
    ),
    Feature("mains_hum", "", "power at the mains frequency and its harmonics to 6 / total power", _RANDALL, "spectrum"),
    Feature(
        "velocity_rms",
        "mm/s",
        "sqrt(sum of P / (2 pi f)^2 from 10 Hz, below 600 rpm from 2 Hz, to 1000 Hz)",
        _ISO,
        "spectrum",
        gain_free=False,
        needs=("unit",),
        core=True,
    ),
)

ORDERS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)  # multiples of the shaft speed


def order_name(order: float) -> str:
    """Name of the feature of a shaft order: 0.5 -> ord_0_5."""
    return f"ord_{order:g}".replace(".", "_")


_ORDERS = (
    *(
        Feature(
            order_name(order),
            "dB",
            f"10 log10(largest P at {order:g} x shaft / geometric mean of P around)",
            _RANDALL,
            "orders",
            needs=("speed",),
            core=order in (1.0, 2.0, 3.0),
        )
        for order in ORDERS
    ),
    Feature(
        "ord_1_velocity_share",
        "",
        "share of 1 x shaft in the velocity's mean square",
        _ISO,
        "orders",
        needs=("speed",),
    ),
    Feature("gmf", "dB", "gear mesh, harmonics 1 to 3, over local floor", _RANDALL, "orders", needs=("speed", "gear")),
    Feature(
        "gmf_sidebands",
        "dB",
        "gear mesh -+ 1 and 2 x shaft over local floor",
        _RANDALL,
        "orders",
        needs=("speed", "gear"),
    ),
)

_CEPSTRUM = (
    Feature(
        "cepstrum_shaft",
        "dB",
        "cepstrum of the power spectrum at the shaft period and its rahmonics 2 and 3 over local floor",
        "Randall, MSSP 97 (2017) 3",
        "cepstrum",
        needs=("speed",),
    ),
)


class Family(NamedTuple):
    """Lines that a damaged part of a bearing makes in the envelope spectrum: multiples of `order` x shaft."""

    id: str  # as in the names of its features: env_<id>
    label: str  # in words for people
    part: str
    order: Callable[[BearingOrders], float]

    @property
    def feature(self) -> str:
        """The feature that tells how far its lines stand over their floor."""
        return f"env_{self.id}"


FAMILIES = (
    Family("bpfo", "BPFO", "outer race", lambda orders: orders.bpfo),
    Family("bpfi", "BPFI", "inner race", lambda orders: orders.bpfi),
    Family("2bsf", "2xBSF", "rolling element (twice its spin)", lambda orders: 2 * orders.bsf),
    Family("ftf", "FTF", "cage", lambda orders: orders.ftf),
)
_BEARING = ("speed", "bearing")


def _over_floor(line: str, what: str, needs: tuple[str, ...], *, core: bool) -> Feature:
    return Feature(f"env_{line}", "dB", f"{what}: lines over local floor", _ANTONI, "envelope", needs=needs, core=core)


_ENVELOPE = (
    *(_over_floor(family.id, family.part, _BEARING, core=True) for family in FAMILIES),
    _over_floor("shaft", "shaft", ("speed",), core=False),
    *(
        Feature(
            f"{family.feature}_harmonics",
            "",
            f"{family.part}: harmonics more than 6 dB over the floor",
            _ANTONI,
            "envelope",
            needs=_BEARING,
        )
        for family in FAMILIES
    ),
    Feature(
        "env_bpfi_sidebands",
        "dB",
        "inner race -+ shaft, harmonics 1 to 3, over local floor",
        _ANTONI,
        "envelope",
        needs=_BEARING,
    ),
    Feature(
        "env_2bsf_sidebands",
        "dB",
        "rolling element -+ cage, harmonics 1 to 3, over local floor",
        _ANTONI,
        "envelope",
        needs=_BEARING,
    ),
    Feature(
        "env_kurtosis",
        "",
        "mean e^4 / (mean e^2)^2 of the analytic signal's magnitude e, less the window's share; Gaussian noise has 2",
        "Antoni, MSSP 21 (2007) 108",
        "envelope",
    ),
    Feature("env_rms", "dB", "10 log10(power in the envelope band / total power)", _ANTONI, "envelope"),
)

_SPEED = (
    Feature("speed_used", "rpm", "shaft speed that the orders follow", _RANDALL, "speed", False, ("speed",)),
    Feature("speed_confidence", "", "1 = stated, less = estimated from the spectrum", _RANDALL, "speed", False),
)

RELATIVE = ("rms", "velocity_rms", "kurtosis", "env_bpfo", "env_bpfi", "env_2bsf", "env_ftf", "band_12", "band_13")

_BASELINE = tuple(
    Feature(
        f"rel_{name}",
        "sigma",
        f"({name} - its median) / (1.4826 x its MAD) over the commissioning windows; levels in dB",
        "Rousseeuw & Croux, JASA 88 (1993) 1273",
        "baseline",
        needs=("baseline",),
    )
    for name in RELATIVE
)

FEATURES: tuple[Feature, ...] = (*_TIME, *_SPECTRUM, *_ORDERS, *_CEPSTRUM, *_ENVELOPE, *_SPEED, *_BASELINE)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
COLUMN: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
# AT.rms is the column of `rms`, which compiled code takes for a constant.
AT: Any = namedtuple("AT", NAMES)(*range(len(NAMES)))


def columns(*names: str) -> NDArray[np.int64]:
    """Columns of these features, (len(names),): as a global of a module it is a constant for compiled code."""
    return np.array([COLUMN[name] for name in names], np.int64)


def stage_names(stage: str) -> tuple[str, ...]:
    """Names of one stage's features, in order."""
    return tuple(feature.name for feature in FEATURES if feature.stage == stage)


def stage_columns(stage: str) -> slice:
    """Columns of one stage; each stage's features stand together."""
    names = stage_names(stage)
    return slice(COLUMN[names[0]], COLUMN[names[-1]] + 1)


def band_edges_hz(high_hz: float) -> np.ndarray:
    """Edges (BAND_COUNT + 1,) of the log bands, from BAND_LOW_HZ to the common bandwidth."""
    return np.geomspace(BAND_LOW_HZ, high_hz, BAND_COUNT + 1)


def schema_name(settings: str) -> str:
    """Name of what the columns mean. It changes with every feature, formula and setting."""
    meaning = "\n".join([*(f"{f.name}|{f.unit}|{f.formula}" for f in FEATURES), settings])
    return f"features-{hashlib.sha256(meaning.encode()).hexdigest()[:10]}"


def stacked_inputs(names: tuple[str, ...], rows: Sequence[FeatureRow]) -> Float32:
    """Columns `<channel>.<feature>` of rows as a network takes them, (B, F); NaN where a stream has no such channel."""
    if any(row.channels != rows[0].channels for row in rows):
        return np.concatenate([stacked_inputs(names, [row]) for row in rows])
    columns, missing = _places(names, rows[0].channels)
    x = np.concatenate([row.values for row in rows]).reshape(len(rows), -1)[:, columns]
    x[:, missing] = np.nan
    return x


@lru_cache(maxsize=256)
def _places(names: tuple[str, ...], channels: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each input among the flattened values (C, F) of a row, and which inputs the row does not have."""
    channel_of = {channel: i for i, channel in enumerate(channels)}
    columns, missing = np.zeros(len(names), np.int64), []
    for i, name in enumerate(names):
        channel, _, feature = name.rpartition(".")
        if channel in channel_of:
            columns[i] = channel_of[channel] * len(NAMES) + COLUMN[feature]
        else:
            missing.append(i)
    return columns, np.array(missing, np.int64)


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Settings of the feature stage; all of them are part of the schema's name."""

    bandwidth_hz: float
    envelope_low_hz: float
    envelope_high_hz: float
    slip_tolerance: float
    mains_hz: float
    envelope_band: Literal["fixed", "kurtogram"]
    speed_confidence: float  # an estimated speed of less confidence counts as unknown
    vector: Literal["complete", "core"]  # core: a third of the columns is NaN, and the cost halved

    @property
    def schema(self) -> str:
        """Name of the feature schema under these settings."""
        return schema_name(repr(self))
