"""WAV in every encoding that scipy reads. Integer codes become fractions of full scale."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import Float32
from pipeline.edges.recordings.contents import Contents, Options
from pipeline.errors import RecordingError


def _data(path: Path) -> tuple[float, NDArray[Any]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chunks of other programs, and headers that are longer than the file
        try:
            rate, data = wavfile.read(path, mmap=True)
        except ValueError:  # 24 bit cannot be mapped
            rate, data = wavfile.read(path)
    if data.dtype.kind not in "iuf" or data.ndim not in (1, 2) or (data.ndim == 2 and data.shape[1] == 0):
        msg = f"expected one or more channels of numbers in {path}, found: shape {data.shape}, type {data.dtype}"
        raise RecordingError(msg, hint="the header of the file is damaged")
    return float(rate), data.reshape(len(data), -1) if len(data) else data.reshape(0, 1)


def describe(path: Path, options: Options) -> list[Contents]:
    """Channels are ch1, ch2, ..."""
    rate, data = _data(path)
    channels = tuple(f"ch{i + 1}" for i in range(data.shape[1]))
    return [Contents(channels, len(data), rate, {}, rate_from="the header")]


def chunks(path: Path, part: str, channels: Sequence[str], rows: int, options: Options) -> Iterator[Float32]:
    """Chunks of `rows` samples."""
    _, data = _data(path)
    columns = [int(name.removeprefix("ch")) - 1 for name in channels]
    offset, scale = 0.0, 1.0
    if data.dtype.kind in "iu":
        info = np.iinfo(data.dtype)
        offset, scale = (128.0, 1 / 128) if info.min == 0 else (0.0, -1.0 / info.min)
    for row in range(0, len(data), rows):
        chunk = data[row : row + rows, columns].T.astype(np.float64)
        yield np.ascontiguousarray((chunk - offset) * scale, dtype=np.float32)
