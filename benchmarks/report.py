"""The result of a benchmark, facts about the machine it ran on, and the table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "scipy", "numba", "pyarrow", "msgspec", "paho-mqtt", "torch")


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, and what it stands beside."""

    name: str
    value: float
    unit: str
    compared_with: str  # says what the ratio's denominator is
    ratio: float | None = None  # value over (or, for rates, under) what it is compared with, as `compared_with` says
    dirty: bool = False  # too few undisturbed samples


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one benchmark, and the same numbers as top-level keys of the JSON document."""

    title: str
    rows: Sequence[Row]
    document: dict[str, Any]


def machine_facts() -> dict[str, Any]:
    """Processor, cores, load, versions: what a number means nothing without."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(value, 2) for value in load],
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def facts_text(facts: dict[str, Any], after: Sequence[float]) -> str:
    """The lines above the table."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    before = " ".join(f"{value:g}" for value in facts["load_average"])
    busy = max(facts["load_average"][0], after[0]) > facts["cores"] / 2
    note = "  <- the machine was busy: trust ratios, not times" if busy else ""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}\nPython {facts['python']}, {versions}\n"
        f"load average before {before}, after {' '.join(f'{value:g}' for value in after)}{note}"
    )


def table_text(sections: Sequence[Section]) -> str:
    """All sections as one aligned table."""
    rows = [row for section in sections for row in section.rows]
    name = max(len(row.name) for row in rows)
    unit = max(len(row.unit) for row in rows)
    lines = []
    for section in sections:
        lines += ["", section.title]
        for row in section.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
            mark = "  (dirty)" if row.dirty else ""
            value = f"{number_text(row.value):>10} {row.unit:<{unit}}"
            lines.append(f"  {row.name:<{name}} {value} {ratio:>8}  {row.compared_with}{mark}".rstrip())
    return "\n".join(lines)


def number_text(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
