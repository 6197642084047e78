"""The shipped model on recordings of rigs that it has never seen: `python -m benchmarks.studies.rigs`.

Every folder of real recordings -> features, one axis of a single-axis rig taken as `x` -> the model, each recording
from a zero state. A recording is named by its highest mean probability. It has an alarm if `[alarm]` as configured
would have raised one. Most recordings last a few seconds, less than an alarm needs, so `alarm` says little about them.
Sound recordings that are named faulty are the errors that people remember.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.studies.pretrain import PRETRAINED, RECORDINGS
from benchmarks.studies.sim_data import dataset
from models import bundle
from models.data.dataset import UNKNOWN
from models.evaluation.events import Track, event_metrics
from models.evaluation.report import table
from models.evaluation.scoring import run
from models.predictor import NumpyPredictor
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config, DataConfig
from pipeline.core.faults import HEALTHY, impossible
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings.recording import find_recordings, parse_channels
from pipeline.service.compose import MakeWorker, opened

RIGS = (  # folder, channels
    ("adi_mfs", "x,y,z"),
    ("paderborn", "vibration=x"),
    ("hit_sm", "vibration=x"),
    ("industrial_pumps", "x,y,z"),
    ("belt_motor", "x,y,z"),
    ("cwru/normal", "drive_end=x"),
    ("cwru/12k_drive_end", "drive_end=x"),
    ("cwru/12k_fan_end", "fan_end=x"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A recording, what it is and what the model says."""

    machine: str
    truth: str
    said: str
    alarm: bool


def main() -> None:
    """Print a table with one line per rig and mode."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.rigs", description=__doc__.split("\n")[0])
    default = Path(os.environ.get("THRUMCAST_SHARED_DATA", RECORDINGS))
    parser.add_argument("--real", type=Path, default=default, help="folder of the rigs [default: %(default)s]")
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="folder of a version [default: the shipped one]")
    parser.add_argument("--keep", type=Path, help="keep the features here, for the next run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thrumcast-rigs-") as temporary:
        kept = asked.keep or Path(temporary)
        rows = [
            (
                rig,
                truth,
                str(len(found)),
                str(sum(v.said == truth for v in found)),
                str(sum(v.alarm for v in found)),
                _counts(found),
            )
            for rig, channels in RIGS
            if (asked.real / rig).is_dir()
            for truth, found in by_truth(verdicts(features(kept, asked.real, rig, channels), asked.model))
        ]
    print(table(("rig", "condition", "recordings", "right", "alarm", "named"), rows))
    sound = [row for row in rows if row[1] == HEALTHY]
    total, right = (sum(int(row[k]) for row in sound) for k in (2, 3))
    print(f"\nsound recordings named faulty: {total - right} of {total}")


def features(kept: Path, source: Path, rig: str, channels: str) -> Config:
    """Features of one rig; what is there already is kept."""
    config = Config(data=DataConfig(dir=str(kept / rig.replace("/", "-"))))
    with opened(config) as (journal, archive):
        jobs = [Job(path, parse_channels(channels), None, "rigs") for path in find_recordings([source / rig])]
        make = MakeWorker(config, None, journal.inputs_done())
        backfill(jobs, make, archive, workers=os.cpu_count() or 1)
    return config


def verdicts(config: Config, folder: Path) -> list[Verdict]:
    """What a version says of each recording of an archive."""
    model = bundle.load(folder)
    classes = model.spec.classes
    tracks = run(NumpyPredictor(model), dataset(config, classes, like=model.spec.inputs).sequences)
    possible = np.array([name not in impossible("", has_gears=False) for name in classes])  # no rig tells its kind
    tracks = [replace(t, p=t.p * possible / (t.p @ possible)[:, None]) for t in tracks]
    return [_verdict(track, classes, config) for track in tracks if track.sequence.y[0] != UNKNOWN]


def by_truth(found: list[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    """The verdicts of each true condition, sound ones first."""
    for truth in sorted({v.truth for v in found}, key=lambda mode: (mode != HEALTHY, mode)):
        yield truth, [v for v in found if v.truth == truth]


def _verdict(track: Track, classes: tuple[str, ...], config: Config) -> Verdict:
    truth, said = (classes[k] for k in (int(track.sequence.y[0]), int(track.p.mean(axis=0).argmax())))
    warm_up = config.model.warm_up_windows
    events = event_metrics([track], classes, alarm_spec(config), warm_up_windows=warm_up)
    raised = sum(events[key] for key in ("false_alarms", "detections", "misdiagnosed")) > 0
    return Verdict(track.sequence.key.machine, truth, said, raised)


def _counts(found: list[Verdict]) -> str:
    said = [v.said for v in found]
    return ", ".join(f"{mode} {said.count(mode)}" for mode in sorted(set(said), key=said.count, reverse=True))


if __name__ == "__main__":
    main()
