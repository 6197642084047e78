"""Parity: features computed again from archived readings must equal the archived features to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import stream
from pipeline.core.features.table import FEATURES, NAMES
from pipeline.core.records import Block, FeatureRow, Float32, StreamKey
from pipeline.core.state import StreamSpec, StreamState

Address = tuple[str, str, int, int]  # machine, point, session, window
# A baseline cannot be computed from a part of a life.
_NEEDS_THE_PAST = np.array(["baseline" in feature.needs for feature in FEATURES])


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs."""

    column: str
    archived: float
    computed: float
    machine: str
    point: str
    session: int
    window: int

    @property
    def size(self) -> float:
        """Absolute difference; infinite where one side has no number."""
        return abs(self.archived - self.computed) if np.isfinite(self.archived - self.computed) else np.inf


@dataclass(slots=True)
class Parity:
    """What was compared."""

    windows: int = 0
    values: int = 0
    differing_windows: int = 0
    not_archived: int = 0  # computed windows without a row in the archive
    other_schema: int = 0  # archived under another feature schema
    largest: Difference | None = None
    columns: dict[str, int] = field(default_factory=dict)  # how many windows differ, per feature

    def document(self) -> dict[str, Any]:
        """For JSON."""
        worst = self.largest
        shown = None
        if worst is not None:
            size = worst.size if np.isfinite(worst.size) else None
            numbers = {name: _number(getattr(worst, name)) for name in ("archived", "computed")}
            place = {name: getattr(worst, name) for name in ("column", "machine", "point", "session", "window")}
            shown = place | numbers | {"difference": size}
        return {
            "windows": self.windows,
            "values": self.values,
            "differing_windows": self.differing_windows,
            "not_archived": self.not_archived,
            "other_schema": self.other_schema,
            "largest_difference": shown,
            "differing_features": self.columns,
        }


def compare(blocks: Iterable[Block], archived: pa.Table, spec_of: Callable[[StreamKey], StreamSpec]) -> Parity:
    """Step the blocks, in order per stream, and compare every window that the archive has."""
    places = _places(archived)
    columns = {name: archived.column(name).to_numpy() for name in archived.column_names if "." in name}
    schemas = archived.column("schema").to_pylist()
    report = Parity()
    states: dict[StreamKey, StreamState] = {}
    for block in blocks:
        spec = spec_of(block.key)
        state = states.get(block.key) or stream.initial(spec)
        states[block.key], events = stream.step(spec, state, block)
        for row in events:
            if isinstance(row, FeatureRow):
                _compare(report, row, places, columns, schemas)
    for key, state in states.items():
        for row in stream.flush(spec_of(key), state)[1]:
            if isinstance(row, FeatureRow):
                _compare(report, row, places, columns, schemas)
    return report


def _places(archived: pa.Table) -> dict[Address, int]:
    names = ("machine", "point", "session", "window")
    return {address: i for i, address in enumerate(zip(*(archived[n].to_pylist() for n in names), strict=True))}


def _compare(
    report: Parity, row: FeatureRow, places: dict[Address, int], columns: Mapping[str, Float32], schemas: list[str]
) -> None:
    place = places.get((row.key.machine, row.key.point, row.session, row.window))
    if place is None:
        report.not_archived += 1
        return
    if schemas[place] != row.schema:
        report.other_schema += 1
        return
    found = np.array([[columns[f"{c}.{name}"][place] for name in NAMES] for c in row.channels], np.float32)
    equal = (found == row.values) | (np.isnan(found) & np.isnan(row.values)) | _NEEDS_THE_PAST
    report.windows += 1
    report.values += found.size
    if equal.all():
        return
    report.differing_windows += 1
    for channel, feature in np.argwhere(~equal):
        name = NAMES[feature]
        report.columns[name] = report.columns.get(name, 0) + 1
        numbers = float(found[channel, feature]), float(row.values[channel, feature])
        one = Difference(f"{row.channels[channel]}.{name}", *numbers, *row.key, row.session, row.window)
        if report.largest is None or one.size > report.largest.size:
            report.largest = one


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
