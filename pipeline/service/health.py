"""/livez, /readyz and /metrics: the health of the service, judged by what it commits and not by its connections.

The judgement is a pure function of `Vitals`. `Endpoints` collects them from the running service, `Probe` from its disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pipeline import __version__
from pipeline.core.state import budget_of
from pipeline.drivers.engines import Engines
from pipeline.drivers.live import Live
from pipeline.service.http import Answer, Route
from pipeline.service.metrics import LAG_S, Lag, LoopWatch
from pipeline.telemetry import Telemetry, few

log = logging.getLogger("thrumcast.health")

T = TypeVar("T")
Status = Literal["pass", "warn", "fail"]

ALIVE_S = 10.0  # since the last beat; the loop serves its connection every quarter second, also while the disk hangs
TURN_S = 10.0  # how long a turn may take with its commit and a roll, in addition to the interval of commits
SILENT_S = 60.0  # without a message, after which a machine is named as silent
QUICK_S = 0.01  # a value that takes no longer is worked out whenever it is asked for
FULL = 0.8  # share of the connection's capacity for waiting messages
BUDGET_WORDS = {
    "met": "met",
    "collecting": "without enough sound history yet",
    "exceeded": "not kept",
    "undeclared": "not declared sound at the beginning",
    "off": "without a budget",
}
PROBE_EVERY_S = 2.0
PROBE_WAIT_S = 0.5  # how long a caller waits for a try
PROBE_LIMIT_S = 3.0  # a slower disk counts as one that refuses


class Probe:
    """Tries whether a directory can be written, at most every two seconds; a disk that hangs holds no caller up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started_s = float("-inf")
        self._found: str | None = None

    def unwritable(self, wait_s: float = PROBE_WAIT_S) -> str | None:
        """Why it could not be written at the newest try; None if it could. Waits at most `wait_s` for that try."""
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
    """Free space; 0 where the directory is gone, which `archive:writable` reports."""
    try:
        return {"disk_free_bytes": shutil.disk_usage(directory).free}
    except OSError:
        return {"disk_free_bytes": 0}


def process_figures() -> dict[str, float]:
    """Memory and open files of this process; nothing where there is no /proc."""
    try:
        return {"process_resident_memory_bytes": resident_bytes(), "process_open_fds": len(os.listdir("/proc/self/fd"))}
    except OSError:
        return {}


def resident_bytes(pid: int | str = "self") -> int:
    """Memory of a process.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show_engines(engines: Engines | None, telemetry: Telemetry) -> None:
    """Set the gauges of the engine processes; at a scrape."""
    for number, (pid, streams, busy_s) in enumerate(engines.figures if engines else ()):
        name = str(number)
        telemetry.set("engine_streams", streams, name)
        telemetry.set("engine_busy_seconds_total", busy_s, name)
        with contextlib.suppress(OSError):
            telemetry.set("engine_resident_memory_bytes", resident_bytes(pid), name)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the judgement depends on; ages in seconds."""

    beat_age_s: float = 0.0
    connected: bool = True
    uncommitted_age_s: float | None = None  # of the oldest message in hand; None: nothing is in hand
    commit_limit_s: float = 5.0
    turn_age_s: float = 0.0  # since the loop last had nothing in hand, or since the roll under way began
    turn_limit_s: float = 11.0
    refusal: str | None = None  # why the disk refuses what the loop writes
    unwritable: str | None = None  # why the data directory cannot be written
    model: str | None = None
    refused_model: str | None = None  # why another version was wanted and could not be used
    waiting_ratio: float = 0.0
    silent_machines: tuple[str, ...] = ()
    budget: str = ""  # how many streams keep their budget of false alarms
    lag: Lag | None = None  # None: no stream is heard whose clock can be used


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str  # component:measurement
    status: Status
    output: str = ""


def live_checks(vitals: Vitals) -> list[Check]:
    """What must hold, or the process is to be restarted."""
    fresh = vitals.beat_age_s < ALIVE_S
    return [Check("loop:beat", "pass" if fresh else "fail", f"{vitals.beat_age_s:.1f} s ago")]


def ready_checks(vitals: Vitals) -> list[Check]:
    """What must hold for readings to be taken, judged and kept. A silent machine is a warning, never a failure."""
    age_s = vitals.uncommitted_age_s
    late = age_s is not None and age_s > vitals.commit_limit_s
    in_hand = "nothing in hand" if age_s is None else f"oldest message {age_s:.1f} s, limit {vitals.commit_limit_s:g} s"
    stuck = vitals.turn_age_s > vitals.turn_limit_s
    turn = f"last ended {vitals.turn_age_s:.1f} s ago, limit {vitals.turn_limit_s:g} s"
    trouble = vitals.refusal or vitals.unwritable
    silent = few(vitals.silent_machines)
    return [
        *live_checks(vitals),
        Check("mqtt:connection", "pass" if vitals.connected else "fail", "" if vitals.connected else "no broker"),
        Check("loop:turn", "fail" if stuck else "pass", turn),
        Check("commit:progress", "fail" if late else "pass", in_hand),
        Check("archive:writable", "fail" if trouble else "pass", trouble or ""),
        Check("model:loaded", "pass" if vitals.model else "fail", vitals.model or "none: features only"),
        Check("model:wanted", "warn" if vitals.refused_model else "pass", vitals.refused_model or ""),
        Check("mqtt:waiting", "warn" if vitals.waiting_ratio > FULL else "pass", f"{vitals.waiting_ratio:.0%} full"),
        Check(
            "lag:event_time",
            "warn" if vitals.lag is not None and vitals.lag.seconds > LAG_S else "pass",
            "" if vitals.lag is None else vitals.lag.text,
        ),
        *([Check("alarms:budget", "pass", vitals.budget)] if vitals.budget else []),
        Check("machines:heard", "warn" if silent else "pass", f"silent: {silent}" if silent else ""),
    ]


def worst(checks: list[Check]) -> Status:
    """The worst status of all checks."""
    statuses = {check.status for check in checks}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"


def document(checks: list[Check]) -> dict[str, object]:
    """The checks in the format of the IETF draft `application/health+json`."""
    details = {
        check.name: [{"status": check.status} | ({"output": check.output} if check.output else {})] for check in checks
    }
    return {"status": worst(checks), "version": __version__, "checks": details}


@dataclass(slots=True)
class Sparing(Generic[T]):
    """A value that takes long in a large plant, and then is worked out during one hundredth of the time at most."""

    work_out: Callable[[], T]
    clock: Callable[[], float] = time.monotonic
    _found: list[T] = field(default_factory=list)
    _next_s: float = float("-inf")

    def __call__(self) -> T:
        """The value, now or a little earlier."""
        began_s = self.clock()
        if began_s >= self._next_s or not self._found:
            self._found = [self.work_out()]
            took_s = self.clock() - began_s
            self._next_s = began_s + (100 * took_s if took_s > QUICK_S else 0.0)
        return self._found[0]


class Endpoints:
    """The routes of a running service."""

    def __init__(self, live: Live, watch: LoopWatch, telemetry: Telemetry, data_dir: Path, *, capacity: int) -> None:
        self._live, self._watch, self._telemetry = live, watch, telemetry
        self._data_dir, self._capacity = data_dir, capacity
        self._commit_limit_s = max(4.0, 3 * live.rhythm.commit_interval_s)
        self._probe = Probe(data_dir)
        self._was_ready: bool | None = None
        self._silent, self._budget = Sparing(self._silent_machines), Sparing(self._budgets)
        self.refused_model: Callable[[], str | None] = lambda: None
        self.address: str | None = None  # where the page is served; None: nowhere
        self.gauges: list[Callable[[Telemetry], None]] = []  # called at a scrape, to set gauges of other parts
        telemetry.set("build_info", 1, __version__)
        telemetry.set("mqtt_waiting_capacity_messages", capacity)
        telemetry.set("process_start_time_seconds", time.time())

    @property
    def _model(self) -> str | None:
        """The version that serves now."""
        predictor = self._live.engine.predictor
        return predictor.version if predictor else None

    def routes(self) -> dict[str, Route]:
        """Path -> its route."""
        return {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}

    def vitals(self, wait_s: float = PROBE_WAIT_S) -> Vitals:
        """The vitals of this moment; waits at most `wait_s` for the disk."""
        watch, now_s = self._watch, time.monotonic()
        oldest_s = watch.oldest_s
        return Vitals(
            beat_age_s=now_s - watch.beat_s,
            connected=watch.connected,
            uncommitted_age_s=None if oldest_s is None else now_s - oldest_s,
            commit_limit_s=self._commit_limit_s,
            turn_age_s=max(now_s - self._live.committed_s, self._live.rolling_s),
            turn_limit_s=TURN_S + self._live.rhythm.commit_interval_s,
            refusal=self._live.refusal,
            unwritable=self._probe.unwritable(wait_s),
            model=self._model,
            refused_model=self.refused_model(),
            waiting_ratio=watch.waiting / self._capacity,
            silent_machines=self._silent(),
            budget=self._budget(),
            lag=watch.lag.worst(time.time()),
        )

    def ready(self, wait_s: float = PROBE_WAIT_S) -> list[Check]:
        """The checks; a change between ready and not ready is logged."""
        checks = ready_checks(self.vitals(wait_s))
        is_ready = worst(checks) != "fail"
        self._telemetry.set("ready_ratio", is_ready)
        if is_ready != self._was_ready:
            failing = ",".join(check.name for check in checks if check.status == "fail")
            if is_ready:
                log.info("ready")
            else:
                log.warning("not_ready failing=%s", failing)
        self._was_ready = is_ready
        return checks

    def status_line(self) -> str:
        """One line for `systemctl status`."""
        watch, account = self._watch, self._live.account
        link = "connected" if watch.connected else "no broker"
        lag = watch.lag.worst(time.time())
        behind = f", {lag.text}" if lag is not None and lag.seconds > LAG_S else ""
        trouble = f", disk refuses: {self._live.refusal}" if self._live.refusal else ""
        return (
            f"{link}, {len(watch.machines)} machines, {account.committed} messages committed, "
            f"{account.in_flight} in flight, model {self._model or 'none'}{behind}{trouble}"
        )

    def _livez(self) -> Answer:
        vitals = Vitals(beat_age_s=time.monotonic() - self._watch.beat_s)
        return _health_answer(live_checks(vitals))

    def _readyz(self) -> Answer:
        return _health_answer(self.ready())

    def _metrics(self) -> Answer:
        telemetry, live, watch = self._telemetry, self._live, self._watch
        self.ready()
        oldest_s = watch.oldest_s
        telemetry.set("uncommitted_seconds", 0.0 if oldest_s is None else time.monotonic() - oldest_s)
        lag = watch.lag.worst(time.time())
        telemetry.set("lag_seconds", 0.0 if lag is None else max(0.0, lag.seconds))
        telemetry.set("lag_messages", 0 if lag is None else lag.messages)
        telemetry.set("loop_beat_timestamp_seconds", time.time() - (time.monotonic() - watch.beat_s))
        telemetry.set_series("model_info", {(self._model or "none",): 1})
        telemetry.set("mqtt_connected", watch.connected)
        telemetry.set("mqtt_waiting_messages", watch.waiting)
        telemetry.set("results_unsent_total", watch.unsent)
        telemetry.set("disk_refusing", live.refusal is not None)
        telemetry.set("archive_pending_rows", live.pending_rows)
        for name, value in (process_figures() | disk_figures(self._data_dir)).items():
            telemetry.set(name, value)
        for show in self.gauges:
            show(telemetry)
        # The loop replaces the account as a whole: its terms belong to one moment, so their sum is exact.
        terms = asdict(live.account)
        in_flight = terms.pop("in_flight")
        telemetry.set_all(
            {f"messages_{name}_total": n for name, n in terms.items()} | {"messages_in_flight": in_flight}
        )
        return Answer(telemetry.text().encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _budgets(self) -> str:
        """How many streams keep their budget of false alarms, for each verdict; empty without a stream."""
        spec_of, words = self._live.engine.spec_of, dict.fromkeys(("met", "collecting", "exceeded", "undeclared"), 0)
        for key, state in tuple(self._live.states.items()):
            found = budget_of(spec_of(key), state).state
            words[found] = words.get(found, 0) + 1
        return ", ".join(f"{n} {BUDGET_WORDS[word]}" for word, n in words.items() if n)

    def _silent_machines(self) -> tuple[str, ...]:
        before_s = time.time() - SILENT_S
        heard = {m: self._telemetry.value("last_message_timestamp_seconds", m) for m in sorted(self._watch.machines)}
        return tuple(machine for machine, at_s in heard.items() if 0 < at_s < before_s)


def _health_answer(checks: list[Check]) -> Answer:
    status = 503 if worst(checks) == "fail" else 200
    return Answer(json.dumps(document(checks)).encode(), "application/health+json", status)
