"""What an interrupted training has done, kept under its run so that `thrumcast train --resume RUN` can go on.

    DIR/runs/<run>/run.json                settings, split and fingerprint of the data: another training is refused
    DIR/runs/<run>/<part>.safetensors      one per fold and member: weights, moments, random states, what it said so far

A training that goes on gives the same weights as one that never stopped (tests/models/test_resume.py). Files are replaced as a
whole, so that a kill leaves the one before. safetensors and JSON only: reading one can run nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.data.dataset import Dataset
from models.training.loop import FitState
from pipeline.errors import ModelError

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """One network of a training: where it is, and what the caller kept beside it."""

    state: FitState
    kept: Arrays
    finished: bool


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run."""

    directory: Path

    def load(self, part: str) -> Progress | None:
        """Read what is there of a part such as `fold-1-member-0`; None if nothing is.

        Raises:
            ModelError: the file is damaged.
        """
        path = self._path(part)
        if not path.exists():
            return None
        tensors: dict[str, torch.Tensor] = {}
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            msg = f"{path}: expected a checkpoint, found: {error}"
            raise ModelError(msg, hint="remove the file: that part of the training is done again") from error
        kept = {name.removeprefix("kept."): t.numpy() for name, t in tensors.items() if name.startswith("kept.")}
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith("kept.")}
        return Progress(FitState(int(about["epoch"]), state, about["rng"]), kept, bool(about["finished"]))

    def save(self, part: str, progress: Progress) -> None:
        """Replace what is there of a part."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = dict(progress.state.tensors)
        tensors |= {f"kept.{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in progress.kept.items()}
        about = {"epoch": progress.state.epoch, "rng": progress.state.rng, "finished": progress.finished}
        temporary = self._path(part).with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"about": json.dumps(about)})
        temporary.replace(self._path(part))

    def begin(self, document: dict[str, Any]) -> None:
        """Note what this training is, or check that it is still the same.

        Raises:
            ModelError: the run was about something else.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "run.json"
        if not path.exists():
            path.write_text(json.dumps(document, indent=1) + "\n")
            return
        before = json.loads(path.read_text())
        for key, value in document.items():
            if before.get(key) != value:
                msg = f"run {self.directory.name}: expected {key} as it was, {before.get(key)}, found: {value}"
                raise ModelError(
                    msg, hint="the archive or the settings have changed since: train anew, without --resume"
                )

    def clear(self) -> None:
        """Remove the weights of a training that has come to its end; run.json and the metrics stay."""
        for path in self.directory.glob("*.safetensors"):
            path.unlink()

    def _path(self, part: str) -> Path:
        return self.directory / f"{part}.safetensors"


def fingerprint(dataset: Dataset) -> str:
    """Digest of everything that is learned from."""
    digest = hashlib.sha256("\n".join([*dataset.inputs, *dataset.classes, dataset.feature_schema]).encode())
    for sequence in dataset.sequences:
        digest.update(f"{sequence.key.machine}/{sequence.key.point}".encode())
        digest.update(np.ascontiguousarray(sequence.x).tobytes())
        digest.update(np.ascontiguousarray(sequence.y).tobytes())
    return digest.hexdigest()[:16]
