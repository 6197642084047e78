"""NumPy files: npy, npz and structured arrays. Pickled objects are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings.arrays import Held, Leaf, assemble
from pipeline.edges.recordings.contents import Options, check_memory


def load(path: Path, options: Options) -> list[Held]:
    """All signals of the file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_memory(path, sum(member.file_size for member in archive.infolist()))
        with np.load(path, allow_pickle=False) as arrays:
            leaves = [leaf for name in arrays.files for leaf in _leaves(name, arrays[name])]
    else:
        leaves = _leaves("ch", np.load(path, mmap_mode="r", allow_pickle=False))
    return assemble(path, leaves, options)


def _leaves(name: str, array: Any) -> list[Leaf]:
    if array.dtype.names:
        return [Leaf(each, array[each].squeeze()) for each in array.dtype.names]
    if array.dtype.kind in "US" and array.size == 1:
        return [Leaf(name, str(array.ravel()[0]))]
    if array.dtype.kind == "M":
        return [Leaf(name, array.astype("datetime64[ns]").astype(np.int64))]
    return [Leaf(name, array.squeeze() if array.ndim > 2 else array)]
