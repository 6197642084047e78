"""The audit: compares an archive with the result of an uninterrupted run of the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.engine import Engine
from pipeline.core.features.table import FEATURES
from pipeline.core.records import Block, FeatureRow, Float32, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges.store.check import verify
from pipeline.edges.store.database import view_journal
from pipeline.edges.store.read import read_features, read_kind, read_predictions

if TYPE_CHECKING:
    import pyarrow as pa

TOLERANCE = 1e-5  # of probabilities: after a restart the network is stepped in other batches
_AT_ONCE = 800  # blocks per step of the uninterrupted run

Address = tuple[str, str, int, int]  # machine, point, session, window


@dataclass(frozen=True, slots=True)
class Expectation:
    """Every expected window: its features, and the probabilities of the network if there is one."""

    features: dict[Address, FeatureRow]
    probabilities: dict[Address, Float32]
    alarms: set[tuple[str, str]] = field(default_factory=set)  # id and type of every change


@dataclass(slots=True)
class Audit:
    """The differences between an archive and the expectation."""

    windows: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    features_differ: int = 0  # windows with a feature that is not identical
    alarms_differ: int = 0  # changes of alarms that are missing, and those of the same streams that nobody expected
    largest_p_error: float = 0.0
    problems: tuple[str, ...] = ()  # of `archive verify`
    counters: Mapping[str, int] = field(default_factory=dict)  # of the journal

    @property
    def clean(self) -> bool:
        """Whether every window is there once, with the right values."""
        wrong = self.lost + self.doubled + self.unexpected + self.features_differ + len(self.problems)
        wrong += self.alarms_differ
        return wrong == 0 and self.largest_p_error <= TOLERANCE and self.unbalanced == 0

    @property
    def unbalanced(self) -> int:
        """Received messages that the counters of the journal do not account for; 0 is right."""
        count = {name.removeprefix("messages_"): n for name, n in self.counters.items()}
        places = ("committed", "duplicate", "late", "quarantined")
        return count.get("received", 0) - sum(count.get(name, 0) for name in places)

    def text(self) -> str:
        """The result in one line."""
        found = f"{self.windows} windows, {self.lost} lost, {self.doubled} doubled"
        if self.features_differ or self.unexpected:
            found += f", {self.features_differ} differ, {self.unexpected} unexpected"
        if self.alarms_differ:
            found += f", {self.alarms_differ} changes of alarms differ"
        if self.problems:
            found += f", {len(self.problems)} problems such as: {self.problems[0]}"
        return found + (f", largest error of p {self.largest_p_error:.0e}" if self.largest_p_error else "")


def uninterrupted(engine: Engine, blocks: Iterable[Block]) -> Expectation:
    """Runs the engine over all blocks in this process."""
    expected = Expectation({}, {})
    states: dict[StreamKey, StreamState] = {}
    waiting = iter(blocks)
    while some := list(islice(waiting, _AT_ONCE)):
        step = engine.step(states, some)
        states |= step.states
        for row in step.features:
            expected.features[*row.key, row.session, row.window] = row
        for p in step.predictions:
            expected.probabilities[*p.key, p.session, p.window] = p.probabilities
        expected.alarms.update((change.id, change.type) for change in step.alarms)
    return expected


def stored_windows(data_dir: Path) -> int:
    """Number of feature rows in files and journal."""
    return read_features(data_dir, columns=["window"]).num_rows if (data_dir / "journal.db").exists() else 0


def audit(data_dir: Path, expected: Expectation, classes: tuple[str, ...] = ()) -> Audit:
    """Compares the archive with the expectation, row by row and bit by bit."""
    result = Audit()
    features = read_features(data_dir)
    names = {name: i for i, name in enumerate(name for name in features.column_names if "." in name)}
    addresses = _addresses(features)
    result.windows = len(addresses)
    result.doubled = sum(n - 1 for n in Counter(addresses).values())
    result.lost = len(expected.features.keys() - set(addresses))
    result.unexpected = len(set(addresses) - expected.features.keys())
    values = np.stack([features[name].to_numpy() for name in names], axis=1) if names else np.empty((0, 0))
    for address, row in zip(addresses, values, strict=True):
        wanted = expected.features.get(address)
        if wanted is not None:
            result.features_differ += not np.array_equal(row, _laid_out(wanted, names), equal_nan=True)
    if classes:
        _audit_predictions(data_dir, expected, classes, result)
    machines = {machine for machine, *_ in expected.features}
    alarms = read_kind(data_dir, "alarms", columns=("machine", "id", "type")).to_pylist()
    found = {(alarm["id"], alarm["type"]) for alarm in alarms if alarm["machine"] in machines}
    result.alarms_differ = len(found ^ expected.alarms)
    result.problems = verify(data_dir).problems
    view = view_journal(data_dir, ())
    result.counters = {} if view is None else view.counters
    return result


def _laid_out(row: FeatureRow, names: Mapping[str, int]) -> Float32:
    """The features of a row in the columns of the archive; NaN for channels that the stream lacks."""
    values = np.full(len(names), np.nan, np.float32)
    for channel, of_channel in zip(row.channels, row.values, strict=True):
        values[[names[f"{channel}.{feature.name}"] for feature in FEATURES]] = of_channel
    return values


def _audit_predictions(data_dir: Path, expected: Expectation, classes: tuple[str, ...], result: Audit) -> None:
    table = read_predictions(data_dir)
    addresses = _addresses(table)
    result.doubled += sum(n - 1 for n in Counter(addresses).values())
    result.lost += len(expected.probabilities.keys() - set(addresses))
    p = np.stack([table[f"p_{name}"].to_numpy(zero_copy_only=False) for name in classes], axis=1)
    for address, row in zip(addresses, p, strict=True):
        wanted = expected.probabilities.get(address)
        if wanted is not None and not np.isnan(wanted).all():
            error = float(np.max(np.abs(row - wanted)))
            result.largest_p_error = max(result.largest_p_error, np.inf if np.isnan(error) else error)


def _addresses(table: pa.Table) -> list[Address]:
    columns = [table[name].to_pylist() for name in ("machine", "point", "session", "window")]
    return list(zip(*columns, strict=True))
