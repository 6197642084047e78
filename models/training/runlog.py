"""How a training goes: every pass to runs/<id>/metrics.jsonl, now and then a line for the person who waits.

On a terminal a last line says after every pass where it is, and how long that part will take at most: fits that stop
early make it shorter, so it is the time that would pass if none did.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from models.evaluation.metrics import number_or_none
from models.training.loop import EpochReport

LINES_PER_FIT = 4


@dataclass(slots=True)
class Pace:
    """A `Watch` of models/training/folds.py that says how long the folds, or the final fit, will still take."""

    status: Callable[[str], None]  # shows one line until the next
    folds: int
    members: int
    clock: Callable[[], float] = time.monotonic
    _part: tuple[object, ...] = ()
    _began: float = 0.0
    _passes: int = 0  # of this part that were timed

    def __call__(self, fold: int | None, seen: EpochReport, held_out: float | None) -> None:
        """Note a pass; `fold` None is the final fit."""
        now, part = self.clock(), (seen.aim, fold is None)
        if part != self._part:  # the first pass is not timed: when it began nobody has said
            self._part, self._began, self._passes = part, now, -1
        self._passes += 1
        fits_before = (fold or 0) * self.members + seen.member
        fits = self.members * (1 if fold is None else self.folds)
        ahead = (fits - fits_before) * seen.epochs - seen.epoch
        where = "final fit" if fold is None else f"fold {fold + 1}/{self.folds}"
        where += f", member {seen.member + 1}/{self.members}" if self.members > 1 else ""
        left = "" if self._passes < 1 else f", at most {_span(ahead * (now - self._began) / self._passes)} left"
        last = seen.epoch == seen.epochs and ahead == 0
        self.status("" if last else f"{where}: pass {seen.epoch}/{seen.epochs}{left} of the {_WHAT[fold is None]}")


_WHAT = {True: "final fit", False: "folds"}


def _span(seconds: float) -> str:
    """Seconds or minutes, as exact as such a guess can be."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, slots=True)
class RunLog:
    """A `Watch` of models/training/folds.py."""

    log: IO[str]
    say: Callable[[str], None]
    folds: int
    split: str = "honest"  # or leaky
    pace: Pace | None = None  # for a terminal

    def __call__(self, fold: int | None, seen: EpochReport, held_out: float | None) -> None:
        """Note a pass; `fold` None is the final fit."""
        entry = {
            "split": self.split,
            "aim": seen.aim,
            "fold": fold,
            "member": seen.member,
            "epoch": seen.epoch,
            "loss": number_or_none(seen.loss),
        }
        entry |= {"gradient_norm": number_or_none(seen.gradient_norm), "held_out_nll": held_out}
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()
        aim = "known machines, " if seen.aim == "known" else ""
        if seen.epoch == seen.epochs or seen.epoch % max(1, seen.epochs // LINES_PER_FIT) == 0:
            where = (
                "final fit"
                if fold is None
                else f"{'' if self.split == 'honest' else f'{self.split} '}fold {fold + 1}/{self.folds}"
            )
            tail = "" if held_out is None else f", held-out {held_out:.3f}"
            where += f", member {seen.member + 1}" if seen.member else ""
            self.say(f"{aim}{where}: pass {seen.epoch}/{seen.epochs}, loss {seen.loss:.3f}{tail}")
        if self.pace is not None:
            self.pace(fold, seen, held_out)
