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
    touched. Every promise is tried, the larger the more time there is; three minutes is about the least.
    """
    planned = [trial for trial in _trials() if not only or trial.promise in only]
    outcomes: list[Outcome] = []
    ends_s = time.monotonic() + minutes * 60
    largest = minutes * 60 / sum(trial.seconds for trial in planned)
    with tempfile.TemporaryDirectory(prefix="thrumcast-chaos-") as temporary:
        folder = keep or Path(temporary)
        for number, trial in enumerate(planned):
            began_s = time.monotonic()
            # What a slow machine has taken too long for is taken from what comes after it.
            size = min(largest, (ends_s - began_s) / sum(other.seconds for other in planned[number:]))
            outcomes.append(_tried(folder / f"{number:02d}", trial, size))
            verdict = "kept" if outcomes[-1].kept else "BROKEN"
            console.say(f"{outcomes[-1].title}: {verdict} ({time.monotonic() - began_s:.0f} s)")
    if not only or 11 in only:
        outcomes.append(_identity(outcomes))
    kept = all(outcome.kept for outcome in outcomes)
    document = {
        "kept": kept,
        "promises": [
            {"promise": o.promise, "title": o.title, "kept": o.kept, "figures": o.figures, "scrapes": o.scrapes}
            for o in outcomes
        ],
    }
    rows = [_row(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.promise)]
    console.result(document, "\n".join([*rows, "every promise was kept" if kept else "NOT every one"]))
    if not kept:
        broken = sorted({outcome.promise for outcome in outcomes if not outcome.kept})
        msg = f"every promise kept expected, found broken: {', '.join(map(str, broken))}"
        hint = "`thrumcast chaos --only N --keep DIR` keeps data and logs of a trial"
        raise ThrumcastError(msg, hint=hint, reported=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried. At size 1 it takes about so many seconds on two quiet cores."""

    promise: int
    seconds: float
    run: Callable[[Ground, float], Outcome]  # in a world, at a size
    broker_config: str = ""  # beside the usual


def _trials() -> list[Trial]:
    """All of them take five minutes at size 1; each has a least size."""
    from pipeline.chaos import trials, trials_data, trials_disk
    from pipeline.chaos.plant import Plant

    def plant(messages: float, size: float) -> Plant:
        return Plant(messages=max(1600, int(messages * size) // 8 * 8))

    def times(count: int, size: float, least: int) -> int:
        return max(least, round(count * size))

    places = ("turn_committed", "roll_in_transaction", "turn_stepped", "turn_acknowledged", "after_rename")
    roomy = "max_queued_bytes 0\n"
    tight = "max_queued_messages 500\n"
    return [
        Trial(1, 45, lambda world, size: trials.kills(world, plant(8000, size), count=times(15, size, 3))),
        Trial(2, 40, lambda world, size: trials.exits(world, places[: times(len(places), size, 2)])),
        Trial(
            3, 20, lambda world, size: trials_data.broker_restarts(world, plant(2400, size), count=times(3, size, 2))
        ),
        Trial(3, 17, lambda world, size: trials_data.broker_losses(world, plant(3200, size), how="overflow"), tight),
        Trial(3, 12, lambda world, size: trials_data.broker_losses(world, plant(1600, size), how="killed")),
        Trial(4, 12, lambda world, size: trials_data.copies(world, plant(1600, size))),
        Trial(4, 13, lambda world, size: trials_data.beyond_the_bound(world, plant(2400, size))),
        Trial(
            5, 14, lambda world, size: trials_data.hostile(world, plant(1600, size), count=times(10_000, size, 2000))
        ),
        Trial(
            6, 16, lambda world, size: trials_disk.refusing_disk(world, plant(1600, size), seconds=max(4.0, 8 * size))
        ),
        Trial(7, 24, lambda world, size: trials_disk.stalled(world, plant(10_000, size), rate_per_s=1000), roomy),
        Trial(8, 20, lambda world, _: trials.rivals(world, Plant(messages=800))),
        Trial(9, 11, lambda world, _: trials_data.other_sessions(world, Plant(messages=320))),
        Trial(10, 16, lambda world, size: trials.stops(world, plant(1600, size), count=3)),
        Trial(10, 16, lambda world, _: trials.queued(world, Plant(messages=10_000))),
        Trial(
            12,
            10,
            lambda world, size: trials_disk.damaged_journal(world, Plant(messages=320), count=times(200, size, 50)),
        ),
    ]


def _tried(folder: Path, trial: Trial, size: float) -> Outcome:
    """A trial that comes to no end is a broken promise, too."""
    from pipeline.chaos.ground import Outcome, ground

    folder.mkdir(parents=True)
    try:
        with ground(folder, broker_config=trial.broker_config) as world:
            return trial.run(world, size)
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
