"""`make results`: what the models reach on real recordings, and what simple methods reach on the same folds.

    python -m benchmarks.results [--recordings FOLDER] [--markdown FILE] [--only TEXT]

Every row is out of fold: train and test share no group of the split. Beside the network stand a random forest on
the same inputs (window by window, no memory), the plain envelope rule (the bearing family with the strongest
lines, no learning), and the majority class. The rule knows no healthy machine: it is scored on fault recordings, beside
a network that is told as much, and on all recordings with a limit below which a machine is healthy. Then the alarms
over the same predictions, and FEMTO as detection (benchmarks/detection.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import detection
from benchmarks.detection import default_recordings
from models.data.dataset import UNKNOWN, Dataset, build, read, read_machines
from models.data.prior import with_simulated
from models.data.splits import Split, make_split
from models.evaluation.events import Track
from models.evaluation.metrics import window_metrics
from models.evaluation.scoring import recording_metrics, score
from models.jobs.train import dataset_spec
from models.settings import TrainSettings
from models.training.folds import choose_aim
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config, DataConfig
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings.recording import find_recordings, parse_channels
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Journal
from pipeline.service.compose import MakeWorker, feature_schema

FAMILIES = {"bearing_outer": "env_bpfo", "bearing_inner": "env_bpfi", "bearing_ball": "env_2bsf"}
TREES = 300
RULE_DB = 10.0  # a line lower than this is none: the floor's own peaks reach about 8 dB
RESAMPLES = 200
NUMBERS = ("recording_accuracy", "macro_f1", "macro_auroc", "ece")
Interval = tuple[float, float]

Source = tuple[str, str]  # folder or file below the recordings, --channels


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is trained and tested on what."""

    name: str
    sources: tuple[Source, ...]
    split: str


CWRU: tuple[Source, ...] = (("cwru/12k_drive_end", "drive_end=x"), ("cwru/normal", "drive_end=x"))
FAN: tuple[Source, ...] = (("cwru/12k_fan_end", "fan_end=x"),)
HIT: tuple[Source, ...] = (("hit_sm", "vibration=x"),)

PROTOCOLS = (
    Protocol("CWRU drive end, by load", CWRU, "load_hp"),
    Protocol("CWRU drive end, leave one size out", CWRU, "fault_size_mil"),
    Protocol("CWRU drive end <-> fan end", CWRU + FAN, "fault_location"),
    Protocol("HIT-SM, by severity", HIT, "fault_arc_deg"),
    Protocol("CWRU <-> HIT-SM, across rigs", CWRU + HIT, "dataset"),
    Protocol("CWRU + HIT-SM, by bearing", CWRU + HIT, "specimen"),
)


def archived(recordings: Path, folder: str, sources: Sequence[Source]) -> Config:
    """A data directory with the features of some recordings."""
    config = Config(data=DataConfig(dir=folder))
    with Journal(config.data.path) as journal:
        archive = Archive(config.data.path, journal, feature_schema(config))
        jobs = [
            Job(path, parse_channels(channels), None, "results")
            for place, channels in sources
            for path in find_recordings([recordings / place])
        ]
        make_worker = MakeWorker(config, None, {})
        report = backfill(jobs, make_worker, archive, workers=os.cpu_count() or 1)
    if report.skipped:
        sys.exit(f"recordings that cannot be read: {report.skipped}")
    return config


def rows(protocol: Protocol, recordings: Path) -> Iterator[dict[str, Any]]:
    """One row per method."""
    with tempfile.TemporaryDirectory(prefix="thrumcast-results-") as folder:
        config = archived(recordings, folder, protocol.sources)
        table = read(config.data.path)
        dataset = build(table, dataset_spec(config, "gain_free"))
        families = build(table, dataset_spec(config, ",".join(FAMILIES.values())))
        settings = TrainSettings()
        facts = read_machines(config.data.path)
        split = make_split(dataset.sequences, dataset.classes, facts, protocol.split, settings.folds)
        specimens = {key.machine: str(known["specimen"]) for key, known in facts.items()}
    network = cache(lambda: _network(with_simulated(dataset, settings, _say), split, settings))
    methods: tuple[tuple[str, Callable[[], Sequence[Track]]], ...] = (
        ("GRU", network),
        ("GRU, told that it is faulty", lambda: _faulty(network(), dataset)),
        ("GRU, recorded machines only", lambda: _network(dataset, split, settings)),
        ("random forest", lambda: _forest(dataset, split)),
        ("envelope rule", lambda: _faulty(_rule(dataset, families, split), dataset)),
        (f"envelope rule, healthy below {RULE_DB:g} dB", lambda: _rule(dataset, families, split)),
        ("majority", lambda: _majority(dataset, split)),
    )
    for name, method in methods:
        began_s = time.monotonic()
        tracks = method()
        numbers = score(tracks, dataset.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
        yield {
            "protocol": protocol.name,
            "split": protocol.split,
            "method": name,
            "recordings": numbers["recordings"]["count"],
            **_numbers(tracks, dataset.classes),
            "interval_90": _intervals(tracks, dataset, specimens),
            "events": numbers["events"],
            "seconds": time.monotonic() - began_s,
        }


def _network(dataset: Dataset, split: Split, settings: TrainSettings) -> Sequence[Track]:
    import torch

    torch.set_num_threads(1)
    held_out = choose_aim(dataset, split, settings, lambda *_: None, say=_say).held_out
    if held_out is None:
        raise KeyboardInterrupt
    return held_out.tracks


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _forest(dataset: Dataset, split: Split) -> list[Track]:
    from sklearn.ensemble import RandomForestClassifier

    tracks = []
    for fold in split.folds:
        x = np.concatenate([s.x for s in fold.train])
        y = np.concatenate([s.y for s in fold.train])
        middle = np.nan_to_num(np.nanmedian(x, axis=0))
        forest = RandomForestClassifier(TREES, class_weight="balanced", random_state=0, n_jobs=1)
        forest.fit(np.where(np.isnan(x), middle, x)[y != UNKNOWN], y[y != UNKNOWN])
        for sequence in fold.test:
            p = np.zeros((len(sequence), len(dataset.classes)))
            p[:, forest.classes_] = forest.predict_proba(np.where(np.isnan(sequence.x), middle, sequence.x))
            tracks.append(_track(sequence, p, split))
    return tracks


def _rule(dataset: Dataset, families: Dataset, split: Split) -> list[Track]:
    """The family with the strongest lines, as a probability by their ratio; healthy is a line of RULE_DB."""
    by_key = {(s.key, int(s.start_ns[0])): s for s in families.sequences}
    order = [families.inputs.index(f"x.{name}") for name in FAMILIES.values()]
    columns = [dataset.classes.index(mode) for mode in FAMILIES if mode in dataset.classes]
    healthy = dataset.classes.index("healthy")
    tracks = []
    for fold in split.folds:
        for sequence in fold.test:
            strength = by_key[sequence.key, int(sequence.start_ns[0])].x[:, order][:, : len(FAMILIES)]
            strength = strength[:, [mode in dataset.classes for mode in FAMILIES]]
            odds = 10.0 ** (np.nan_to_num(strength) / 20)
            p = np.zeros((len(sequence), len(dataset.classes)))
            p[:, columns], p[:, healthy] = odds, 10.0 ** (RULE_DB / 20)
            tracks.append(_track(sequence, p / p.sum(axis=1, keepdims=True), split))
    return tracks


def _faulty(tracks: Sequence[Track], dataset: Dataset) -> list[Track]:
    """Only fault recordings, and what is said of them by who knows that they are such."""
    healthy = dataset.classes.index("healthy")
    told = []
    for track in tracks:
        y = np.where(track.sequence.y == healthy, UNKNOWN, track.sequence.y)
        p = np.where(np.arange(len(dataset.classes)) == healthy, 1e-12, track.p)
        if (y != UNKNOWN).any():
            told.append(Track(replace(track.sequence, y=y), p / p.sum(axis=1, keepdims=True)))
    return told


def _majority(dataset: Dataset, split: Split) -> list[Track]:
    tracks = []
    for fold in split.folds:
        y = np.concatenate([s.y for s in fold.train])
        share = np.bincount(y[y != UNKNOWN], minlength=len(dataset.classes)) / (y != UNKNOWN).sum()
        tracks += [_track(s, np.tile(share, (len(s), 1)), split) for s in fold.test]
    return tracks


def _track(sequence: Any, p: np.ndarray, split: Split) -> Track:
    return Track(replace(sequence, y=np.where(np.isin(sequence.y, split.untested), UNKNOWN, sequence.y)), p)


def _intervals(tracks: Sequence[Track], dataset: Dataset, specimens: Mapping[str, str]) -> dict[str, Interval]:
    """5 % and 95 % of every number, resampling physical bearings: recordings of one bearing are no two witnesses."""
    of_bearing: dict[str, list[Track]] = {}
    for track in tracks:
        machine = track.sequence.key.machine
        of_bearing.setdefault(specimens.get(machine, machine), []).append(track)
    bearings, rng = list(of_bearing.values()), np.random.default_rng(0)
    drawn: dict[str, list[float]] = {name: [] for name in NUMBERS}
    for draw in rng.integers(len(bearings), size=(RESAMPLES, len(bearings))):
        numbers = _numbers([track for place in draw for track in bearings[place]], dataset.classes)
        for name in NUMBERS:
            drawn[name].append(np.nan if numbers[name] is None else numbers[name])
    return {name: (float(np.nanquantile(v, 0.05)), float(np.nanquantile(v, 0.95))) for name, v in drawn.items()}


def _numbers(tracks: Sequence[Track], classes: Sequence[str]) -> dict[str, float | None]:
    y = np.concatenate([track.sequence.y for track in tracks])
    p = np.concatenate([track.p for track in tracks])[y != UNKNOWN]
    windows = window_metrics(y[y != UNKNOWN], p, classes)
    return {"recording_accuracy": recording_metrics(tracks, classes)["accuracy"]} | {
        name: windows[name] for name in NUMBERS[1:]
    }


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| protocol (groups of the split) | method | recordings | recording accuracy (90 % interval) "
        "| macro F1 of windows | macro AUROC | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        numbers = [
            "-" if row[name] is None else f"{row[name]:.3f}{_bracket(row['interval_90'][name], 2)}" for name in NUMBERS
        ]
        where = f"{row['protocol']} ({row['split']})"
        lines.append(f"| {where} | {row['method']} | {row['recordings']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def events_markdown(found: Sequence[dict[str, Any]]) -> str:
    """What an operator would have seen: the alarms of the service over the same held-out predictions."""
    lines = [
        "| protocol | method | faults judged | too short to judge | detected (90 % interval) | standing "
        "| misdiagnosed | missed | delay, median s (90 % interval) "
        "| false alarms | in machine-days | per machine-day, 95 % below |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        events = row["events"]
        if not events["episodes"] + events["too_short"]:
            continue
        between, delay = events["interval_90"], events["detection_delay_s"]["median"]
        detected = f"{events['detections']}" + _bracket(between["detected_share"], 2)
        late = "-" if delay is None else f"{delay:.1f}" + _bracket(between["delay_median_s"], 1)
        upper = events["false_alarms_per_machine_day_upper"]
        cells = [row["protocol"], row["method"], events["episodes"], events["too_short"], detected]
        cells += [events["standing"], events["misdiagnosed"], events["missed"], late, events["false_alarms"]]
        cells += [f"{events['healthy_machine_days']:.4f}", "-" if upper is None else f"{upper:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _bracket(interval: Sequence[float] | None, digits: int) -> str:
    return "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=default_recordings())
    parser.add_argument("--markdown", type=Path, default=None, help="also write the table to this file")
    parser.add_argument("--only", default="", metavar="TEXT", help="only protocols whose name has this in it")
    chosen = parser.parse_args()
    if not chosen.recordings.is_dir():
        sys.exit(f"a folder of recordings expected, found nothing: {chosen.recordings}")
    found = []
    for protocol in (each for each in PROTOCOLS if chosen.only in each.name):
        for row in rows(protocol, chosen.recordings):
            found.append(row)
            print(markdown([row]).splitlines()[-1], f"{row['seconds']:.1f} s", file=sys.stderr)
    tables = "\n\n".join((markdown(found), events_markdown(found), detection.markdown(chosen.recordings)))
    print(tables)
    if chosen.markdown is not None:
        chosen.markdown.write_text(tables + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
