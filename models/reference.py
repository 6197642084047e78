"""What a version keeps of its training data, in data.json: how the inputs were distributed, what is unknown to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models import unknown
from models.data.dataset import UNKNOWN, Dataset
from models.data.splits import Split
from models.drift import distribution
from models.scaling import Scaler
from pipeline.core.alarm import HEALTHY

ENOUGH_HEALTHY = 200  # windows; with fewer the distribution is that of all training windows


def reference_document(
    dataset: Dataset, split: Split | None, scaler: Scaler, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """`distribution` for drift, `unknown` for windows that fit no mode; says how good the latter is."""
    healthy = dataset.classes.index(HEALTHY) if HEALTHY in dataset.classes else UNKNOWN
    parts = [sequence.x[sequence.y == healthy] for sequence in dataset.sequences]
    what = HEALTHY
    if healthy == UNKNOWN or sum(map(len, parts)) < ENOUGH_HEALTHY:
        parts, what = [sequence.x for sequence in dataset.sequences], "all"
    document: dict[str, Any] = {"distribution": {"of": what, **distribution(np.concatenate(parts), dataset.inputs)}}
    if split is not None:
        document["unknown"] = unknown.document(dataset, scaler, unknown.judge(dataset, split, scaler.kind))
        say(unknown.text(document["unknown"]))
    return document
