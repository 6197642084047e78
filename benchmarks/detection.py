"""FEMTO as detection: bearings that ran until they failed, without any name for what failed.

    python -m benchmarks.detection [--recordings FOLDER]

Every snapshot of 0.1 s is one window. The first `COMMISSIONING` snapshots of each bearing are its baseline, frozen; all
else is the service's own configuration, the same for every life. A life is *alarmed* if an alarm is up when it ends;
the lead time is from when that one was raised. *False episodes* are alarms raised in the first half of what was
recorded of a bearing, the truncated recordings included. Intervals resample bearings.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models import bundle
from models.data.dataset import read, read_machines
from models.evaluation.events import DAY_S, interval_90, poisson_upper
from models.evaluation.report import table
from models.predictor import NumpyPredictor
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config, DataConfig, MachineTable, WindowConfig
from pipeline.core.alarm import OTHER, AlarmSpec, AlarmState, judge
from pipeline.core.faults import HEALTHY
from pipeline.core.features.table import COLUMN, NAMES, stacked_inputs
from pipeline.core.records import FeatureRow
from pipeline.core.severity import floor
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings.recording import find_recordings, open_recording, parse_channels
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.edges.store.read import rows_of
from pipeline.service.compose import MakeWorker, feature_schema

COMMISSIONING = 60  # snapshots: ten minutes
SNAPSHOT_S = 0.1
MODEL = Path(__file__).resolve().parents[1] / "models" / "pretrained"
SIGMAS = 3.0
IMPULSIVE = 4.0  # kurtosis; a Gaussian has 3

Said = tuple[dict[str, float], str | None]  # probabilities, and the least that the window is worth (zone A to D)
Method = Callable[[Sequence[FeatureRow]], list[Said]]


@dataclass(frozen=True, slots=True)
class Life:
    """The snapshots of one bearing, the oldest first."""

    machine: str
    rows: Sequence[FeatureRow]
    commissioning: int  # how many of them make the baseline
    to_the_end: bool  # else the recording was cut before the failure


@dataclass(frozen=True, slots=True)
class Watched:
    """What a method said of a life."""

    life: Life
    lead_s: float | None  # of the alarm that is up at the end
    false_episodes: int  # raised in the first half
    early_s: float  # of the first half, after the baseline


def default_recordings() -> Path:
    """Where the recordings are unless somebody says otherwise."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("THRUMCAST_SHARED_DATA", beside))


def lives(recordings: Path, commissioning: int) -> tuple[list[Life], AlarmSpec]:
    """Features of all bearings, as `thrumcast backfill` computes them, and the alarm settings of the service."""
    paths = find_recordings([recordings / "femto"])
    healthy = {open_recording(path).machine: MachineTable(commissioning_windows=commissioning) for path in paths}
    with tempfile.TemporaryDirectory(prefix="thrumcast-detection-") as folder:
        window = WindowConfig(length_s=SNAPSHOT_S, hop_s=SNAPSHOT_S)
        config = Config(data=DataConfig(dir=folder), window=window, machines=healthy)
        channels = parse_channels("horiz=x,vert=y")
        with Journal(config.data.path) as journal:
            archive = Archive(config.data.path, journal, feature_schema(config))
            make_worker = MakeWorker(config, None, {})
            jobs = [Job(path, channels, None, "detection") for path in paths]
            report = backfill(jobs, make_worker, archive, workers=os.cpu_count() or 1)
        if report.skipped:
            sys.exit(f"recordings that cannot be read: {report.skipped}")
        facts = read_machines(config.data.path)
        found = [
            Life(key.machine, of_stream, commissioning, not facts[key].get("truncated"))
            for key, of_stream in rows_of(read(config.data.path), NAMES).items()
        ]
    return found, alarm_spec(config)


def own_baseline(rows: Sequence[FeatureRow]) -> list[Said]:
    """The service's floor under the alarms, and a network that has nothing to say."""
    return [({HEALTHY: 1.0}, floor(row, None)) for row in rows]


def network(*, by_mode: bool, with_floor: bool) -> Method:
    """The model that ships with the package, stepped as in serving."""

    def say(rows: Sequence[FeatureRow]) -> list[Said]:
        predictor = NumpyPredictor(bundle.load(MODEL))
        h, said = predictor.initial(1), list[Said]()
        for row in rows:
            p, h = predictor.step(stacked_inputs(predictor.inputs, [row]), h)
            of_mode = dict(zip(predictor.classes, p[0].tolist(), strict=True))
            fault = {HEALTHY: of_mode[HEALTHY], OTHER: 1.0 - of_mode[HEALTHY]}
            said.append((of_mode if by_mode else fault, floor(row, None) if with_floor else None))
        return said

    return say


def rms_sigmas(rows: Sequence[FeatureRow]) -> list[Said]:
    """RMS of any channel above mean + 3 standard deviations of the first part: the textbook's threshold."""
    rms = np.stack([row.values[:, COLUMN["rms"]] for row in rows])
    first = rms[:COMMISSIONING]
    return _threshold((rms > first.mean(axis=0) + SIGMAS * first.std(axis=0)).any(axis=1))


def kurtosis(rows: Sequence[FeatureRow]) -> list[Said]:
    """Kurtosis of any channel above 4."""
    return _threshold(np.stack([row.values[:, COLUMN["kurtosis"]] for row in rows]).max(axis=1) > IMPULSIVE)


def _threshold(beyond: np.ndarray) -> list[Said]:
    return [({HEALTHY: 0.0, OTHER: 1.0} if over else {HEALTHY: 1.0, OTHER: 0.0}, None) for over in beyond.tolist()]


def watch(life: Life, method: Method, spec: AlarmSpec) -> Watched:
    """Run the alarm machine over a life."""
    state, first, half = AlarmState(), life.commissioning, len(life.rows) // 2
    said, false = method(life.rows), 0
    raised: dict[str, int] = {}
    for number in range(first, len(life.rows)):
        row, (probabilities, zone) = life.rows[number], said[number]
        state, changes = judge(spec, state, row.key, probabilities, row.start_ns, row.end_ns, zone=zone)
        for change in changes:
            if change.type == "raised":
                raised[change.id] = change.at_ns
                false += number < half
            elif change.type in ("cleared", "revoked"):
                del raised[change.id]
    end_ns = life.rows[-1].end_ns
    up = min(raised.values(), default=end_ns)
    early_s = max(0, life.rows[half].start_ns - life.rows[first].start_ns) / 1e9
    return Watched(life, (end_ns - up) / 1e9 if up < end_ns else None, false, early_s)


def methods(spec: AlarmSpec) -> dict[str, tuple[Method, AlarmSpec]]:
    """What is compared, and the alarm settings of each."""
    return {
        "own baseline: RMS 12 sigma above it, as the service": (own_baseline, spec),
        "network: 1 - p(healthy)": (network(by_mode=False, with_floor=False), spec),
        "network by mode and own baseline": (network(by_mode=True, with_floor=True), spec),
        "RMS above mean + 3 sigma": (rms_sigmas, spec),
        "RMS above mean + 3 sigma, one snapshot is enough": (rms_sigmas, replace(spec, enter_s=0.0)),
        "kurtosis above 4": (kurtosis, spec),
    }


def numbers(watched: Sequence[Watched]) -> tuple[str, ...]:
    """One row: lives alarmed, lead times, false episodes."""
    whole = [each for each in watched if each.life.to_the_end]
    leads = [each.lead_s for each in whole if each.lead_s is not None]
    lead = "-"
    if leads:
        between = interval_90(leads, lambda some: float(np.median(some)))
        lead = f"{np.median(leads):.0f}" + (f" ({between[0]:.0f} to {between[1]:.0f})" if between else "")
    false, days = sum(each.false_episodes for each in watched), sum(each.early_s for each in watched) / DAY_S
    rate = interval_90(watched, lambda some: sum(e.false_episodes for e in some) / sum(e.early_s for e in some) * DAY_S)
    calm = sum(each.false_episodes == 0 for each in watched)
    shown = f"{false / days:.1f}" + (f" ({rate[0]:.1f} to {rate[1]:.1f})" if rate else "")
    return (
        f"{len(leads)} of {len(whole)}",
        lead,
        " ".join(f"{each.lead_s:.0f}" if each.lead_s is not None else "-" for each in whole),
        f"{false} on {len(watched) - calm} of {len(watched)}",
        f"{shown}, below {poisson_upper(false) / days:.1f}",
    )


HEAD = (
    "method",
    "lives alarmed at their end",
    "lead time, median s (90 % interval)",
    "of each life, s",
    "false episodes in the first half",
    "per machine-day (90 % interval), 95 % Poisson limit",
)


def found(recordings: Path) -> list[tuple[str, ...]]:
    """All rows of the table."""
    rows = []
    bearings, spec = lives(recordings, COMMISSIONING)
    for name, (method, own) in methods(spec).items():
        rows.append((name, *numbers([watch(life, method, own) for life in bearings])))
    for commissioning in (COMMISSIONING // 2, 2 * COMMISSIONING):
        others, spec = lives(recordings, commissioning)
        name = f"own baseline of {commissioning} snapshots instead of {COMMISSIONING}"
        rows.append((name, *numbers([watch(life, own_baseline, spec) for life in others])))
    return rows


def markdown(recordings: Path) -> str:
    """The table for docs/results.md."""
    rows = found(recordings)
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=default_recordings())
    print(table(HEAD, found(parser.parse_args().recordings)))


if __name__ == "__main__":
    main()
