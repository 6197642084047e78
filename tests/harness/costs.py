"""`make costs`: the CPU time of every test, of the processes that it starts included, by folder, file and test.

CPU time says what a test costs on a machine that does other work meanwhile, where wall time does not. As a plugin
(conftest.py registers it if $THRUMCAST_COSTS names a file), this module appends a line per test to that file; as a
script it runs the tests with the plugin and prints the sums. A process counts when its parent has waited for it, so a
fixture that outlives a test is charged to the test that ends it, and a session fixture to the test that first asks.
What harness/crashes.py forks is not counted: its parent is the fork server.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "THRUMCAST_COSTS"
COSTLIEST = 40  # tests in the printed table


def cpu_s() -> tuple[float, float]:
    """CPU seconds of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


class Costs:
    """A plugin that writes one line of JSON per test, and one for the collection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, name: str, before: tuple[float, float], began_s: float) -> None:
        own, children = (now - then for now, then in zip(cpu_s(), before, strict=True))
        line = {"test": name, "own_s": own, "children_s": children, "wall_s": time.monotonic() - began_s}
        with self.path.open("a") as file:  # one short line per write: workers do not mix theirs
            file.write(json.dumps(line) + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[Any]:
        before, began_s = cpu_s(), time.monotonic()
        result = yield
        self._write("collection", before, began_s)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        before, began_s = cpu_s(), time.monotonic()
        result = yield
        self._write(item.nodeid, before, began_s)
        return result


def table(lines: list[dict[str, Any]], group: Callable[[str], str], most: int) -> str:
    """The sums of the costliest groups: CPU seconds of the workers, of what they start, both, wall seconds."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for line in lines:
        for place, key in enumerate(("own_s", "children_s", "wall_s")):
            sums[group(line["test"])][place] += line[key]
    ranked = sorted(sums.items(), key=lambda entry: -entry[1][0] - entry[1][1])[:most]
    rows = [
        f"{own + children:8.1f} {own:8.1f} {children:8.1f} {wall:8.1f}  {name}"
        for name, (own, children, wall) in ranked
    ]
    return "\n".join([f"{'CPU s':>8} {'own':>8} {'started':>8} {'wall s':>8}", *rows])


def main() -> int:
    path = ROOT / "build" / "costs.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "8", "--dist", "worksteal"]
    done = subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, env=os.environ | {VARIABLE: str(path)}, check=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    print(table(lines, lambda test: "all", 1))  # noqa: T201
    print(table(lines, lambda test: test.rpartition("/")[0] if "::" in test else test, 20))  # noqa: T201
    print(table(lines, lambda test: test.partition("::")[0], COSTLIEST))  # noqa: T201
    print(table(lines, lambda test: test, COSTLIEST))  # noqa: T201
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
