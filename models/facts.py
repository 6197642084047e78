"""What is said of the data before anything is learned from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.data.labelling import report_text


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
    labels: dict[str, Any] = field(default_factory=dict)  # of people: used and ignored, see models/data/labelling.py

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


def _iso(ns: int) -> str:
    return f"{np.datetime64(ns // 1_000_000_000, 's')}Z"
