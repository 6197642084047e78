"""`thrumcast chaos`: the promises, tried on this machine."""

from __future__ import annotations

import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, with_console
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    from pipeline.chaos.ground import Ground, Outcome

ONE_ROUND_MINUTES = 5.0
OVER = 1.08  # of its time at which the last trial is ended; what it started is stopped after that
WIDTH = 96  # of the figures


@click.command(name="chaos")
@click.option(
    "--minutes", type=click.FloatRange(min=1), default=ONE_ROUND_MINUTES, show_default=True, help="About so long."
)
@click.option("--only", type=click.IntRange(min=1, max=13), multiple=True, help="Only this promise; may be repeated.")
@click.option("--keep", type=click.Path(path_type=Path), default=None, help="Keep data and logs of all trials in DIR.")
@with_console
def command(console: Console, minutes: float, only: tuple[int, ...], keep: Path | None) -> None:
    """Try on this machine what thrumcast promises: kills, full disks, lost brokers, rubbish; exit 1 if one is broken.

    Starts a private mosquitto and the installed service, again and again, in a folder of its own. Nothing of yours is
    touched. Every promise is tried, the larger the more time there is; three minutes is about the least. A busy machine
    needs more: what there is no time for is left out, and named.
    """
    plan = Plan([trial for trial in _trials() if not only or trial.promise in only], time.monotonic(), minutes * 60)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="thrumcast-chaos-") as temporary:
        folder = keep or Path(temporary)
        while (turn := plan.next(time.monotonic())) is not None:
            trial, size = turn
            began_s = time.monotonic()
            outcome = _tried(folder / f"{len(plan.rest):02d}", trial, size, plan.latest_s)
            took_s = time.monotonic() - began_s
            plan.took(trial, size, took_s)
            if outcome is None:
                plan.left_out.append(trial)
                console.say(f"{trial.title}: no time to finish ({took_s:.0f} s)")
                continue
            outcomes.append(outcome)
            console.say(f"{outcome.title}: {'kept' if outcome.kept else 'BROKEN'} ({took_s:.0f} s)")
    if not outcomes:
        msg = f"time for one trial at least expected, found: {minutes:g} minutes"
        raise ThrumcastError(msg, hint="this machine is slow or busy: give it more --minutes")
    if not only or 11 in only:
        outcomes.append(_identity(outcomes))
    kept = all(outcome.kept for outcome in outcomes)
    document = {
        "kept": kept,
        "promises": [
            {"promise": o.promise, "title": o.title, "kept": o.kept, "figures": o.figures, "scrapes": o.scrapes}
            for o in outcomes
        ],
        "left_out": [{"promise": trial.promise, "title": trial.title} for trial in plan.left_out],
    }
    rows = [_row(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.promise)]
    rows += [f"{trial.promise:2d}  no time  {trial.title}" for trial in plan.left_out]
    tried = "every promise that was tried was kept" if plan.left_out else "every promise was kept"
    console.result(document, "\n".join([*rows, tried if kept else "NOT every one"]))
    if not kept:
        broken = sorted({outcome.promise for outcome in outcomes if not outcome.kept})
        msg = f"every promise kept expected, found broken: {', '.join(map(str, broken))}"
        hint = "`thrumcast chaos --only N --keep DIR` keeps data and logs of a trial"
        raise ThrumcastError(msg, hint=hint, reported=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried. On two quiet cores it takes about so many seconds at size 1, and `least` at its smallest."""

    promise: int
    title: str
    seconds: float
    least: float
    run: Callable[[Ground, float], Outcome]  # in a world, at a size
    broker_config: str = ""  # beside the usual


class Plan:
    """Which trial comes next, and how large, so that all is over in time. Learns from each how slow this machine is."""

    def __init__(self, trials: list[Trial], now_s: float, seconds: float) -> None:
        self.rest = trials
        self.left_out: list[Trial] = []
        self._ends_s = now_s + seconds
        self.latest_s = now_s + OVER * seconds  # what is not over by then is left where it is
        self._largest = seconds / sum(trial.seconds for trial in trials)
        self._taken_s = self._expected_s = 0.0

    @property
    def pace(self) -> float:
        """How many times as long as on quiet cores a trial takes here; what is not known yet is hoped to be 1."""
        return self._taken_s / self._expected_s if self._expected_s else 1.0

    def took(self, trial: Trial, size: float, seconds: float) -> None:
        """What the last one took."""
        self._taken_s += seconds
        self._expected_s += max(trial.least, size * trial.seconds)

    def next(self, now_s: float) -> tuple[Trial, float] | None:
        """A trial and its size; None when there is none left, or no time for any."""
        left_s = (self._ends_s - now_s) / self.pace  # as on quiet cores
        while self.rest and self.rest[0].least > left_s:
            self.left_out.append(self.rest.pop(0))
        if not self.rest:
            return None
        those = list(self.rest)
        while sum(trial.least for trial in those) > left_s:
            those.pop()  # later ones are second looks at a promise
        return self.rest.pop(0), min(self._largest, left_s / sum(trial.seconds for trial in those))


def _trials() -> list[Trial]:
    """One of each promise, first a short one that shows the pace, then second looks. Five minutes at size 1."""
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


def _tried(folder: Path, trial: Trial, size: float, until_s: float) -> Outcome | None:
    """A trial that comes to no end is a broken promise, too; None for one that would have needed more time."""
    from pipeline.chaos.ground import Outcome, ground
    from pipeline.chaos.process import OutOfTime

    folder.mkdir(parents=True)
    try:
        with ground(folder, broker_config=trial.broker_config, until_s=until_s) as world:
            return trial.run(world, size)
    except OutOfTime:
        return None
    except (ThrumcastError, OSError) as error:
        return Outcome(trial.promise, "came to no end", False, str(error))


def _identity(outcomes: list[Outcome]) -> Outcome:
    """Promise 11 is watched in all trials."""
    from pipeline.chaos.ground import Outcome

    scrapes, worst = sum(o.scrapes for o in outcomes), max((o.imbalance for o in outcomes), default=0)
    figures = f"{scrapes} scrapes of /metrics in all trials, largest difference {worst}"
    return Outcome(11, "Every message is accounted for", worst == 0 and scrapes > 0, figures, scrapes, worst)


def _row(outcome: Outcome) -> str:
    """Promise, verdict and trial on one line; the figures below it, no wider than a terminal."""
    head = f"{outcome.promise:2d}  {'kept  ' if outcome.kept else 'BROKEN'}  {outcome.title}"
    return "\n".join([head, *(f"            {line}" for line in textwrap.wrap(outcome.figures, WIDTH))])
