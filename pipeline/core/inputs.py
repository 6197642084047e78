"""Inputs: what a network is given, gathered from feature rows by column name `<channel>.<feature>`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.table import COLUMN, NAMES
from pipeline.core.records import FeatureRow, Float32


def stacked_inputs(names: tuple[str, ...], rows: Sequence[FeatureRow]) -> Float32:
    """The inputs (B, F) of rows; NaN where a stream has no such channel. Rows of the same channels go at once."""
    if any(row.channels != rows[0].channels for row in rows):
        return np.concatenate([stacked_inputs(names, [row]) for row in rows])
    columns, missing = _columns(names, rows[0].channels)
    x = np.concatenate([row.values for row in rows]).reshape(len(rows), -1)[:, columns]
    x[:, missing] = np.nan
    return x


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...], channels: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each input among the flattened values (C, F) of a row, and which inputs the row does not have."""
    channel_of = {channel: i for i, channel in enumerate(channels)}
    columns, missing = np.zeros(len(names), np.int64), []
    for i, name in enumerate(names):
        channel, _, feature = name.rpartition(".")
        if channel in channel_of:
            columns[i] = channel_of[channel] * len(NAMES) + COLUMN[feature]
        else:
            missing.append(i)
    return columns, np.array(missing, np.int64)
