"""MATLAB 4 and 5 files: vectors, matrices, structs, arrays of structs and cells. No code in them runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings.arrays import Held, Leaf, assemble
from pipeline.edges.recordings.contents import Options, check_memory

_MOST_LEAVES = 4096
_DEEPEST = 12


def load(path: Path, options: Options) -> list[Held]:
    """All signals of the file."""
    from scipy.io import loadmat, whosmat

    shapes = whosmat(path)
    check_memory(path, sum(8 * int(np.prod(shape, dtype=np.float64)) for _, shape, _ in shapes))
    leaves: list[Leaf] = []
    unread = [f"{name} ({kind})" for name, _, kind in shapes if kind in ("opaque", "object", "function", "unknown")]
    for name, value in loadmat(path).items():
        if not name.startswith("__"):
            leaves += _walk(name, "", value, 0)
        if len(leaves) > _MOST_LEAVES:
            break
    return assemble(path, leaves, options, unread)


def _walk(name: str, parent: str, value: Any, depth: int) -> Iterator[Leaf]:
    """Numbers, texts and arrays below a variable."""
    if depth > _DEEPEST or not isinstance(value, np.ndarray):
        return
    if value.dtype.names is not None:
        many = value.size > 1
        for i, entry in enumerate(value.ravel()):
            yield from _struct(f"{name}_{i + 1}" if many else name, entry, value.dtype.names, depth)
    elif value.dtype.kind == "O":
        many = value.size > 1
        for i, entry in enumerate(value.ravel()):
            yield from _walk(f"{name}_{i + 1}" if many else name, parent, entry, depth + 1)
    elif value.dtype.kind in "US":
        yield Leaf(name, " ".join(str(text).strip() for text in value.ravel()), parent)
    else:
        yield Leaf(name, value, parent)


def _struct(name: str, entry: Any, fields: tuple[str, ...], depth: int) -> Iterator[Leaf]:
    """A struct; one with the fields Name and Data is a signal of that name (Paderborn)."""
    lower = {each.lower(): each for each in fields}
    if "name" in lower and "data" in lower and entry[lower["name"]].dtype.kind in "US":
        title = "".join(map(str, entry[lower["name"]].ravel())).strip()
        array = entry[lower["data"]]
        if title and isinstance(array, np.ndarray) and array.dtype.kind in "fiu":
            yield Leaf(title, array, "")
            return
    for each in fields:
        yield from _walk(f"{name}.{each}", name, entry[each], depth + 1)
