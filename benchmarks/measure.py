"""Fair timings on a busy machine: short samples that take turns, of which only the undisturbed ones count."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CLEAN_WALL_PER_CPU = 1.03  # a sample above this was descheduled, and its caches were another's meanwhile
FEWEST_CLEAN = 5
ROUNDS_PER_SAMPLE = 4  # how many more rounds than wanted samples are tried for clean ones
SAMPLE_S = 0.006  # long beside the clock's resolution, short beside the scheduler's time slice


@dataclass(frozen=True, slots=True)
class Timing:
    """CPU seconds per call."""

    median_s: float
    best_s: float
    clean: int  # samples it comes from; few of them make it `dirty`
    dirty: bool

    @property
    def us(self) -> float:
        """Median in microseconds."""
        return self.median_s * 1e6


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    samples: int = 15  # clean samples wanted of each case
    rounds: int = 3  # repetitions of what takes seconds
    seconds: float = 4.0  # of each phase through the broker
    scale: int = 4  # size of data sets


THOROUGH = Effort()
QUICK = Effort(samples=5, rounds=1, seconds=1.2, scale=1)


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    samples: int,
    *,
    cpu_s: Callable[[], float] = time.process_time,
    wall_s: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times all cases in turns, so that what disturbs one disturbs the others.

    Every case is called until a sample lasts SAMPLE_S; a round takes one sample of each. Rounds go on until every case
    has `samples` clean ones, or there have been four times as many. A case with fewer than five clean samples is judged
    by its five least disturbed ones and marked dirty.
    """
    repeats = {name: _repeats(case, cpu_s) for name, case in cases.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}  # (wall / CPU, CPU s per call)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS_PER_SAMPLE * samples):
            for name, case in cases.items():
                wall, cpu = wall_s(), cpu_s()
                for _ in range(repeats[name]):
                    case()
                cpu, wall = cpu_s() - cpu, wall_s() - wall
                if cpu > 0:
                    taken[name].append((wall / cpu, cpu / repeats[name]))
            if all(_clean_count(of_case) >= samples for of_case in taken.values()):
                break
    finally:
        if collecting:
            gc.enable()
    return {name: _judged(of_case) for name, of_case in taken.items()}


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of one call, all threads of this process together."""
    before_s = time.process_time()
    work()
    return time.process_time() - before_s


def _repeats(case: Callable[[], object], cpu_s: Callable[[], float]) -> int:
    case()  # compiles, fills caches
    repeats = 1
    while True:
        before_s = cpu_s()
        for _ in range(repeats):
            case()
        spent_s = cpu_s() - before_s
        if spent_s >= SAMPLE_S / 2:
            return max(1, round(repeats * SAMPLE_S / spent_s))
        repeats *= 2


def _clean_count(of_case: list[tuple[float, float]]) -> int:
    return sum(ratio < CLEAN_WALL_PER_CPU for ratio, _ in of_case)


def _judged(of_case: list[tuple[float, float]]) -> Timing:
    clean = _clean_count(of_case)
    dirty = clean < FEWEST_CLEAN
    ordered = sorted(of_case)  # the least disturbed first
    counted = [seconds for _, seconds in ordered[: FEWEST_CLEAN if dirty else clean]]
    return Timing(statistics.median(counted), min(counted), clean, dirty)
