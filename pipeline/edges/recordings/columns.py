"""What a column holds, by its name: vibration, the shaft speed, or a quantity that is recorded beside it.

Temperatures, pressures and currents in one stream with vibration would make its windows meaningless: the network takes
channels by their place. They are left out by name, and the reading says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.edges.recordings.clock import split_unit

STEADY = 0.02  # a speed that varies by less over the head of a file is its speed
_WORDS = re.compile(r"[^a-z0-9°%/]+")
_SPEED = {"rpm", "drehzahl", "1/min", "u/min", "r/min", "min-1", "rev/min"}
_BESIDE = {
    "temp", "temps", "temperature", "temperatur", "temperatura", "°c", "degc", "celsius", "pressure", "druck", "kpa",
    "mpa", "bar", "psi", "humidity", "feuchte", "torque", "drehmoment", "kw", "durchfluss", "rssi",
}  # fmt: skip
_ALONE = {  # only as the whole name: `load_side` is a place
    "current", "strom", "power", "leistung", "flow", "load", "battery", "label", "class", "target", "fault", "status",
    "flag",
}  # fmt: skip
_SUFFIX = re.compile(
    r"(?:a|acc\w*|vib\w*|vel\w*|[av][xyz]|[xyz]|[av]_[xyz])_(?P<unit>m?g|m_s2|ms2|mps2|mm_s|mms|mmps|in_s|ips)",
    re.IGNORECASE,
)


def _parts(name: str) -> set[str]:
    plain, unit = split_unit(name)
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain)
    return {word for text in (spaced, unit or "") for word in [*_WORDS.split(text.lower()), text.lower()] if word}


def is_speed(name: str) -> bool:
    """Whether a column holds the shaft speed in revolutions per minute."""
    return bool(_parts(name) & _SPEED)


def beside(names: Iterable[str]) -> list[str]:
    """The columns that hold no vibration; none if that would be all of them."""
    every = list(names)
    found = [
        name for name in every if _parts(name) & (_SPEED | _BESIDE) or split_unit(name)[0].strip().lower() in _ALONE
    ]
    return found if len(found) < len(every) else []


def unit_in(name: str) -> str | None:
    """The unit behind an underscore: `acc_mg` is in mg, `vib_mm_s` in mm/s."""
    found = _SUFFIX.fullmatch(name.strip())
    if found is None:
        return None
    unit = found["unit"].lower()
    return {"m_s2": "m/s2", "ms2": "m/s2", "mps2": "m/s2", "mms": "mm/s", "mmps": "mm/s"}.get(
        unit, unit.replace("_", "/")
    )


def set_apart(names: Sequence[str], head: Mapping[str, Any]) -> tuple[list[str], float | None, list[str]]:
    """Channels, the speed in rpm if a column tells a steady one, and what a person should know.

    Args:
        names: of the columns that may be channels.
        head: the first values of each, by name.
    """
    apart = beside(names)
    if not apart:
        return list(names), None, []
    notes = [f"{', '.join(apart)} is no vibration and left out (rename a column to take it as a channel)"]
    speed = None
    for name in filter(is_speed, apart):
        values = np.asarray(head[name], np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        middle = float(np.median(values))
        low, high = np.percentile(values, [1, 99])
        if middle > 0 and high - low <= STEADY * middle:
            speed = middle
            notes.append(f"the speed is {middle:.6g} rpm by {name}")
        else:
            notes.append(f"{name} varies from {low:.6g} to {high:.6g}: no speed is taken from it")
    return [name for name in names if name not in apart], speed, notes
