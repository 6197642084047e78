"""Folds whose training and test sides share no group.

    --split FIELD   groups = values of a field of machines.jsonl; a stream without that field is grouped by its
                    specimen, else by its machine. `machine` and `specimen` always work.
    --split time    one fold: the last quarter of every sequence is the test, and windows that reach into it are purged.
    leaky           windows of one recording on both sides: for comparison with numbers that others have published, and
                    only beside an honest split

A class that only one group has is never tested (a model that never saw it could not know it): its windows
are trained on wherever their group is not under test, and the split says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.dataset import UNKNOWN, WindowSequence
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

TEST_SHARE_OF_TIME = 0.25
LEAKY_PIECE = 6  # windows that stay together in a split that leaks

Facts = Mapping[StreamKey, Mapping[str, object]]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What is trained on, and what is then scored."""

    train: tuple[WindowSequence, ...]
    test: tuple[WindowSequence, ...]
    groups: tuple[str, ...]  # of the test side


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Folds, and what is to be said about them."""

    name: str
    folds: tuple[Fold, ...]
    untested: tuple[int, ...]  # classes that only one group has
    remarks: tuple[str, ...]


def make_split(
    sequences: Sequence[WindowSequence], classes: Sequence[str], facts: Facts, field: str, folds: int
) -> Split:
    """Split by a field of machines.jsonl, or by time.

    Raises:
        ThrumcastError: the field is nowhere known, or there are too few groups to hold one back.
    """
    if field == "time":
        return _by_time(sequences)
    groups = group_of(sequences, facts, field)
    of_class: dict[int, set[str]] = {}
    for sequence, group in zip(sequences, groups, strict=True):
        for k in np.unique(sequence.y[sequence.y != UNKNOWN]).tolist():
            of_class.setdefault(k, set()).add(group)
    untested = tuple(sorted(k for k, have in of_class.items() if len(have) == 1))
    remarks = [
        f"{classes[k]} has one {field} only ({next(iter(of_class[k]))}): trained on, never tested" for k in untested
    ]
    testable = [
        number
        for number, sequence in enumerate(sequences)
        if np.isin(sequence.y, [UNKNOWN, *untested], invert=True).any()
    ]
    names = sorted({groups[number] for number in testable})
    if len(names) < 2:
        msg = f"split {field}: expected two or more groups to hold one back, found: {', '.join(names) or 'none'}"
        raise ThrumcastError(msg, hint="add recordings of other machines, or choose another field: --split time, none")
    parts = _deal(sequences, groups, names, min(folds, len(names)))
    made = []
    for part in parts:
        test = tuple(s for s, group in zip(sequences, groups, strict=True) if group in part)
        train = tuple(s for s, group in zip(sequences, groups, strict=True) if group not in part)
        made.append(Fold(train, test, tuple(sorted(part))))
    return Split(field, tuple(made), untested, tuple(remarks))


def leaky_split(sequences: Sequence[WindowSequence], folds: int, seed: int) -> Split:
    """Deal short pieces of every sequence at random, unpurged: train and test share machines and even samples."""
    rng = np.random.default_rng(seed)
    pieces = [
        sequence.cut(first, first + LEAKY_PIECE)
        for sequence in sequences
        for first in range(0, len(sequence), LEAKY_PIECE)
    ]
    fold_of = rng.permutation(np.arange(len(pieces)) % folds)
    made = [
        Fold(
            tuple(piece for piece, fold in zip(pieces, fold_of, strict=True) if fold != number),
            tuple(piece for piece, fold in zip(pieces, fold_of, strict=True) if fold == number),
            ("leaky",),
        )
        for number in range(min(folds, len(pieces)))
    ]
    remark = "train and test share machines and samples: these numbers say nothing about a machine never seen"
    return Split("leaky", tuple(made), (), (remark,))


def group_of(sequences: Sequence[WindowSequence], facts: Facts, field: str) -> list[str]:
    """Return the group of every sequence; numbers and words as text.

    Raises:
        ThrumcastError: no stream has this field.
    """
    found = {sequence.key: facts.get(sequence.key, {}) for sequence in sequences}
    if field not in {"machine", "specimen"} and not any(field in known for known in found.values()):
        there = sorted({name for known in found.values() for name, value in known.items() if np.isscalar(value)})
        msg = f"--split: expected a field of machines.jsonl, found: {field}"
        raise ThrumcastError(
            msg, hint=f"there are: machine, specimen, time, none{', ' if there else ''}{', '.join(there)}"
        )
    groups = []
    for sequence in sequences:
        known = found[sequence.key]
        specimen = str(known.get("specimen") or sequence.key.machine)
        value = {"machine": sequence.key.machine, "specimen": specimen}.get(field, known.get(field))
        # "specimen " cannot be a value of another field by accident: fields' values are prefixed with their name.
        groups.append(f"specimen {specimen}" if value is None else f"{field} {value}")
    return groups


def _deal(
    sequences: Sequence[WindowSequence], groups: Sequence[str], names: Sequence[str], parts: int
) -> list[frozenset[str]]:
    """Deal groups to parts so that every part gets its share of every class; deterministic.

    Rarest class first, largest group first, each to the part that has least of that class (then least of all).
    """
    classes = 1 + max(int(sequence.y.max(initial=UNKNOWN)) for sequence in sequences)
    counts = {name: np.zeros(classes, np.int64) for name in names}
    for sequence, group in zip(sequences, groups, strict=True):
        if group in counts:
            counts[group] += np.bincount(sequence.y[sequence.y != UNKNOWN], minlength=classes)
    have = {k: sum(1 for name in names if counts[name][k]) for k in range(classes)}
    rarest = {name: min((k for k in range(classes) if counts[name][k]), key=lambda k: (have[k], k)) for name in names}
    order = sorted(names, key=lambda name: (have[rarest[name]], rarest[name], -int(counts[name].sum()), name))
    held: list[set[str]] = [set() for _ in range(parts)]
    total = np.zeros((parts, classes), np.int64)
    for name in order:
        part = min(range(parts), key=lambda p: (total[p, rarest[name]], total[p].sum(), p))
        held[part].add(name)
        total[part] += counts[name]
    return [frozenset(part) for part in held if part]


def _by_time(sequences: Sequence[WindowSequence]) -> Split:
    """Hold back the end of every sequence; what overlaps it is in neither side."""
    train, test, purged = [], [], 0
    for sequence in sequences:
        first = len(sequence) - max(1, round(TEST_SHARE_OF_TIME * len(sequence)))
        last = int(np.searchsorted(sequence.end_ns[:first], sequence.start_ns[first], side="right"))
        if last == 0:
            train.append(sequence)  # too short to be cut
            continue
        purged += first - last
        train.append(sequence.cut(0, last))
        test.append(sequence.cut(first, len(sequence)))
    if not test:
        msg = "split time: expected sequences long enough to hold back their end, found: none"
        raise ThrumcastError(msg, hint="choose another field, such as --split machine")
    remark = f"the last {TEST_SHARE_OF_TIME:.0%} of every sequence is the test; {purged} windows between are purged"
    same = "train and test share their machines: this says nothing about a machine never seen"
    return Split("time", (Fold(tuple(train), tuple(test), ("time",)),), (), (remark, same))
