"""HDF5 and MATLAB 7.3: datasets of one or two dimensions, with rates and units from attributes or beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings.arrays import Held, Leaf, assemble
from pipeline.edges.recordings.contents import Options, check_memory

_MOST_REFERENCES = 1024


def load(path: Path, options: Options) -> list[Held]:
    """All signals of the file. Links to other files are not followed."""
    import h5py

    leaves: list[Leaf] = []
    unread: list[str] = []
    with h5py.File(path, "r") as file:
        size = 0
        shared = _facts(file.attrs)

        def visit(name: str, node: Any) -> None:
            nonlocal size
            if name.startswith("#") or not isinstance(node, h5py.Dataset):
                return
            if node.external or node.is_virtual:
                unread.append(f"{name} (in another file)")
                return
            size += _bytes(node)
            check_memory(path, size)
            parent, _, _ = name.rpartition("/")
            facts = {**shared, **_facts(node.parent.attrs), **_facts(node.attrs)}
            leaves.extend(_read(file, node, name.replace("/", "."), parent.replace("/", "."), facts, unread, 0))

        file.visititems(visit)
    return assemble(path, leaves, options, unread)


def _bytes(node: Any) -> int:
    return 0 if node.shape is None else int(np.prod(node.shape, dtype=np.float64)) * node.dtype.itemsize


def _facts(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in list(attributes)[:64]:
        value = attributes[name]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) or np.asarray(value).size == 1:
            found[name] = value if isinstance(value, str) else np.asarray(value).ravel()[0]
    return found


def _read(
    file: Any, node: Any, name: str, parent: str, facts: dict[str, Any], unread: list[str], depth: int
) -> list[Leaf]:
    import h5py

    if node.shape is None:
        return []
    kind = node.attrs.get("MATLAB_class", b"")
    if kind == b"char":
        codes = np.asarray(node[()]).ravel()
        return [Leaf(name, "".join(chr(int(code)) for code in codes[:500]), parent)]
    if h5py.check_ref_dtype(node.dtype) is not None:  # a cell, or an array of structs
        found: list[Leaf] = []
        references = np.asarray(node[()]).ravel()
        for i, reference in enumerate(references[:_MOST_REFERENCES]):
            target = file[reference] if reference else None
            if depth < 8 and isinstance(target, h5py.Dataset):
                each = f"{name}_{i + 1}" if len(references) > 1 else name
                found += _read(file, target, each, parent, facts, unread, depth + 1)
        return found
    if node.dtype.names:
        table = node[()]
        return [Leaf(each, np.asarray(table[each]), name, facts) for each in node.dtype.names]
    if node.dtype.kind not in "iuf":
        if node.dtype.kind in "OS" and node.size == 1:
            value = np.asarray(node[()]).ravel()[0]
            return [Leaf(name, value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value), parent)]
        unread.append(f"{name} ({node.dtype})")
        return []
    return [Leaf(name, node[()], parent, facts)]
