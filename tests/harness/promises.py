"""What a test of a promise asserts, and where its figures go."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.chaos.ground import Outcome


def check(outcome: Outcome) -> None:
    """Fails for a broken promise; adds a line of figures to the file $THRUMCAST_PROMISES, if there is one."""
    if (report := os.environ.get("THRUMCAST_PROMISES")) is not None:
        line = f"{outcome.promise:2d}  {'kept  ' if outcome.kept else 'BROKEN'}  {outcome.title}: {outcome.figures}"
        with Path(report).open("a") as file:
            file.write(f"{line}; {outcome.scrapes} scrapes, imbalance {outcome.imbalance}\n")
    assert outcome.kept, outcome
