"""A training run on disk and on the screen.

    DIR/runs/<run>/run.json                settings, split and fingerprint of the data
    DIR/runs/<run>/<part>.safetensors      one per fold and member: weights, moments, random states, held-out outputs
    DIR/runs/<run>/metrics.jsonl           one line per pass over the data

`thrumcast train --resume RUN` goes on from these files and gives the same weights as a training that never stopped
(tests/models/test_resume.py). A run of other data or settings is refused. Each file is replaced as a whole, so a kill
leaves the previous one. The files are safetensors and JSON, so reading one cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.data.dataset import Dataset
from models.evaluation.metrics import number_or_none
from models.training.loop import EpochReport, FitState
from pipeline.errors import ModelError

LINES_PER_FIT = 4  # lines of progress that a fit prints

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """One network in training: its state, and the arrays that the caller keeps with it."""

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
            raise ModelError(msg, hint="remove the file; this part of the training is then done again") from error
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
        """Write what this training is about, or check that a resumed run is about the same.

        Raises:
            ModelError: the run has other settings, another split or other data.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "run.json"
        if not path.exists():
            path.write_text(json.dumps(document, indent=1) + "\n")
            return
        before = json.loads(path.read_text())
        for key, value in document.items():
            if before.get(key) != value:
                msg = f"run {self.directory.name}: expected the same {key} as before, {before.get(key)}, found: {value}"
                raise ModelError(msg, hint="the archive or the settings have changed: train again without --resume")

    def clear(self) -> None:
        """Remove the checkpoints of a finished training; run.json and metrics.jsonl stay."""
        for path in self.directory.glob("*.safetensors"):
            path.unlink()

    def _path(self, part: str) -> Path:
        return self.directory / f"{part}.safetensors"


def fingerprint(dataset: Dataset) -> str:
    """Return a digest of all training data."""
    digest = hashlib.sha256("\n".join([*dataset.inputs, *dataset.classes, dataset.feature_schema]).encode())
    for sequence in dataset.sequences:
        digest.update(f"{sequence.key.machine}/{sequence.key.point}".encode())
        digest.update(np.ascontiguousarray(sequence.x).tobytes())
        digest.update(np.ascontiguousarray(sequence.y).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RunLog:
    """A `Watch` of models/training/folds.py: every pass to metrics.jsonl, and some lines of progress."""

    log: IO[str]
    say: Callable[[str], None]
    folds: int
    split: str = "honest"  # or leaky
    pace: Pace | None = None  # for a terminal

    def __call__(self, fold: int | None, seen: EpochReport, held_out: float | None) -> None:
        """Note a pass; `fold` None is the final fit."""
        entry = {
            "split": self.split,
            "aim": seen.aim,
            "fold": fold,
            "member": seen.member,
            "epoch": seen.epoch,
            "loss": number_or_none(seen.loss),
        }
        entry |= {"gradient_norm": number_or_none(seen.gradient_norm), "held_out_nll": held_out}
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()
        aim = "known machines, " if seen.aim == "known" else ""
        if seen.epoch == seen.epochs or seen.epoch % max(1, seen.epochs // LINES_PER_FIT) == 0:
            where = (
                "final fit"
                if fold is None
                else f"{'' if self.split == 'honest' else f'{self.split} '}fold {fold + 1}/{self.folds}"
            )
            tail = "" if held_out is None else f", held-out {held_out:.3f}"
            where += f", member {seen.member + 1}" if seen.member else ""
            self.say(f"{aim}{where}: pass {seen.epoch}/{seen.epochs}, loss {seen.loss:.3f}{tail}")
        if self.pace is not None:
            self.pace(fold, seen, held_out)


@dataclass(slots=True)
class Pace:
    """A `Watch` of models/training/folds.py: shows how far the folds, or the final fit, are and how long they can take.

    Fits that stop early need less, so the time is an upper limit.
    """

    status: Callable[[str], None]  # shows one line until the next
    folds: int
    members: int
    clock: Callable[[], float] = time.monotonic
    _part: tuple[object, ...] = ()
    _began: float = 0.0
    _passes: int = 0  # of this part that were timed

    def __call__(self, fold: int | None, seen: EpochReport, held_out: float | None) -> None:
        """Note a pass; `fold` None is the final fit."""
        now, part = self.clock(), (seen.aim, fold is None)
        if part != self._part:  # the first pass is not timed: its start is not known
            self._part, self._began, self._passes = part, now, -1
        self._passes += 1
        fits_before = (fold or 0) * self.members + seen.member
        fits = self.members * (1 if fold is None else self.folds)
        ahead = (fits - fits_before) * seen.epochs - seen.epoch
        where = "final fit" if fold is None else f"fold {fold + 1}/{self.folds}"
        where += f", member {seen.member + 1}/{self.members}" if self.members > 1 else ""
        left = "" if self._passes < 1 else f", at most {_span(ahead * (now - self._began) / self._passes)} left"
        last = seen.epoch == seen.epochs and ahead == 0
        self.status("" if last else f"{where}: pass {seen.epoch}/{seen.epochs}{left} of the {_WHAT[fold is None]}")


_WHAT = {True: "final fit", False: "folds"}


def _span(seconds: float) -> str:
    """Seconds or minutes, as exact as such a guess can be."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
