"""What the endpoints ask of the machine: whether the data directory can be written, its space, the process's memory."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

PROBE_EVERY_S = 2.0
PROBE_WAIT_S = 0.5  # of whoever asks
PROBE_LIMIT_S = 3.0  # a slower disk counts as one that refuses


class Probe:
    """Tries every two seconds, when asked, whether a directory can be written; a disk that hangs holds nobody up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started_s = float("-inf")
        self._found: str | None = None

    def unwritable(self, wait_s: float = PROBE_WAIT_S) -> str | None:
        """Why it cannot be written, by the newest try; None if it can. Waits at most so long for that try."""
        with self._lock:
            running = self._thread is not None and self._thread.is_alive()
            if not running and time.monotonic() - self._started_s >= PROBE_EVERY_S:
                self._started_s = time.monotonic()
                self._thread = threading.Thread(target=self._try, name="probe", daemon=True)
                self._thread.start()
            thread, started_s = self._thread, self._started_s
        if thread is not None:
            thread.join(wait_s)
            if thread.is_alive() and (age_s := time.monotonic() - started_s) > PROBE_LIMIT_S:
                return f"{self._directory}: not written within {age_s:.0f} s"
        return self._found

    def _try(self) -> None:
        self._found = probe_directory(self._directory)


def probe_directory(directory: Path) -> str | None:
    """Why a directory cannot be written; None if it can."""
    path = directory / ".probe"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(4096))  # a full disk still creates empty files
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return None


def disk_figures(directory: Path) -> dict[str, float]:
    """Free space; nothing where the directory is gone, which `archive:writable` says."""
    try:
        return {"disk_free_bytes": shutil.disk_usage(directory).free}
    except OSError:
        return {"disk_free_bytes": 0}


def process_figures() -> dict[str, float]:
    """Memory and files of this process, where /proc tells."""
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        return {}
    return {"process_resident_memory_bytes": resident, "process_open_fds": descriptors}
