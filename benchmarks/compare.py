"""`make compare`: the feature stage beside other libraries that compute features, on the same windows.

    python -m benchmarks.compare [--quick]

One thread, one process, one run; windows of 4,096 float32 every 1,024 samples, one channel. The vectors differ, so a
ratio says what a window of condition monitoring costs with each, not who computes the same thing faster. Beneath, bare
transforms of the same windows: SciPy's, MKL's, and the one inside our kernels. What is not installed is named, with the
reason why.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.__main__ import ONE_THREAD
from benchmarks.report import facts_text, machine_facts, number_text

if TYPE_CHECKING:
    from benchmarks.measure import Effort, Timing
    from benchmarks.peers import Case

BARE_ROUNDS = 5
PACKAGES = ("tsflex", "tsfresh", "tsfel", "aeon", "mkl-fft")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    name: str
    features: int
    us: float  # per window
    to_ours: float
    to_rfft: float
    dirty: bool


def lines(found: Sequence[Case], times: dict[str, Timing]) -> list[Line]:
    """Per window, beside our complete vector and beside SciPy's bare transform."""
    us = {case.name: times[case.name].us / case.count for case in found}
    ours = next(us[case.name] for case in found if case.features)
    floor = next(us[case.name] for case in found if not case.features)
    return [
        Line(c.name, c.features, us[c.name], us[c.name] / ours, us[c.name] / floor, times[c.name].dirty) for c in found
    ]


def text(table: Sequence[Line]) -> str:
    """The table."""
    head = f"{'':<54} {'features':>8} {'us/window':>11} {'windows/s':>11} {'x ours':>9} {'x rfft':>9}"
    rows = (
        f"{line.name:<54} {line.features or '-':>8} {line.us:>11,.1f} {1e6 / line.us:>11,.0f} "
        f"{number_text(line.to_ours):>9} {number_text(line.to_rfft):>9}{'  (dirty)' if line.dirty else ''}"
        for line in table
    )
    return "\n".join([head, *rows])


def measure(effort: Effort, missing: list[str]) -> list[list[Line]]:
    """Time the bare transforms in turns with our complete vector, then all vectors in turns with SciPy's transform."""
    from benchmarks.measure import interleaved
    from benchmarks.peers import cases

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # the peers' own, of library versions newer than they are
        found = list(cases(missing))
        ours, floor = (next(c for c in found if bool(c.features) is vector) for vector in (True, False))
        table = []
        for group, samples in (
            (
                [ours, *(c for c in found if not c.features)],
                BARE_ROUNDS * effort.samples,
            ),  # quick ones, so many samples
            ([floor, *(c for c in found if c.features)], effort.samples),
        ):
            table.append(lines(group, interleaved({case.name: case.call for case in group}, samples)))
        return table


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="too short for numbers to be quoted")
    chosen = parser.parse_args(arguments)
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read when numpy loads, so nothing that uses it comes before

    from benchmarks.measure import QUICK, Effort

    facts, began_s, missing = machine_facts(), time.monotonic(), list[str]()
    table = measure(QUICK if chosen.quick else Effort(samples=7), missing)
    print(facts_text(facts, [round(value, 2) for value in os.getloadavg()]))
    installed = ((name, _version(name)) for name in PACKAGES)
    print(", ".join(f"{name} {version}" for name, version in installed if version))
    for group in table:
        print(f"\n{text(group)}")
    for reason in missing:
        print(f"left out: {reason}")
    print(f"\n{time.monotonic() - began_s:.0f} s; one thread; CPU time, median of undisturbed samples.")
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
