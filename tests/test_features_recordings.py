"""Golden values, and what the features alone say of recordings whose fault is known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import features_golden
import numpy as np
import pytest

from pipeline.core import features
from pipeline.core.features import FeatureSpec
from pipeline.core.features.table import COLUMN
from pipeline.core.records import BearingOrders, StreamKey, Window, changed
from pipeline.core.window import WindowSpec, length_and_hop

FAMILIES = {"inner_race": "env_bpfi", "outer_race": "env_bpfo", "ball": "env_2bsf"}


def test_the_golden_recording_has_its_golden_values() -> None:
    golden = json.loads(features_golden.PATH.read_text())
    found = features_golden.compute()
    assert list(found) == list(golden), "the table changed: run python tests/features_golden.py"
    for name, values in golden.items():
        for value, now in zip(values, found[name], strict=True):
            assert (value is None) == (now is None), name
            if value is not None and now is not None:
                assert now == pytest.approx(value, rel=1e-3, abs=2e-3), name


def read(path: Path) -> tuple[list[Window], dict[str, object]]:
    """The 1 s windows of the channel at the fault, with what the recording says of speed and bearing."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"recording_metadata"])
    channels = [c for c in ("drive_end", "fan_end", "vibration") if c in table.column_names]
    channel = about.get("fault_location") if about.get("fault_location") in channels else channels[0]
    orders = about["fault_orders_of_shaft"]
    x = table[channel].to_numpy().astype(np.float32)[None]
    rate_hz = float(about["sample_rate_hz"])
    length, hop = length_and_hop(WindowSpec(), rate_hz)
    bearing, rpm = BearingOrders(**orders.get(channel, orders)), float(about["rpm"])
    key = StreamKey("m", "p")
    windows = [
        Window(key, 1, 0, 0, 0, rate_hz, ("x",), "g", x[:, k : k + length], 1.0, rpm, bearing, None)
        for k in range(0, x.shape[1] - length + 1, hop)
    ]
    return windows, about


def test_the_strongest_family_alone_names_the_fault_as_often_as_a_plain_envelope(shared_data: Path) -> None:
    """At least the share that a plain envelope spectrum gets over all of CWRU: 30/30, 45/56, 16/31; HIT-SM all."""
    named: Counter[tuple[str, str]] = Counter()
    recordings: Counter[tuple[str, str]] = Counter()
    for path in sorted([*shared_data.glob("cwru/*/*.parquet"), *shared_data.glob("hit_sm/*/*.parquet")]):
        windows, about = read(path)
        fault = str(about["fault_class"])
        if fault not in FAMILIES:
            continue
        values = np.stack(features.compute(FeatureSpec(), windows))[:, 0]
        level = {f: np.nanmean(values[:, COLUMN[name]]) for f, name in FAMILIES.items()}
        group = path.relative_to(shared_data).parts[0], fault
        recordings[group] += 1
        named[group] += max(level, key=level.__getitem__) == fault
    for (rig, fault), count in sorted(recordings.items()):
        print(f"{rig:8s} {fault:12s} {named[rig, fault]:3d} / {count}")  # noqa: T201 - the table is the result
    least = {("cwru", "inner_race"): 1.0, ("cwru", "outer_race"): 45 / 56, ("cwru", "ball"): 16 / 31}
    for group, count in recordings.items():
        assert named[group] >= least.get(group, 1.0) * count, group


def test_the_speed_of_the_recordings_is_found_without_being_told(shared_data: Path) -> None:
    """Not in every window, but where the confidence is there, the speed is right."""
    right = known = total = 0
    for path in sorted(shared_data.glob("cwru/12k_drive_end/*.parquet"))[::4]:
        windows, about = read(path)
        silent = [changed(w, speed_rpm=None, speed_range_rpm=(1200.0, 2400.0)) for w in windows]
        values = np.stack(features.compute(FeatureSpec(), silent))[:, 0, COLUMN["speed_used"]]
        total += len(values)
        known += int(np.isfinite(values).sum())
        right += int((abs(values - float(str(about["rpm"]))) < 0.02 * float(str(about["rpm"]))).sum())
    print(f"speed found in {known} of {total} windows, right in {right}")  # noqa: T201
    assert known > 0.3 * total
    assert right >= 0.9 * known
