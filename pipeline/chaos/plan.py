"""The plan of `thrumcast chaos`: which trials there are, and how large each may be so that all end in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.chaos.ground import Ground, Outcome
    from pipeline.chaos.plant import Plant

OVERRUN = 1.08  # share of the given time at which a running trial is ended


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a promise, with its durations on two idle cores."""

    promise: int
    title: str
    seconds: float  # at size 1
    least: float  # seconds at its smallest size
    run: Callable[[Ground, float], Outcome]  # takes a world and a size
    broker_config: str = ""  # lines added to the configuration of the broker


class Plan:
    """Chooses the next trial and its size so that all end in time. Learns the speed of this machine from each trial."""

    def __init__(self, trials: list[Trial], now_s: float, seconds: float) -> None:
        self.rest = trials
        self.left_out: list[Trial] = []
        self._ends_s = now_s + seconds
        self.latest_s = now_s + OVERRUN * seconds  # a trial that still runs then is given up
        self._largest = seconds / sum(trial.seconds for trial in trials)
        self._taken_s = self._expected_s = 0.0

    @property
    def pace(self) -> float:
        """Duration of a trial here / on idle cores; 1 before the first trial."""
        return self._taken_s / self._expected_s if self._expected_s else 1.0

    def took(self, trial: Trial, size: float, seconds: float) -> None:
        """Notes how long a trial took."""
        self._taken_s += seconds
        self._expected_s += max(trial.least, size * trial.seconds)

    def next(self, now_s: float) -> tuple[Trial, float] | None:
        """The next trial and its size; None when none is left or the time is too short for any."""
        left_s = (self._ends_s - now_s) / self.pace  # in seconds of idle cores
        while self.rest and self.rest[0].least > left_s:
            self.left_out.append(self.rest.pop(0))
        if not self.rest:
            return None
        those = list(self.rest)
        while sum(trial.least for trial in those) > left_s:
            those.pop()  # later trials test a promise a second time
        return self.rest.pop(0), min(self._largest, left_s / sum(trial.seconds for trial in those))


def all_trials() -> list[Trial]:
    """One trial per promise, then second trials: five minutes at size 1. The first one is short and shows the pace."""
    from pipeline.chaos import trials
    from pipeline.chaos import trials_data as data
    from pipeline.chaos import trials_disk as disk
    from pipeline.chaos.ground import BACKLOG
    from pipeline.chaos.plant import Plant

    def plant(messages: float, size: float) -> Plant:
        return Plant(messages=max(1600, int(messages * size) // 8 * 8))

    def times(count: int, size: float, least: int) -> int:
        return max(least, round(count * size))

    places = ("turn_committed", "roll_in_transaction", "turn_stepped", "turn_acknowledged", "after_rename")
    tight = "max_queued_messages 500\n"
    return [
        Trial(9, "Reboots", 11, 11, lambda world, _: data.other_sessions(world, Plant(messages=320))),
        Trial(
            1, "SIGKILL", 45, 15, lambda world, size: trials.kills(world, plant(6400, size), count=times(12, size, 3))
        ),
        Trial(
            2,
            "Exit",
            40,
            17,
            lambda world, size: trials.exits(world, places[: times(len(places), size, 2)], in_a_row=(2,)),
        ),
        Trial(
            3, "Broker restarted", 20, 15, lambda world, size: data.broker_restarts(world, plant(2400, size), count=2)
        ),
        Trial(4, "Copies", 12, 12, lambda world, size: data.copies(world, plant(1600, size))),
        Trial(
            5,
            "Rubbish",
            14,
            9,
            lambda world, size: data.hostile(world, plant(1600, size), count=times(9000, size, 2000)),
        ),
        Trial(
            6,
            "A disk that refuses",
            16,
            12,
            lambda world, size: disk.refusing_disk(world, plant(1600, size), seconds=max(4.0, 8 * size)),
        ),
        Trial(
            7,
            "A stalled sink",
            27,
            21,
            lambda world, size: disk.stalled(world, plant(10_000, size), rate_per_s=1000),
            BACKLOG,
        ),
        Trial(8, "A second process", 20, 20, lambda world, _: trials.rivals(world, Plant(messages=800))),
        Trial(10, "SIGTERM", 16, 14, lambda world, size: trials.stops(world, plant(1600, size), count=3)),
        Trial(
            12,
            "A damaged journal",
            10,
            7,
            lambda world, size: disk.damaged_journal(world, Plant(messages=320), count=times(200, size, 50)),
        ),
        Trial(
            10,
            "Start with a long queue",
            16,
            16,
            lambda world, _: trials.queued(world, Plant(messages=10_000)),
            BACKLOG,
        ),
        Trial(
            3,
            "A queue that overflows",
            17,
            13,
            lambda world, size: data.broker_losses(world, plant(3200, size), how="overflow"),
            tight,
        ),
        Trial(4, "Beyond the bound", 13, 11, lambda world, size: data.beyond_the_bound(world, plant(2400, size))),
        Trial(
            3, "Broker killed", 12, 12, lambda world, size: data.broker_losses(world, plant(1600, size), how="killed")
        ),
    ]
