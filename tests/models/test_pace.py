"""Whoever waits at a terminal is told where a training is and how long it takes at most; nobody else is."""

from __future__ import annotations

import io
import json
import sys

import pytest

from models.training.checkpoint import Pace, RunLog
from models.training.loop import EpochReport
from pipeline.commands.common import CLEAR, Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(epoch: int, epochs: int = 4, member: int = 0) -> EpochReport:
    return EpochReport(epoch, epochs, 0.5, 1.0, lambda: None, member)  # type: ignore[arg-type, return-value]


def test_the_time_that_is_left_falls_from_pass_to_pass_and_is_that_of_all_folds():
    said: list[str] = []
    times = iter(range(100))
    pace = Pace(said.append, folds=2, members=1, clock=lambda: float(next(times)))
    for fold in (0, 1):
        for epoch in range(1, 5):
            pace(fold, report(epoch), None)
    for epoch in range(1, 5):
        pace(None, report(epoch), None)
    assert said[0] == "fold 1/2: pass 1/4 of the folds"
    assert said[1] == "fold 1/2: pass 2/4, at most 6 s left of the folds"
    assert said[4] == "fold 2/2: pass 1/4, at most 3 s left of the folds"
    assert said[7] == ""  # nothing is left
    assert said[9] == "final fit: pass 2/4, at most 2 s left of the final fit"


def test_a_fold_that_stops_early_leaves_less_to_do():
    said: list[str] = []
    times = iter(range(100))
    pace = Pace(said.append, folds=2, members=2, clock=lambda: float(next(times)))
    pace(0, report(1), None)
    pace(0, report(1, member=1), None)
    pace(1, report(1), None)
    assert said[-1] == "fold 2/2, member 1/2: pass 1/4, at most 7 s left of the folds"


def test_a_run_keeps_every_pass_and_tells_the_pace_of_it():
    said: list[str] = []
    log = io.StringIO()
    watch = RunLog(log, lambda _: None, 2, pace=Pace(said.append, 2, 1))
    watch(0, report(1), 0.3)
    assert json.loads(log.getvalue())["held_out_nll"] == 0.3
    assert said == ["fold 1/2: pass 1/4 of the folds"]


@pytest.mark.parametrize(
    ("console", "stream", "shown"),
    [
        (Console(), Terminal(), f"{CLEAR}pass 1"),
        (Console(quiet=True), Terminal(), ""),
        (Console(json=True), Terminal(), ""),
        (Console(), io.StringIO(), ""),
    ],
)
def test_only_a_terminal_sees_a_line_that_is_replaced(monkeypatch, console, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    console.status("pass 1")
    assert stream.getvalue() == shown


def test_what_is_said_replaces_the_line_that_stood_there(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    console = Console()
    console.status("pass 1")
    console.say("done")
    assert sys.stderr.getvalue() == f"{CLEAR}pass 1{CLEAR}done\n"  # type: ignore[attr-defined]
