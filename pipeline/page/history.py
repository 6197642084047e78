"""The thread that builds the history of finished days while the service runs, with at most a tenth of a core."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipeline.errors import ThrumcastError

log = logging.getLogger("thrumcast.web")

LOOK_EVERY_S = 60.0
SETTLED = timedelta(hours=2)  # after a day's end, until late rows and the merging of its parts are mostly over
IDLE_PER_WORK = 9.0  # seconds of rest for each second of work
NICE = 15


class Stopped(Exception):
    """The service ends."""


class HistoryThread(threading.Thread):
    """Builds what is missing, a day at a time; a stop waits for one batch of rows at most."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(name="history", daemon=True)
        self._data_dir = data_dir
        self._ending = threading.Event()

    def stop(self) -> None:
        """End after the present batch."""
        self._ending.set()

    def run(self) -> None:
        """Build until the end."""
        with contextlib.suppress(OSError, AttributeError):  # other systems know no priority of a thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        with contextlib.suppress(Stopped):
            while not self._ending.wait(LOOK_EVERY_S):
                try:
                    self.look()
                except ThrumcastError as error:
                    log.warning("history_failed err=%s", error)

    def look(self) -> None:
        """Make the files that are missing.

        Raises:
            ArchiveError: see `build`.
        """
        from pipeline.edges.store.history import build

        self._worked_s = time.thread_time()
        for built in build(self._data_dir, finished_before(), go_on=self._pause):
            log.info("history_built kind=%s date=%s rows=%d bytes=%d", built.kind, built.date, built.rows, built.bytes)

    def _pause(self) -> None:
        now_s = time.thread_time()
        if self._ending.wait(IDLE_PER_WORK * max(0.0, now_s - self._worked_s)):
            raise Stopped
        self._worked_s = now_s


def finished_before() -> date:
    """Days before this one are finished."""
    return (datetime.now(UTC) - SETTLED).date()
