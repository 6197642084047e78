"""How a training goes: every pass to runs/<id>/metrics.jsonl, now and then a line for the person who waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from models.metrics import number_or_none
from models.training import EpochReport

LINES_PER_FIT = 4


@dataclass(frozen=True, slots=True)
class RunLog:
    """A `Watch` of models/crossval.py."""

    log: IO[str]
    say: Callable[[str], None]
    folds: int
    split: str = "honest"  # or leaky

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
