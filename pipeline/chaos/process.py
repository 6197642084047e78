"""The service as a process of its own that can be killed, stopped, throttled and watched."""

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
    """A trial was not over when its time was: it says nothing of the promise."""


@dataclass
class Scrapes:
    """What a monitoring system would have seen."""

    count: int = 0
    largest_imbalance: int = 0  # of received = committed + ... + in_flight
    ready: list[tuple[float, bool]] = field(default_factory=list)  # (monotonic time, what /readyz said) at each change

    def take(self, address: str) -> None:
        """One look at /metrics and /readyz; a service that is not there counts for nothing."""
        with contextlib.suppress(OSError, HTTPException):  # it dies in the middle of an answer, too
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
    until_s: float = math.inf  # time.monotonic() at which whoever waits for it gives up
    process: subprocess.Popen[bytes] | None = None
    scrapes: Scrapes = field(default_factory=Scrapes)
    starts: int = 0
    largest_rss_bytes: int = 0
    _watch: threading.Event | None = None
    _web: str = ""

    def start(self, **environment: str) -> None:
        """Starts it; `connected` tells when it listens."""
        self._web = f"127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "pipeline", "run", "--wait", "--json"]
        command += ["--data", str(self.data_dir), "--broker", f"mqtt://{self.host}:{self.port}"]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        mine = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "THRUMCAST_WEB__BIND": self._web}
        env = os.environ | mine | dict(self.settings) | environment
        with self._log_path.open("ab") as log, self._result_path.open("wb") as result:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=result, stderr=log)
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def connections(self) -> int:
        """How often it has said that it is connected, in all its lives."""
        return len(_CONNECTED.findall(self.log()))

    def start_and_listen(self, **environment: str) -> None:
        """Starts it and waits until the broker has accepted it."""
        before = self.connections()
        self.start(**environment)
        self.wait_for(lambda: self.connections() > before, "a connection of the service")

    def wait_for(self, fact: Callable[[], bool], what: str, *, patience_s: float = 60.0) -> float:
        """Seconds until `fact()` holds.

        Raises:
            NotReachable: it never does.
            OutOfTime: nor has it when all waiting is to end.
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
        """Raises OutOfTime once all waiting is to end."""
        if time.monotonic() > self.until_s:
            raise OutOfTime

    def kill(self) -> bool:
        """SIGKILL; whether that is what it died of."""
        if self.process is None or not self.running:
            return False
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def stop(self) -> tuple[int, float]:
        """SIGTERM; exit status and seconds."""
        if self.process is None:
            return 0, 0.0
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=120)
        return status, time.monotonic() - began_s

    def result(self) -> dict[str, Any]:
        """What it printed when it stopped."""
        text = self._result_path.read_text()
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def log(self) -> str:
        """What all its lives have logged."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def rss_bytes(self) -> int:
        """Resident memory now; 0 if it does not run."""
        return self._memory_bytes("VmRSS")

    def anonymous_bytes(self) -> int:
        """Of that, what no file stands behind: all but code and mapped files; 0 if it does not run."""
        return self._memory_bytes("RssAnon")

    def _memory_bytes(self, name: str) -> int:
        if self.process is None or not self.running:
            return 0
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line).get(name, "0 kB")
        return int(found.split()[0]) * 1024

    def open_files(self) -> int:
        """File handles now."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd")) if self.process is not None and self.running else 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[Service]:
        """Scrapes it meanwhile, whichever of its lives is running; kills what is left at the end."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SCRAPE_EVERY_S):
                self.scrapes.take(self._web)
                with contextlib.suppress(OSError):  # it died between the two
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
