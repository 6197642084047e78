"""The service as a process that can be killed, stopped and observed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pipeline.errors import NotReachable

ROOT = Path(__file__).resolve().parents[2]
SCRAPE_EVERY_S = 0.2
_CONNECTED = re.compile(r"(?<!dis)\bconnected\b")
TERMS = ("committed", "duplicate", "late", "quarantined", "dropped")


class OutOfTime(Exception):
    """The time was over before the trial ended. This says nothing about the promise."""


@dataclass
class Scrapes:
    """What a monitoring system would see."""

    count: int = 0
    largest_imbalance: int = 0  # of received = committed + ... + in_flight
    ready: list[tuple[float, bool]] = field(default_factory=list)  # (monotonic time, what /readyz said) at each change

    def take(self, address: str) -> None:
        """Reads /metrics and /readyz once. A service that does not answer is ignored."""
        with contextlib.suppress(OSError, HTTPException):  # it may also die during an answer
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
                self._weigh(answer.read().decode())
            try:
                with urllib.request.urlopen(f"http://{address}/readyz", timeout=2) as answer:
                    self._note(answer.status == 200)
            except urllib.error.HTTPError:
                self._note(False)

    def _weigh(self, text: str) -> None:
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        names = [f"thrumcast_messages_{name}_total" for name in TERMS] + ["thrumcast_messages_in_flight"]
        received = values.get("thrumcast_messages_received_total")
        if received is None or any(name not in values for name in names):
            return
        placed = sum(float(values[name]) for name in names)
        self.largest_imbalance = max(self.largest_imbalance, abs(round(float(received) - placed)))
        self.count += 1

    def _note(self, ready: bool) -> None:
        if not self.ready or self.ready[-1][1] != ready:
            self.ready.append((time.monotonic(), ready))


@dataclass
class Service:
    """`thrumcast run` on one data directory and one broker."""

    data_dir: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"  # of the broker
    until_s: float = math.inf  # time.monotonic() after which waiting raises OutOfTime
    directory: Path | None = None  # where it runs and finds its config.toml; None: here
    process: subprocess.Popen[bytes] | None = None
    scrapes: Scrapes = field(default_factory=Scrapes)
    starts: int = 0
    largest_rss_bytes: int = 0
    _watch: threading.Event | None = None
    _web: str = ""

    def start(self, **environment: str) -> None:
        """Starts the process without waiting for its connection."""
        self._web = f"127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "pipeline", "run", "--wait", "--json"]
        command += ["--data", str(self.data_dir), "--broker", f"mqtt://{self.host}:{self.port}"]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        mine = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "THRUMCAST_WEB__BIND": self._web}
        env = os.environ | mine | dict(self.settings) | environment
        with self._log_path.open("ab") as log, self._result_path.open("wb") as result:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=result, stderr=log, cwd=self.directory
            )
        self.starts += 1

    @property
    def web(self) -> str:
        """HOST:PORT of the page, health and metrics."""
        return self._web

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def connections(self) -> int:
        """Number of connections in the log, over all runs."""
        return len(_CONNECTED.findall(self.log()))

    def start_and_listen(self, **environment: str) -> None:
        """Starts the process and waits for its connection."""
        before = self.connections()
        self.start(**environment)
        self.wait_for(lambda: self.connections() > before, "a connection of the service")

    def wait_for(self, fact: Callable[[], bool], what: str, *, patience_s: float = 60.0) -> float:
        """Waits until `fact()` holds; returns the seconds.

        Raises:
            NotReachable: it does not hold within `patience_s`.
            OutOfTime: the time of the trial is over.
        """
        began_s = time.monotonic()
        while not fact():
            self.check_time()
            if time.monotonic() - began_s > patience_s:
                msg = f"expected {what} within {patience_s:g} s, found: nothing"
                raise NotReachable(msg, hint=f"the log of the service ends: {self.log()[-500:]}")
            time.sleep(0.02)
        return time.monotonic() - began_s

    def check_time(self) -> None:
        """Raises OutOfTime once the time of the trial is over."""
        if time.monotonic() > self.until_s:
            raise OutOfTime

    def kill(self) -> bool:
        """Sends SIGKILL; returns whether it died of that."""
        if self.process is None or not self.running:
            return False
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def stop(self) -> tuple[int, float]:
        """Sends SIGTERM; returns the exit status and the seconds until the end."""
        if self.process is None:
            return 0, 0.0
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=120)
        return status, time.monotonic() - began_s

    def result(self) -> dict[str, Any]:
        """The result that it printed at its end."""
        text = self._result_path.read_text()
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def log(self) -> str:
        """The log of all runs."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def rss_bytes(self) -> int:
        """Resident memory; 0 if it is not running."""
        return self._memory_bytes("VmRSS")

    def anonymous_bytes(self) -> int:
        """Resident memory without code and mapped files; 0 if it is not running."""
        return self._memory_bytes("RssAnon")

    def _memory_bytes(self, name: str) -> int:
        if self.process is None or not self.running:
            return 0
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line).get(name, "0 kB")
        return int(found.split()[0]) * 1024

    def open_files(self) -> int:
        """Number of open file handles."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd")) if self.process is not None and self.running else 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[Service]:
        """Scrapes the service during the block, over all its runs; kills it at the end."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SCRAPE_EVERY_S):
                self.scrapes.take(self._web)
                with contextlib.suppress(OSError):  # it may have died in between
                    self.largest_rss_bytes = max(self.largest_rss_bytes, self.rss_bytes())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            self.kill()

    @property
    def _log_path(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".log")

    @property
    def _result_path(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".out")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
