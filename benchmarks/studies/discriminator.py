"""Which columns give simulated windows away: `python -m benchmarks.studies.discriminator`.

Sound windows of recorded rigs beside sound windows of simulated machines, column by column: the AUROC of real against
simulated, 0.5 where the two cannot be told apart, and a forest over all columns that is tested on a rig it has not
seen. `--mode unbalance` compares another condition.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks.studies.pretrain import RECORDINGS
from benchmarks.studies.rigs import RIGS, features
from benchmarks.studies.sim_data import PLANT_SETTINGS, simulated
from models.data.dataset import columns_matrix, read
from models.evaluation.report import table
from pipeline.config.tables import Config, ModesConfig
from pipeline.core.faults import HEALTHY

MACHINES, SECONDS = 120, 8.0
Windows = np.ndarray  # (N, F), NaN where a column is not known


def main() -> None:
    """Print one line per column, the worst first, and the forest per rig."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.discriminator", description=__doc__.split("\n")[0]
    )
    default = Path(os.environ.get("THRUMCAST_SHARED_DATA", RECORDINGS))
    parser.add_argument("--real", type=Path, default=default, help="folder of the rigs [default: %(default)s]")
    parser.add_argument("--keep", type=Path, help="keep the features here, for the next run")
    parser.add_argument("--mode", default=HEALTHY, help="condition to compare [default: %(default)s]")
    parser.add_argument("--found", type=float, default=1.0, help="share of machines as in the field [default: 1]")
    asked = parser.parse_args()
    names = [f"x.{name}" for name in PLANT_SETTINGS.inputs.split(",")]
    with tempfile.TemporaryDirectory(prefix="thrumcast-discriminator-") as temporary:
        kept = asked.keep or Path(temporary)
        rigs = {
            rig: _windows(features(kept, asked.real, rig, channels), names, asked.mode)
            for rig, channels in RIGS
            if (asked.real / rig).is_dir()
        }
        modes = Config().modes.names
        folder = kept / f"simulated-{asked.found:g}"
        made = simulated(folder, MACHINES, SECONDS, seed=7, modes=modes, modest=True, found=asked.found)
        sim = _windows(made, names, asked.mode)
    rigs = {rig: x for rig, x in rigs.items() if len(x)}
    apart = np.array([[auroc(x[:, k], sim[:, k]) for x in rigs.values()] for k in range(len(names))])
    worst = np.argsort(-np.nan_to_num(np.nanmean(np.abs(apart - 0.5), axis=1)))
    print(table(("column", *rigs), [(names[k][2:], *(f"{a:.2f}" for a in apart[k])) for k in worst]))
    for rig, score in forest(rigs, sim).items():
        print(f"forest, {rig} left out: AUROC {score:.2f}")


def auroc(real: Windows, sim: Windows) -> float:
    """The probability that a real window has the larger value, of those that have one; NaN where too few have."""
    a, b = real[np.isfinite(real)], sim[np.isfinite(sim)]
    if min(a.size, b.size) < 5:
        return float("nan")
    ranks = rankdata(np.concatenate((a, b)))[: a.size]
    return float((ranks.sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def forest(rigs: dict[str, Windows], sim: Windows) -> dict[str, float]:
    """AUROC of real or simulated on each rig and one half of the simulated windows, learned from the rest."""
    from sklearn.ensemble import RandomForestClassifier  # of the extra that `make results` needs, too

    half, scores = len(sim) // 2, {}
    for rig, x in rigs.items():
        others = [windows for name, windows in rigs.items() if name != rig]
        if not others:
            continue
        known = np.nan_to_num(np.concatenate([*others, sim[:half]]), nan=-99.0)
        real = np.repeat((1, 0), (len(known) - half, half))
        trees = RandomForestClassifier(200, min_samples_leaf=5, class_weight="balanced", random_state=0).fit(
            known, real
        )
        asked = np.nan_to_num(np.concatenate((x, sim[half:])), nan=-99.0)
        said = trees.predict_proba(asked)[:, 1]
        scores[rig] = auroc(said[: len(x)], said[len(x) :])
    return scores


def _windows(config: Config, names: list[str], mode: str) -> Windows:
    rows, resolve = read(config.data.path), ModesConfig().resolve
    there = [truth is not None and resolve(truth) == mode for truth in rows.column("truth").to_pylist()]
    return columns_matrix(rows, names)[np.array(there)]


if __name__ == "__main__":
    main()
