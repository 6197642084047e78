"""Named fault points where a test can kill the process, to prove that a crash there loses and duplicates nothing.

`THRUMCAST_FAULT_AT=name` kills the process at the first pass of that point, `name:N` at the Nth pass.
"""

from __future__ import annotations

import os

KILLED = 137  # the exit status of a process killed by SIGKILL
_passes: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Ends the process without any clean-up if the environment names this fault point."""
    wanted = os.environ.get("THRUMCAST_FAULT_AT")
    if wanted is None:
        return
    place, _, count = wanted.partition(":")
    if place != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(count or 1):
        os._exit(KILLED)
