"""Feature archive -> sequences that a recurrent network can learn from, and facts about them.

A sequence is what the live service would have stepped through with one hidden state: the good windows of a stream in
order of their start, across sessions, cut where nothing came for longer than `max_gap_s`. Windows of bad quality are
left out, because serving does not step on them either. Windows of unknown truth stay in, for the state, and carry no
loss. Whatever is not used is counted with its reason (`DataFacts`).
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.data.labelling import WEIGHT, apply_labels, report_of, report_text
from pipeline.core.features.table import FEATURES
from pipeline.core.quality import STOPS, Quality
from pipeline.core.records import StreamKey
from pipeline.errors import ConfigError, SchemaError, ThrumcastError

if TYPE_CHECKING:
    import pyarrow as pa

CHANNEL_SHARE = 0.5  # a channel in fewer of the windows is left out: the model would mostly see gaps
UNKNOWN = -1  # class number of a window whose truth is not known

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


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
    prior: tuple[WindowSequence, ...] = ()  # simulated; for training sides, never for testing


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """How rows become sequences."""

    modes: tuple[str, ...]  # the taxonomy, in its order
    resolve: Callable[[str], str]  # alias -> mode
    max_gap_s: float  # a longer pause begins a new sequence
    inputs: str  # gain_free, all, or names of features or columns with commas
    exact_inputs: tuple[str, ...] | None = None  # the columns of an existing model
    exact_classes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What was found, what of it is used, and why the rest is not."""

    windows: int
    used: int
    machines: tuple[str, ...]
    streams: int
    sequences: int
    windows_per_mode: dict[str, int]
    ignored: dict[str, int]  # reason -> windows
    inputs: int
    inputs_ignored: dict[str, str] = field(default_factory=dict)  # column -> reason
    first_ns: int = 0
    last_ns: int = 0
    labels: dict[str, Any] = field(default_factory=dict)  # used and ignored ones, see models/data/labelling.py

    def document(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        return {
            "machines": list(self.machines),
            "streams": self.streams,
            "sequences": self.sequences,
            "windows": self.windows,
            "used": self.used,
            "windows_per_mode": self.windows_per_mode,
            "ignored": self.ignored,
            "inputs": self.inputs,
            "inputs_ignored": self.inputs_ignored,
            "from": _iso(self.first_ns),
            "to": _iso(self.last_ns),
            "labels": self.labels,
        }

    def text(self) -> str:
        """Return the facts in words."""
        lines = [
            f"{len(self.machines)} machines, {self.streams} streams, {self.sequences} sequences, {self.windows} windows"
            f" from {_iso(self.first_ns)} to {_iso(self.last_ns)}",
            "modes:   " + (", ".join(f"{mode} {n}" for mode, n in self.windows_per_mode.items()) or "none is known"),
            f"used:    {self.used} windows of known mode x {self.inputs} inputs",
        ]
        if self.ignored:
            lines.append("ignored: " + ", ".join(f"{count} ({why})" for why, count in self.ignored.items()))
        if self.labels.get("used") or self.labels.get("ignored"):
            lines.append(report_text(self.labels))
        if self.inputs_ignored:
            reasons = Counter(self.inputs_ignored.values())
            lines.append("inputs left out: " + ", ".join(f"{count} ({why})" for why, count in reasons.items()))
        return "\n".join(lines)


def build(table: pa.Table, spec: DatasetSpec) -> Dataset:
    """Make sequences of the rows of a feature archive.

    Raises:
        ThrumcastError: there is nothing to learn from: no rows, no truth, or one failure mode only.
        SchemaError: the rows have more than one feature schema.
    """
    if table.num_rows == 0:
        msg = "expected feature windows in the archive, found: none"
        hint = "fill it: `thrumcast backfill RECORDING... --data DIR`, or `thrumcast run`"
        raise ThrumcastError(msg, hint=f"{hint}; if it is filled, compare --from and --to with `thrumcast archive ls`")
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
    """Read the feature rows of a data directory, those in its journal too, with the labels of people applied."""
    from pipeline.edges.labels import LabelFile
    from pipeline.edges.store.read import read_features

    rows = read_features(data_dir, start=start, end=end)
    return apply_labels(rows, LabelFile(data_dir).active(), read_machines(data_dir))


def read_machines(data_dir: Path) -> dict[StreamKey, dict[str, Any]]:
    """Read what machines.jsonl knows of each stream."""
    from pipeline.edges.machines import MachinesFile

    return MachinesFile(data_dir / "machines.jsonl").load()


def provenance(data_dir: Path) -> dict[str, Any]:
    """Return the identity of the archive and of its labels, so that a model can say what it was trained on."""
    from pipeline.edges.labels import LABELS_NAME
    from pipeline.edges.store.snapshot import identity

    labels = data_dir / LABELS_NAME
    known = hashlib.sha256(labels.read_bytes()).hexdigest() if labels.exists() else None
    return {"archive": identity(data_dir), "labels_sha256": known}


def check_trainable(dataset: Dataset) -> None:
    """Refuse data that no classifier can be trained on.

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


def feature_columns(
    rows: pa.Table, choice: str, trainable: NDArray[np.bool_]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Choose inputs: columns in the archive's order, and those left out with the reason.

    `choice` is `gain_free` (features that do not change with the sensor's gain), `all`, or names of
    features (`kurtosis`) or columns (`x.kurtosis`) with commas.

    Raises:
        ConfigError: a name that is no feature of this archive.
        ThrumcastError: nothing is left.
    """
    columns = [name for name in rows.column_names if "." in name]
    wanted = _wanted(columns, choice)
    index = np.flatnonzero(trainable)
    there = {name: _finite_share(rows, name, index) for name in columns}
    channels = dict.fromkeys(name.rpartition(".")[0] for name in columns)
    share = {
        channel: max(there[name] for name in columns if name.rpartition(".")[0] == channel) for channel in channels
    }
    inputs: list[str] = []
    ignored: dict[str, str] = {}
    for name in wanted:
        channel = name.rpartition(".")[0]
        if share[channel] < CHANNEL_SHARE:
            ignored[name] = f"channel {channel} is in {share[channel]:.0%} of the windows"
        elif there[name] == 0:
            ignored[name] = "never there"
        else:
            inputs.append(name)
    if not inputs and index.size:
        msg = f"expected at least one of the inputs in the archive, found: none of {len(wanted)} ({choice})"
        raise ThrumcastError(msg, hint="try --set inputs=all")
    return tuple(inputs), ignored


def columns_matrix(rows: pa.Table, inputs: Sequence[str]) -> Float32:
    """Columns side by side, (N, F) float32; null, or a column that the archive lacks, is NaN."""
    x = np.full((rows.num_rows, len(inputs)), np.nan, np.float32)
    for number, name in enumerate(inputs):
        if name in rows.column_names:
            x[:, number] = rows.column(name).to_numpy(zero_copy_only=False)
    x[~np.isfinite(x)] = np.nan
    return x


def _finite_share(rows: pa.Table, name: str, index: NDArray[np.int64]) -> float:
    values = rows.column(name).to_numpy(zero_copy_only=False)[index]
    return float(np.isfinite(values.astype(np.float32)).mean()) if index.size else 0.0


def _wanted(columns: Sequence[str], choice: str) -> list[str]:
    if choice == "all":
        return list(columns)
    if choice == "gain_free":
        free = {feature.name for feature in FEATURES if feature.gain_free}
        return [name for name in columns if name.rpartition(".")[2] in free]
    names = [name.strip() for name in choice.split(",") if name.strip()]
    there = {*columns, *(name.rpartition(".")[2] for name in columns)}
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, [*there, "gain_free", "all"], n=1)
            msg = f"inputs: expected gain_free, all, or names of features with commas, found: {name}"
            raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else "see `thrumcast features`")
    return [name for name in columns if name in names or name.rpartition(".")[2] in names]


def _iso(ns: int) -> str:
    return f"{np.datetime64(ns // 1_000_000_000, 's')}Z"
