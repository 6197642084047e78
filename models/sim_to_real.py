"""How far the simulator carries: `python -m models.sim_to_real --real FOLDER` writes the two tables, in minutes.

    simulated -> simulated   every failure mode; tested on machines of a population moved by 30 %
    simulated -> recorded    healthy, inner, outer, ball of recorded bearings, beside chance, the envelope rule
                             and a network that was trained on other real bearings
    few recordings           a network that begins with what the simulator taught it against one from scratch

Real bearings are never on both sides: folds and draws are by specimen. One axis, as the recordings have one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.augment import Augmentation
from models.crossval import config_of, cross_validate, examples_of, fit_scaler
from models.dataset import Dataset, DatasetSpec, WindowSequence, build, read, read_machines
from models.events import Track
from models.finalfit import final_fit
from models.metrics import macro_auroc, softmax
from models.network import RecurrentNetwork
from models.scaling import Scaler
from models.scoring import score
from models.settings import TrainSettings
from models.splits import group_of, make_split
from models.train import alarm_spec
from models.training import epochs_for, fit, predict
from pipeline.commands.compose import MakeWorker, opened
from pipeline.commands.sim_archive import fill
from pipeline.config import Config, DataConfig
from pipeline.drivers.backfill import Job, backfill
from pipeline.edges.recordings import find_recordings, parse_channels
from sim.fleet import Plant
from sim.recipe import training_machine

BEARING = ("healthy", "bearing_inner", "bearing_outer", "bearing_ball")
REAL = (  # folder, channel, what it is called here
    ("cwru/12k_drive_end", "drive_end=x"),
    ("cwru/12k_fan_end", "fan_end=x"),
    ("cwru/normal", "drive_end=x"),
    ("hit_sm", "vibration=x"),
)
RULE_DB = 10.0  # a line lower than this is none; lines are lower than the floor's own peaks below about 8 dB
SEED, TEST_SEED = 20_260_101, 20_260_102
SHIFT = 0.3
SHOTS = (1, 2, 4)  # bearings per mode
DRAWS = 3

say = partial(print, file=sys.stderr, flush=True)


def simulated(folder: Path, machines: int, seconds: float, *, seed: int, shift: float, modes: Sequence[str]) -> Config:
    """Features of simulated machines of these modes, one axis; what is there already is kept."""
    config = Config(data=DataConfig(dir=str(folder)))
    if (folder / "archive").exists():
        return config
    drawn: list[Any] = []
    number = 0
    while len(drawn) < machines:
        machine = training_machine(seed, number, seconds, shift=shift)
        if {*machine.life.modes} <= set(modes):
            drawn.append(machine)
        number += 1
    plant = Plant(tuple(drawn), axes=("x",))
    for done, _ in enumerate(fill(plant, seconds, config, workers=os.cpu_count() or 1), 1):
        if done % 60 == 0:
            say(f"{folder.name}: {done} of {machines} machines")
    return config


def recorded(folder: Path, source: Path) -> Config:
    """Features of the real recordings; what is there already is kept."""
    config = Config(data=DataConfig(dir=str(folder)))
    with opened(config) as (journal, archive):
        for name, channels in REAL:
            jobs = [Job(p, parse_channels(channels), None, "sim_to_real") for p in find_recordings([source / name])]
            make = MakeWorker(config, None, journal.inputs_done())
            report = backfill(jobs, make, archive, workers=os.cpu_count() or 1)
            say(f"{name}: {report.windows} windows, {len(report.skipped)} skipped")
    return config


def dataset(config: Config, modes: Sequence[str], like: Dataset | None = None) -> Dataset:
    """Sequences with these classes, and with the inputs of another data set if one is given."""
    spec = DatasetSpec(config.modes.names, config.modes.resolve, config.model.max_gap_s)
    exact = replace(spec, exact_classes=tuple(modes), exact_inputs=None if like is None else like.inputs)
    return build(read(config.data.path), exact)


def trained(data: Dataset, settings: TrainSettings) -> tuple[RecurrentNetwork, Scaler]:
    """A network of everything in `data`."""
    settings = replace(settings, members=1)  # what another training begins with is one network
    model = final_fit(data, settings, None, lambda *_: None)
    network = RecurrentNetwork(config_of(data, settings))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()})
    return network.eval(), model.scaler


def judged(network: RecurrentNetwork, scaler: Scaler, sequences: Sequence[WindowSequence]) -> list[Track]:
    """What a network says of sequences."""
    logits = predict(network, examples_of(sequences, scaler))
    return [Track(s, softmax(one)) for s, one in zip(sequences, logits, strict=True)]


def envelope_rule(data: Dataset) -> list[Track]:
    """What an analyst does first: the highest line of the three families, if it stands out at all."""
    columns = [data.inputs.index(f"x.env_{line}") for line in ("bpfi", "bpfo", "2bsf")]
    tracks = []
    for sequence in data.sequences:
        lines = np.nan_to_num(sequence.x[:, columns], nan=0.0)
        verdict = np.where(lines.max(axis=1) < RULE_DB, 0, 1 + lines.argmax(axis=1))
        tracks.append(Track(sequence, np.eye(len(data.classes))[verdict]))
    return tracks


def numbers(tracks: Iterable[Track], data: Dataset, config: Config) -> dict[str, Any]:
    """The few numbers of a row."""
    full = score(list(tracks), data.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
    matrix = np.array(full["confusion"]["matrix"])
    there = matrix.sum(axis=1) > 0
    recall = np.diag(matrix)[there] / matrix.sum(axis=1)[there]
    keys = ("accuracy", "macro_f1", "macro_auroc")
    return {
        **{key: full[key] for key in keys},
        "balanced_accuracy": float(recall.mean()),
        "chance": float(1 / there.sum()),
        "recordings": full["recordings"]["accuracy"],
        "events": full["events"],
        "per_class": full["per_class"],
    }


def few_shots(
    real: Dataset, facts: Any, start: RecurrentNetwork, scaler: Scaler, settings: TrainSettings, config: Config
) -> list[dict[str, Any]]:
    """Balanced accuracy on all other bearings after learning from a few, with and without the simulator."""
    groups = np.array(group_of(real.sequences, facts, "specimen"))
    class_of = {
        group: int(np.bincount(s.y[s.y >= 0]).argmax()) for group, s in zip(groups, real.sequences, strict=True)
    }
    rows = []
    for shots in SHOTS:
        scores: dict[str, list[float]] = {"from scratch": [], "from the simulator": []}
        for draw in range(DRAWS):
            rng = np.random.default_rng((SEED, shots, draw))
            taken: set[str] = set()
            for k in range(len(real.classes)):
                names = sorted(group for group, mine in class_of.items() if mine == k)
                room = min(shots, max(1, len(names) - 1))  # one is left to test on, where there are two
                taken |= set(rng.permutation(names)[:room].tolist())
            learn = [s for s, group in zip(real.sequences, groups, strict=True) if group in taken]
            rest = [s for s, group in zip(real.sequences, groups, strict=True) if group not in taken]
            for name, begin in (("from scratch", None), ("from the simulator", start)):
                own = fit_scaler(learn, settings.scaler) if begin is None else scaler
                gentle = settings if begin is None else replace(settings, learning_rate=settings.learning_rate / 3)
                examples = examples_of(learn, own)
                network = fit(
                    examples,
                    config_of(real, settings),
                    gentle,
                    epochs=min(40, epochs_for(examples, settings)),
                    augmentation=Augmentation.of(real.inputs, own, gentle),
                    weights=None if begin is None else begin.state_dict(),
                )
                scores[name].append(numbers(judged(network, own, rest), real, config)["balanced_accuracy"])
        rows += [
            {"bearings per mode": shots, "network": name, "balanced_accuracy": float(np.mean(v)), "draws": v}
            for name, v in scores.items()
        ]
    return rows


def left_out(learned: Dataset, tested: Dataset, settings: TrainSettings, faults: Sequence[str]) -> list[dict[str, Any]]:
    """Each of these faults kept from a network: how well 1 - max p tells its windows from those of known modes."""
    rows = []
    for fault in faults:
        k = learned.classes.index(fault)
        kept = tuple(mode for mode in learned.classes if mode != fault)
        blind = [s for s in learned.sequences if not np.any(s.y == k)]
        fewer = replace(learned, sequences=tuple(_renumbered(s, k) for s in blind), classes=kept)
        network, scaler = trained(fewer, settings)
        tracks = judged(network, scaler, tested.sequences)
        surprise = np.concatenate([1 - track.p.max(axis=1) for track in tracks])
        y = np.concatenate([track.sequence.y for track in tracks])
        pair = np.stack([-surprise, surprise], axis=1)[y >= 0]
        rows.append({"left out": fault, "auroc": macro_auroc((y[y >= 0] == k).astype(np.int64), pair)})
        say(f"without {fault}: AUROC {rows[-1]['auroc']:.3f}")
    return rows


def _renumbered(sequence: WindowSequence, gone: int) -> WindowSequence:
    """The classes after `gone` move up by one."""
    return replace(sequence, y=sequence.y - (sequence.y > gone))


def report(
    folder: Path, source: Path | None, machines: int, seconds: float, *, shots: bool, without: Sequence[str]
) -> dict[str, Any]:
    """All tables as one document."""
    torch.set_num_threads(1)
    settings, everything = TrainSettings(hidden=64), Config().modes.names
    make = partial(simulated, machines=machines, seconds=seconds, modes=everything)
    config = make(folder / "sim", seed=SEED, shift=0.0)
    learned = dataset(config, everything)
    network, scaler = trained(learned, settings)
    tested = dataset(make(folder / "shifted", seed=TEST_SEED, shift=SHIFT), everything, learned)
    document = {"simulated -> simulated, shifted": numbers(judged(network, scaler, tested.sequences), tested, config)}
    if without:
        document["left out"] = {"left_out": left_out(learned, tested, settings, without)}
    say(text_of(document))
    if source is None:
        return document
    config = simulated(folder / "bearings", machines, seconds, seed=SEED + 2, shift=0.0, modes=BEARING)
    bearings = dataset(config, BEARING)
    network, scaler = trained(bearings, settings)
    home = recorded(folder / "real", source)
    real = dataset(home, BEARING, bearings)
    document["simulated -> recorded"] = numbers(judged(network, scaler, real.sequences), real, home)
    document["envelope rule on recordings"] = numbers(envelope_rule(real), real, home)
    facts = read_machines(home.data.path)
    split = make_split(real.sequences, real.classes, facts, "specimen", settings.folds)
    held_out = cross_validate(real, split, settings, lambda *_: None)
    if held_out is not None:
        document["recorded -> recorded, other bearings"] = numbers(held_out.tracks, real, home)
    say(text_of(document))
    if shots:
        curve = few_shots(real, facts, network, scaler, settings, home)
        document["learning curve"] = {"rows": curve}
    return document


def text_of(document: dict[str, Any]) -> str:
    """The tables in words."""
    lines = [f"{'':42}chance  balanced  macro F1  macro AUROC  recordings"]
    for name, row in document.items():
        if "left_out" in row:
            lines += [f"never seen {r['left out']}: AUROC as unknown {r['auroc']:.3f}" for r in row["left_out"]]
        elif "rows" in row:
            lines += [
                f"{r['bearings per mode']} bearings per mode, {r['network']}: balanced accuracy "
                f"{r['balanced_accuracy']:.3f} ({min(r['draws']):.3f} to {max(r['draws']):.3f})"
                for r in row["rows"]
            ]
        else:
            values = (row["chance"], row["balanced_accuracy"], row["macro_f1"], row["macro_auroc"], row["recordings"])
            lines.append(f"{name:42}" + "  ".join(f"{value:8.3f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, or the whole document with --json."""
    parser = argparse.ArgumentParser(prog="python -m models.sim_to_real", description=__doc__.split("\n")[0])
    parser.add_argument("--real", type=Path, help="folder with cwru and hit_sm; without it only the first table")
    parser.add_argument("--work", type=Path, help="keeps the features here, for a second run [default: nowhere]")
    parser.add_argument("--machines", type=int, default=360, help="simulated machines per archive [default: 360]")
    parser.add_argument("--seconds", type=float, default=16.0, help="of each of them [default: 16]")
    parser.add_argument("--no-curve", action="store_true", help="without the learning curve")
    parser.add_argument("--leave-out", default="", metavar="MODE,...", help="modes to train without, in turn")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thrumcast-sim-to-real-") as temporary:
        folder = options.work or Path(temporary)
        without = [mode for mode in options.leave_out.split(",") if mode]
        shots = not options.no_curve
        document = report(folder, options.real, options.machines, options.seconds, shots=shots, without=without)
    sys.stdout.write(f"{json.dumps(document) if options.json else text_of(document)}\n")


if __name__ == "__main__":
    main()
