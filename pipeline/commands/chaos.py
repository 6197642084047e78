"""`thrumcast chaos`: tests the promises on this machine."""

from __future__ import annotations

import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import PATH, Console, with_console
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    from pipeline.chaos.ground import Outcome
    from pipeline.chaos.plan import Trial

ONE_ROUND_MINUTES = 5.0
WIDTH = 96  # of the text of an outcome


@click.command(name="chaos")
@click.option(
    "--minutes", type=click.FloatRange(min=1), default=ONE_ROUND_MINUTES, help="How long the test may take, about."
)
@click.option(
    "--only", type=click.IntRange(min=1, max=13), multiple=True, help="Test only this promise; may be repeated."
)
@click.option("--keep", type=PATH, help="Keep data and logs of all trials in this folder.")
@with_console
def command(console: Console, minutes: float, only: tuple[int, ...], keep: Path | None) -> None:
    """Test the promises of thrumcast on this machine: kills, full disks, lost brokers, rubbish.

    Starts a private mosquitto and the installed service again and again in a folder of its own; your data is not
    touched. More time makes the trials larger. Three minutes is about the least, more on a busy machine. Trials for
    which there is no time are left out and listed.
    """
    from pipeline.chaos.plan import Plan, all_trials

    plan = Plan([trial for trial in all_trials() if not only or trial.promise in only], time.monotonic(), minutes * 60)
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
                console.say(f"{trial.title}: not finished in time ({took_s:.0f} s)")
                continue
            outcomes.append(outcome)
            console.say(f"{outcome.title}: {'kept' if outcome.kept else 'BROKEN'} ({took_s:.0f} s)")
    if not outcomes:
        msg = f"expected time for at least one trial, found: {minutes:g} minutes"
        raise ThrumcastError(msg, hint="this machine is slow or busy: raise --minutes")
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
    verdict = "every tested promise was kept" if plan.left_out else "every promise was kept"
    console.result(document, "\n".join([*rows, verdict if kept else "NOT every promise was kept"]))
    if not kept:
        broken = sorted({outcome.promise for outcome in outcomes if not outcome.kept})
        msg = f"expected every promise to be kept, found broken: {', '.join(map(str, broken))}"
        hint = "`thrumcast chaos --only N --keep DIR` keeps data and logs of a trial"
        raise ThrumcastError(msg, hint=hint, reported=True)


def _tried(folder: Path, trial: Trial, size: float, until_s: float) -> Outcome | None:
    """Runs a trial. A trial that fails to end counts as a broken promise; None: the time was over."""
    from pipeline.chaos.ground import Outcome, ground
    from pipeline.chaos.process import OutOfTime

    folder.mkdir(parents=True)
    try:
        with ground(folder, broker_config=trial.broker_config, until_s=until_s) as world:
            return trial.run(world, size)
    except OutOfTime:
        return None
    except (ThrumcastError, OSError) as error:
        return Outcome(trial.promise, "the trial did not end", False, str(error))


def _identity(outcomes: list[Outcome]) -> Outcome:
    """The outcome of promise 11, which is checked during all other trials."""
    from pipeline.chaos.ground import Outcome

    scrapes, worst = sum(o.scrapes for o in outcomes), max((o.imbalance for o in outcomes), default=0)
    figures = f"{scrapes} scrapes of /metrics in all trials, largest difference {worst}"
    return Outcome(11, "Every message is accounted for", worst == 0 and scrapes > 0, figures, scrapes, worst)


def _row(outcome: Outcome) -> str:
    """Promise, verdict and trial on one line; the figures below, wrapped for a terminal."""
    head = f"{outcome.promise:2d}  {'kept  ' if outcome.kept else 'BROKEN'}  {outcome.title}"
    return "\n".join([head, *(f"            {line}" for line in textwrap.wrap(outcome.figures, WIDTH))])
