"""Windows that look like nothing the model was trained on.

**Quantities.** Features are many, because a network finds out by itself which of them say the same. A distance does
not: fourteen bands of a spectrum would outvote the one line by which a fault differs, and three axes would count it
three times. So features that say the same become one quantity (ALIKE), and so do the channels, where the channel that
shows it best has extra weight:

    v_qc = mean of the scaled inputs of quantity q on channel c
    v_q  = (mean over c of v_qc + max over c of v_qc) / 2

Missing inputs are left out of both. A quantity without any input is NaN.

**Distance.** How far a machine has moved away from health says how bad it is; the direction says what it is. So a
window is *unknown* when it has moved in a direction that no failure mode of the training data has. Quantities are
whitened by what the modes have in common (class means and one shared covariance, Lee et al. 2018, arXiv:1807.03888),
with v_0 the healthy mean:

    w = (v - v_0) S^(-1/2),    S = (1 - a) S_within + a I tr(S_within)/Q
    u = w / sqrt(r^2 + |w|^2)        r^2 = median |w|^2 of healthy windows: a small move has no direction
    d = min_k |u - mean of u over class k|^2

A missing quantity counts as not moved. The distance does not use the network, so it holds for every cell and for
ensembles. It is also tried on envelope lines alone, because the other features depend on the structure and would make
every new rig unknown. Simulated machines that the network learned from count as known.

**Threshold.** A quantile of the distances of held-out machines: 1 - QUANTILE of their windows, all of known modes, are
called unknown. The quality is measured by leaving out one fault at a time: AUROC of held-out windows of that fault
against those of the other modes. A detector below USEFUL_AUROC is not used.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.data.dataset import UNKNOWN, Dataset, WindowSequence
from models.data.splits import Split
from models.evaluation.metrics import macro_auroc
from models.scaling import Scaler
from pipeline.core.faults import HEALTHY

KIND = "direction of quantities"
QUANTILE = 0.98  # of held-out machines' distances
SHRINKAGE = 0.1  # a, towards a sphere: few machines say little about how quantities vary together
USEFUL_AUROC = 0.7
LINES = "env_"  # prefix of the features that depend on the fault and not on the structure
FEWEST_LINES = 4
FEWEST_WINDOWS = 20  # of a class; with fewer it has no direction
MOST_WINDOWS = 20_000  # for the fit; more of the same machines add nothing

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

ALIKE = {  # any other feature is a quantity of its own
    "low bands": tuple(f"band_{k:02d}" for k in range(7)),
    "high bands": tuple(f"band_{k:02d}" for k in range(7, 14)),
    "place of the spectrum": ("centroid", "spread", "rolloff_85", "rolloff_95", "zero_crossing", "dominant"),
    "impulsiveness": ("kurtosis", "crest", "impulse", "clearance", "shape", "tkeo_kurtosis", "env_kurtosis"),
    "half orders": ("ord_0_5", "ord_1_5"),
    "high orders": tuple(f"ord_{k}" for k in range(4, 11)),
    "level": ("rms", "peak", "p2p"),
}
_QUANTITY_OF = {feature: quantity for quantity, features in ALIKE.items() for feature in features}


@dataclass(frozen=True, slots=True, eq=False)
class Quantities:
    """How inputs `channel.feature` become quantities."""

    names: tuple[str, ...]  # Q of them
    used: tuple[str, ...]  # the inputs, sorted by quantity, then by channel
    columns: Int64  # their places among all inputs
    cells: Int64  # where in `used` the next channel of a quantity begins
    starts: Int64  # where in `cells` the next quantity begins

    @classmethod
    def of(cls, inputs: Sequence[str], used: Sequence[str] | None = None) -> Quantities:
        """Group these inputs, or only those in `used`."""
        place = {name: number for number, name in enumerate(inputs)}
        names = list(dict.fromkeys(_quantity(name) for name in used or inputs))
        rows = sorted((names.index(_quantity(name)), name.rpartition(".")[0], name) for name in used or inputs)
        cells = _beginnings([(quantity, channel) for quantity, channel, _ in rows])
        sorted_names = tuple(name for _, _, name in rows)
        columns = np.array([place[name] for name in sorted_names])
        return cls(tuple(names), sorted_names, columns, cells, _beginnings([rows[cell][0] for cell in cells]))

    def read(self, z: Float32) -> Float64:
        """Scaled inputs z (B, F), NaN = missing -> quantities (B, Q); a row comes out the same in any batch."""
        z = z[:, self.columns]
        there = np.isfinite(z)
        sums = np.add.reduceat(np.where(there, z, 0.0), self.cells, axis=1, dtype=np.float64)
        counts = np.add.reduceat(there, self.cells, axis=1, dtype=np.float64)
        each, seen = sums / np.maximum(counts, 1.0), counts > 0
        channels = np.add.reduceat(seen, self.starts, axis=1, dtype=np.float64)
        mean = np.add.reduceat(each, self.starts, axis=1) / np.maximum(channels, 1.0)
        best = np.maximum.reduceat(np.where(seen, each, -np.inf), self.starts, axis=1)
        found: Float64 = np.where(channels > 0, (mean + best) / 2, np.nan)
        return found


def _beginnings(groups: Sequence[Hashable]) -> Int64:
    """Return the places at which a group begins."""
    return np.array([n for n, group in enumerate(groups) if n == 0 or group != groups[n - 1]])


def _quantity(name: str) -> str:
    """Return the quantity of an input."""
    feature = name.rpartition(".")[2]
    return _QUANTITY_OF.get(feature, feature)


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The directions in which the known modes move away from health."""

    centre: Float64  # v_0 (Q,) mean of healthy windows
    whitening: Float64  # S^(-1/2) (Q, Q)
    size: float  # r^2
    modes: Float64  # (K', Q) mean direction of each mode

    @classmethod
    def fit(cls, v: Float64, y: NDArray[np.int64], healthy: int) -> Directions:
        """Fit on quantities v (N, Q) and classes y (N,); without healthy windows v_0 is the mean of all."""
        filled = np.where(np.isnan(v), 0.0, v)
        names = [k for k in np.unique(y[y != UNKNOWN]) if (y == k).sum() >= FEWEST_WINDOWS]
        within = np.concatenate([filled[y == k] - filled[y == k].mean(axis=0) for k in names])
        covariance = within.T @ within / len(within)
        count = v.shape[1]
        sphere = np.eye(count) * max(np.trace(covariance) / count, 1e-6)
        values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere)
        sound = y == healthy if healthy in names else np.ones(len(y), bool)
        made = cls(filled[sound].mean(axis=0), vectors / np.sqrt(values), 1.0, np.empty((0, count)))
        made = replace(made, size=float(np.median(np.square(made._moved(v[sound])).sum(axis=1))))
        said = made._directions(v)
        return replace(made, modes=np.stack([said[y == k].mean(axis=0) for k in names]))

    def of(self, v: Float64) -> Float64:
        """Return d (N,), the squared distance to the direction of the nearest mode."""
        u = self._directions(v)
        # |a - b|^2 = |a|^2 - 2 a b + |b|^2, all pairs in one product
        squares = np.square(u).sum(axis=1)[:, None] - 2 * u @ self.modes.T + np.square(self.modes).sum(axis=1)
        return np.maximum(squares, 0.0).min(axis=1)

    def _moved(self, v: Float64) -> Float64:
        moved: Float64 = np.where(np.isnan(v), 0.0, v - self.centre) @ self.whitening
        return moved

    def _directions(self, v: Float64) -> Float64:
        w = self._moved(v)
        return w / np.sqrt(self.size + np.square(w).sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True, eq=False)
class DetectorQuality:
    """The threshold of a detector, and how well it tells unknown faults from known modes."""

    threshold: float | None
    auroc: dict[str, float]  # fault that was left out -> AUROC
    called_unknown: dict[str, float]  # fault that was left out -> share of its windows beyond the threshold
    quantities: Quantities  # over which the distance is taken

    @property
    def mean_auroc(self) -> float | None:
        """Over the faults; None where no fault could be left out."""
        return float(np.mean(list(self.auroc.values()))) if self.auroc else None


def candidates(inputs: Sequence[str]) -> list[Quantities]:
    """Return the sets of quantities to try: envelope lines, if there are enough, and all inputs."""
    lines = [name for name in inputs if name.rpartition(".")[2].startswith(LINES)]
    few = [Quantities.of(inputs, lines)] if FEWEST_LINES <= len(lines) < len(inputs) else []
    return [*few, Quantities.of(inputs)]


def assess(dataset: Dataset, split: Split, scaler_kind: str) -> DetectorQuality:
    """Measure a detector on each set of quantities and return the best; no network is trained."""
    tried = [_assess(dataset, split, scaler_kind, some) for some in candidates(dataset.inputs)]
    return max(tried, key=lambda judged: judged.mean_auroc or 0.0)


def distances(
    x: Float32, y: NDArray[np.int64], tested: Float32, healthy: int, scaler_kind: str, some: Quantities
) -> Float64:
    """Return distances of windows `tested` (N', F); scaler and directions are fitted on x (N, F) and y (N,) alone."""
    scaler = Scaler.fit(x, scaler_kind)
    fitted = Directions.fit(some.read(scaler.apply(x)), y, healthy)
    return fitted.of(some.read(scaler.apply(tested)))


def _assess(dataset: Dataset, split: Split, scaler_kind: str, some: Quantities) -> DetectorQuality:
    """Numbers over the folds of a split, with some of the quantities."""
    known: list[Float64] = []  # distances of held-out windows of known modes
    left_out: dict[int, list[tuple[Float64, Float64]]] = {}  # fault -> (its distances, those of the other modes)
    healthy = _number(dataset, HEALTHY)
    rng = np.random.default_rng(0)
    for fold in split.folds:
        x, y = _pooled((*fold.train, *dataset.prior), rng)
        if np.unique(y[y != UNKNOWN]).size == 0:
            continue
        tested_x, tested_y = _pooled(fold.test, rng)
        trained = {int(k) for k in np.unique(y[y != UNKNOWN]) if (y == k).sum() >= FEWEST_WINDOWS}
        seen = np.isin(tested_y, sorted(trained))
        if not trained or not seen.any():
            continue
        known.append(distances(x, y, tested_x, healthy, scaler_kind, some)[seen])
        for fault in sorted(set(range(len(dataset.classes))) - {healthy}):
            rest = (y != fault) & np.isin(y, sorted(trained))
            strange, others = tested_y == fault, seen & (tested_y != fault)
            if rest.any() and (strange.any() or others.any()):
                d = distances(x[rest], y[rest], tested_x, healthy, scaler_kind, some)
                left_out.setdefault(fault, []).append((d[strange], d[others]))
    if not known:
        return DetectorQuality(None, {}, {}, some)
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
    return DetectorQuality(threshold, auroc, called, some)


def document(dataset: Dataset, scaler: Scaler, judged: DetectorQuality) -> dict[str, Any]:
    """Return what data.json keeps: the numbers, and the fitted detector if it is useful."""
    mean = judged.mean_auroc
    result: dict[str, Any] = {
        "kind": KIND,
        "quantile": QUANTILE,
        "threshold": judged.threshold,
        "leave_one_fault_out_auroc": {name: round(value, 4) for name, value in judged.auroc.items()},
        "leave_one_fault_out_called_unknown": {n: round(v, 4) for n, v in judged.called_unknown.items()},
        "mean_auroc": None if mean is None else round(mean, 4),
        "used": mean is not None and mean >= USEFUL_AUROC,
    }
    if result["used"]:
        x, y = _pooled((*dataset.sequences, *dataset.prior), np.random.default_rng(0))
        v = judged.quantities.read(scaler.apply(x))
        fitted = Directions.fit(v, y, _number(dataset, HEALTHY))
        result["inputs"] = list(judged.quantities.used)
        result["size"] = fitted.size
        for name in ("centre", "whitening", "modes"):
            result[name] = np.round(getattr(fitted, name), 5).tolist()
    return result


def text(found: dict[str, Any]) -> str:
    """Return the numbers as text."""
    if found["mean_auroc"] is None:
        return "unknown     not measured: no fault could be left out"
    parts = ", ".join(f"{name} {value:.2f}" for name, value in found["leave_one_fault_out_auroc"].items())
    use = "used" if found["used"] else f"not used: below {USEFUL_AUROC:g}"
    return f"unknown     leave-one-fault-out AUROC {found['mean_auroc']:.2f} ({use}): {parts}"


def limits(found: dict[str, Any] | None) -> str:
    """Return what the model card says about faults that the model has never seen."""
    if not found or not found["used"]:
        return "Knows only the modes above; any other fault gets one of these names."
    called = found["leave_one_fault_out_called_unknown"]
    share = sum(called.values()) / len(called)
    return (
        f"Knows only the modes above. Of a fault that is none of them {share:.0%} of the windows are called unknown, "
        f"the rest get one of these names (mean of the modes, each left out in turn; "
        f"AUROC {found['mean_auroc']:.2f})."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """Tells the engine which windows are unknown. It keeps nothing, so threads can share it."""

    scaler: Scaler
    quantities: Quantities
    known: Directions
    threshold: float

    def __call__(self, x: Float32, p: Float32) -> NDArray[np.bool_]:
        """Raw inputs (B, F) and probabilities (B, K) -> unknown (B,)."""
        return self.known.of(self.quantities.read(self.scaler.apply(x))) > self.threshold

    def explain(self, x: Float32) -> tuple[float, dict[str, float]]:
        """Return the distance of one window x (F,), and by how much it falls without each quantity."""
        v = self.quantities.read(self.scaler.apply(x[None]))
        without = np.where(np.eye(v.shape[1], dtype=np.bool_), np.nan, v)
        distance = float(self.known.of(v)[0])
        return distance, dict(zip(self.quantities.names, (distance - self.known.of(without)).tolist(), strict=True))


def detector(bundle: Bundle) -> Detector | None:
    """Return the detector of a model version, or None.

    A version of an earlier release can hold a detector of another kind; it counts as a version without one.
    """
    found = bundle.data.get("unknown") or {}
    if not found.get("used") or found["kind"] != KIND:
        return None
    centre, whitening, modes = (np.array(found[name]) for name in ("centre", "whitening", "modes"))
    some = Quantities.of(bundle.spec.inputs, found["inputs"])
    known = Directions(centre, whitening, float(found["size"]), modes)
    return Detector(bundle.spec.scaler, some, known, float(found["threshold"]))


def _pooled(sequences: Sequence[WindowSequence], rng: np.random.Generator) -> tuple[Float32, NDArray[np.int64]]:
    """Windows of known class, at most `MOST_WINDOWS`."""
    x = np.concatenate([s.x[s.y != UNKNOWN] for s in sequences])
    y = np.concatenate([s.y[s.y != UNKNOWN] for s in sequences])
    if len(y) > MOST_WINDOWS:
        some = np.sort(rng.choice(len(y), MOST_WINDOWS, replace=False))
        x, y = x[some], y[some]
    return x, y


def _number(dataset: Dataset, mode: str) -> int:
    return dataset.classes.index(mode) if mode in dataset.classes else -2
