"""Windows that look like nothing the model was trained on.

A stream's window is *unknown* when it lies far from every failure mode of the training data in the space of the scaled
inputs. The distance is that of Lee et al. 2018 (arXiv:1807.03888), class means and one shared covariance,

    d(x) = min_k (z - m_k)' S^-1 (z - m_k),    S = (1 - a) S_within + a I tr(S_within)/F

over the inputs that are there, relative to how many they are. It asks nothing of the network, so it holds for every
cell and for ensembles. Lines at orders of the shaft alone are tried, too: spectrum and shape of a signal are those of
the structure, by which every new rig would be unknown.

The threshold is a quantile of the distances of machines that were held out: so many of their windows, all of known
modes, are called unknown. How good it is is measured by leaving one fault out at a time: AUROC of held-out windows of
that fault against those of the other modes. A detector that is not better than `USEFUL_AUROC` there is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.dataset import UNKNOWN, Dataset, WindowSequence
from models.metrics import macro_auroc
from models.scaling import Scaler
from models.splits import Split
from pipeline.core.alarm import HEALTHY

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

QUANTILE = 0.98  # of held-out machines' distances
SHRINKAGE = 0.1  # towards a sphere: few machines say little about how inputs go together
USEFUL_AUROC = 0.7
LINES = ("env_", "order_", "kurtosis")  # names of features that are about the fault and not about the structure
FEWEST_LINES = 4
FEWEST_WINDOWS = 20  # of a class, else it has no centre


@dataclass(frozen=True, slots=True, eq=False)
class Distance:
    """Centres (K', F) and the whitening (F, F) of the shared covariance, for scaled inputs."""

    centres: Float64
    whitening: Float64

    @classmethod
    def fit(cls, z: Float32, y: NDArray[np.int64]) -> Distance:
        """Of scaled inputs z (N, F), NaN = missing, and classes y (N,)."""
        filled = np.where(np.isnan(z), 0.0, z).astype(np.float64)
        names = [k for k in np.unique(y[y != UNKNOWN]) if (y == k).sum() >= FEWEST_WINDOWS]
        centres = np.stack([filled[y == k].mean(axis=0) for k in names])
        within = np.concatenate([filled[y == k] - centre for k, centre in zip(names, centres, strict=True)])
        covariance = within.T @ within / len(within)
        features = z.shape[1]
        sphere = np.eye(features) * max(np.trace(covariance) / features, 1e-6)
        values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere)
        return cls(centres, vectors / np.sqrt(values))

    def of(self, z: Float32) -> Float64:
        """Mean squared distance per input to the nearest centre, (N,)."""
        missing = np.isnan(z)
        white = np.where(missing, 0.0, z) @ self.whitening  # (N, F)
        best = np.empty(len(z))
        alike: dict[bytes, list[int]] = {}  # rows by what is missing: few patterns, one per set of channels
        for row, packed in enumerate(np.packbits(missing, axis=1)):
            alike.setdefault(packed.tobytes(), []).append(row)
        for rows in alike.values():
            pattern = missing[rows[0]]
            centres = np.where(pattern, 0.0, self.centres) @ self.whitening  # (K', F)
            # |a - b|^2 = |a|^2 - 2 a b + |b|^2, all pairs in one product
            some = white[rows]
            squares = np.square(some).sum(axis=1)[:, None] - 2 * some @ centres.T + np.square(centres).sum(axis=1)
            best[rows] = np.maximum(squares, 0.0).min(axis=1) / max(1, int((~pattern).sum()))
        return best


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """How well what is unknown is told from what is known."""

    threshold: float | None
    auroc: dict[str, float]  # fault that was left out -> AUROC
    called_unknown: dict[str, float]  # and the share of its windows beyond the threshold
    inputs: NDArray[np.int64]  # numbers of those that the distance is taken over

    @property
    def mean_auroc(self) -> float | None:
        """Over the faults; None where no fault could be left out."""
        return float(np.mean(list(self.auroc.values()))) if self.auroc else None


def candidates(inputs: Sequence[str]) -> list[NDArray[np.int64]]:
    """Numbers of the inputs that the distance may be taken over: lines at shaft orders where there are, and all."""
    lines = np.flatnonzero([name.split(".", 1)[-1].startswith(LINES) for name in inputs])
    return [*([lines] if FEWEST_LINES <= lines.size < len(inputs) else []), np.arange(len(inputs))]


def judge(dataset: Dataset, split: Split, scaler_kind: str, limit: int = 4000) -> Judged:
    """Threshold and leave-one-fault-out numbers, over the inputs with which faults are told best; trains no network."""
    tried = [_judge(dataset, split, scaler_kind, some, limit) for some in candidates(dataset.inputs)]
    return max(tried, key=lambda judged: judged.mean_auroc or 0.0)


def _judge(dataset: Dataset, split: Split, scaler_kind: str, some: NDArray[np.int64], limit: int) -> Judged:
    """Numbers over the folds of a split, with some of the inputs."""
    known: list[Float64] = []  # distances of held-out windows of known modes
    left_out: dict[int, list[tuple[Float64, Float64]]] = {}  # fault -> (its distances, those of the other modes)
    rng = np.random.default_rng(0)
    for fold in split.folds:
        x, y = _pooled(fold.train, limit, rng)
        if np.unique(y[y != UNKNOWN]).size == 0:
            continue
        scaler = Scaler.fit(x, scaler_kind)
        z = scaler.apply(x)[:, some]
        tested_x, tested_y = _pooled(fold.test, limit, rng)
        tested = scaler.apply(tested_x)[:, some]
        trained = {int(k) for k in np.unique(y[y != UNKNOWN]) if (y == k).sum() >= FEWEST_WINDOWS}
        seen = np.isin(tested_y, sorted(trained))
        if not trained or not seen.any():
            continue
        known.append(Distance.fit(z, y).of(tested[seen]))
        for fault in sorted(set(range(len(dataset.classes))) - {_number(dataset, HEALTHY)}):
            rest = (y != fault) & np.isin(y, sorted(trained))
            strange, others = tested_y == fault, seen & (tested_y != fault)
            if rest.any() and (strange.any() or others.any()):
                without = Distance.fit(z[rest], y[rest])
                left_out.setdefault(fault, []).append((without.of(tested[strange]), without.of(tested[others])))
    if not known:
        return Judged(None, {}, {}, some)
    threshold = float(np.quantile(np.concatenate(known), QUANTILE))
    auroc, called = {}, {}
    for fault, pairs in left_out.items():
        strange = np.concatenate([pair[0] for pair in pairs])
        usual = np.concatenate([pair[1] for pair in pairs])
        if not (strange.size and usual.size):
            continue
        p = np.concatenate([usual, strange])
        truth = np.concatenate([np.zeros(len(usual), np.int64), np.ones(len(strange), np.int64)])
        auroc[dataset.classes[fault]] = macro_auroc(truth, np.stack([-p, p], axis=1))
        called[dataset.classes[fault]] = float((strange > threshold).mean())
    return Judged(threshold, auroc, called, some)


def document(dataset: Dataset, scaler: Scaler, judged: Judged, limit: int = 20_000) -> dict[str, Any]:
    """What data.json keeps: numbers always, the fitted detector where it is of use."""
    mean = judged.mean_auroc
    result: dict[str, Any] = {
        "kind": "mahalanobis",
        "quantile": QUANTILE,
        "threshold": judged.threshold,
        "leave_one_fault_out_auroc": {name: round(value, 4) for name, value in judged.auroc.items()},
        "leave_one_fault_out_called_unknown": {n: round(v, 4) for n, v in judged.called_unknown.items()},
        "mean_auroc": None if mean is None else round(mean, 4),
        "used": mean is not None and mean >= USEFUL_AUROC,
    }
    if result["used"]:
        x, y = _pooled(dataset.sequences, limit, np.random.default_rng(0))
        some = judged.inputs
        distance = Distance.fit(scaler.apply(x)[:, some], y)
        result["inputs"] = [dataset.inputs[number] for number in some]
        result["centres"] = np.round(distance.centres, 5).tolist()
        result["whitening"] = np.round(distance.whitening, 5).tolist()
    return result


def text(found: dict[str, Any]) -> str:
    """In words."""
    if found["mean_auroc"] is None:
        return "unknown     not measured: no fault could be left out"
    parts = ", ".join(f"{name} {value:.2f}" for name, value in found["leave_one_fault_out_auroc"].items())
    use = "used" if found["used"] else f"not used: below {USEFUL_AUROC:g}"
    return f"unknown     leave-one-fault-out AUROC {found['mean_auroc']:.2f} ({use}): {parts}"


def detector(bundle: Bundle) -> Callable[[Float32, Float32], NDArray[np.bool_]] | None:
    """What the engine asks of windows: inputs (B, F) and probabilities (B, K) -> unknown (B,); None = no detector."""
    found = bundle.data.get("unknown") or {}
    if not found.get("used"):
        return None
    distance = Distance(np.array(found["centres"]), np.array(found["whitening"]))
    threshold, scaler = float(found["threshold"]), bundle.spec.scaler
    some = [bundle.spec.inputs.index(name) for name in found["inputs"]]

    def is_unknown(x: Float32, p: Float32) -> NDArray[np.bool_]:
        return distance.of(scaler.apply(x)[:, some]) > threshold

    return is_unknown


def _pooled(
    sequences: Sequence[WindowSequence], limit: int, rng: np.random.Generator
) -> tuple[Float32, NDArray[np.int64]]:
    """Windows of known class, at most `limit`."""
    x = np.concatenate([s.x[s.y != UNKNOWN] for s in sequences])
    y = np.concatenate([s.y[s.y != UNKNOWN] for s in sequences])
    if len(y) > limit:
        some = np.sort(rng.choice(len(y), limit, replace=False))
        x, y = x[some], y[some]
    return x, y


def _number(dataset: Dataset, mode: str) -> int:
    return dataset.classes.index(mode) if mode in dataset.classes else -2
