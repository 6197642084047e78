"""The training that somebody starts on the page: one at a time, in a process of its own (`models.jobs.worker`).

The service only reads what that process says. The process ends with its stdin, so it ends with the service too.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.config.tables import Config
from pipeline.errors import ThrumcastError

LOG_LINES = 400
MOST_LINE = 2000  # characters
STOP_S = 3.0  # how long a cancelled process may take to end before it is killed


class Busy(ThrumcastError):
    """Something is going on that excludes what was asked for."""


@dataclass(slots=True)
class Training:
    """The newest training since the service began, whatever its state."""

    config: Config
    state: str = "none"  # none, running, done, failed, cancelled
    by: str = ""
    status: str = ""
    version: str | None = None
    failed: str | None = None
    hint: str | None = None
    began_s: float = 0.0  # time.time()
    ended_s: float = 0.0
    news: int = 0  # grows with everything that is said
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    command: Sequence[str] = (sys.executable, "-m", "models.jobs.worker")
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, by: str, settings: Sequence[str] = (), split: str | None = None) -> None:
        """Begin a training.

        Raises:
            Busy: one is running.
        """
        order = {
            "config": self.config,
            "settings": settings,
            "split": split,
            "memory_mib": self.config.web.training_memory_mib,
        }
        with self._lock:
            if self._process is not None:
                msg = f"expected no training, found one that {self.by} began"
                raise Busy(msg, hint="wait for its end or cancel it; one at a time")
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # it ended at once: what it said tells why
                self._process.stdin.write(msgspec.json.encode(order) + b"\n")
                self._process.stdin.flush()
            self.state, self.by, self.status, self.version, self.failed, self.hint = "running", by, "", None, None, None
            self.began_s, self.ended_s = time.time(), 0.0
            self.log.clear()
            self.news += 1
            threading.Thread(target=self._read, args=(self._process,), name="training", daemon=True).start()

    def cancel(self) -> None:
        """End the training; nothing is registered, its checkpoints stay.

        Raises:
            Busy: none is running.
        """
        with self._lock:
            process = self._process
            if process is None:
                msg = "expected a training that is running, found none"
                raise Busy(msg)
            self.state = "cancelled"
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def stop(self) -> None:
        """End with the service."""
        with contextlib.suppress(Busy):
            self.cancel()

    def document(self) -> dict[str, Any]:
        """How it stands."""
        with self._lock:
            return {
                "state": self.state,
                "by": self.by,
                "status": self.status,
                "version": self.version,
                "failed": self.failed,
                "hint": self.hint,
                "began": round(self.began_s * 1000) or None,
                "ended": round(self.ended_s * 1000) or None,
                "memory_mib": self.config.web.training_memory_mib,
                "log": list(self.log),
            }

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with self._lock:
                    self._take(line)
        code = process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        with self._lock:
            if self.state != "cancelled":
                self.state = "failed" if self.version is None else "done"
                if self.version is None and self.failed is None:
                    self.failed = f"the process ended with {code}; its last words are in the log"
            self.status, self.ended_s, self._process = "", time.time(), None
            self.news += 1

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()[:MOST_LINE]
        try:
            said = msgspec.json.decode(line, type=dict[str, str | None])
        except (msgspec.DecodeError, UnicodeDecodeError):  # a traceback, or a warning of a library
            said = {"say": text}
        if "status" in said:
            self.status = said["status"] or ""
        elif "failed" in said:
            self.failed, self.hint = said["failed"], said.get("hint")
        elif "version" in said:
            self.version = said["version"]
        else:
            warned = said.get("warn")
            self.log.append((f"warning: {warned}" if warned is not None else said.get("say") or "")[:MOST_LINE])
        self.news += 1
