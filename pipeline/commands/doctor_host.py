"""The doctor looks at this machine: the data directory and its disk, the model, the service."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pipeline.commands.doctor_report import Finding
from pipeline.commands.status import Found, ask
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.store.database import JOURNAL_NAME, view_journal
from pipeline.errors import NotReachable, ThrumcastError

if TYPE_CHECKING:
    from pipeline.config.tables import Config

SLOW_FSYNC_S = 0.2
LOW_BYTES = 2 * 2**30
_FSYNCS = 5


def look_at_disk(directory: Path) -> tuple[list[Finding], float]:
    """Whether the data directory can be written, how much is free, and how long a write takes to be safe, in s."""
    place = directory
    while not place.exists():
        place = place.parent
    try:
        fsync_s = fsync_time_s(place)
    except OSError as error:
        advice = "choose another data.dir, or give it to the user that runs the service"
        return [Finding("disk:writable", "fail", f"{place}: {error.strerror}", advice)], SLOW_FSYNC_S
    free = shutil.disk_usage(place).free
    findings = [
        Finding("disk:writable", "pass", f"{directory}" + ("" if place == directory else " (will be made)")),
        Finding(
            "disk:free",
            "pass" if free > LOW_BYTES else "warn",
            f"{free / 1e9:.1f} GB",
            "`thrumcast archive prune --keep 90d --yes` removes old days; snapshots hold on to theirs",
        ),
        Finding(
            "disk:fsync",
            "pass" if fsync_s < SLOW_FSYNC_S else "warn",
            f"{fsync_s * 1e3:.1f} ms until a write is safe (median of {_FSYNCS})",
            "every commit waits for it: a local SSD is better than a network disk or an SD card",
        ),
    ]
    return findings, fsync_s


def fsync_time_s(directory: Path) -> float:
    """Median time to write 64 KiB and have it on the disk."""
    path, times_s = directory / f".doctor.{os.getpid()}", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_FSYNCS):
            began_s = time.perf_counter()
            os.write(descriptor, bytes(65536))
            os.fsync(descriptor)
            times_s.append(time.perf_counter() - began_s)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(times_s)


def look_at_data(config: Config, service: Found | None = None) -> list[Finding]:
    """Journal, facts of machines and the model that would serve; a service that runs may have them elsewhere."""
    directory = config.data.path
    findings = []
    try:
        view = view_journal(directory, ()) if (directory / JOURNAL_NAME).exists() else None
        found = (
            f"no journal yet in {directory}"
            if view is None
            else f"{len(view.parts)} files, {sum(p.rows for p in view.parts)} rows"
        )
        findings.append(Finding("data:journal", "pass", found))
    except ThrumcastError as error:
        findings.append(Finding("data:journal", "fail", error.message, error.hint or ""))
    try:
        streams = len(MachinesFile(directory / MACHINES_NAME).load())
        findings.append(Finding("data:machines", "pass", f"facts of {streams} streams"))
    except ThrumcastError as error:
        findings.append(Finding("data:machines", "fail", error.message, error.hint or ""))
    try:
        from pipeline.service.models import load_bundle, model_set

        bundle = load_bundle(config)
        model = None if bundle is None else model_set(config, bundle).predictor
        advice = "features are archived all the same; `thrumcast train` makes a model"
        status, serves = ("", "") if service is None else service.checks.get("model:loaded", ("", ""))
        if service is not None and status == "pass":
            advice = f"the service at {service.address} serves {serves}: name its data directory with --data"
        shown = f"no {config.model.alias} in {directory}"
        if model is not None:
            shown = f"{config.model.alias} is {model.version}"
        findings.append(Finding("model:loaded", "warn" if model is None else "pass", shown, advice))
    except ThrumcastError as error:
        findings.append(Finding("model:loaded", "fail", error.message, error.hint or ""))
    return findings


def look_at_service(config: Config) -> tuple[Finding, Found | None]:
    """Whether one runs here, and how it is."""
    try:
        found = ask(config.web.bind, 2.0)
    except NotReachable:
        return Finding("service:ready", "skip", f"none answers at {config.web.bind}"), None
    failing = ", ".join(name for name, check in found.checks.items() if check[0] == "fail")
    advice = "docs/operations.md says what each check means"
    if failing:
        return Finding("service:ready", "warn", f"{found.address}: failing {failing}", advice), found
    return Finding("service:ready", "pass", found.address), found
