"""Comparison of cells: the same data, folds, settings and seeds for each, and one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.bundle import VALUE_TASKS, ModelSpec
from models.cells import CELLS, Recurrence
from models.data.dataset import Dataset, read_machines
from models.evaluation.report import table
from models.evaluation.scoring import score
from models.jobs.train import DEFAULT_SPLIT, Say, TrainRequest, asked_data, choose_split
from models.jobs.values import asked_data as value_request
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.folds import cross_validate, data_for_aim
from models.training.values import held_out_values
from pipeline.config.specs import alarm_spec
from pipeline.errors import ConfigError, ThrumcastError

STEP_ROWS = 64  # streams stepped together when a step is timed
_COLUMNS = ("accuracy", "macro_f1", "macro_auroc", "ece")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison, as JSON and as text."""

    document: dict[str, Any]
    text: str


def compare_cells(request: TrainRequest, cells: Sequence[str], *, say: Say, warn: Say) -> Comparison:
    """Cross-validate every cell; nothing is registered.

    Raises:
        ConfigError: no such cell.
        ThrumcastError: there is nothing to learn from, or nothing to hold back.
    """
    for cell in cells:
        if cell not in CELLS:
            msg = f"--compare: expected some of {', '.join(CELLS)} with commas, found: {cell}"
            raise ConfigError(msg)
    torch.set_num_threads(1)
    config = request.config
    if request.settings.task in VALUE_TASKS:
        return _compare_values(request, cells, say, warn)
    dataset = asked_data(request, say)
    split = choose_split(dataset, request, warn)
    if split is None:
        raise _nothing_held_back()
    rows = []
    dataset, asked = data_for_aim(dataset, request.settings)
    for cell in cells:
        settings, started = replace(asked, cell=cell), time.monotonic()
        held_out = cross_validate(dataset, split, settings, lambda *_: None)
        if held_out is None or held_out.folds_done < len(split.folds):
            raise KeyboardInterrupt
        numbers = score(
            held_out.tracks, dataset.classes, alarm_spec(config), warm_up_windows=config.model.warm_up_windows
        )
        weights, step_us = _cost(dataset, dataset.classes, settings)
        row = {
            "cell": cell,
            "weights": weights,
            **{key: numbers[key] for key in _COLUMNS},
            "recordings": numbers["recordings"]["accuracy"],
            "passes": held_out.epochs,
            "train_s": round(time.monotonic() - started, 1),
            "step_us": round(step_us, 1),
        }
        rows.append(row)
        say(f"{cell}: macro F1 {_cell(row['macro_f1'])}, {row['train_s']:g} s")
    head = ("cell", "weights", "accuracy", "macro F1", "AUROC", "ECE", "recordings", "passes", "train s", "step us")
    text = table(head, [tuple(_cell(value) for value in row.values()) for row in rows])
    tail = f"held out by {split.name}, {len(split.folds)} folds; a step is of {STEP_ROWS} streams"
    tail += f", {request.settings.members} members"
    return Comparison({"split": split.name, "settings": request.settings.document(), "cells": rows}, f"{text}\n{tail}")


def _compare_values(request: TrainRequest, cells: Sequence[str], say: Say, warn: Say) -> Comparison:
    """One row per cell with its errors in units, and one per naive guess."""
    if request.split == "none":
        raise _nothing_held_back()
    data, facts = value_request(request, say), read_machines(request.source)
    rows: list[dict[str, Any]] = []
    naive: dict[str, dict[str, float]] = {}
    split = ""
    for cell in cells:
        settings, started = replace(request.settings, cell=cell), time.monotonic()
        tell = warn if not rows else _silent  # all cells share the split
        held_out = held_out_values(data, settings, facts, request.split, DEFAULT_SPLIT, _silent, tell)
        seconds = round(time.monotonic() - started, 1)
        weights, step_us = _cost(data.dataset, data.targets.names, settings)
        errors = {name: {who: each["rmse"] for who, each in numbers["errors"].items()}
                  for name, numbers in held_out.numbers.items()}  # fmt: skip
        own = {name: each.pop("model") for name, each in errors.items()}
        rows.append({"cell": cell, "weights": weights, "rmse": own, "train_s": seconds, "step_us": round(step_us, 1)})
        naive, split = errors, held_out.split
        say(f"{cell}: {seconds:g} s")
    units = dict(zip(data.targets.names, data.targets.units, strict=True))
    head = ("cell", "weights", *(f"{name} [{units[name]}]" for name in naive), "train s", "step us")
    lines = [
        (row["cell"], str(row["weights"]), *(f"{row['rmse'][name]:.4g}" for name in naive),
         str(row["train_s"]), str(row["step_us"]))
        for row in rows
    ]  # fmt: skip
    for who in next(iter(naive.values()), {}):
        lines.append((who, "-", *(f"{each[who]:.4g}" for each in naive.values()), "-", "-"))
    tail = f"RMSE, held out by {split}; a step is of {STEP_ROWS} streams, {request.settings.members} members"
    document = {"split": split, "settings": request.settings.document(), "cells": rows, "naive": naive}
    return Comparison(document, f"{table(head, lines)}\n{tail}")


def _silent(*_: object) -> None:
    return None


def _nothing_held_back() -> ThrumcastError:
    msg = "--compare: expected a split that holds something back, found: none"
    return ThrumcastError(msg, hint="leave --split out, or name a field")


def _cost(dataset: Dataset, outputs: Sequence[str], settings: TrainSettings) -> tuple[int, float]:
    """Number of weights, and microseconds of one serving step (the best of 20, because the machine may be busy)."""
    features = len(dataset.inputs)
    scaler = Scaler("standard", np.zeros(features, np.float32), np.ones(features, np.float32))
    # Always a model of failure modes: only the width of the head matters for the time.
    spec = ModelSpec("v0000", tuple(outputs), dataset.inputs, dataset.feature_schema, 1.0, 1.0, 0.0, scaler,
                     settings.hidden, settings.layers, 1.0, settings.cell, settings.members, "window")  # fmt: skip
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    recurrence = Recurrence(spec.cell, spec.hidden, spec.layers, spec.members, weights)
    z = rng.standard_normal((STEP_ROWS, features)).astype(np.float32)
    h = np.zeros((STEP_ROWS, *spec.state_shape), np.float32)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        recurrence.step(z, h)
        times.append(time.perf_counter() - started)
    return sum(weight.size for weight in weights.values()), 1e6 * min(times)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) and abs(value) <= 1 else str(value)
