"""How a machine fails: severity over its life, and from when on a fault counts as one.

Severity runs from 0 (sound) to 1 (end of life). It is a pure function of time, so that any moment of any life
can be asked for. The truth is the failure mode from DETECTABLE on: the fault is there before, but nobody could tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError

HEALTHY = "healthy"
FAULTS = (
    "unbalance",
    "misalignment",
    "looseness",
    "bearing_inner",
    "bearing_outer",
    "bearing_ball",
    "bearing_cage",
    "gear_wear",
    "gear_tooth",
    "cavitation",
    "other",  # here: a loose stator, which shows at twice the line frequency
)
SHAPES = ("gradual", "exponential", "cliff", "constant")

DETECTABLE = 0.2  # the bearing's envelope line stands 6 dB above its floor on a typical machine
_GROWTH = 4.0  # exponent of the exponential life, over its whole length
_CLIFF_AT, _BEFORE_CLIFF = 0.85, 0.3  # flat-then-cliff: most of the damage comes in the last part of life (FEMTO)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a moment."""

    mode: str
    severity: float

    def of(self, mode: str) -> float:
        """Severity of that failure mode; 0 if it is not the one."""
        return self.severity if self.mode == mode else 0.0


@dataclass(frozen=True, slots=True)
class Life:
    """Sound until `onset_s`, then `mode` grows to `final` severity at `end_s` and stays there."""

    mode: str = HEALTHY
    shape: str = "gradual"
    onset_s: float = 0.0
    end_s: float = 1.0
    final: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a life that cannot be lived."""
        if self.mode != HEALTHY and self.mode not in FAULTS:
            msg = f"a failure mode must be one of {', '.join((HEALTHY, *FAULTS))}, found: {self.mode!r}"
            raise ConfigError(msg, hint="the ids of the taxonomy, not the names of a data set")
        if self.shape not in SHAPES:
            msg = f"the shape of a life must be one of {', '.join(SHAPES)}, found: {self.shape!r}"
            raise ConfigError(msg)
        if not 0 <= self.onset_s < self.end_s or not 0 <= self.final <= 1:
            msg = (
                "a life needs 0 <= onset_s < end_s and a final severity of 0 to 1, "
                f"found: onset_s {self.onset_s:g}, end_s {self.end_s:g}, final {self.final:g}"
            )
            raise ConfigError(msg)

    def severity(self, time_s: float) -> float:
        """Severity at that time, 0 to 1; 0 for a machine that stays sound."""
        if self.mode == HEALTHY or time_s < self.onset_s:
            return 0.0
        part = min(1.0, (time_s - self.onset_s) / (self.end_s - self.onset_s))
        return self.final * _grown(self.shape, part)

    def fault(self, time_s: float) -> Fault:
        """What is wrong at that time."""
        return Fault(self.mode, self.severity(time_s))

    def truth(self, time_s: float) -> str:
        """The failure mode once it is detectable in principle, else healthy."""
        return self.mode if self.severity(time_s) >= DETECTABLE else HEALTHY

    def detectable_s(self) -> float:
        """When the truth changes from healthy to the mode; infinity if it never does. Severity never falls."""
        if self.severity(self.end_s) < DETECTABLE:
            return math.inf
        low, high = self.onset_s, self.end_s
        if self.severity(low) >= DETECTABLE:
            return low
        while high - low > 1e-9 * self.end_s:
            middle = (low + high) / 2
            low, high = (low, middle) if self.severity(middle) >= DETECTABLE else (middle, high)
        return high


def _grown(shape: str, part: float) -> float:
    """Severity after that part of the way from onset to end."""
    match shape:
        case "constant":
            return 1.0
        case "exponential":
            return math.expm1(_GROWTH * part) / math.expm1(_GROWTH)
        case "cliff" if part < _CLIFF_AT:
            return _BEFORE_CLIFF * part / _CLIFF_AT
        case "cliff":
            return _BEFORE_CLIFF + (1 - _BEFORE_CLIFF) * (part - _CLIFF_AT) / (1 - _CLIFF_AT)
        case _:
            return part
