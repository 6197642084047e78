"""Numbers about probabilities (N, K) against true class numbers (N,). Pure functions of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Int64 = NDArray[np.int64]

ECE_BINS = 15


def confusion(y: Int64, predicted: Int64, classes: int) -> Int64:
    """Counts (K, K): row = truth, column = prediction."""
    return np.bincount(y * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: Int64) -> list[dict[str, float]]:
    """Precision, recall, F1 and support per class; a class that is never predicted has precision 0."""
    rows = []
    for k in range(matrix.shape[0]):
        hits, support, predicted = int(matrix[k, k]), int(matrix[k].sum()), int(matrix[:, k].sum())
        precision = hits / predicted if predicted else 0.0
        recall = hits / support if support else 0.0
        f1 = 2 * hits / (support + predicted) if support + predicted else 0.0
        rows.append({"precision": precision, "recall": recall, "f1": f1, "support": support})
    return rows


def macro_f1(matrix: Int64) -> float:
    """Mean F1 over the classes that occur in the truth; NaN if none does."""
    scores = [row["f1"] for row in per_class(matrix) if row["support"]]
    return float(np.mean(scores)) if scores else float("nan")


def macro_auroc(y: Int64, p: Float) -> float:
    """Mean over classes of P(p_k of a window of k > p_k of another), ties half; NaN if no class has both sides.

    One against the rest by the rank sum (Mann & Whitney 1947).
    """
    scores = []
    for k in range(p.shape[1]):
        positive = y == k
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if n_positive and n_negative:
            rank_sum = _ranks(p[:, k])[positive].sum()
            scores.append((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
    return float(np.mean(scores)) if scores else float("nan")


def _ranks(values: Float) -> NDArray[np.float64]:
    """Ranks from 1, equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def ece(y: Int64, p: Float, bins: int = ECE_BINS) -> float:
    """Expected calibration error sum_b n_b/N |accuracy_b - confidence_b|, equal bins of the largest probability.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. (3).
    """
    if y.size == 0:
        return float("nan")
    confidence, right = p.max(axis=1).astype(np.float64), p.argmax(axis=1) == y
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(number, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / y.size)


def reliability(y: Int64, p: Float, bins: int = ECE_BINS) -> list[dict[str, float]]:
    """Per bin of the largest probability that has windows: confidence, accuracy (means), windows."""
    if y.size == 0:
        return []
    sure, right = p.max(axis=1).astype(np.float64), p.argmax(axis=1) == y
    number = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for b in np.unique(number).tolist():
        mine = number == b
        row = {"confidence": float(sure[mine].mean()), "accuracy": float(right[mine].mean())}
        rows.append({**row, "windows": int(mine.sum())})
    return rows


def softmax(logits: Float, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K)."""
    scaled = logits.astype(np.float64) / temperature
    exp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def nll(y: Int64, logits: Float, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood; NaN without windows."""
    if y.size == 0:
        return float("nan")
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(axis=1)
    log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float((log_sum - scaled[np.arange(y.size), y]).mean())


def fit_temperature(y: Int64, logits: Float, *, lowest: float = 0.25, highest: float = 10.0) -> float:
    """Temperature T of softmax(logits / T) with the least negative log-likelihood on held-out windows.

    The likelihood is concave in 1/T, so a golden-section search finds it. Source: Guo et al. 2017, section 4.2.
    """
    if y.size == 0:
        return 1.0
    ratio = (5**0.5 - 1) / 2
    low, high = 1 / highest, 1 / lowest
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    cost_a, cost_b = nll(y, logits, 1 / a), nll(y, logits, 1 / b)
    while high - low > 1e-4:
        if cost_a < cost_b:
            high, b, cost_b = b, a, cost_a
            a = high - ratio * (high - low)
            cost_a = nll(y, logits, 1 / a)
        else:
            low, a, cost_a = a, b, cost_b
            b = low + ratio * (high - low)
            cost_b = nll(y, logits, 1 / b)
    return 2 / (low + high)


def window_metrics(y: Int64, p: Float, classes: Sequence[str]) -> dict[str, Any]:
    """Return all numbers per window for `evaluate --json`; None where a number does not exist."""
    matrix = confusion(y, p.argmax(axis=1).astype(np.int64), len(classes))
    support = matrix.sum(axis=1)
    windows = int(y.size)
    return {
        "windows": windows,
        "accuracy": number_or_none(float(np.trace(matrix)) / windows if windows else float("nan")),
        "macro_f1": number_or_none(macro_f1(matrix)),
        "macro_auroc": number_or_none(macro_auroc(y, p)),
        "ece": number_or_none(ece(y, p)),
        "per_class": dict(zip(classes, per_class(matrix), strict=True)),
        "confusion": {"labels": list(classes), "matrix": matrix.tolist()},
        "baselines": {
            "chance": 1 / max(1, int((support > 0).sum())),
            "majority": number_or_none(float(support.max()) / windows if windows else float("nan")),
        },
    }


def number_or_none(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not have."""
    return value if np.isfinite(value) else None
