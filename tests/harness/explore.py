"""`make explore`: the property tests again and again with new examples, in random order, until the time is over.

A round runs every hypothesis test once. A failure ends the search after its round: pytest has then printed the smallest
failing arguments, and this script says how to keep them.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEEP_IT = """
A test failed on an example that nobody had written down. pytest shows it above:

    Falsifying example: test_name(
        x=0.5,
    )

Keep it, so that every later `make test` tries it first. Write its arguments above the test, then mend the code:

    from hypothesis import example, given

    @example(x=0.5)
    @given(x=st.floats())
    def test_name(x: float) -> None: ...

Run that test alone with:  .venv/bin/python -m pytest FILE -k test_name
Draw the same examples again with:  {again}
"""


def command(seed: int, where: list[str]) -> list[str]:
    """One round. The first seed draws the order of the tests, the second the examples."""
    return [
        sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "8", "--dist", "worksteal",
        "-m", "hypothesis and not slow", f"--randomly-seed={seed}", f"--hypothesis-seed={seed}", *where,
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="no round starts after that time")
    parser.add_argument("--seed", type=int, help="one round with the examples of that seed")
    parser.add_argument("where", nargs="*", default=["tests"], help="folders or files of tests")
    asked = parser.parse_args()
    until_s = time.monotonic() + 60 * asked.minutes
    environment = os.environ | {"HYPOTHESIS_PROFILE": "explore"}
    rounds = 0
    while rounds == 0 or (asked.seed is None and time.monotonic() < until_s):
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        rounds += 1
        print(f"round {rounds}, seed {seed}", flush=True)  # noqa: T201
        status = subprocess.run(command(seed, asked.where), cwd=ROOT, env=environment, check=False).returncode
        if status == 1:
            again = f".venv/bin/python tests/harness/explore.py --seed {seed} {' '.join(asked.where)}"
            print(KEEP_IT.format(again=again))  # noqa: T201
        if status != 0:
            return status
    print(f"{rounds} rounds, and no example failed")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
