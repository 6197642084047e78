"""Is a model alive? Checks that need no data, before a version may serve.

A *collapsed* model says the same whatever it sees: dead weights, saturated gates, a scaler that flattens everything.
"""

from __future__ import annotations

import numpy as np

from models.bundle import VALUE_TASKS, Bundle
from models.predictor import NumpyPredictor, ValuePredictor

STEPS = 30
BATCH = 64
LEAST_SPREAD = 1e-3  # of a probability over very different inputs


def self_test(model: Bundle) -> list[str]:
    """Return what is wrong with the model; an empty list is a pass. Deterministic."""
    values, scaler = model.spec.task in VALUE_TASKS, model.spec.scaler
    predictor = ValuePredictor(model) if values else NumpyPredictor(model)
    rng = np.random.default_rng(0)
    shape = (BATCH, len(model.spec.inputs))
    h = predictor.initial(BATCH)
    spread, moved = 0.0, 0.0
    for _ in range(STEPS):
        x = scaler.invert(2 * rng.standard_normal(shape).astype(np.float32))
        p, h_next = predictor.step(x, h)
        if not (np.isfinite(p).all() and np.isfinite(h_next).all()):
            return ["its outputs are not finite"]
        said = model.spec.target_scaler.apply(p) if model.spec.target_scaler else p  # values without their units
        spread = max(spread, float(np.ptp(said, axis=0).max()))
        moved = max(moved, float(np.abs(h_next - h).max()))
        h = h_next
    nothing, _ = predictor.step(np.full(shape, np.nan, np.float32), h)
    problems = []
    if not np.isfinite(nothing).all():
        problems.append("its outputs are not finite when every input is missing")
    if spread < LEAST_SPREAD:
        problems.append(f"it says the same whatever it sees (largest difference of an output: {spread:.1e})")
    if moved < LEAST_SPREAD:
        problems.append(f"its state does not move (largest change: {moved:.1e})")
    return problems
