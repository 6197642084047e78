"""How a machine fails: faults, their severity over life, repairs, and when a fault becomes the truth.

Severity runs from 0 (sound) to 1 (end of life) and is a pure function of time. A life has any number of courses, which
may overlap (combined faults) and end (maintenance). A failure mode is the truth from the moment when it is detectable
in principle; before that the fault cannot be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.core.faults import HEALTHY, MODES
from pipeline.errors import ConfigError

FAULTS = tuple(MODES)
GROWING = ("gradual", "exponential", "cliff", "stepwise")
SHAPES = (*GROWING, "constant")

DETECTABLE = 0.2  # a default; `sim.detectable` calculates it for a machine
_CLIFF_AT, _BEFORE_CLIFF = 0.94, 0.3  # flat-then-cliff: most damage in the last 3 to 9 % of life (FEMTO)
_LARGE_GROWTH = 700.0  # e^growth is near the largest double
_HEALING = 0.35  # share of a step that heals: fresh edges are rolled smooth


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at a moment."""

    mode: str
    severity: float


@dataclass(frozen=True, slots=True)
class Condition:
    """All faults at a moment."""

    faults: tuple[Fault, ...] = ()

    def of(self, mode: str) -> float:
        """Severity of a failure mode; 0 without the fault."""
        return max((fault.severity for fault in self.faults if fault.mode == mode), default=0.0)


@dataclass(frozen=True, slots=True)
class Truth:
    """The true condition of a machine at a moment."""

    mode: str = HEALTHY  # healthy while nothing is detectable in principle
    stage: str = "sound"  # sound, hidden (not detectable yet), incipient (just detectable), clear
    location: str = ""
    severity: float = 0.0
    onset_s: float | None = None
    others: tuple[str, ...] = ()  # further detectable modes


@dataclass(frozen=True, slots=True)
class Course:
    """One fault: it starts at `onset_s`, grows to `final` severity at `end_s` and stays until the repair."""

    mode: str
    shape: str = "gradual"
    onset_s: float = 0.0
    end_s: float = 1.0
    final: float = 1.0
    until_s: float = math.inf  # time of the repair: sound from then on
    growth: float = 4.0  # exponent of the exponential shape
    steps: int = 5  # of the stepwise shape
    detectable: float = DETECTABLE  # severity from which an analyst could tell
    location: str = ""

    def __post_init__(self) -> None:
        """Checks the course."""
        if self.mode not in FAULTS:
            msg = f"a failure mode must be one of {', '.join(FAULTS)}, found: {self.mode!r}"
            raise ConfigError(msg, hint="the ids of the taxonomy, not the names of a data set; healthy = no fault")
        if self.shape not in SHAPES:
            msg = f"the shape of a life must be one of {', '.join(SHAPES)}, found: {self.shape!r}"
            raise ConfigError(msg)
        if not 0 <= self.onset_s < self.end_s < math.inf or not self.until_s > self.onset_s:
            msg = (
                "a fault needs 0 <= onset_s < end_s and a repair after its onset, "
                f"found: onset_s {self.onset_s:g}, end_s {self.end_s:g}, until_s {self.until_s:g}"
            )
            raise ConfigError(msg)
        if not 0 <= self.final <= 1 or not self.growth > 0 or self.steps < 1:
            msg = (
                "a fault needs a final severity of 0 to 1, a growth above 0 and at least 1 step, "
                f"found: {self.final:g}, {self.growth:g}, {self.steps}"
            )
            raise ConfigError(msg)
        if not self.detectable > 0:
            msg = f"a fault needs a detectable severity above 0, found: {self.detectable:g}"
            raise ConfigError(msg)

    def severity(self, time_s: float) -> float:
        """Severity at that time, 0 to 1. It decreases only in the stepwise shape."""
        if not self.onset_s <= time_s < self.until_s:
            return 0.0
        part = min(1.0, (time_s - self.onset_s) / (self.end_s - self.onset_s))
        return self.final * self._grown(part)

    def detectable_s(self) -> float:
        """Time in s when the fault is first detectable in principle; infinity: never."""
        found = self._step_s() if self.shape == "stepwise" else self._crossing_s()
        return found if found < self.until_s else math.inf

    def _step_s(self) -> float:
        # Compared before dividing: a detectable severity over a tiny final one is infinite.
        if self.final == 0 or self.detectable * self.steps > self.final * (self.steps + 1e-9):
            return math.inf
        first = max(1, math.ceil(self.detectable / self.final * self.steps - 1e-9))
        return self.onset_s + (first - 1) / self.steps * (self.end_s - self.onset_s)

    def _crossing_s(self) -> float:
        low, high = self.onset_s, self.end_s
        if self.final < self.detectable:
            return math.inf
        if self.shape == "constant":
            return low
        while high - low > 1e-9 * self.end_s:
            middle = (low + high) / 2
            part = (middle - self.onset_s) / (self.end_s - self.onset_s)
            low, high = (low, middle) if self.final * self._grown(part) >= self.detectable else (middle, high)
        return high

    def _grown(self, part: float) -> float:
        """Severity / final severity, after that part of the time from onset to end."""
        match self.shape:
            case "constant":
                return 1.0
            case "exponential" if self.growth > _LARGE_GROWTH:
                return math.exp(self.growth * (part - 1)) - math.exp(-self.growth)  # both divided by e^growth
            case "exponential":
                return math.expm1(self.growth * part) / math.expm1(self.growth)
            case "cliff" if part < _CLIFF_AT:
                return _BEFORE_CLIFF * part / _CLIFF_AT
            case "cliff":
                return _BEFORE_CLIFF + (1 - _BEFORE_CLIFF) * (part - _CLIFF_AT) / (1 - _CLIFF_AT)
            case "stepwise" if part < 1:
                step, within = divmod(part * self.steps, 1)
                return (step + 1 - _HEALING * (1 - math.exp(-3 * within))) / self.steps
            case _:
                return part


@dataclass(frozen=True, slots=True)
class Life:
    """All faults of a machine over its life; without a course it stays sound."""

    courses: tuple[Course, ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        """The failure modes of this life, first onset first."""
        return tuple(dict.fromkeys(c.mode for c in sorted(self.courses, key=lambda c: c.onset_s)))

    def condition(self, time_s: float) -> Condition:
        """The faults at that time."""
        found = tuple(Fault(c.mode, s) for c in self.courses if (s := c.severity(time_s)) > 0)
        return Condition(found)

    def truth(self, time_s: float) -> Truth:
        """The truth at that time: of the detectable faults, the one most above its threshold."""
        there = [c for c in self.courses if c.severity(time_s) > 0]
        if not there:
            return Truth()
        # A detectable fault stays detectable: a step that heals a little does not make the machine sound.
        clear = sorted(
            (c for c in there if c.detectable_s() <= time_s), key=lambda c: -c.severity(time_s) / c.detectable
        )
        if not clear:
            worst = max(there, key=lambda c: c.severity(time_s))
            return Truth(HEALTHY, "hidden", worst.location, worst.severity(time_s), worst.onset_s)
        first = clear[0]
        severity = first.severity(time_s)
        stage = "incipient" if severity < 1.5 * first.detectable else "clear"
        others = tuple(c.mode for c in clear[1:] if c.mode != first.mode)
        return Truth(first.mode, stage, first.location, severity, first.onset_s, others)

    def detectable_s(self) -> float:
        """Time in s when the first fault becomes detectable; infinity: never."""
        return min((c.detectable_s() for c in self.courses), default=math.inf)
