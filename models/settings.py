"""The settings of a training: `thrumcast train --set key=value`. This is the only place of their defaults."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from models.bundle import TASKS
from models.cells import CELLS
from models.scaling import KINDS
from pipeline.errors import ConfigError

BALANCES = ("none", "sqrt", "full", "logit")
AIMS = ("auto", "new", "known")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """All settings of a training. They are stored with the version, so that `evaluate` can train the same way again."""

    task: str = "window"  # window, sequence, next, life: see models/bundle.py
    targets: str = ""  # next: features or columns to predict, with commas; "" = the inputs
    aim: str = "auto"  # new, known, auto: see models/training/folds.py
    inputs: str = "gain_free"  # gain_free, all, or names with commas
    scaler: str = "standard"  # standard, minmax, robust
    cell: str = "gru"  # gru, lstm, rnn_tanh, rnn_relu
    hidden: int = 48  # units per layer
    layers: int = 1  # 1 or 2
    members: int = 3  # networks with different seeds whose outputs are averaged
    dropout: float = 0.3  # before the head, and between layers
    epochs: int = 0  # passes over the data; 0 = enough for about STEPS_WANTED steps
    batch: int = 16  # sequences side by side
    chunk: int = 32  # windows per truncated back-propagation
    crop: float = 0.33  # per pass a sequence starts up to this share of it later, at most a chunk
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    reset_p: float = 0.15  # probability per chunk and sequence that the state starts again from zero
    burn_in: int = 1  # windows after a cold start without loss
    noise: float = 0.15  # standard deviation of the noise on scaled features
    drop_input: float = 0.1  # share of the features that a sequence misses, per chunk
    gain: float = 0.5  # standard deviation of ln(gain) of features that depend on the sensor's gain
    speed: float = 0.0  # standard deviation of ln(speed factor), see augment.py
    channel_swap: float = 0.0  # share of the sequences whose channels change places
    channel_drop: float = 0.1  # share of the chunks that miss one of several channels
    structure_offset: float = 2.0  # standard deviation of a machine's own offset on scaled features, see augment.py
    simulated: float = 1.0  # share of the shipped simulated machines to learn from beside the data, see prior.py
    structure_drop: float = 0.7  # share of the chunks that miss the features with such an offset
    order_structure: float = 1.0  # how far lines at shaft orders get such an offset; 0 with many machines
    baseline_drop: float = 0.5  # share of the chunks that miss features relative to a baseline
    label_smoothing: float = 0.05
    balance: str = "sqrt"  # none, class weights sqrt = 1/sqrt(count) or full = 1/count, logit = logit adjustment
    forecast: int = 0  # modes to forecast after the present one; 0 = no forecast
    decoder: int = 24  # units of the forecast's decoder
    teacher: float = 1.0  # share of the decoder's steps that get the true previous mode; below 1: scheduled sampling
    device: str = "auto"  # auto = a GPU if there is one
    precision: str = "auto"  # auto = bfloat16 on a GPU, float32 on a CPU
    folds: int = 5
    patience: int = 10  # checks without a better held-out likelihood before a fold stops
    seed: int = 0

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Self:
        """Read `key=value` words over the defaults.

        Raises:
            ConfigError: an unknown key, or a value that does not fit; names the nearest key.
        """
        kinds = {field.name: type(getattr(cls(), field.name)) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for word in assignments:
            key, equals, value = word.partition("=")
            key = key.strip().removeprefix("train.")
            if not equals or key not in kinds:
                near = difflib.get_close_matches(key, kinds, n=1)
                msg = f"--set: expected key=value with one of {', '.join(kinds)}, found: {word}"
                raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else None)
            try:
                values[key] = kinds[key](value.strip())
            except ValueError:
                msg = f"--set {key}: expected {_kind_name(kinds[key])}, found: {value}"
                raise ConfigError(msg) from None
        return cls(**values).checked()

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read the settings of a stored version; keys of other releases are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in names}).checked()

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON has them."""
        return dataclasses.asdict(self)

    def checked(self) -> Self:
        """Return the settings if every value is in its range.

        Raises:
            ConfigError: naming the key and the range.
        """
        ranges: dict[str, tuple[bool, str]] = {
            "task": (self.task in TASKS, ", ".join(TASKS)),
            "aim": (self.aim in AIMS, ", ".join(AIMS)),
            "cell": (self.cell in CELLS, ", ".join(CELLS)),
            "members": (1 <= self.members <= 32, "1 to 32"),
            "gain": (0 <= self.gain <= 3, "0 to 3"),
            "speed": (0 <= self.speed <= 0.5, "0 to 0.5"),
            "channel_swap": (0 <= self.channel_swap <= 1, "0 to 1"),
            "channel_drop": (0 <= self.channel_drop <= 1, "0 to 1"),
            "forecast": (0 <= self.forecast <= 32, "0 (none) to 32"),
            "decoder": (1 <= self.decoder <= 1024, "1 to 1024"),
            "teacher": (0 <= self.teacher <= 1, "0 to 1"),
            "device": (self.device in DEVICES, ", ".join(DEVICES)),
            "precision": (self.precision in PRECISIONS, ", ".join(PRECISIONS)),
            "scaler": (self.scaler in KINDS, ", ".join(KINDS)),
            "balance": (self.balance in BALANCES, ", ".join(BALANCES)),
            "hidden": (1 <= self.hidden <= 4096, "1 to 4096"),
            "layers": (self.layers in {1, 2}, "1 or 2"),
            "dropout": (0 <= self.dropout < 1, "0 to below 1"),
            "epochs": (0 <= self.epochs <= 100_000, "0 (automatic) to 100000"),
            "batch": (self.batch >= 1, "1 or more"),
            "chunk": (self.chunk >= 1, "1 or more"),
            "crop": (0 <= self.crop < 1, "0 to below 1"),
            "learning_rate": (0 < self.learning_rate <= 1, "above 0, at most 1"),
            "weight_decay": (0 <= self.weight_decay <= 1, "0 to 1"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
            "reset_p": (0 <= self.reset_p <= 1, "0 to 1"),
            "burn_in": (0 <= self.burn_in < self.chunk, "0 to below chunk"),
            "noise": (0 <= self.noise <= 10, "0 to 10"),
            "drop_input": (0 <= self.drop_input < 1, "0 to below 1"),
            "structure_offset": (0 <= self.structure_offset <= 10, "0 to 10"),
            "order_structure": (0 <= self.order_structure <= 1, "0 to 1"),
            "structure_drop": (0 <= self.structure_drop < 1, "0 to below 1"),
            "baseline_drop": (0 <= self.baseline_drop < 1, "0 to below 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "folds": (self.folds >= 2, "2 or more"),
            "patience": (self.patience >= 1, "1 or more"),
        }
        for key, (fine, expected) in ranges.items():
            if not fine:
                msg = f"--set {key}: expected {expected}, found: {getattr(self, key)}"
                raise ConfigError(msg)
        return self


def _kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number"}.get(kind, "text")
