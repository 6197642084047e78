"""Named fault points where a test can kill the process, to prove that a crash there loses and duplicates nothing.

`THRUMCAST_FAULT_AT=name` kills the process at the first pass of that point, `name:N` at the Nth pass.
"""

from __future__ import annotations

import os

KILLED = 137  # the exit status of a process killed by SIGKILL
FAULT_POINTS = (
    "turn_taken",
    "turn_stepped",
    "turn_committed",
    "turn_noted",
    "turn_acknowledged",
    "turn_published",
    "commit_begin",
    "commit_before_end",
    "commit_unwitnessed",
    "commit_done",
    "roll_begin",
    "after_staging",
    "after_rename",
    "after_directory_fsync",
    "roll_before_transaction",
    "roll_in_transaction",
    "roll_done",
    "after_rewrite_staging",
    "after_rewrite_rename",
    "rewrite_before_transaction",
    "rewrite_done",
)

UPKEEP_FAULT_POINTS = (
    "swap_prepared",
    "swap_decided",
    "swap_exchanged",
    "swap_before_transaction",
    "swap_done",
)

APPEND_FAULT_POINTS = (
    "append_noted",
    "append_before_transaction",
    "append_in_transaction",
    "append_done",
)

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
