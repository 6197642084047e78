"""LVM, the text format of LabVIEW measurements: a header of the file, then segments with a header each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings import clock
from pipeline.edges.recordings.arrays import Held
from pipeline.edges.recordings.contents import Contents, Options, Timing, unique
from pipeline.edges.recordings.text import encoding_of
from pipeline.errors import RecordingError

_END = "***End_of_Header***"
_MOST_SEGMENTS = 100_000
MAGIC = "LabVIEW Measurement"


def load(path: Path, options: Options) -> list[Held]:
    """The segments of the file; those that follow each other without a gap are one signal."""
    raw = path.read_bytes()
    lines = raw.decode(encoding_of(raw[: 1 << 16]), "replace").splitlines()
    separator, decimal = "\t", "."
    head: dict[str, str] = {}
    segments: list[_Segment] = []
    at = 0
    while at < len(lines) and not lines[at].startswith(_END):  # the header of the file
        name, _, value = (
            lines[at].replace(",", "\t", 1).partition("\t") if "\t" not in lines[at] else lines[at].partition("\t")
        )
        head[name.strip()] = value.strip()
        at += 1
    separator = "," if head.get("Separator", "Tab").strip().lower() == "comma" else "\t"
    decimal = head.get("Decimal_Separator", ".").strip()[:1] or "."
    at += 1
    while at < len(lines) and len(segments) < _MOST_SEGMENTS:
        known: dict[str, list[str]] = {}
        while at < len(lines) and not lines[at].startswith(_END):
            name, *values = lines[at].rstrip("\r\n").split(separator)
            if name.strip():
                known[name.strip()] = [value.strip() for value in values]
            at += 1
        at += 1
        if at >= len(lines):
            break
        titles = [cell.strip() for cell in lines[at].split(separator)]
        at += 1
        rows: list[list[str]] = []
        while at < len(lines) and lines[at].strip() and not lines[at].startswith("Channels"):
            rows.append(lines[at].split(separator))
            at += 1
        if rows:
            segments.append(_Segment(known, titles, rows, at))
    if not segments:
        msg = f"expected segments with samples in {path}, found none after the header"
        raise RecordingError(msg, hint="check that the file is complete")
    return _joined(path, [one.signals(path, decimal, head) for one in segments], options)


class _Segment:
    """One segment as text."""

    def __init__(self, known: dict[str, list[str]], titles: list[str], rows: list[list[str]], end: int) -> None:
        self.known, self.titles, self.rows, self.end = known, titles, rows, end

    def signals(self, path: Path, decimal: str, head: dict[str, str]) -> Held:
        """Its channels."""
        columns = head.get("X_Columns", "One").lower()
        titles = [title for title in self.titles if title.lower() != "comment"]
        width = len(titles)
        x = {"no": [], "one": [0], "multi": list(range(0, width, 2))}.get(columns, [0])
        if columns == "no" and titles and titles[0].lower() == "x_value":
            x = [0]  # the column stands there and is empty
        y = [i for i in range(width) if i not in x]
        table = np.full((len(y), len(self.rows)), np.nan)
        first = self.end - len(self.rows) + 1
        for n, row in enumerate(self.rows):
            for k, i in enumerate(y):
                cell = row[i].strip() if i < len(row) else ""
                if cell:
                    try:
                        table[k, n] = float(cell.replace(decimal, "."))
                    except ValueError:
                        msg = f"expected numbers in column {titles[i]} of {path}, found in row {first + n}: {cell!r}"
                        raise RecordingError(msg, hint="correct that cell") from None
        steps = [_number(text, decimal) for text in self.known.get("Delta_X", [])]
        step = next((one for one in steps if one), None)
        if step is None and x:
            times = np.array([_number(row[0], decimal) or 0.0 for row in self.rows])
            step = clock.judge(path, titles[0] + " [s]", times).rate_hz
            step = 1 / step if step else None
        units = [unit for unit in self.known.get("Y_Unit_Label", []) if unit]
        metadata: dict[str, Any] = {"units": units[0]} if len(set(units)) == 1 else {}
        begin = _start(self.known, head, decimal)
        if begin is not None:
            offset = next((_number(text, decimal) for text in self.known.get("X0", [])), None) or 0.0
            metadata["start_time_ns"] = begin + round(offset * 1e9)
        names = unique([titles[i] for i in y])
        rate = 1 / step if step else None
        rate = float(f"{rate:.9g}") if rate else None
        contents = Contents(
            tuple(names), len(self.rows), rate, metadata, rate_from="Delta_X of the header" if rate else ""
        )
        return contents, dict(zip(names, table, strict=True))


def _number(text: str, decimal: str) -> float | None:
    try:
        return float(text.strip().replace(decimal, "."))
    except ValueError:
        return None


def _start(known: dict[str, list[str]], head: dict[str, str], decimal: str) -> int | None:
    date = next(iter(known.get("Date", [])), None) or head.get("Date")
    hour = next(iter(known.get("Time", [])), None) or head.get("Time")
    if not date or not hour:
        return None
    try:
        hour = hour.replace(decimal, ".")
        whole, _, fraction = hour.partition(".")
        values, dated = clock.moments_ns([f"{date} {whole}.{fraction[:9] or '0'}"], Path("header"), "Date")
    except (RecordingError, StopIteration):
        return None
    return int(values[0]) if dated else None


def _joined(path: Path, found: Sequence[Held], options: Options) -> list[Held]:
    """Segments of the same channels in a row, with what is missing between them as gaps."""
    first, _ = found[0]
    same = all(one.channels == first.channels and one.rate_hz == first.rate_hz for one, _ in found)
    if len(found) == 1:
        return list(found)
    if not same or not first.rate_hz:
        return [(replace(one, part=f"segment_{i + 1}"), arrays) for i, (one, arrays) in enumerate(found)]
    gaps: list[tuple[int, int]] = []
    row, origin = 0, first.metadata.get("start_time_ns")
    notes = [f"{len(found)} segments"]
    missing = 0
    for one, _ in found:
        start = one.metadata.get("start_time_ns")
        if row and isinstance(start, int) and isinstance(origin, int):
            behind = round((start - origin) / 1e9 * first.rate_hz) - row - missing
            if behind < -1:
                return [(replace(each, part=f"segment_{i + 1}"), arrays) for i, (each, arrays) in enumerate(found)]
            if behind > 1:
                gaps.append((row, behind))
                missing += behind
        row += one.samples
    if gaps:
        notes.append(f"{missing} samples are missing in {len(gaps)} gaps between segments")
    arrays = {name: np.concatenate([each[name] for _, each in found]) for name in first.channels}
    timing = Timing("Date and Time of the segments", first.rate_hz, gaps=tuple(gaps))
    return [(replace(first, samples=row, timing=timing, notes=tuple(notes)), arrays)]
