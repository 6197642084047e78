"""Runs a function in a process of its own that may die at a fault point.

The process is forked from one that has loaded the store and done nothing with it: a crash costs milliseconds instead of
a start of the interpreter with pyarrow.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipeline.edges.store.archive", "pipeline.edges.store.compact", "pytest"])


def exit_status(function: Callable[[Path], None], data: Path, fault: str) -> int:
    """The exit status of `function(data)` in a process that dies at `fault`; 1 for an exception, which is printed.

    The function is one of an importable module, because the process finds it by its name.
    """
    process = _context.Process(target=_run, args=(function, data, fault))
    process.start()
    process.join()
    status = process.exitcode
    process.close()
    assert status is not None
    return status


def _run(function: Callable[[Path], None], data: Path, fault: str) -> None:
    os.environ["THRUMCAST_FAULT_AT"] = fault
    function(data)
