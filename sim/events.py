"""Events that are no failures of the machine: the table of their kinds, and their effect at a moment.

Duty events change the speed of the shaft. Nuisances look like faults. Sensor faults are applied by `sim.sensors`. An
event has a kind, a time span and a size; its kind is its label.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: usual size, range and meaning of the size, and usual duration."""

    family: str  # duty, nuisance, sensor; strange: a fault of no named kind, never drawn, only asked for
    size: float
    low: float
    high: float
    usual_s: float
    what: str


KINDS: dict[str, Kind] = {
    "run_up": Kind("duty", 1.0, 0.1, 1.0, 30.0, "run-up from rest; size: share of the speed that is reached"),
    "ramp": Kind("duty", 0.2, -0.6, 0.6, 60.0, "another speed for a while; size: relative change"),
    "stop": Kind("duty", 1.0, 0.1, 1.0, 60.0, "runs down, stands, runs up; size: share of the speed that is lost"),
    "load_surge": Kind(
        "nuisance", 0.6, -0.5, 3.0, 20.0, "more load on gears, bearings and rotor; size: relative change"
    ),
    "transient": Kind(
        "nuisance", 2.0, 0.0, 20.0, 3.0, "a burst of noise from a valve or a water hammer; size: multiple of the floor"
    ),
    "hammering": Kind("nuisance", 3.0, 0.1, 50.0, 15.0, "somebody hammers on the frame; size: blows per second"),
    "neighbour_start": Kind("nuisance", 5.0, 0.0, 30.0, 60.0, "a neighbour starts; size: multiple of its usual share"),
    "heat_wave": Kind("nuisance", 20.0, -40.0, 60.0, 600.0, "softer structure, thinner grease; size: kelvin"),
    "remounted_sensor": Kind(
        "nuisance", 0.7, 0.2, 3.0, math.inf, "the sensor moves to another path; size: gain of the new place"
    ),
    "squeal": Kind(
        "strange", 0.3, 0.0, 20.0, 60.0, "a dry seal squeals: tones of its own, no named fault; size: g peak"
    ),
    "drop_out": Kind("sensor", 0.3, 0.01, 1.0, 20.0, "a loose cable; size: share of the time without signal"),
    "flatline": Kind("sensor", 0.0, -100.0, 100.0, 30.0, "a constant; size: g"),
    "drift": Kind("sensor", 0.5, -100.0, 100.0, 60.0, "slow drift; size: g per minute"),
    "bias": Kind("sensor", 1.0, -100.0, 100.0, 60.0, "an offset; size: g"),
    "clipping": Kind("sensor", 0.3, 1e-4, 100.0, 60.0, "clipped samples; size: full scale in g"),
    "gain_change": Kind("sensor", 0.4, 0.01, 100.0, 60.0, "another gain; size: factor"),
    "mains_hum": Kind("sensor", 0.3, 0.0, 50.0, 60.0, "hum at the line frequency from a broken shield; size: g peak"),
    "loose_mount": Kind("sensor", 1800.0, 800.0, 3500.0, 60.0, "a loose sensor; size: Hz to which its resonance falls"),
    "quantisation": Kind("sensor", 8.0, 2.0, 24.0, 60.0, "coarse steps; size: bits over +-16 g"),
    "saturation": Kind("sensor", 3.0, 0.0, 100.0, 30.0, "slopes after overloads, every few seconds; size: g"),
    "swapped_axes": Kind("sensor", 1.0, 1.0, 2.0, 60.0, "the axes are swapped; size: positions of rotation"),
    "frozen_logger": Kind("sensor", 1.0, 1.0, 1.0, 60.0, "the logger repeats one piece; the size is always 1"),
}
NUISANCES = tuple(name for name, kind in KINDS.items() if kind.family == "nuisance")
SENSOR_FAULTS = tuple(name for name, kind in KINDS.items() if kind.family == "sensor")
_EDGE = 0.25  # longest ramp at each end, as a share of the event
_EDGE_S = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event between two times of a machine's life."""

    kind: str
    start_s: float
    end_s: float = math.inf
    size: float = math.nan  # NaN = the usual size

    def __post_init__(self) -> None:
        """Checks the event and fills in the usual size."""
        known = KINDS.get(self.kind)
        if known is None:
            near = difflib.get_close_matches(self.kind, KINDS, n=1)
            msg = f"an event must be one of {', '.join(KINDS)}, found: {self.kind!r}"
            raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else None)
        if not 0 <= self.start_s < self.end_s:
            msg = f"{self.kind} needs 0 <= start_s < end_s, found: {self.start_s:g} and {self.end_s:g}"
            raise ConfigError(msg)
        if math.isnan(self.size):
            object.__setattr__(self, "size", known.size)
        if not known.low <= self.size <= known.high:
            msg = f"the size of {self.kind} must be {known.low:g} to {known.high:g}, found: {self.size:g}"
            raise ConfigError(msg, hint=f"{self.kind}: {known.what}")

    @property
    def family(self) -> str:
        """Duty, nuisance, strange or sensor."""
        return KINDS[self.kind].family

    def on(self, time_s: float) -> bool:
        """Whether the event is active at that time."""
        return self.start_s <= time_s < self.end_s

    def strength(self, time_s: float) -> float:
        """0 to 1: ramps up and down at the ends of the event, because heavy machines do not change at once."""
        if not self.on(time_s):
            return 0.0
        edge_s = min(_EDGE_S, _EDGE * (self.end_s - self.start_s))
        return min(1.0, (time_s - self.start_s) / edge_s, (self.end_s - time_s) / edge_s)


@dataclass(frozen=True, slots=True)
class Moment:
    """The combined effect of duty and nuisances at a moment; neutral by default."""

    speed: float = 1.0  # / nominal speed
    load: float = 1.0
    floor: float = 1.0
    knocks_hz: float = 0.0
    neighbour: float = 1.0
    warmth_k: float = 0.0
    mounting: float = 1.0  # gain of the place of the sensor
    squeal_g: float = 0.0
    remounted: int = 0  # number of moves of the sensor; each place has its own path


QUIET = Moment()


def moment(events: Iterable[Event], time_s: float) -> Moment:
    """The combined effect of all events that are active at that time."""
    speed = load = floor = neighbour = mounting = 1.0
    knocks_hz = warmth_k = squeal_g = 0.0
    remounted = 0
    for event in events:
        strength = event.strength(time_s)
        match event.kind:
            case "run_up":
                part = (time_s - event.start_s) / (event.end_s - event.start_s)
                speed *= event.size * min(1.0, max(0.0, part)) if time_s < event.end_s else event.size
            case "ramp":
                speed *= 1 + event.size * strength
            case "stop":
                speed *= 1 - event.size * strength
            case "load_surge":
                load *= 1 + event.size * strength
                speed *= 1 - 0.01 * event.size * strength  # an induction motor slips a little more
            case "transient":
                floor *= 1 + event.size * strength
            case "hammering":
                knocks_hz += event.size * event.on(time_s)
            case "neighbour_start":
                neighbour *= 1 + event.size * strength
            case "squeal":
                squeal_g += event.size * strength
            case "heat_wave":
                warmth_k += event.size * strength
            case "remounted_sensor" if event.on(time_s):
                mounting *= event.size
                remounted += 1
    return Moment(speed, load, floor, knocks_hz, neighbour, warmth_k, mounting, squeal_g, remounted)
