"""Nominal speeds beside real recordings: how often windows find the shaft, and how near the true speed.

    python -m benchmarks.studies.speeds ../shared/data

Every recording is read as if its speed were a nominal one: the catalogue's where the recording has one (`rpm_nominal`),
and the true one 5 % higher and 5 % lower. "True" is the recording's own best statement: `rpm_estimated` (a line fit
over the whole recording) or `rpm`. For some rigs that is itself a nominal speed, or not better than 1 %.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.config.specs import default_spec
from pipeline.core import features
from pipeline.core.features.table import COLUMN
from pipeline.core.records import Float32, StreamKey, Window
from pipeline.core.window import length_and_hop

OFF = (1.05, 0.95)
NEAR, FAR = 0.005, 0.02
LONGEST_S = 10.0


def recordings(root: Path) -> Iterator[tuple[str, Float32, float, float, float | None]]:
    """Folder, samples (C, n), rate, true speed and catalogue speed of every recording that is longer than a window."""
    for path in sorted(root.rglob("*.parquet")):
        metadata = pq.read_schema(path).metadata or {}
        about = json.loads(metadata.get(b"recording_metadata", b"{}"))
        if "rpm" not in about or "snapshot_period_s" in about:
            continue
        table = pq.read_table(path)
        x = np.stack([table[name].to_numpy() for name in table.column_names]).astype(np.float32)
        folder = path.relative_to(root).parts[0]
        yield (
            folder,
            x,
            float(about["sample_rate_hz"]),
            about.get("rpm_estimated") or about["rpm"],
            about.get("rpm_nominal"),
        )


def used_rpm(x: Float32, rate_hz: float, said_rpm: float) -> tuple[Float32, Float32]:
    """The speeds that the windows' channels used, and their confidence, (windows, C) each."""
    spec = default_spec()
    length, hop = length_and_hop(spec.window, rate_hz)
    channels = tuple(f"c{i}" for i in range(len(x)))
    key = StreamKey("m", "p")
    starts = range(0, min(x.shape[1], int(LONGEST_S * rate_hz)) - length + 1, hop)
    windows = [
        Window(key, 1, i, 0, 0, rate_hz, channels, "1", x[:, at : at + length], 1.0, said_rpm, None, None,
               speed_source="nominal")
        for i, at in enumerate(starts)
    ]  # fmt: skip
    if not windows:
        return np.empty((0, len(x)), np.float32), np.empty((0, len(x)), np.float32)
    values = np.stack(features.compute(spec.features, windows))
    return values[:, :, COLUMN["speed_used"]], values[:, :, COLUMN["speed_confidence"]]


def main(root: Path) -> None:
    """Print the table."""
    counts: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    for folder, x, rate_hz, true_rpm, nominal_rpm in recordings(root):
        said = {f"{off - 1:+.0%}": true_rpm * off for off in OFF}
        if nominal_rpm is not None:
            said["catalogue"] = nominal_rpm
        for name, said_rpm in said.items():
            used, confidence = used_rpm(x, rate_hz, said_rpm)
            if not used.size:
                continue
            moved = confidence < 1
            error = abs(used[moved] / true_rpm - 1)
            middle = abs(float(np.median(used[moved])) / true_rpm - 1) if moved.any() else np.nan
            near, far = float((error < NEAR).sum()), float((error < FAR).sum())
            counts[folder, name].append((float(used.size), float(moved.sum()), near, far, middle))
    print("| rig | stated | recordings | windows refined | of these within 0.5 %, 2 % | recordings: no comb | "
          "median within 0.5 %, 2 % |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for (folder, name), rows in counts.items():
        table = np.array(rows)
        windows, moved, near, far = table[:, :4].sum(axis=0)
        medians = table[:, 4]
        known = max(moved, 1)
        print(
            f"| {folder} | {name} | {len(table)} | {moved / windows:.0%} | {near / known:.0%}, {far / known:.0%} "
            f"| {np.isnan(medians).sum()} | {(medians < NEAR).sum()}, {(medians < FAR).sum()} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
