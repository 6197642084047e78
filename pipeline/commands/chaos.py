"""`thrumcast chaos`: the promises, tried on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, with_console
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    from pipeline.chaos.ground import Ground, Outcome

ONE_ROUND_MINUTES = 5.0


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
    touched.
    """
    size = minutes / ONE_ROUND_MINUTES
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="thrumcast-chaos-") as temporary:
        folder = keep or Path(temporary)
        for number, (promise, broker_config, trial) in enumerate(_trials(size)):
            if only and promise not in only:
                continue
            began_s = time.monotonic()
            outcomes.append(_tried(folder / f"{number:02d}", promise, broker_config, trial))
            console.say(f"{_line(outcomes[-1])} ({time.monotonic() - began_s:.0f} s)")
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
    console.result(document, "\n".join([*map(_line, outcomes), "every promise was kept" if kept else "NOT every one"]))
    if not kept:
        broken = sorted({outcome.promise for outcome in outcomes if not outcome.kept})
        msg = f"every promise kept expected, found broken: {', '.join(map(str, broken))}"
        hint = "`thrumcast chaos --only N --keep DIR` keeps data and logs of a trial"
        raise ThrumcastError(msg, hint=hint, reported=True)


def _trials(size: float) -> list[tuple[int, str, Callable[[Ground], Outcome]]]:
    """Promise, what the broker is told beside the usual, trial; a few seconds to half a minute each at size 1."""
    from pipeline.chaos import trials, trials_data, trials_disk
    from pipeline.chaos.plant import Plant

    def plant(messages: float) -> Plant:
        return Plant(messages=max(1600, int(messages * size) // 8 * 8))

    places = ("turn_stepped", "turn_committed", "turn_acknowledged", "after_rename", "roll_in_transaction")
    roomy = "max_queued_bytes 0\n"
    return [
        (1, "", lambda world: trials.kills(world, plant(8000), count=max(3, round(15 * size)))),
        (2, "", lambda world: trials.exits(world, places)),
        (3, "", lambda world: trials_data.broker_restarts(world, plant(2400), count=max(2, round(3 * size)))),
        (3, "max_queued_messages 500\n", lambda world: trials_data.broker_losses(world, plant(3200), how="overflow")),
        (3, "", lambda world: trials_data.broker_losses(world, plant(1600), how="killed")),
        (4, "", lambda world: trials_data.copies(world, plant(1600))),
        (4, "", lambda world: trials_data.beyond_the_bound(world, plant(2400))),
        (5, "", lambda world: trials_data.hostile(world, plant(1600), count=round(10_000 * size))),
        (6, "", lambda world: trials_disk.refusing_disk(world, plant(1600), seconds=8 * size)),
        (7, roomy, lambda world: trials_disk.stalled(world, plant(10_000), rate_per_s=1000)),
        (8, "", lambda world: trials.rivals(world, plant(800))),
        (9, "", lambda world: trials_data.other_sessions(world, Plant(messages=320))),
        (10, "", lambda world: trials.stops(world, plant(1600), count=3)),
        (10, "", lambda world: trials.queued(world, Plant(messages=10_000))),
        (12, "", lambda world: trials_disk.damaged_journal(world, Plant(messages=320), count=round(200 * size))),
    ]


def _tried(folder: Path, promise: int, broker_config: str, trial: Callable[[Ground], Outcome]) -> Outcome:
    """A trial that comes to no end is a broken promise, too."""
    from pipeline.chaos.ground import Outcome, ground

    folder.mkdir(parents=True)
    try:
        with ground(folder, broker_config=broker_config) as world:
            return trial(world)
    except (ThrumcastError, OSError) as error:
        return Outcome(promise, "came to no end", False, str(error))


def _identity(outcomes: list[Outcome]) -> Outcome:
    """Promise 11 is watched in all trials."""
    from pipeline.chaos.ground import Outcome

    scrapes, worst = sum(o.scrapes for o in outcomes), max((o.imbalance for o in outcomes), default=0)
    figures = f"{scrapes} scrapes of /metrics in all trials, largest difference {worst}"
    return Outcome(11, "Every message is accounted for", worst == 0 and scrapes > 0, figures, scrapes, worst)


def _line(outcome: Outcome) -> str:
    return f"{outcome.promise:2d}  {'kept  ' if outcome.kept else 'BROKEN'}  {outcome.title}: {outcome.figures}"
