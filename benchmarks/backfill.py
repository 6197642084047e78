"""Recordings -> archive with one worker, beside the feature kernels alone on the same windows; CPU time.

Everything is included that `thrumcast backfill` does with a recording: hashing and reading Parquet, order and windows,
features, the journal, Parquet parts. There is no model.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import Effort, cpu_of, median
from benchmarks.report import Row, Section
from benchmarks.vibration import SPEED_RPM, vibration
from pipeline.config.sources import load
from pipeline.config.specs import feature_spec, stream_specs
from pipeline.core import features
from pipeline.core.records import Window
from pipeline.core.stream import advance, initial
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings.recording import open_recording, streams, write_recording
from pipeline.service.compose import MakeWorker, opened

RATE_HZ = 12_000.0
SECONDS = 60
RECORDINGS = 6  # at the smallest effort


def run(effort: Effort) -> Section:
    """Each round backfills all recordings into a new data directory, then computes the same windows' features alone."""
    with tempfile.TemporaryDirectory(prefix="thrumcast-bench-") as place:
        folder = Path(place)
        (folder / "config.toml").touch()  # defaults, whatever lies in the current folder
        paths = [_record(folder / "recordings" / f"motor-{i:02d}.parquet", i) for i in range(RECORDINGS * effort.scale)]
        windows = [window for path in paths for window in _windows(folder, path)]
        spec = feature_spec(load(folder / "config.toml", {}).config)
        features.compute(spec, windows[:16])
        whole_s, kernels_s = [], []
        for number in range(-1, effort.rounds):  # the first one warms up
            whole_s.append(cpu_of(partial(_backfill, folder, folder / f"data{number}", paths, len(windows))))
            kernels_s.append(cpu_of(lambda: features.compute(spec, windows)))
    kernels = len(windows) / median(kernels_s[1:])
    whole = len(windows) / median(whole_s[1:])
    ratio = median([k / w for k, w in zip(kernels_s[1:], whole_s[1:], strict=True)])
    beside = f"its feature kernels alone ({kernels:,.0f} windows/s)"
    row = Row("backfill, one worker", whole, "windows/s", beside, ratio)
    title = f"backfill: {len(paths)} recordings of {SECONDS} s at 12 kHz, one channel, {len(windows)} windows of 1 s"
    document = {"windows_per_s": whole, "kernel_windows_per_s": kernels, "ratio_to_kernels": ratio}
    return Section(title, [row], {"backfill": document})


def _record(path: Path, number: int) -> Path:
    metadata = {"sample_rate_hz": RATE_HZ, "rpm": SPEED_RPM, "units": "g", "dataset": "bench", "recording": path.stem}
    write_recording(path, vibration(1, round(SECONDS * RATE_HZ), RATE_HZ, seed=number), ["x"], metadata)
    return path


def _windows(folder: Path, path: Path) -> list[Window]:
    """The windows that a backfill makes of a recording."""
    spec_of = stream_specs(load(folder / "config.toml", {}).config, {})
    found: list[Window] = []
    for stream in streams(open_recording(path, None), None):
        state = initial(spec_of(stream.key))
        for block in stream.blocks():
            state, windows, _ = advance(spec_of(stream.key), state, [block])
            found += windows
    return found


def _backfill(folder: Path, data_dir: Path, paths: list[Path], expected: int) -> None:
    config = load(folder / "config.toml", {"data.dir": data_dir}).config
    jobs = [Job(path, None, None, "bench") for path in paths]
    with opened(config) as (_, archive):
        make_worker = MakeWorker(config, None, {})
        report = backfill(jobs, make_worker, archive, workers=1)
    if report.windows != expected or report.skipped:
        msg = f"{expected} windows expected, found: {report.windows}, skipped: {report.skipped}"
        raise RuntimeError(msg)
