"""A plant: machines of different make-up, some of which fail, as blocks in time order.

A machine depends on the plant's seed and its own number only: a plant of 200 begins with the machines of a plant of 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.records import Block, StreamKey
from pipeline.errors import ConfigError
from sim.life import FAULTS, HEALTHY, SHAPES, Life
from sim.machine import UNIT, Machine, initial, step
from sim.population import AXES, KINDS, draw, faults_of
from sim.signals import TURN_RAD

POINT = "de"  # drive end
EPOCH_NS = 1_767_225_600_000_000_000  # 2026-01-01: recordings of one seed are the same bytes whenever they are made
RATE_HZ = 12_000.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_LIVES, _TRAINING = 1, 2  # separate lines of random numbers


@dataclass(frozen=True, slots=True)
class Plant:
    """Machines and how they are sampled; `blocks` lets them run."""

    machines: tuple[Machine, ...]
    block_s: float = 0.25
    start_ns: int = EPOCH_NS

    def __post_init__(self) -> None:
        """Refuse a plant that would never send anything."""
        if not self.machines:
            msg = "a plant needs at least 1 machine, found: 0"
            raise ConfigError(msg)
        if not math.isfinite(self.block_s) or any(self.block_s * m.rate_hz < 2 for m in self.machines):
            msg = f"a block must hold at least 2 samples, found: {self.block_s:g} s"
            raise ConfigError(msg, hint="0.25 s is usual")

    def blocks(self, seconds: float | None = None) -> Iterator[Block]:
        """All machines' readings, oldest block first, for so long (whole blocks) or for ever."""
        streams = [machine_blocks(machine, self.block_s, self.start_ns) for machine in self.machines]
        rounds = None if seconds is None else int(seconds / self.block_s + 1e-9)
        number = 0
        while rounds is None or number < rounds:
            for stream in streams:
                yield next(stream)
            number += 1


def plant(
    machines: int,
    seed: int,
    *,
    failing: float = 0.5,
    life_s: float = 600.0,
    rate_hz: float = RATE_HZ,
    block_s: float = 0.25,
    start_ns: int = EPOCH_NS,
) -> Plant:
    """A plant in which a share `failing` of the machines fails: onset at 20 to 60 % of `life_s`, end at `life_s`."""
    if not 0 <= failing <= 1:
        msg = f"the share of failing machines must be 0 to 1, found: {failing:g}"
        raise ConfigError(msg)
    if not math.isfinite(life_s) or life_s <= 0:
        msg = f"a life must be longer than 0 s, found: {life_s:g}"
        raise ConfigError(msg)
    _check_seed(seed)
    made = []
    for number in range(machines):
        kind = KINDS[number % len(KINDS)]
        life = _life(kind, seed, number, failing, life_s)
        made.append(_machine(kind, life, (seed, number), number, rate_hz))
    return Plant(tuple(made), block_s=block_s, start_ns=start_ns)


def training_plant(
    seed: int, machines: int, seconds_per_machine: float, *, rate_hz: float = RATE_HZ, block_s: float = 0.25
) -> Plant:
    """Machines to learn from: every mode in turn, one machine of five sound, half of the rest damaged all along.

    The others grow from sound to failed within `seconds_per_machine`. With at least `len(CURRICULUM)` machines every
    mode is there. Another line of random numbers than `plant`: never the same machines, even under one seed.
    """
    _check_seed(seed)
    made = []
    for number in range(machines):
        mode = CURRICULUM[number % len(CURRICULUM)]
        rng = np.random.default_rng((seed, _TRAINING, _LIVES, number))
        able = [kind for kind in KINDS if mode == HEALTHY or mode in faults_of(kind)]
        kind = able[int(rng.integers(len(able)))]
        constant = (number // len(CURRICULUM) + number) % 2 == 0
        made.append(
            _machine(
                kind,
                Life(
                    mode=mode,
                    shape="constant" if constant else SHAPES[int(rng.integers(3))],
                    onset_s=0.0 if constant else float(rng.uniform(0.05, 0.3)) * seconds_per_machine,
                    end_s=seconds_per_machine,
                    final=float(rng.uniform(0.1, 1.0)) if constant else float(rng.uniform(0.7, 1.0)),
                ),
                (seed, _TRAINING, number),
                number,
                rate_hz,
            )
        )
    return Plant(tuple(made), block_s=block_s)


def machine_blocks(machine: Machine, block_s: float, start_ns: int) -> Iterator[Block]:
    """One machine's readings, block after block, for ever. The same samples however long a block is."""
    n = max(2, round(block_s * machine.rate_hz))
    key = StreamKey(machine.id, POINT)
    state = initial(machine)
    samples = np.empty((len(AXES), 0), np.float32)
    theta = np.empty(0)
    index = 0
    while True:
        while theta.size < n:
            state, frame = step(machine, state)
            samples = np.concatenate((samples, frame.samples), axis=1)
            theta = np.concatenate((theta, frame.theta_rad))
        speed_hz = (theta[n - 1] - theta[0]) / TURN_RAD * machine.rate_hz / (n - 1)
        yield Block(
            key=key,
            session=start_ns,
            index=index,
            t0_ns=start_ns + round(index * 1e9 / machine.rate_hz),
            rate_hz=machine.rate_hz,
            channels=AXES,
            unit=UNIT,
            samples=np.ascontiguousarray(samples[:, :n]),
            speed_rpm=float(60 * speed_hz),
            orders=machine.make.orders,
            truth=machine.life.truth(index / machine.rate_hz),
        )
        samples, theta, index = samples[:, n:], theta[n:], index + n


def _check_seed(seed: int) -> None:
    if seed < 0:
        msg = f"a seed must be 0 or more, found: {seed}"
        raise ConfigError(msg)


def _machine(kind: str, life: Life, entropy: tuple[int, ...], number: int, rate_hz: float) -> Machine:
    make = draw(kind, np.random.default_rng(entropy))
    return Machine(id=f"{kind}-{number + 1:02d}", entropy=entropy, make=make, life=life, rate_hz=rate_hz)


def _life(kind: str, seed: int, number: int, failing: float, life_s: float) -> Life:
    """Golden-ratio steps spread the failing machines evenly, so that even a small plant has about its share of them.

    Modes come in turn, in an order of the seed's own, as far as the kind can have them.
    """
    offset = np.random.default_rng((seed, _LIVES)).random()
    rng = np.random.default_rng((seed, _LIVES, number))
    if (offset + number * _GOLDEN) % 1.0 >= failing:
        return Life()
    order = np.random.default_rng((seed, _LIVES, 0, 0)).permutation(len(FAULTS))
    turn = [FAULTS[order[(number + k) % order.size]] for k in range(order.size)]
    mode = next(mode for mode in turn if mode in faults_of(kind))
    onset_s = float(rng.uniform(0.2, 0.6)) * life_s
    return Life(mode=mode, shape=SHAPES[int(rng.integers(3))], onset_s=onset_s, end_s=life_s)


CURRICULUM = tuple(mode for k in range(0, len(FAULTS), 4) for mode in (HEALTHY, *FAULTS[k : k + 4]))
