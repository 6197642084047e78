"""Real-valued output: data, training on mean squared error, and errors beside naive guesses.

    value_data        sequences with the targets of a task: `next` or `life`, see models/data/tasks.py
    fit_values        an ensemble trained on them
    held_out_values   errors on machines that were held out, pooled over the folds

`train`, `train --compare` and `evaluate` all use these, so they agree on the same data.

The next value is learned as a change from the present one: windows fluctuate around a level, and a network that says
the level must first learn to copy it. Its version says changes too, and the value is the present one plus the change.
The targets have a scaler of their own, fitted on training machines, and predictions are brought back to units before
anything is measured. The naive guesses, on the same windows:

    next    mean          the training machines' mean of that feature
            as it is      the value of the present window
    life    mean          the training machines' mean remaining life
            mean - age    the training machines' mean whole life, less the age of the machine (not below 0)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.data.dataset import Dataset, DatasetSpec, build
from models.data.splits import Facts, Fold, split_or_by_time
from models.data.tasks import Targets, ValueSequence, as_one_class, next_values, remaining_life
from models.network import RecurrentNetwork
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.folds import Watch, member_settings
from models.training.loop import EpochReport, epochs_for, fit, network_config, predict
from models.training.objective import Example

Float32 = NDArray[np.float32]

NO_PROMISE = "an estimate from the lives of other machines, not a promise: do not keep a machine running because of it"


@dataclass(frozen=True, slots=True, eq=False)
class ValueModel:
    """The networks of an ensemble, and the scalers of their inputs and outputs."""

    networks: tuple[RecurrentNetwork, ...]
    scaler: Scaler
    target_scaler: Scaler
    epochs: int
    cut_short: bool
    changes: bool  # what is said is added to the present value

    def predict(self, sequences: Sequence[ValueSequence]) -> list[Float32]:
        """Values (T, D) in units."""
        examples = _examples(sequences, self.scaler, self.target_scaler, changes=self.changes)
        said = [predict(network, examples) for network in self.networks]
        values = (
            self.target_scaler.invert(np.mean([one[row] for one in said], axis=0)) for row in range(len(sequences))
        )
        return [value + each.now if self.changes else value for value, each in zip(values, sequences, strict=True)]

    def weights(self) -> dict[str, Float32]:
        """Weights as a version has them, members stacked."""
        states = [{name: t.detach().cpu().numpy() for name, t in n.state_dict().items()} for n in self.networks]
        return {
            name: np.stack([state[name] for state in states]) if len(states) > 1 else states[0][name]
            for name in states[0]
        }


def fit_values(
    sequences: Sequence[ValueSequence], inputs: Sequence[str], settings: TrainSettings, watch: Watch, fold: int | None
) -> ValueModel:
    """Train on all of `sequences`. Ctrl-C keeps the members that have a whole pass.

    Raises:
        KeyboardInterrupt: before the first pass was done.
    """
    scaler = Scaler.fit(np.concatenate([each.windows.x for each in sequences]), settings.scaler)
    changes = settings.task == "next"
    target_scaler = Scaler.fit(np.concatenate([_goal(each, changes=changes) for each in sequences]), settings.scaler)
    examples = _examples(sequences, scaler, target_scaler, changes=changes)
    epochs, done = epochs_for(examples, settings), 0
    targets = sequences[0].target.shape[1]
    config = network_config(len(inputs), targets, settings)
    networks: list[RecurrentNetwork] = []
    last: RecurrentNetwork | None = None
    cut_short = False

    def note(seen: EpochReport, network: RecurrentNetwork) -> bool:
        nonlocal last, done
        last, done = network, max(done, seen.epoch)
        watch(fold, seen, None)
        return True

    try:
        for member in range(settings.members):
            own = _levels_stay(member_settings(settings, member))
            augmentation = Augmentation.of(inputs, scaler, own)
            networks.append(fit(examples, config, own, epochs=epochs, augmentation=augmentation, after_epoch=note))
    except KeyboardInterrupt:
        if last is None:
            raise
        networks, cut_short = networks or [last.eval()], True
    return ValueModel(tuple(networks), scaler, target_scaler, done, cut_short, changes)


def value_metrics(
    task: str,
    targets: Targets,
    train: Sequence[ValueSequence],
    test: Sequence[ValueSequence],
    said: Sequence[Float32],
) -> dict[str, Any]:
    """Squared and absolute errors (sums, to be pooled over folds) of the model and of the naive guesses."""
    truth, now = (np.concatenate([getattr(each, name) for each in test]) for name in ("target", "now"))
    known_train = np.concatenate([each.target for each in train])
    mean = np.nanmean(known_train, axis=0)
    guesses = {"model": np.concatenate(list(said)), "mean": np.broadcast_to(mean, truth.shape)}
    if task == "next":
        guesses["as it is"] = now
    else:
        whole = np.mean([float(each.target[0, 0] + each.now[0, 0]) for each in train])
        guesses["mean - age"] = np.maximum(0.0, whole - now)
    sums: dict[str, Any] = {}
    for column, name in enumerate(targets.names):
        # Every guess is judged on the same windows.
        there = np.isfinite(truth[:, column]) & np.all([np.isfinite(g[:, column]) for g in guesses.values()], axis=0)
        gaps = {who: (g[there, column] - truth[there, column]).astype(np.float64) for who, g in guesses.items()}
        sums[name] = {
            "windows": int(there.sum()),
            **{who: [float(np.square(gap).sum()), float(np.abs(gap).sum())] for who, gap in gaps.items()},
        }
    return sums


def pooled(sums: Sequence[dict[str, Any]], targets: Targets) -> dict[str, Any]:
    """Root mean squared and mean absolute errors over all folds, in units, per target."""
    numbers: dict[str, Any] = {}
    for name, unit in zip(targets.names, targets.units, strict=True):
        windows = sum(each[name]["windows"] for each in sums)
        if not windows:
            continue
        errors = {}
        for who in sums[0][name]:
            if who != "windows":
                squared, absolute = (sum(each[name][who][k] for each in sums) / windows for k in (0, 1))
                errors[who] = {"rmse": float(np.sqrt(squared)), "mae": absolute}
        naive = min(error["rmse"] for who, error in errors.items() if who != "model")
        numbers[name] = {
            "unit": unit,
            "windows": windows,
            "errors": errors,
            "better_than_naive": errors["model"]["rmse"] < naive,
        }
    return numbers


def values_text(task: str, numbers: dict[str, Any]) -> str:
    """Return the table of errors; for remaining life with a warning."""
    from models.evaluation.report import table

    rows = []
    for name, each in numbers.items():
        for who, error in each["errors"].items():
            rows.append(
                (name if who == "model" else "", who, f"{error['rmse']:.4g}", f"{error['mae']:.4g}", each["unit"])
            )
    worse = [name for name, each in numbers.items() if not each["better_than_naive"]]
    lines = [table(("value", "guess", "RMSE", "MAE", "unit"), rows)]
    if worse:
        lines.append(f"no better than the best naive guess: {', '.join(worse)}")
    if task == "life":
        lines.append(NO_PROMISE)
    return "\n".join(lines)


def _levels_stay(settings: TrainSettings) -> TrainSettings:
    """Switch off the changes that move levels: the targets are levels and would not move with the inputs."""
    return replace(settings, structure_offset=0.0, structure_drop=0.0, gain=0.0, speed=0.0, channel_swap=0.0)


def _goal(each: ValueSequence, *, changes: bool) -> Float32:
    """What the network is to say of every window (T, D), in units."""
    return each.target - each.now if changes else each.target


def _examples(
    sequences: Sequence[ValueSequence], scaler: Scaler, target_scaler: Scaler, *, changes: bool
) -> list[Example]:
    return [
        Example(scaler.apply(each.windows.x), target_scaler.apply(_goal(each, changes=changes))) for each in sequences
    ]


@dataclass(frozen=True, slots=True, eq=False)
class ValueData:
    """The data of a model of values."""

    dataset: Dataset
    sequences: list[ValueSequence]
    targets: Targets

    @property
    def windows(self) -> int:
        """Windows with a value to learn from."""
        return sum(int(np.isfinite(each.target).any(axis=1).sum()) for each in self.sequences)

    @property
    def machines(self) -> list[str]:
        """Machines that have any of them."""
        return sorted({each.windows.key.machine for each in self.sequences})

    def text(self) -> str:
        """One line for the terminal."""
        return f"values:  {', '.join(self.targets.names)}; {self.windows} windows of {len(self.sequences)} sequences"


def value_data(
    table: pa.Table,
    spec: DatasetSpec,
    task: str,
    facts: Facts,
    *,
    targets: str = "",
    exact_targets: tuple[str, ...] | None = None,
) -> ValueData:
    """Make the sequences and targets of a task of values.

    Args:
        table: rows of a feature archive.
        spec: how they become sequences.
        task: next or life.
        facts: machines.jsonl.
        targets: next: features or columns to foretell; empty for the inputs.
        exact_targets: next: the target columns of an existing model.

    Raises:
        ThrumcastError: there is nothing to learn from.
    """
    dataset = build(table, spec)
    if task == "life":
        return ValueData(dataset, *remaining_life(dataset, facts))
    asked = dataclasses.replace(spec, inputs=targets or spec.inputs, exact_inputs=exact_targets)
    return ValueData(dataset, *next_values(dataset, build(table, asked)))


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutValues:
    """Errors on held-out windows, and the split that held them out."""

    split: str
    numbers: dict[str, Any]
    remarks: tuple[str, ...]


def held_out_values(
    data: ValueData,
    settings: TrainSettings,
    facts: Facts,
    field: str | None,
    default: str,
    watch: Watch,
    warn: Callable[[str], None],
) -> HeldOutValues:
    """Return errors on machines that were held out, pooled over the folds.

    Without a `field` the split is `default`, or `time` where there is only one machine. `warn` gets the remarks on the
    split.
    """
    dealt = as_one_class(data.sequences)
    split = split_or_by_time(dealt, ("any",), facts, field, default, settings.folds, warn)
    sums = []
    for number, fold in enumerate(split.folds):
        train, test = _sides(fold, data.sequences)
        model = fit_values(train, data.dataset.inputs, settings, watch, number)
        if model.cut_short:
            raise KeyboardInterrupt
        sums.append(value_metrics(settings.task, data.targets, train, test, model.predict(test)))
    return HeldOutValues(split.name, pooled(sums, data.targets), split.remarks)


def _sides(fold: Fold, sequences: Sequence[ValueSequence]) -> tuple[list[ValueSequence], list[ValueSequence]]:
    """Return the value sequences of either side; a piece of a sequence keeps the values of its windows."""
    whole = {(each.windows.key, int(start)): (each, t) for each in sequences
             for t, start in enumerate(each.windows.start_ns)}  # fmt: skip
    sides: list[list[ValueSequence]] = []
    for side in (fold.train, fold.test):
        made = []
        for part in side:
            each, first = whole[part.key, int(part.start_ns[0])]
            last = first + len(part)
            target = each.target[first:last].copy()
            if side is fold.train and last < len(each.windows):
                target[-1] = np.nan  # its value belongs to a window beyond the cut
            made.append(ValueSequence(part, target, each.now[first:last]))
        sides.append(made)
    return sides[0], sides[1]
