"""Which columns of a feature archive become inputs of a model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.table import FEATURES
from pipeline.errors import ConfigError, ThrumcastError

if TYPE_CHECKING:
    import pyarrow as pa

Float32 = NDArray[np.float32]

CHANNEL_SHARE = 0.5  # a channel that fewer of the rows have is left out: the model would live on gaps


def feature_columns(
    rows: pa.Table, choice: str, trainable: NDArray[np.bool_]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Choose inputs: columns in the archive's order, and those left out with the reason.

    `choice` is `gain_free` (features that do not change with the sensor's gain), `all`, or names of
    features (`kurtosis`) or columns (`x.kurtosis`) with commas.

    Raises:
        ConfigError: a name that is no feature of this archive.
        ThrumcastError: nothing is left.
    """
    columns = [name for name in rows.column_names if "." in name]
    wanted = _wanted(columns, choice)
    index = np.flatnonzero(trainable)
    there = {name: _finite_share(rows, name, index) for name in columns}
    channels = dict.fromkeys(name.rpartition(".")[0] for name in columns)
    share = {
        channel: max(there[name] for name in columns if name.rpartition(".")[0] == channel) for channel in channels
    }
    inputs: list[str] = []
    ignored: dict[str, str] = {}
    for name in wanted:
        channel = name.rpartition(".")[0]
        if share[channel] < CHANNEL_SHARE:
            ignored[name] = f"channel {channel} is in {share[channel]:.0%} of the windows"
        elif there[name] == 0:
            ignored[name] = "never there"
        else:
            inputs.append(name)
    if not inputs and index.size:
        msg = f"expected at least one input that is there in the archive, found: none of {len(wanted)} ({choice})"
        raise ThrumcastError(msg, hint="try --set inputs=all")
    return tuple(inputs), ignored


def columns_matrix(rows: pa.Table, inputs: Sequence[str]) -> Float32:
    """Columns side by side, (N, F) float32; null, or a column that the archive lacks, is NaN."""
    x = np.full((rows.num_rows, len(inputs)), np.nan, np.float32)
    for number, name in enumerate(inputs):
        if name in rows.column_names:
            x[:, number] = rows.column(name).to_numpy(zero_copy_only=False)
    x[~np.isfinite(x)] = np.nan
    return x


def _finite_share(rows: pa.Table, name: str, index: NDArray[np.int64]) -> float:
    values = rows.column(name).to_numpy(zero_copy_only=False)[index]
    return float(np.isfinite(values.astype(np.float32)).mean()) if index.size else 0.0


def _wanted(columns: Sequence[str], choice: str) -> list[str]:
    if choice == "all":
        return list(columns)
    if choice == "gain_free":
        free = {feature.name for feature in FEATURES if feature.gain_free}
        return [name for name in columns if name.rpartition(".")[2] in free]
    names = [name.strip() for name in choice.split(",") if name.strip()]
    there = {*columns, *(name.rpartition(".")[2] for name in columns)}
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, [*there, "gain_free", "all"], n=1)
            msg = f"inputs: expected gain_free, all, or names of features with commas, found: {name}"
            raise ConfigError(msg, hint=f"did you mean {near[0]}?" if near else "see `thrumcast features`")
    return [name for name in columns if name in names or name.rpartition(".")[2] in names]
