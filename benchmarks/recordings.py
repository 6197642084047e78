"""`thrumcast backfill` of the shared recordings on two processes, beside the feature kernels alone on two processes.

The recordings are backfilled by the command itself, started afresh each time: once as they are, once with as many
copies again under other names. The difference of the two is what a further recording costs once everything is loaded;
the smaller run alone is what a person waits for. Rates are by wall clock. Other programs may be running, so CPU time is
printed beside them: of all processes of the command, and of the kernels in the same round. A window is
one of all channels of a recording: the shared ones have 2.7 on average.

Quick takes an eighth of the recordings, and more copies of them, because the start must not outweigh what is measured;
it counts CPU time only, because other programs distort the wall clock of such a short run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measure import Effort, median
from benchmarks.report import Row, Section
from benchmarks.vibration import SPEED_RPM, vibration
from pipeline.config.sources import load
from pipeline.config.specs import default_spec, feature_spec
from pipeline.core import features
from pipeline.core.records import Block, Window
from pipeline.core.window import length_and_hop
from pipeline.edges.recordings.recording import find_recordings, open_recording, streams, write_recording
from pipeline.errors import RecordingError

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("cwru", "hit_sm")  # the recordings that are longer than a window
RATE_HZ, LENGTH, HOP = 12_000.0, 4096, 1024  # at the common rate to which all of them are brought
SETTINGS = {"window.length_s": LENGTH / RATE_HZ, "window.hop_s": HOP / RATE_HZ}
SIMULATED, SIMULATED_S, CHANNELS = 64, 10, ("drive_end", "fan_end", "base")  # where the shared ones are not at hand
PROCESSES = 2
QUICK_PART, QUICK_COPIES = 8, 16
LOOK_S = 0.02
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of some windows took."""

    windows: int
    wall_s: float
    cpu_s: float  # of all processes
    peak_mib: float = 0.0  # resident memory of the largest process

    @property
    def per_s(self) -> float:
        """Windows per second."""
        return self.windows / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Per window."""
        return self.cpu_s / self.windows * 1e6


def run(effort: Effort) -> Section:
    """Each round: the kernels, the recordings, the recordings with their copies."""
    source = Path(os.environ.get("THRUMCAST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    quick = effort.rounds == 1
    copies = QUICK_COPIES if quick else effort.scale
    with tempfile.TemporaryDirectory(prefix="thrumcast-bench-") as place:
        folder = Path(place)
        (folder / "config.toml").touch()  # defaults, whatever lies in the current folder
        there = source.is_dir()
        found = find_recordings([source / name for name in PLACES]) if there else _simulated(folder / "simulated")
        found = found[:: QUICK_PART if quick else 1]
        for number in range(copies):
            for path in found:
                target = (
                    folder / ("few" if number == 0 else "more") / f"{path.parent.name}-{path.stem}-{number}.parquet"
                )
                _copy(path, target, number)
        few, more = [folder / "few"], [folder / "few", folder / "more"]
        with _Kernels(find_recordings(few)) as kernels:
            rounds = [(kernels.run(), _backfill(folder, few), _backfill(folder, more)) for _ in range(effort.rounds)]
    title = f"recordings: {len(found)} {'shared' if there else 'simulated'} ones, and {copies} times as many"
    return _section(f"{title}, on two workers", len(found) * copies, rounds, by_clock=not quick)


def _section(title: str, most: int, rounds: list[tuple[Run, Run, Run]], *, by_clock: bool) -> Section:
    def of(value: Callable[[Run, Run, Run], float]) -> float:
        return median([value(kernels, few, more) for kernels, few, more in rounds])

    def row(name: str, key: str, unit: str, compared_with: str, ratio: str) -> Row:
        return Row(name, document[key], unit, compared_with, document[ratio])

    kernels, few, more = rounds[0]
    if kernels.windows != few.windows:
        msg = f"as many windows of a backfill as of the kernels expected, {kernels.windows}, found: {few.windows}"
        raise RuntimeError(msg)
    document = {
        "kernel_cpu_us": of(lambda kernels, few, more: kernels.cpu_us),
        "cpu_us": of(lambda kernels, few, more: _further(few, more).cpu_us),
        "cpu_ratio_to_kernels": of(lambda kernels, few, more: kernels.cpu_us / _further(few, more).cpu_us),
        "start_cpu_s": of(lambda kernels, few, more: few.cpu_s - few.windows * _further(few, more).cpu_us / 1e6),
        "peak_mib": of(lambda kernels, few, more: more.peak_mib),
        "memory_growth": of(lambda kernels, few, more: more.peak_mib / few.peak_mib),
    }
    kernels_us = f"under the kernels' CPU time ({document['kernel_cpu_us']:.0f} us); to start takes"
    fewer = f"the same with {few.windows} windows instead of {more.windows}, in {most} recordings"
    rows = [
        row(
            "backfill, CPU time of all processes",
            "cpu_us",
            "us/window",
            f"{kernels_us} {document['start_cpu_s']:.2g} s",
            "cpu_ratio_to_kernels",
        ),
        row("largest process, peak", "peak_mib", "MiB", fewer, "memory_growth"),
    ]
    if by_clock:
        document |= {
            "kernel_windows_per_s": of(lambda kernels, few, more: kernels.per_s),
            "windows_per_s": of(lambda kernels, few, more: _further(few, more).per_s),
            "ratio_to_kernels": of(lambda kernels, few, more: _further(few, more).per_s / kernels.per_s),
            "start_s": of(lambda kernels, few, more: few.wall_s - few.windows / _further(few, more).per_s),
            "command_per_s": of(lambda kernels, few, more: few.per_s),
            "command_ratio": of(lambda kernels, few, more: few.per_s / kernels.per_s),
            "longer_per_s": of(lambda kernels, few, more: more.per_s),
            "longer_ratio": of(lambda kernels, few, more: more.per_s / kernels.per_s),
        }
        alone = f"the kernels alone, two processes at once ({document['kernel_windows_per_s']:,.0f} windows/s)"
        start = f"the same kernels; {document['start_s']:.2g} s of it are the start"
        rows += [
            row("backfill, each further recording", "windows_per_s", "windows/s", alone, "ratio_to_kernels"),
            row(f"whole command, {few.windows} windows", "command_per_s", "windows/s", start, "command_ratio"),
            row(f"whole command, {more.windows} windows", "longer_per_s", "windows/s", start, "longer_ratio"),
        ]
    return Section(f"{title}; windows of 4096 at 12 kHz, hop 1024", rows, {"recordings": document})


def _further(few: Run, more: Run) -> Run:
    """What the copies cost beyond the originals: everything is loaded by then."""
    return Run(more.windows - few.windows, more.wall_s - few.wall_s, more.cpu_s - few.cpu_s)


def _simulated(folder: Path) -> list[Path]:
    """In place of the shared recordings: as many, of about their length and channels."""
    paths = [folder / f"motor-{number:02d}.parquet" for number in range(SIMULATED)]
    for number, path in enumerate(paths):
        samples = vibration(len(CHANNELS), round(SIMULATED_S * RATE_HZ), RATE_HZ, seed=number)
        metadata = {
            "sample_rate_hz": RATE_HZ,
            "rpm": SPEED_RPM,
            "units": "g",
            "dataset": "bench",
            "recording": path.stem,
        }
        write_recording(path, samples, CHANNELS, metadata)
    return paths


def _copy(path: Path, target: Path, number: int) -> None:
    """The same samples as another recording."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"recording_metadata"])
    about["recording"] = f"{about['recording']}-{number}"
    target.parent.mkdir(exist_ok=True)
    about_text = {"recording_metadata": json.dumps(about)}
    pq.write_table(table.replace_schema_metadata(about_text), target, compression="zstd", row_group_size=262_144)


class _Kernels:
    """Two processes that hold the windows of half the recordings each, and do nothing but compute their features."""

    def __init__(self, paths: list[Path]) -> None:
        context = get_context("spawn")
        halves = [paths[i::PROCESSES] for i in range(PROCESSES)]
        self._pools = [ProcessPoolExecutor(1, context, _hold, (half,)) for half in halves]

    def __enter__(self) -> _Kernels:
        self.run()  # loads and warms up
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def run(self) -> Run:
        began_s = time.perf_counter()
        halves = [pool.submit(_compute) for pool in self._pools]
        made = [half.result() for half in halves]
        wall_s = time.perf_counter() - began_s
        return Run(sum(windows for windows, _ in made), wall_s, sum(cpu_s for _, cpu_s in made))


_held: list[list[Window]] = []


def _hold(paths: list[Path]) -> None:
    usual = default_spec().window
    spec = replace(usual, length_s=SETTINGS["window.length_s"], hop_s=SETTINGS["window.hop_s"])
    for path in paths:
        recording = open_recording(path, None)
        length, hop = length_and_hop(spec, recording.rate_hz)
        for stream in streams(recording, None):
            whole = next(iter(stream.blocks(recording.samples / recording.rate_hz)))
            starts = range(0, recording.samples - length + 1, hop)
            _held.append([_window(whole, number, start, length) for number, start in enumerate(starts)])


def _window(block: Block, number: int, start: int, length: int) -> Window:
    def time_ns(sample: int) -> int:
        return block.t0_ns + round(sample * 1e9 / block.rate_hz)

    return Window(
        key=block.key,
        session=block.session,
        number=number,
        start_ns=time_ns(start),
        end_ns=time_ns(start + length),
        rate_hz=block.rate_hz,
        channels=block.channels,
        unit=block.unit,
        samples=block.samples[:, start : start + length],
        coverage=1.0,
        speed_rpm=block.speed_rpm,
        orders=block.orders,
        truth=block.truth,
    )


def _compute() -> tuple[int, float]:
    spec = feature_spec(load(None, SETTINGS).config)
    before_s = time.process_time()
    for windows in _held:
        features.compute(spec, windows)
    return sum(map(len, _held)), time.process_time() - before_s


def _backfill(folder: Path, inputs: list[Path]) -> Run:
    """The command, watched from outside: its time, and the memory and CPU time of all its processes."""
    with tempfile.TemporaryDirectory(dir=folder) as data:
        command = [sys.executable, "-m", "pipeline", "backfill", *map(str, inputs), "--data", data, "--json"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("THRUMCAST_")}
        env |= {f"THRUMCAST_{key.replace('.', '__').upper()}": str(value) for key, value in SETTINGS.items()}
        env |= {"PYTHONPATH": str(ROOT)}
        began_s = time.perf_counter()
        with subprocess.Popen(
            [*command, "--workers", str(PROCESSES)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            seen: dict[int, tuple[float, float]] = {}
            while process.poll() is None:
                seen |= _processes(process.pid)
                time.sleep(LOOK_S)
            wall_s = time.perf_counter() - began_s
            out, err = process.communicate()
    if process.returncode:
        msg = f"a backfill that ends well expected, found: exit code {process.returncode}: {err.decode()[-500:]}"
        raise RecordingError(msg)
    cpu_s, peak_mib = zip(*seen.values(), strict=True)
    return Run(json.loads(out)["windows"], wall_s, sum(cpu_s), max(peak_mib))


def _processes(pid: int) -> dict[int, tuple[float, float]]:
    """A process and all below it: CPU seconds and peak resident MiB so far."""
    place = Path(f"/proc/{pid}")
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        peak_mib = int(status["VmHWM"].split()[0]) / _KIB
        below = (place / "task" / str(pid) / "children").read_text().split()
    except (OSError, ValueError, KeyError):
        return {}  # it has just ended
    found = {pid: (cpu_s, peak_mib)}
    for child in below:
        found |= _processes(int(child))
    return found
