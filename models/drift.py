"""Are the inputs still distributed as in training? Population stability index per feature, over training deciles.

    PSI = sum_b (q_b - p_b) ln(q_b / p_b),    p = shares in training (0.1 each), q = shares now

Below 0.1 nothing has changed, up to 0.25 a change is worth watching, above it is drift (the usual rule of thumb).
Windows now are those in which no fault is known. If the same feature moves the same way on most machines, the cause is
a season, a sensor type or a firmware: training again is *suggested*, and never done automatically. If it moves on one
machine, the cause is that machine's fault or its sensor, and training on it would teach the model to overlook it.

A single machine never spreads like the population that a model was trained on. So it is compared with itself: with its
own windows of the training period, where the archive still has them, else by the share of its windows outside the
central 98 % of the training data. Regimes are thirds of the shaft speed, where that is known and varies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]

WATCH, DRIFT = 0.1, 0.25
OUTSIDE = 0.2  # share of a machine's windows beyond 1 % and 99 % of the training data; 0.02 is usual
FEWEST_WINDOWS = 100  # on each side of a comparison: with B bins chance alone gives about (B - 1) (1/n + 1/m)
FLEET = 0.5  # share of the machines that must move the same way
LEAST_SHARE = 1e-4  # of a bin, so that an empty one is finite
QUANTILES = (0.01, *(decile / 10 for decile in range(1, 10)), 0.99)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one input has moved on one machine (or `*`, all of them pooled)."""

    machine: str
    column: str
    psi: float | None  # None: no comparison with itself was possible
    outside: float  # share of windows beyond the training range
    sign: int  # of the median's move
    windows: int

    @property
    def drifted(self) -> bool:
        """Whether it moved by more than chance and ordinary variation explain."""
        return self.psi > DRIFT if self.psi is not None else self.outside > OUTSIDE


def distribution(x: Float, inputs: Sequence[str]) -> dict[str, Any]:
    """Return quantiles, and shares between deciles, of the columns of x (N, F), NaN = missing, for data.json."""
    quantiles: dict[str, list[float] | None] = {}
    shares: dict[str, list[float] | None] = {}
    for number, name in enumerate(inputs):
        values = x[:, number][np.isfinite(x[:, number])]
        quantiles[name] = shares[name] = None
        if values.size:
            quantiles[name] = found = [float(f"{q:.6g}") for q in np.quantile(values, QUANTILES)]
            shares[name] = np.round(_shares(values, _edges(found)), 5).tolist()
    return {"windows": len(x), "at": list(QUANTILES), "quantiles": quantiles, "shares": shares}


def psi(before: Float, now: Float) -> float:
    """Population stability index of two samples, over the deciles of the first."""
    edges = np.unique(np.quantile(before, QUANTILES[1:-1]))
    return _psi(_shares(before, edges), _shares(now, edges))


def psi_against(reference: Mapping[str, Any], name: str, now: Float) -> float:
    """As `psi`, against the stored distribution of an input."""
    return _psi(np.array(reference["shares"][name]), _shares(now, _edges(reference["quantiles"][name])))


def _edges(quantiles: Sequence[float]) -> Float:
    """Deciles; where some are equal there are fewer bins."""
    return np.unique(quantiles[1:-1])


def _shares(values: Float, edges: Float) -> Float:
    """Return the share of the values in every bin; a value on an edge belongs to the bin below it."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / max(len(values), 1)


def _psi(before: Float, now: Float) -> float:
    p, q = np.maximum(before, LEAST_SHARE), np.maximum(now, LEAST_SHARE)
    return float(((q - p) * np.log(q / p)).sum())


def shifts(
    reference: Mapping[str, Any], now: Mapping[str, Float], own: Mapping[str, Float], inputs: Sequence[str]
) -> list[Shift]:
    """Return the shift of every input on every machine.

    Args:
        reference: `distribution` of data.json.
        now: Machine -> its windows now (N, F), columns `inputs`.
        own: Machine -> its windows of the training period (M, F), where they are known.
        inputs: Names of the columns.
    """
    found = []
    for machine, x in now.items():
        before = own.get(machine)
        for number, name in enumerate(inputs):
            quantiles = reference["quantiles"].get(name)
            values = x[:, number][np.isfinite(x[:, number])]
            if quantiles is None or len(values) < FEWEST_WINDOWS:
                continue
            outside = float(((values < quantiles[0]) | (values > quantiles[-1])).mean())
            middle, index = quantiles[len(quantiles) // 2], None
            if before is not None:
                past = before[:, number][np.isfinite(before[:, number])]
                if len(past) >= FEWEST_WINDOWS:
                    index = psi(past, values)
                    middle = float(np.median(past))
            sign = int(np.sign(np.median(values) - middle))
            found.append(Shift(machine, name, index, outside, sign, len(values)))
    return found


def pooled(reference: Mapping[str, Any], now: Mapping[str, Float], inputs: Sequence[str]) -> list[Shift]:
    """Return the shift of every input over all machines together, each machine with the same weight."""
    if not now:
        return []
    least = min(map(len, now.values()))
    even = np.concatenate([x[np.linspace(0, len(x) - 1, least).round().astype(int)] for x in now.values()])
    found = []
    for number, name in enumerate(inputs):
        quantiles = reference["quantiles"].get(name)
        values = even[:, number][np.isfinite(even[:, number])]
        if quantiles is None or len(values) < FEWEST_WINDOWS:
            continue
        outside = float(((values < quantiles[0]) | (values > quantiles[-1])).mean())
        sign = int(np.sign(np.median(values) - quantiles[len(quantiles) // 2]))
        found.append(Shift("*", name, psi_against(reference, name, values), outside, sign, len(values)))
    return found


def verdict(found: Sequence[Shift], machines: int) -> dict[str, Any]:
    """Return which inputs moved on the fleet, which machines moved alone, and what to do."""
    by_column: dict[str, list[Shift]] = {}
    for shift in found:
        if shift.machine != "*" and shift.drifted:
            by_column.setdefault(shift.column, []).append(shift)
    fleet: list[str] = []
    alone: dict[str, list[str]] = {}
    for column, moved in by_column.items():
        same_way = max(sum(s.sign > 0 for s in moved), sum(s.sign < 0 for s in moved))
        if machines >= 2 and same_way >= 2 and same_way >= FLEET * machines:
            fleet.append(column)
        else:
            for shift in moved:
                alone.setdefault(shift.machine, []).append(column)
    suggestion = None
    if fleet:
        suggestion = f"{len(fleet)} inputs moved the same way on most machines: train again, on newer windows too"
    elif alone:
        names = ", ".join(sorted(alone))
        suggestion = f"only {names} moved: look at the machine and its sensor before training on it"
    return {"fleet": fleet, "machines": alone, "suggestion": suggestion}


@dataclass(frozen=True, slots=True)
class Regime:
    """A range [low, high) of the shaft speed, or everything."""

    name: str
    low_rpm: float | None = None
    high_rpm: float | None = None

    def holds(self, speed_rpm: Float) -> NDArray[np.bool_]:
        """Which windows belong to it."""
        if self.low_rpm is None or self.high_rpm is None:
            return np.ones(len(speed_rpm), np.bool_)
        return (speed_rpm >= self.low_rpm) & (speed_rpm < self.high_rpm)


def speed_regimes(speed_rpm: Float) -> list[Regime]:
    """Thirds of the shaft speed; one regime where the speed is unknown or hardly varies."""
    known = speed_rpm[np.isfinite(speed_rpm)]
    low, high = np.quantile(known, (1 / 3, 2 / 3)) if known.size >= 3 * FEWEST_WINDOWS else (0.0, 0.0)
    if high < 1.1 * low or high == 0:
        return [Regime("all speeds")]
    return [
        Regime(f"below {low:.0f} rpm", 0.0, low),
        Regime(f"{low:.0f} to {high:.0f} rpm", low, high),
        Regime(f"from {high:.0f} rpm", high, np.inf),
    ]
