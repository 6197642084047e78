"""A small, quick training, for tests of what stands around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.jobs.train import TrainRequest, TrainResult, train
from models.settings import TrainSettings
from pipeline.config.tables import Config

QUICK = TrainSettings(aim="new", epochs=12, hidden=12, members=1, learning_rate=0.02, structure_offset=0.0, noise=0.1)


def trained(
    data: Path, *, settings: TrainSettings = QUICK, split: str | None = None, leaky: bool = False
) -> tuple[TrainResult, list[str]]:
    """The result of a training on that archive, and what it said."""
    said: list[str] = []
    request = TrainRequest(data, Config(), settings, split, leaky=leaky)
    result = train(request, say=said.append, warn=said.append)
    return result, said


def fewer_steps(patch: pytest.MonkeyPatch) -> None:
    """Trains the decoder of a forecast for a quarter of its steps, and draws no pictures."""
    checks = (10, 30, 75, 150)
    patch.setattr("models.training.forecast.CHECKS", checks)
    patch.setattr("models.training.forecast.STEPS", checks[-1])
    patch.setattr("models.evaluation.plots.available", lambda: False)
