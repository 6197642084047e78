"""Feature archive -> sequences that a recurrent network can be trained on, and the facts about them.

A sequence is what the live service would have stepped through with one hidden state: the good windows of a
stream in order of their start, across sessions, broken where nothing came for longer than `max_gap_s`.
Windows of bad quality are left out (serving does not step on them either); windows whose truth is not known
stay in, for the state, and are masked in the loss. Whatever is not used is counted with its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.data.labelling import WEIGHT, apply_labels, report_of
from models.facts import DataFacts
from models.inputs import columns_matrix, feature_columns
from pipeline.core.quality import STOPS, Quality
from pipeline.core.records import StreamKey
from pipeline.errors import SchemaError, ThrumcastError

if TYPE_CHECKING:
    import pyarrow as pa

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

UNKNOWN = -1  # class number of a window whose truth is not known


@dataclass(frozen=True, slots=True, eq=False)
class WindowSequence:
    """T consecutive windows of one stream."""

    key: StreamKey
    x: Float32  # (T, F) raw features, NaN = missing
    y: Int64  # (T,) class number, or UNKNOWN
    start_ns: Int64  # (T,)
    end_ns: Int64  # (T,)
    session: NDArray[np.uint64]  # (T,)
    weight: Float32 | None = None  # (T,) certainty of the labels; None: all are sure

    def __len__(self) -> int:
        return int(self.y.size)

    def cut(self, first: int, last: int) -> WindowSequence:
        """Windows [first, last)."""
        part = slice(first, last)
        weight = None if self.weight is None else self.weight[part]
        return WindowSequence(
            self.key, self.x[part], self.y[part], self.start_ns[part], self.end_ns[part], self.session[part], weight
        )


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Sequences with one set of inputs and classes."""

    sequences: tuple[WindowSequence, ...]
    inputs: tuple[str, ...]
    classes: tuple[str, ...]
    feature_schema: str
    facts: DataFacts
    prior: tuple[WindowSequence, ...] = ()  # simulated, to learn from and never to be tested on


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """How rows become sequences."""

    modes: tuple[str, ...]  # the taxonomy, in its order
    resolve: Callable[[str], str]  # alias -> mode
    max_gap_s: float = 30.0
    inputs: str = "gain_free"  # gain_free, all, or names of features or columns with commas
    exact_inputs: tuple[str, ...] | None = None  # columns of a model that is there already
    exact_classes: tuple[str, ...] | None = None


def build(table: pa.Table, spec: DatasetSpec) -> Dataset:
    """Make sequences of the rows of a feature archive.

    Raises:
        ThrumcastError: there is nothing to learn from: no rows, no truth, or one failure mode only.
        SchemaError: the rows speak more than one feature schema.
    """
    if table.num_rows == 0:
        msg = "expected feature windows in the archive, found: none"
        hint = "fill it: `thrumcast backfill RECORDING... --data DIR`, or `thrumcast run`"
        raise ThrumcastError(
            msg, hint=f"{hint}; if it is filled, `thrumcast archive ls` says what --from and --to miss"
        )
    schemas = sorted(table.column("schema").unique().to_pylist())
    if len(schemas) != 1:
        msg = f"expected one feature schema in the archive, found: {', '.join(map(str, schemas))}"
        raise SchemaError(msg, hint="compute the features again with one version, into a new data directory")
    rows = table.sort_by([("machine", "ascending"), ("point", "ascending"), ("start", "ascending")])
    truths = rows.column("truth").to_pylist()
    modes = [None if truth is None else spec.resolve(truth) for truth in truths]
    quality = rows.column("quality").to_numpy().astype(np.int64)
    good = (quality & int(STOPS)) == 0
    known = spec.exact_classes or spec.modes
    present = {mode for mode, fine in zip(modes, good, strict=True) if fine}
    classes = spec.exact_classes or tuple(mode for mode in spec.modes if mode in present)
    number = {mode: k for k, mode in enumerate(classes)}
    y = np.array([number.get(mode, UNKNOWN) if mode else UNKNOWN for mode in modes], np.int64)
    ignored = _ignored(modes, quality, known)

    if spec.exact_inputs is None:
        labelled = good & (y != UNKNOWN)  # values can be learned where no mode is known
        inputs, inputs_ignored = feature_columns(rows, spec.inputs, labelled if labelled.any() else good)
    else:
        inputs, inputs_ignored = spec.exact_inputs, {}
    x = columns_matrix(rows, inputs)
    sequences = _sequences(rows, x, y, good, round(spec.max_gap_s * 1e9))
    used = int((good & (y != UNKNOWN)).sum())
    starts = _ns(rows, "start")
    facts = DataFacts(
        windows=table.num_rows,
        used=used,
        machines=tuple(sorted(set(rows.column("machine").unique().to_pylist()))),
        streams=len({sequence.key for sequence in sequences}),
        sequences=len(sequences),
        windows_per_mode={mode: int((good & (y == k)).sum()) for mode, k in number.items()},
        ignored=ignored,
        inputs=len(inputs),
        inputs_ignored=inputs_ignored,
        first_ns=int(starts.min()),
        last_ns=int(_ns(rows, "end").max()),
        labels=report_of(table),
    )
    return Dataset(sequences, inputs, classes, str(schemas[0]), facts)


def read(data_dir: Path, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Feature rows of a data directory, what is still in its journal included, as people have labelled them."""
    from pipeline.edges.labels import LabelFile
    from pipeline.edges.store.read import read_features

    rows = read_features(data_dir, start=start, end=end)
    return apply_labels(rows, LabelFile(data_dir).active(), read_machines(data_dir))


def read_machines(data_dir: Path) -> dict[StreamKey, dict[str, Any]]:
    """What machines.jsonl knows of each stream."""
    from pipeline.edges.machines import MachinesFile

    return MachinesFile(data_dir / "machines.jsonl").load()


def provenance(data_dir: Path) -> dict[str, Any]:
    """Which archive and which labels these are, for whoever asks a model later what it has learned from."""
    from pipeline.edges.labels import LABELS_NAME
    from pipeline.edges.store.snapshot import identity

    labels = data_dir / LABELS_NAME
    known = hashlib.sha256(labels.read_bytes()).hexdigest() if labels.exists() else None
    return {"archive": identity(data_dir), "labels_sha256": known}


def check_trainable(dataset: Dataset) -> None:
    """Refuse data from which no classifier can be learned.

    Raises:
        ThrumcastError: no window with a known truth, or only one failure mode.
    """
    if len(dataset.classes) >= 2:
        return
    found = dataset.classes[0] if dataset.classes else "none"
    msg = f"expected windows of at least two failure modes with known truth, found: {found}"
    raise ThrumcastError(msg, hint="add recordings of other conditions; truth comes from the recording or the message")


def _ignored(modes: Sequence[str | None], quality: Int64, known: Sequence[str]) -> dict[str, int]:
    """Count the windows that no loss or score is computed on, by reason."""
    reasons: Counter[str] = Counter()
    for mode, bits in zip(modes, quality.tolist(), strict=True):
        if Quality(bits).stops:
            reasons[f"quality: {' and '.join((Quality(bits) & STOPS).words())}"] += 1
        elif not mode:
            reasons["no truth"] += 1
        elif mode not in known:
            reasons[f"truth is no known mode: {mode}"] += 1
    return dict(reasons.most_common())


def _sequences(
    rows: pa.Table, x: Float32, y: Int64, good: NDArray[np.bool_], gap_ns: int
) -> tuple[WindowSequence, ...]:
    """Cut sorted rows where the stream changes or nothing came for longer than `gap_ns`."""
    keep = np.flatnonzero(good)
    if keep.size == 0:
        return ()
    machine = rows.column("machine").to_numpy()[keep]
    point = rows.column("point").to_numpy()[keep]
    start, end = _ns(rows, "start")[keep], _ns(rows, "end")[keep]
    session = rows.column("session").to_numpy().astype(np.uint64)[keep]
    weight = None
    if WEIGHT in rows.column_names and (certainty := rows.column(WEIGHT).to_numpy()[keep]).min() < 1:
        weight = certainty.astype(np.float32)
    new_stream = (machine[1:] != machine[:-1]) | (point[1:] != point[:-1])
    pause = np.abs(start[1:] - end[:-1]) > gap_ns + (end - start)[1:]  # as in pipeline.core.engine
    cuts = np.flatnonzero(new_stream | pause) + 1
    edges = [0, *cuts.tolist(), keep.size]
    return tuple(
        WindowSequence(
            StreamKey(str(machine[first]), str(point[first])),
            x[keep[first:last]],
            y[keep[first:last]],
            start[first:last],
            end[first:last],
            session[first:last],
            None if weight is None else weight[first:last],
        )
        for first, last in pairwise(edges)
    )


def _ns(rows: pa.Table, column: str) -> Int64:
    """Return a timestamp column as ns since 1970 UTC."""
    values = rows.column(column).to_numpy().astype("datetime64[ns]")
    return values.astype(np.int64)
