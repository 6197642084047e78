"""Folds whose training and test sides share no group.

    --split FIELD   groups are the values of a field of machines.jsonl; `machine` and `specimen` always work. A stream
                    without the field joins the streams that share its machine or specimen, and is a group of its own
                    if none of them has the field. So a machine is on both sides only where the field says so, and
                    then a remark says it too
    --split time    one fold: the last quarter of every sequence is the test; windows that reach into it are left out
    leaky           windows of one recording on both sides: only beside an honest split, for comparison with published
                    numbers

A class that only one group has is never tested, because a model that never saw it could not know it. Its windows are
trained on, and the split says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.data.dataset import UNKNOWN, WindowSequence
from pipeline.core.records import StreamKey
from pipeline.errors import ThrumcastError

TEST_SHARE_OF_TIME = 0.25
LEAKY_PIECE = 6  # windows that stay together in a split that leaks

Facts = Mapping[StreamKey, Mapping[str, object]]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A training side and a test side."""

    train: tuple[WindowSequence, ...]
    test: tuple[WindowSequence, ...]
    groups: tuple[str, ...]  # of the test side


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Folds, and remarks about them."""

    name: str
    folds: tuple[Fold, ...]
    untested: tuple[int, ...]  # classes that only one group has
    remarks: tuple[str, ...]


def make_split(
    sequences: Sequence[WindowSequence], classes: Sequence[str], facts: Facts, field: str, folds: int
) -> Split:
    """Split by a field of machines.jsonl, or by time.

    Raises:
        ThrumcastError: no stream has the field, or there are fewer than two groups.
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
    remarks += _on_both_sides(sequences, groups, facts, field)
    return Split(field, tuple(made), untested, tuple(remarks))


def split_or_by_time(
    sequences: Sequence[WindowSequence],
    classes: Sequence[str],
    facts: Facts,
    field: str | None,
    default: str,
    folds: int,
    warn: Callable[[str], None],
) -> Split:
    """Split by `field`; without one by `default`, or by time where that cannot be. `warn` gets the remarks.

    Raises:
        ThrumcastError: `field` is given and cannot be split by.
    """
    try:
        split = make_split(sequences, classes, facts, field or default, folds)
    except ThrumcastError as error:
        if field is not None:
            raise
        warn(f"{error.message}; splitting by time instead")
        split = make_split(sequences, classes, facts, "time", folds)
    for remark in split.remarks:
        warn(remark)
    return split


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
    if field == "machine":
        return [f"machine {sequence.key.machine}" for sequence in sequences]
    values = {key: known[field] for key, known in found.items() if known.get(field) is not None}
    together = _DisjointSets()
    for key, known in found.items():
        if key not in values:
            together.join(*_bodies(key, known))
    values_near: dict[str, set[str]] = {}
    for key, value in values.items():
        for body in _bodies(key, found[key]):
            values_near.setdefault(together.root(body), set()).add(f"{field} {value}")
    groups = []
    for sequence in sequences:
        key, root = sequence.key, together.root(f"machine {sequence.key.machine}")
        # "specimen " cannot be a value of another field by accident: fields' values are prefixed with their name.
        apart = root.replace("machine ", "specimen ", 1)
        groups.append(f"{field} {values[key]}" if key in values else min(values_near.get(root, {apart})))
    return groups


def _bodies(key: StreamKey, known: Mapping[str, object]) -> tuple[str, ...]:
    """Return what a stream measures: its machine, and the specimen in it if that is known."""
    machine, specimen = f"machine {key.machine}", known.get("specimen")
    return (machine,) if specimen is None else (machine, f"specimen {specimen}")


class _DisjointSets:
    """Union-find over names. The root of a set is its last name in the alphabet, so a specimen before a machine."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, body: str) -> str:
        while body in self._above:
            body = self._above[body]
        return body

    def join(self, first: str, *others: str) -> None:
        for other in others:
            low, high = sorted((self.root(first), self.root(other)))
            if low != high:
                self._above[low] = high


def _on_both_sides(
    sequences: Sequence[WindowSequence], groups: Sequence[str], facts: Facts, field: str
) -> Iterator[str]:
    """Say which machines and specimens are in several groups, since the field tells their streams apart."""
    for what in ("machine", "specimen"):
        groups_of: dict[str, set[str]] = {}
        for sequence, group in zip(sequences, groups, strict=True):
            for body in _bodies(sequence.key, facts.get(sequence.key, {})):
                kind, _, name = body.partition(" ")
                if kind == what:
                    groups_of.setdefault(name, set()).add(group)
        shared = sorted(name for name, have in groups_of.items() if len(have) > 1)
        if shared:
            some = ", ".join(shared[:5]) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
            both = f"{len(shared)} of {len(groups_of)} {what}s are on both sides, under another {field}: {some}"
            yield f"{both}; this says nothing about a {what} never seen"


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
    """Hold out the end of every sequence; windows that overlap it are on neither side."""
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
