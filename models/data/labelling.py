"""Labels of people on feature rows: the mode and the weight of every window, and why a label is not used.

* A label covers a window if at least half of the window lies in its interval. A window that it only touches loses its
  truth, because the change happened somewhere inside.
* Where two labels cover a window, the newer one counts. `unsure` labels are not used.
* A label of a person replaces the truth that came with the data. `false_alarm` means healthy unless it names a mode.
* A label from a run to failure says nothing about the time before it. Earlier windows are then not known to be
  healthy; they have no truth unless a person has labelled them.
* The certainty of a label is the weight of its windows. Truth that came with the data has weight 1.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.faults import HEALTHY
from pipeline.core.records import StreamKey
from pipeline.edges.labels import LabelEvent

if TYPE_CHECKING:
    import pyarrow as pa

COVERED = 0.5  # share of a window that a label must cover
WEIGHT = "label_weight"  # column of the labelled table
_REPORT = b"thrumcast.labels"


@dataclass(slots=True)
class LabelReport:
    """What was done with every label: `windows` per label id, and the reason per ignored label id."""

    windows: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    touched: int = 0  # windows across the edge of a label, without truth now
    before_failure: int = 0  # windows before the onset of a run to failure, without truth now

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "used": self.windows,
            "ignored": self.ignored,
            "windows_labelled": sum(self.windows.values()),
            "windows_on_an_edge": self.touched,
            "windows_before_failure": self.before_failure,
        }


def apply_labels(
    table: pa.Table,
    labels: Sequence[LabelEvent],
    facts: Mapping[StreamKey, Mapping[str, Any]] | None = None,
) -> pa.Table:
    """Return the rows with `truth` from the labels and a column `label_weight`; see `report_of`.

    Args:
        table: Feature rows: machine, point, start, end, truth.
        labels: Labels that are not retracted, oldest first.
        facts: What machines.jsonl knows; with `run_to_failure: true` a stream's unlabelled windows lose their truth.
    """
    import pyarrow as pa

    rows = _Rows(table)
    report = LabelReport()
    truth = np.array(table.column("truth").to_pylist(), object)
    weight = np.ones(table.num_rows, np.float32)
    owner = np.full(table.num_rows, -1, np.int64)
    touched = np.zeros(table.num_rows, np.bool_)
    for number, label in enumerate(labels):
        if label.verdict == "unsure":
            report.ignored[label.id] = "unsure"
            continue
        share, stream = rows.share(label)
        if not stream.any():
            report.ignored[label.id] = "no windows of that machine and point"
            continue
        covered = share >= COVERED
        if not covered.any():
            report.ignored[label.id] = "no window lies in it by half"
        mode = label.mode or (HEALTHY if label.verdict == "false_alarm" else None)
        if label.source == "ran_to_failure" and mode != HEALTHY:
            before = stream & (rows.end_ns <= label.start_ns) & (owner < 0) & _known(truth)
            truth[before] = None
            report.before_failure += int(before.sum())
        truth[covered] = mode
        weight[covered] = label.certainty
        owner[covered] = number
        edge = (share > 0) & ~covered
        touched |= edge & (owner < 0)
        touched[covered] = False
    truth[touched] = None
    report.touched = int(touched.sum())
    report.before_failure += _unlabel_runs_to_failure(rows, truth, owner, facts or {})
    for number, label in enumerate(labels):
        count = int((owner == number).sum())
        if count:
            report.windows[label.id] = count
        else:
            report.ignored.setdefault(label.id, "newer labels cover all of it")
    labelled = table.set_column(table.column_names.index("truth"), "truth", pa.array(truth.tolist(), pa.string()))
    labelled = labelled.append_column(WEIGHT, pa.array(weight))
    note = {_REPORT: json.dumps(report.document()).encode()}
    return labelled.replace_schema_metadata({**(table.schema.metadata or {}), **note})


def report_of(table: pa.Table) -> dict[str, Any]:
    """Return what `apply_labels` did to a table; empty if it was not applied."""
    note = (table.schema.metadata or {}).get(_REPORT)
    return json.loads(note) if note is not None else {}


def report_text(report: Mapping[str, Any]) -> str:
    """In words, one line per reason."""
    if not report or not (report["used"] or report["ignored"]):
        return "labels:  none"
    lines = [f"labels:  {len(report['used'])} used for {report['windows_labelled']} windows"]
    if report["windows_on_an_edge"]:
        lines[0] += f", {report['windows_on_an_edge']} windows on their edges left out"
    if report["windows_before_failure"]:
        lines[0] += f", {report['windows_before_failure']} windows before a failure unlabelled"
    lines += [f"         {count} x ignored: {why}" for why, count in Counter(report["ignored"].values()).items()]
    return "\n".join(lines)


class _Rows:
    """The columns of feature rows that labels are matched with."""

    def __init__(self, table: pa.Table) -> None:
        self.machine = np.array(table.column("machine").to_pylist(), object)
        self.point = np.array(table.column("point").to_pylist(), object)
        self.start_ns = _ns(table, "start")
        self.end_ns = _ns(table, "end")

    def share(self, label: LabelEvent) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the share of every window in the label's interval, and which windows are of its stream."""
        stream = self.machine == label.machine
        if label.point is not None:
            stream &= self.point == label.point
        inside = np.minimum(self.end_ns, label.end_ns) - np.maximum(self.start_ns, label.start_ns)
        return np.where(stream, np.maximum(inside, 0) / np.maximum(self.end_ns - self.start_ns, 1), 0.0), stream


def _unlabel_runs_to_failure(
    rows: _Rows, truth: NDArray[np.object_], owner: NDArray[np.int64], facts: Mapping[StreamKey, Mapping[str, Any]]
) -> int:
    """Remove the truth of unlabelled windows of runs to failure: when the fault began is not known."""
    total = 0
    for key, known in facts.items():
        if known.get("run_to_failure") is True:
            silent = (rows.machine == key.machine) & (rows.point == key.point) & (owner < 0)
            silent &= _known(truth)
            truth[silent] = None
            total += int(silent.sum())
    return total


def _known(truth: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.array([mode is not None for mode in truth], np.bool_)


def _ns(table: pa.Table, column: str) -> NDArray[np.int64]:
    return table.column(column).to_numpy().astype("datetime64[ns]").astype(np.int64)
