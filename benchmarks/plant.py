"""The processes of an end-to-end measurement: the service as users run it, and a client that only receives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from models.registry import Registry
from pipeline.edges.mqtt import MqttConnection, MqttSettings
from pipeline.edges.store.database import view_journal
from pipeline.errors import ThrumcastError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0  # a fact that does not come in this time never comes
TAKE_AT_ONCE = 512  # messages; as many as the service takes before it commits


def wait_until(fact: Callable[[], bool], between: Callable[[], object], what: str) -> None:
    """Calls `between` until `fact` holds.

    Raises:
        ThrumcastError: it does not hold for a minute.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline_s:
            msg = f"{what} within {PATIENCE_S:g} s expected, found: nothing"
            raise ThrumcastError(msg, hint="is the machine very busy? look for other programs with `top`")
        between()


def cpu_s_of(pid: int) -> float | None:
    """CPU seconds that a process has used so far; None where the system does not tell (not Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slow_disk(folder: Path, data: Path, seconds: float) -> dict[str, str]:
    """What makes every fsync of a process below `data` so much slower; empty without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    library, orders = folder / "faultfs.so", folder / "faultfs.order"
    source = ROOT / "tests" / "harness" / "faultfs.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    orders.write_text(f"fsync sleep {seconds}", encoding="utf-8")
    names = {"LD_PRELOAD": library, "THRUMCAST_FAULTFS_ROOT": data.resolve(), "THRUMCAST_FAULTFS_ORDER": orders}
    return {name: str(path) for name, path in names.items()}


@dataclass(slots=True)
class Service:
    """`thrumcast run` with the default settings, an untrained model and a data directory of its own."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def start(self, registry: Callable[[Registry], None], settings: Mapping[str, str] | None = None) -> Self:
        """Fills the registry, then starts the process with these in its environment; does not wait for it."""
        registry(Registry(self.data_dir))
        command = [sys.executable, "-m", "pipeline", "run", "--quiet", "--data", str(self.data_dir)]
        command += ["--broker", f"mqtt://127.0.0.1:{self.port}"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("THRUMCAST_")}
        # Rows are rolled into Parquet every 2 s instead of every 5 minutes, so that a short measurement includes it.
        env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "THRUMCAST_ARCHIVE__ROLL_S": "2"}
        env |= settings or {}
        with (self.directory / "service.log").open("ab") as log:
            # In its own folder: a config.toml of whoever runs the benchmark must not count.
            self.process = subprocess.Popen(command, cwd=self.directory, env=env, stdout=log, stderr=log)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, and SIGKILL for a service that does not heed it."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def check(self) -> None:
        """Raises ThrumcastError if the process has ended."""
        if self.process is not None and self.process.poll() is not None:
            tail = (self.directory / "service.log").read_text(encoding="utf-8", errors="replace").strip()[-500:]
            msg = f"a service that runs expected, found: exit code {self.process.returncode}: {tail}"
            raise ThrumcastError(msg)

    def consumed(self) -> int:
        """Messages that are safe in the journal."""
        self.check()
        view = view_journal(self.data_dir, kinds=())
        return 0 if view is None else view.counters.get("messages_committed", 0)

    def cpu_s(self) -> float | None:
        return None if self.process is None else cpu_s_of(self.process.pid)


Receive = Callable[[int, str, "Synchronized[int]", Event, Event], None]  # port, subscription, taken, ready, stop


class Receiver:
    """A process that takes and acknowledges, and does nothing else, through a client such as those in `RECEIVERS`."""

    def __init__(self, port: int, subscription: str, receive: Receive) -> None:
        context = get_context("spawn")
        self._taken: Synchronized[int] = context.Value("q", 0)
        self._stop: Event = context.Event()
        self.ready: Event = context.Event()
        arguments = (port, subscription, self._taken, self.ready, self._stop)
        self._process: BaseProcess = context.Process(target=receive, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def consumed(self) -> int:
        """Messages that were acknowledged."""
        return self._taken.value

    def cpu_s(self) -> float | None:
        return None if self._process.pid is None else cpu_s_of(self._process.pid)


def _receive_with_ours(port: int, subscription: str, taken: Synchronized[int], ready: Event, stop: Event) -> None:
    settings = MqttSettings(client_id="bench-ours", port=port)
    with MqttConnection(settings, subscriptions=[subscription], max_waiting=2 * TAKE_AT_ONCE).connect() as connection:
        ready.set()
        while not stop.is_set():
            messages = connection.take(TAKE_AT_ONCE, 0.1)
            connection.acknowledge(messages)
            taken.value += len(messages)


def _receive_with_paho(port: int, subscription: str, taken: Synchronized[int], ready: Event, stop: Event) -> None:
    """paho-mqtt as its documentation has it: MQTT 5, QoS 1, its own loop, an acknowledgement for each message."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench-paho", protocol=paho.MQTTv5)

    def count(_client: object, _data: object, _message: object) -> None:
        taken.value += 1

    client.on_message = count
    client.on_subscribe = lambda *_: ready.set()
    client.on_connect = lambda *_: client.subscribe(subscription, qos=1)
    client.connect("127.0.0.1", port)
    while not stop.is_set():
        client.loop(0.1)
    client.disconnect()


RECEIVERS: dict[str, Receive] = {"paho": _receive_with_paho, "ours": _receive_with_ours}
