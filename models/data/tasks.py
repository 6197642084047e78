"""Sequences of windows with modes -> what a task learns.

window      the sequences as they are: a mode at every window
sequence    cut where the known mode changes; only the last window of each piece keeps its mode. The state must carry
            the evidence to that window. Sequences can have any length: padding carries no loss
next        at window t the chosen features of window t + 1
life        at window t the seconds from its end to the end of its stream's life, for streams that machines.jsonl
            knows as `run_to_failure` and not as `truncated`; other streams have no value
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import UNKNOWN, Dataset, WindowSequence
from pipeline.core.features.table import FEATURES
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

LIFE = "remaining_life"
SECOND_NS = 1e9

Float32 = NDArray[np.float32]
Facts = Mapping[StreamKey, Mapping[str, object]]


@dataclass(frozen=True, slots=True, eq=False)
class ValueSequence:
    """T windows of a stream with the D values each that a model predicts, in their units."""

    windows: WindowSequence
    target: Float32  # (T, D), NaN = not known
    now: Float32  # (T, D) the same values at the window itself; for life the seconds since the stream began


@dataclass(frozen=True, slots=True)
class Targets:
    """Names and units of the D values."""

    names: tuple[str, ...]
    units: tuple[str, ...]


def one_mode_per_sequence(dataset: Dataset) -> Dataset:
    """Cut where the known mode changes and leave the mode to the last window of each piece."""
    pieces = []
    for sequence in dataset.sequences:
        known = np.flatnonzero(sequence.y != UNKNOWN)
        if known.size == 0:
            continue
        changes = known[1:][sequence.y[known[1:]] != sequence.y[known[:-1]]]
        for first, last in pairwise([0, *changes.tolist(), len(sequence)]):
            part = sequence.cut(first, last)
            valid = int(np.flatnonzero(part.y != UNKNOWN)[-1])
            part = part.cut(0, valid + 1)
            y = np.full(len(part), UNKNOWN, np.int64)
            y[valid] = part.y[valid]
            pieces.append(replace(part, y=y))
    return replace(dataset, sequences=tuple(pieces))


def next_values(dataset: Dataset, chosen: Dataset) -> tuple[list[ValueSequence], Targets]:
    """Return at every window the `chosen` features of the next one; `chosen` is a second dataset of the same rows."""
    made = []
    for windows, values in zip(dataset.sequences, chosen.sequences, strict=True):
        target = np.full(values.x.shape, np.nan, np.float32)
        target[:-1] = values.x[1:]
        made.append(ValueSequence(windows, target, values.x))
    units = {feature.name: feature.unit for feature in FEATURES}
    names = chosen.inputs
    return made, Targets(names, tuple(units.get(name.rpartition(".")[2], "") for name in names))


def remaining_life(dataset: Dataset, facts: Facts) -> tuple[list[ValueSequence], Targets]:
    """Return at every window the seconds until the end of its stream.

    Raises:
        ThrumcastError: no stream is known to have run to its failure.
    """
    begins: dict[StreamKey, int] = {}
    ends: dict[StreamKey, int] = {}
    for windows in dataset.sequences:
        begins[windows.key] = min(begins.get(windows.key, int(windows.start_ns[0])), int(windows.start_ns[0]))
        ends[windows.key] = max(ends.get(windows.key, 0), int(windows.end_ns[-1]))
    made = []
    for windows in dataset.sequences:
        known = facts.get(windows.key, {})
        if known.get("run_to_failure") and not known.get("truncated"):
            left = (ends[windows.key] - windows.end_ns) / SECOND_NS
            age = (windows.end_ns - begins[windows.key]) / SECOND_NS
            made.append(ValueSequence(windows, _column(left), _column(age)))
    if not made:
        msg = "expected streams that ran to their failure, found: none that machines.jsonl knows as run_to_failure"
        raise ThrumcastError(
            msg, hint="remaining life can only be learned from machines that were recorded until they failed"
        )
    return made, Targets((LIFE,), ("s",))


def as_one_class(sequences: Sequence[ValueSequence]) -> tuple[WindowSequence, ...]:
    """Return the window sequences with one common class, so that a split can deal them out."""
    return tuple(replace(each.windows, y=np.zeros(len(each.windows), np.int64)) for each in sequences)


def _column(values: NDArray[np.float64]) -> Float32:
    return values.astype(np.float32)[:, None]
