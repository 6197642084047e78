"""The last step of every training: a model that works becomes a version, and an alias points at it.

`reference_document` is what a version keeps about its training data in data.json: the distribution of the inputs, for
drift, and the detector of unknown windows.
"""

from __future__ import annotations

import contextlib
import fcntl
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import unknown
from models.bundle import Bundle
from models.data.dataset import UNKNOWN, Dataset
from models.data.splits import Split
from models.drift import distribution
from models.evaluation.diagnosis import self_test
from models.registry import Registry
from models.scaling import Scaler
from pipeline.core.faults import HEALTHY
from pipeline.errors import ModelError, ThrumcastError

ENOUGH_HEALTHY = 200  # windows; with fewer the distribution is that of all training windows


@contextlib.contextmanager
def only_training(data_dir: Path) -> Iterator[None]:
    """Lock out a second training of this data directory, whichever process begins it.

    Raises:
        ThrumcastError: another training is running.
    """
    if not data_dir.is_dir():  # the training says what is wrong with it
        yield
        return
    (data_dir / "runs").mkdir(exist_ok=True)
    with (data_dir / "runs" / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"expected no other training in {data_dir}, found one that is running"
            raise ThrumcastError(msg, hint="wait for its end or cancel it; one at a time") from None
        yield


def register(
    data_dir: Path, bundle: Bundle, alias: str, pictures: Mapping[str, bytes] | None = None
) -> tuple[Registry, str]:
    """Write the next version, with its pictures if there are any; return the registry and the version's name.

    Raises:
        ModelError: the model does not work, with what its diagnosis found; nothing is registered.
    """
    problems = self_test(bundle)
    if problems:
        causes = [f"{each['cause']} ({each['why']})" for each in bundle.train.get("diagnosis", {}).get("causes", ())]
        msg = f"expected a model that works, found: {'; '.join([*problems, *causes])}"
        raise ModelError(msg, hint="another --set learning_rate, scaler or seed may help; nothing was registered")
    registry = Registry(data_dir)
    version = registry.add(bundle, pictures)
    registry.point(alias, version, why="trained")
    return registry, version


def packages() -> dict[str, str]:
    """Return the versions on which the last bits of the weights depend."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def summary(bundle: Bundle, version: str, aliases: list[str]) -> dict[str, Any]:
    """Return what `train --json` prints about any version."""
    return {
        "version": version,
        "aliases": aliases,
        "inputs": list(bundle.spec.inputs),
        "windows": bundle.data["windows"],
        "windows_used": bundle.data["used"],
        "split": bundle.train["split"],
        "metrics": bundle.metrics,
        "epochs": bundle.train["epochs"],
        "interrupted": bundle.train["interrupted"],
        "run": bundle.train["run"],
        "seconds": bundle.train["seconds"],
    }


def reference_document(
    dataset: Dataset, split: Split | None, scaler: Scaler, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Return `distribution` for drift and `unknown` for windows that fit no mode; `say` gets numbers of the latter."""
    healthy = dataset.classes.index(HEALTHY) if HEALTHY in dataset.classes else UNKNOWN
    parts = [sequence.x[sequence.y == healthy] for sequence in dataset.sequences]
    what = HEALTHY
    if healthy == UNKNOWN or sum(map(len, parts)) < ENOUGH_HEALTHY:
        parts, what = [sequence.x for sequence in dataset.sequences], "all"
    document: dict[str, Any] = {"distribution": {"of": what, **distribution(np.concatenate(parts), dataset.inputs)}}
    if split is not None:
        document["unknown"] = unknown.document(dataset, scaler, unknown.assess(dataset, split, scaler.kind))
        say(unknown.text(document["unknown"]))
    return document
