"""TDMS of National Instruments, by npTDMS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings.arrays import Held, Leaf, assemble
from pipeline.edges.recordings.contents import Options, check_memory


def load(path: Path, options: Options) -> list[Held]:
    """All channels of all groups."""
    from nptdms import TdmsFile

    with TdmsFile.open(path) as file:
        check_memory(path, sum(8 * len(channel) for group in file.groups() for channel in group.channels()))
        groups = file.groups()
        leaves = []
        for group in groups:
            parent = "" if len(groups) == 1 else group.name
            for channel in group.channels():
                name = channel.name if not parent else f"{parent}.{channel.name}"
                leaves.append(Leaf(name, _values(channel[:]), parent, _facts(channel.properties)))
    return assemble(path, leaves, options)


def _values(values: Any) -> Any:
    array = np.asarray(values)
    return array.astype("datetime64[ns]").astype(np.int64) if array.dtype.kind == "M" else array


def _facts(properties: Any) -> dict[str, Any]:
    found = {name: value for name, value in properties.items() if isinstance(value, str | int | float)}
    start = properties.get("wf_start_time")
    if isinstance(start, np.datetime64) and start > np.datetime64("1980-01-01"):
        offset = float(properties.get("wf_start_offset", 0) or 0)
        found["start_time_ns"] = int(start.astype("datetime64[ns]").astype(np.int64)) + round(offset * 1e9)
    return found
