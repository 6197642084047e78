"""How a plant is drawn: its machines, which of them fail, how and when, and other events.

A machine depends on the seed of the plant and its own number only: a plant of 200 starts with the machines of a plant
of 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.core.faults import HEALTHY
from pipeline.errors import ConfigError
from sim import field
from sim.detectable import detectable
from sim.events import KINDS as EVENTS
from sim.events import NUISANCES, SENSOR_FAULTS, Event
from sim.fleet import EPOCH_NS, Plant, Snapshots, check_seed
from sim.life import FAULTS, GROWING, Course, Life
from sim.machine import UNIT, Machine, check_rate, needs_rate_hz
from sim.population import KINDS, MakeUp, draw, faults_of, location

RATE_HZ = 12_000.0
DAY_S = 86_400.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_LIVES, _TRAINING, _EVENTS, _SHIFTED, _FOUND = 1, 2, 3, 4, 5  # separate streams of random numbers
CURRICULUM = tuple(mode for k in range(0, len(FAULTS), 4) for mode in (HEALTHY, *FAULTS[k : k + 4]))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the machines of a plant are drawn."""

    failing: float = 0.5  # share of the machines
    life_s: float = 600.0
    onset: tuple[float, float] = (0.05, 0.95)  # of the life
    combined: float = 0.0  # share of the failing machines with a second fault
    repaired: float = 0.0  # share of the failing machines that are repaired before the end
    nuisances_per_day: float = 0.0  # per machine
    sensor_faults_per_day: float = 0.0
    shift: float = 0.0  # of the population, see sim.population
    kinds: tuple[str, ...] = KINDS  # in turn
    modes: tuple[str, ...] = ()  # in turn; () = all that the rate carries

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("failing", "combined", "repaired", "shift"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                msg = f"the share {name!r} must be 0 to 1, found: {value:g}"
                raise ConfigError(msg)
        if not math.isfinite(self.life_s) or self.life_s <= 0:
            msg = f"a life must be longer than 0 s, found: {self.life_s:g}"
            raise ConfigError(msg)
        if not 0 <= self.onset[0] <= self.onset[1] < 1:
            msg = f"onset needs two parts of a life, 0 <= first <= last < 1, found: {self.onset}"
            raise ConfigError(msg)
        if not (self.nuisances_per_day >= 0 and self.sensor_faults_per_day >= 0):
            msg = f"events per day must be 0 or more, found: {self.nuisances_per_day}, {self.sensor_faults_per_day}"
            raise ConfigError(msg)
        for name, known, given in (("kind", KINDS, self.kinds), ("failure mode", FAULTS, self.modes)):
            if unknown := [one for one in given if one not in known]:
                msg = f"a {name} must be one of {', '.join(known)}, found: {unknown[0]!r}"
                raise ConfigError(msg)
        if not self.kinds:
            msg = "a plant needs at least one kind of machine, found: none"
            raise ConfigError(msg)


def plant(
    machines: int,
    seed: int,
    recipe: Recipe | None = None,
    *,
    rate_hz: float = RATE_HZ,
    block_s: float = 0.25,
    start_ns: int = EPOCH_NS,
    snapshots: Snapshots | None = None,
) -> Plant:
    """A plant in which some of the machines fail, each in its own way, by the end of `recipe.life_s`."""
    check_seed(seed)
    check_rate(rate_hz)
    recipe = recipe or Recipe()
    made = []
    for number in range(machines):
        kind = recipe.kinds[number % len(recipe.kinds)]
        entropy = (seed, number) if recipe.shift == 0 else (seed, _SHIFTED, number)
        make = draw(kind, np.random.default_rng(entropy), recipe.shift)
        life = _life(make, recipe, seed, number, rate_hz)
        events = _events(recipe, np.random.default_rng((seed, _EVENTS, number)))
        made.append(Machine(f"{kind}-{number + 1:02d}", entropy, make, life, rate_hz, events))
    return Plant(tuple(made), block_s, start_ns, snapshots)


def training_plant(
    seed: int,
    machines: int,
    seconds_per_machine: float,
    *,
    rate_hz: float = RATE_HZ,
    block_s: float = 0.25,
    shift: float = 0.0,
    disturbed: float = 0.0,
) -> Plant:
    """A plant for training: every mode in turn; one machine of five is sound, half of the others have a constant fault.

    The rest grow from sound to failed within `seconds_per_machine`. A share `disturbed` of all machines has a nuisance.
    `len(CURRICULUM)` machines or more contain every mode. The random numbers differ from those of `plant`: the two
    never have a machine in common, even with the same seed.
    """
    check_seed(seed)
    return Plant(
        tuple(
            training_machine(seed, number, seconds_per_machine, rate_hz=rate_hz, shift=shift, disturbed=disturbed)
            for number in range(machines)
        ),
        block_s=block_s,
    )


def training_machine(
    seed: int,
    number: int,
    seconds: float,
    *,
    rate_hz: float = RATE_HZ,
    shift: float = 0.0,
    disturbed: float = 0.0,
    found: float = 0.0,
) -> Machine:
    """One machine of a training plant; a share `found` of them is as machines are found in the field (`sim.field`)."""
    mode = CURRICULUM[number % len(CURRICULUM)]
    rng = np.random.default_rng((seed, _TRAINING, _LIVES, number))
    able = [kind for kind in KINDS if mode == HEALTHY or mode in faults_of(kind)]
    kind = able[int(rng.integers(len(able)))]
    entropy = (seed, _TRAINING, number) if shift == 0 else (seed, _SHIFTED, _TRAINING, number)
    make, unit = draw(kind, np.random.default_rng(entropy), shift), UNIT
    dice = np.random.default_rng((seed, _TRAINING, _FOUND, number))
    if dice.random() < found:
        make = field.as_found(make, dice, rate_hz)
        rate_hz = field.rate_of(make, mode, dice, rate_hz)
        unit = "V" if dice.random() < field.SHARE_UNKNOWN_UNIT else UNIT
    life = Life()
    if mode != HEALTHY:
        constant = (number // len(CURRICULUM) + number) % 2 == 0
        least = field.least_of(make, mode, detectable(make, mode, rate_hz))
        course = Course(
            mode=mode,
            shape="constant" if constant else GROWING[int(rng.integers(len(GROWING)))],
            onset_s=0.0 if constant else float(rng.uniform(0.05, 0.4)) * seconds,
            end_s=seconds,
            final=float(least + (1 - least) * rng.uniform(0.0, 1.0)) if constant else float(rng.uniform(0.8, 1.0)),
            detectable=least,
            location=location(make, mode),
        )
        life = Life((course,))
    return Machine(
        f"{kind}-{number + 1:02d}", entropy, make, life, rate_hz, _nuisance(seed, number, seconds, disturbed), unit
    )


def _nuisance(seed: int, number: int, seconds: float, share: float) -> tuple[Event, ...]:
    """One nuisance of any kind, with probability `share`, for 1/8 to 1/2 of the time."""
    rng = np.random.default_rng((seed, _TRAINING, _EVENTS, number))
    if rng.random() >= share:
        return ()
    lasts_s = float(rng.uniform(0.125, 0.5)) * seconds
    start_s = float(rng.uniform(0, seconds - lasts_s))
    return (Event(NUISANCES[int(rng.integers(len(NUISANCES)))], start_s, start_s + lasts_s),)


def course(make: MakeUp, mode: str, rate_hz: float, **given: float | str) -> Course:
    """A course with the threshold and the location of this machine; other fields as given.

    Raises:
        ConfigError: there is no such failure mode, or the fields contradict each other.
    """
    chosen: dict[str, object] = {}
    if mode in FAULTS:  # else `Course` refuses it by name
        chosen = {"detectable": detectable(make, mode, rate_hz), "location": location(make, mode)}
    return Course(mode=mode, **(chosen | given))  # type: ignore[arg-type]


def _life(make: MakeUp, recipe: Recipe, seed: int, number: int, rate_hz: float) -> Life:
    """The life of machine `number`: sound, or with one or two courses.

    Golden-ratio steps spread the failing machines evenly, so even a small plant has about the right share. Modes come
    in turn, in an order that depends on the seed, if the kind can have them.
    """
    offset = np.random.default_rng((seed, _LIVES)).random()
    rng = np.random.default_rng((seed, _LIVES, number))
    if (offset + number * _GOLDEN) % 1.0 >= recipe.failing:
        return Life()
    wanted = recipe.modes or FAULTS
    order = np.random.default_rng((seed, _LIVES, 0, 0)).permutation(len(wanted))
    turn = [wanted[order[(number + k) % order.size]] for k in range(order.size)]
    able = [mode for mode in turn if mode in faults_of(make.kind)]
    if not recipe.modes:  # leave out modes that this rate cannot carry, unless they were requested
        able = [mode for mode in able if needs_rate_hz(make, mode) <= rate_hz]
    if not able:
        msg = f"a {make.kind} can have {', '.join(faults_of(make.kind))}, found: {', '.join(wanted)}"
        raise ConfigError(msg, hint="ask for other kinds of machine or other modes")
    onset_s = float(rng.uniform(*recipe.onset)) * recipe.life_s
    shape = GROWING[int(rng.integers(len(GROWING)))]
    growth = float(rng.uniform(3.0, 5.0) * (1 + recipe.shift * rng.choice((-1.0, 1.0))))
    steps, second, repaired = int(rng.integers(3, 8)), rng.random() < recipe.combined, rng.random() < recipe.repaired
    until_s = math.inf
    if repaired:
        until_s = onset_s + float(rng.uniform(0.6, 0.95)) * (recipe.life_s - onset_s)
    facts = {"growth": growth, "steps": steps, "until_s": until_s, "end_s": recipe.life_s}
    courses = [course(make, able[0], rate_hz, shape=shape, onset_s=onset_s, **facts)]
    if second and len(able) > 1:
        later_s = onset_s + float(rng.uniform(0.1, 0.6)) * (min(until_s, recipe.life_s) - onset_s)
        courses.append(course(make, able[1], rate_hz, shape="gradual", onset_s=later_s, **facts))
    return Life(tuple(courses))


def _events(recipe: Recipe, rng: np.random.Generator) -> tuple[Event, ...]:
    """Nuisances and sensor faults at random times of the life; all kinds are equally likely."""
    found = []
    for names, per_day in ((NUISANCES, recipe.nuisances_per_day), (SENSOR_FAULTS, recipe.sensor_faults_per_day)):
        for _ in range(int(rng.poisson(per_day * recipe.life_s / DAY_S))):
            name = names[int(rng.integers(len(names)))]
            start_s = float(rng.uniform(0, recipe.life_s))
            usual_s = min(EVENTS[name].usual_s, 0.1 * recipe.life_s)
            found.append(Event(name, start_s, start_s + usual_s * float(rng.uniform(0.5, 2.0))))
    return tuple(sorted(found, key=lambda event: event.start_s))
