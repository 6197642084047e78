"""UFF58 (universal file format, data set 58), text and binary, by pyuff."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from pipeline.edges.recordings import clock
from pipeline.edges.recordings.arrays import Held, Leaf, assemble
from pipeline.edges.recordings.contents import Options, unique
from pipeline.errors import RecordingError

_TIME_RESPONSE = (0, 1)  # the function types `general` and `time response`


def load(path: Path, options: Options) -> list[Held]:
    """All time responses of the file."""
    import pyuff

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pyuff.UFF(str(path))
        kinds = [int(kind) for kind in file.get_set_types()]
        sets = [file.read_sets(i) for i, kind in enumerate(kinds) if kind == 58]
    found = [one for one in sets if int(one.get("func_type", 0)) in _TIME_RESPONSE and not np.iscomplexobj(one["data"])]
    if not found:
        msg = (
            f"expected time responses (data set 58) in {path}, found data sets: {', '.join(map(str, kinds)) or 'none'}"
        )
        raise RecordingError(msg, hint="export the time signals")
    names = unique([_name(one, number) for number, one in enumerate(found, 1)])
    leaves = []
    for name, one in zip(names, found, strict=True):
        step = float(one.get("abscissa_inc") or 0)
        if not step and len(one.get("x", ())) > 1:
            step = float(np.median(np.diff(one["x"])))
        facts = {"fs": clock.roundest(1 / step, 6e-6)} if step > 0 else {}  # the format has six digits
        unit = str(one.get("ordinate_axis_units_lab", "")).strip()
        if unit and unit.upper() != "NONE":
            facts["units"] = unit  # type: ignore[assignment]
        # Signals of one step and unit are sampled together.
        leaves.append(Leaf(name, np.asarray(one["data"]), f"{step:g} {unit}" if len(found) > 1 else "", facts))
    return assemble(path, leaves, options)


def _name(one: dict[str, object], number: int) -> str:
    title = str(one.get("id1") or "").strip()
    node = f"{one.get('rsp_ent_name', '')}".strip()
    spare = (
        f"{node if node and node.upper() != 'NONE' else 'node'}_{one.get('rsp_node', number)}_{one.get('rsp_dir', 0)}"
    )
    return title if title and title.upper() != "NONE" else spare
