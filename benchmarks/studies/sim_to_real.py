"""How far the simulator carries: `python -m benchmarks.studies.sim_to_real --real FOLDER` writes the tables.

    simulated -> simulated   every failure mode, three axes; tested on machines of a population moved by 30 %
    unknown                  each fault kept from the detector in turn, on the same machines
    simulated -> recorded    healthy, inner, outer, ball of recorded bearings, beside chance, the envelope rule
                             and a network that was trained on other real bearings; one axis, as the recordings have
    few recordings           a network that begins with what the simulator taught it against one from scratch

Real bearings are never on both sides: folds and draws are by specimen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.studies.sim_data import BEARING, DISTURBED, PLANT_SETTINGS, dataset, recorded, say, simulated
from models import unknown
from models.data.dataset import UNKNOWN, Dataset, WindowSequence, read_machines
from models.data.splits import group_of, make_split
from models.evaluation.events import Track, fault_outcomes
from models.evaluation.metrics import macro_auroc, softmax
from models.evaluation.scoring import score
from models.network import RecurrentNetwork
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.folds import config_of, cross_validate, examples_of, final_fit, fit_scaler
from models.training.loop import epochs_for, fit, predict
from pipeline.config.specs import alarm_spec
from pipeline.config.tables import Config
from pipeline.core.faults import HEALTHY

RULE_DB = 10.0  # a line lower than this is none; lines are lower than the floor's own peaks below about 8 dB
SEED, TEST_SEED = 20_260_101, 20_260_102
SHIFT = 0.3
TESTED = 360  # machines, 16 s each
SHOTS = (1, 2, 4)  # bearings per mode
DRAWS = 3


def trained(data: Dataset, settings: TrainSettings) -> tuple[RecurrentNetwork, Scaler]:
    """A network of everything in `data`."""
    settings = replace(settings, members=1)  # what another training begins with is one network
    model = final_fit(data, settings, None, lambda *_: None)
    network = RecurrentNetwork(config_of(data, settings, model.scaler))
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
                    config_of(real, settings, own),
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


def left_out(learned: Dataset, tested: Dataset) -> list[dict[str, Any]]:
    """Each fault kept from the product's detector: how well it tells that fault's windows from those of known modes.

    Which inputs the detector looks at is chosen as in training, on the machines that it learns from.
    """
    split = make_split(learned.sequences, learned.classes, {}, "machine", PLANT_SETTINGS.folds)
    some = unknown.assess(learned, split, PLANT_SETTINGS.scaler).quantities
    (x, y), (tested_x, tested_y) = _windows(learned), _windows(tested)
    rows = []
    for k, fault in enumerate(learned.classes):
        if fault == HEALTHY:
            continue
        rest, healthy = y != k, learned.classes.index(HEALTHY)
        distance = unknown.distances(x[rest], y[rest], tested_x, healthy, PLANT_SETTINGS.scaler, some)
        auroc = macro_auroc((tested_y == k).astype(np.int64), np.stack([-distance, distance], axis=1))
        rows.append({"left out": fault, "auroc": auroc})
    return [*rows, {"left out": "mean", "auroc": float(np.mean([row["auroc"] for row in rows]))}]


def _windows(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N, F) and classes (N,) of all windows whose mode is known."""
    x = np.concatenate([s.x for s in data.sequences])
    y = np.concatenate([s.y for s in data.sequences])
    return x[y != UNKNOWN], y[y != UNKNOWN]


def delays(tracks: Sequence[Track], data: Dataset, config: Config) -> list[dict[str, Any]]:
    """Seconds from the moment a fault is detectable to its alarm, by mode, of lives that grow within the run."""
    outcomes = fault_outcomes(tracks, data.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows)
    rows = []
    for mode in dict.fromkeys(outcome.mode for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.mode == mode]
        seen = [outcome.delay_s for outcome in mine if outcome.delay_s is not None]
        median = float(np.median(seen)) if seen else None
        rows.append({"mode": mode, "faults": len(mine), "detected": len(seen), "median_s": median})
    return rows


def report(folder: Path, source: Path | None, machines: int, *, shots: bool) -> dict[str, Any]:
    """All tables as one document."""
    torch.set_num_threads(1)
    everything = Config().modes.names
    make = partial(simulated, modes=everything)
    config = make(folder / "sim", machines, 12.0, seed=SEED, disturbed=DISTURBED, modest=True)
    learned = dataset(config, everything, inputs=PLANT_SETTINGS.inputs)
    shifted = make(folder / "shifted", TESTED, 16.0, seed=TEST_SEED, shift=SHIFT)
    tested = dataset(shifted, everything, like=learned.inputs)
    tracks = judged(*trained(learned, PLANT_SETTINGS), tested.sequences)
    document = {
        "simulated -> simulated, shifted": numbers(tracks, tested, config),
        "delays": {"delays": delays(tracks, tested, config)},
        "left out": {"left_out": left_out(learned, tested)},
    }
    say(text_of(document))
    if source is None:
        return document
    settings = TrainSettings(hidden=64, members=1)
    config = simulated(folder / "bearings", TESTED, 16.0, seed=SEED + 2, modes=BEARING, axes=("x",))
    bearings = dataset(config, BEARING)
    network, scaler = trained(bearings, settings)
    home = recorded(folder / "real", source)
    real = dataset(home, BEARING, like=bearings.inputs)
    document["simulated -> recorded"] = numbers(judged(network, scaler, real.sequences), real, home)
    document["envelope rule on recordings"] = numbers(envelope_rule(real), real, home)
    facts = read_machines(home.data.path)
    split = make_split(real.sequences, real.classes, facts, "specimen", settings.folds)
    held_out = cross_validate(real, split, settings, lambda *_: None)
    if held_out is not None:
        document["recorded -> recorded, other bearings"] = numbers(held_out.tracks, real, home)
    say(text_of(document))
    if shots:
        document["learning curve"] = {"rows": few_shots(real, facts, network, scaler, settings, home)}
    return document


def text_of(document: dict[str, Any]) -> str:
    """The tables in words."""
    lines = [f"{'':42}chance  balanced  macro F1  macro AUROC  recordings"]
    for name, row in document.items():
        if "left_out" in row:
            lines += [f"never seen {r['left out']}: AUROC as unknown {r['auroc']:.3f}" for r in row["left_out"]]
        elif "delays" in row:
            lines += [
                f"{r['mode']}: alarm for {r['detected']} of {r['faults']} faults, median delay "
                + ("-" if r["median_s"] is None else f"{r['median_s']:.1f} s")
                for r in row["delays"]
            ]
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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.sim_to_real", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--real", type=Path, help="folder with cwru and hit_sm; without it only the first table")
    parser.add_argument("--work", type=Path, help="keeps the features here, for a second run [default: nowhere]")
    parser.add_argument("--machines", type=int, default=840, help="simulated machines to learn from [default: 840]")
    parser.add_argument("--no-curve", action="store_true", help="without the learning curve")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thrumcast-sim-to-real-") as temporary:
        folder = options.work or Path(temporary)
        document = report(folder, options.real, options.machines, shots=not options.no_curve)
    sys.stdout.write(f"{json.dumps(document) if options.json else text_of(document)}\n")


if __name__ == "__main__":
    main()
