"""The worker processes of a backfill, forked from a process that has loaded everything they need.

Imports and compiled kernels take a second of CPU time, longer than many backfills. So that second is spent once. It
passes beside the command's own imports if `prepare` is called before these: this module imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, forkserver, get_context, parent_process, resource_tracker

READY = "pipeline.drivers.backfill_ready"  # importing it loads what workers share


def prepare() -> None:
    """Begin to load what workers need, in a process of its own; return at once."""
    get_context("forkserver").set_forkserver_preload([READY])
    resource_tracker.ensure_running()  # starting it later would unblock what is blocked next
    # Workers inherit the blocked signal: Ctrl-C is for the process that writes.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pool(workers: int, start: Callable[[], None]) -> ProcessPoolExecutor:
    """Processes that call `start` first; they end with this one, whatever ends it."""
    prepare()
    return ProcessPoolExecutor(workers, get_context("forkserver"), _begin, (start,))


def _begin(start: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
