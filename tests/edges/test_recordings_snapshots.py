"""Snapshots: each is a session of its own, in order, however wrong the clock was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edges.recordings.recording import NOMINAL_START_NS, open_recording, parse_channels, streams
from pipeline.edges.recordings.snapshots import snapshot_times


def write_snapshots(path: Path, numbers: list[int], times: list[float] | None, length: int = 10, **metadata) -> None:
    """Snapshot k holds the value k."""
    columns = {"snapshot": np.repeat(np.array(numbers, np.int32), length)}
    if times is not None:
        columns["time_of_day_s"] = np.repeat(np.array(times), length)
    columns["horiz"] = np.repeat(np.arange(len(numbers), dtype=np.float32), length)
    text = json.dumps({"sample_rate_hz": 1000, "recording": "s", **metadata})
    pq.write_table(pa.table(columns).replace_schema_metadata({"recording_metadata": text}), path, row_group_size=25)


def test_each_snapshot_is_a_session_of_its_own_and_they_come_in_order(tmp_path):
    path = tmp_path / "s.parquet"
    write_snapshots(path, [1, 2, 4], [100.0, 110.0, 130.0], snapshot_period_s=10)
    recording = open_recording(path)
    assert recording.snapshots
    assert recording.channels == ("horiz",)
    blocks = list(streams(recording)[0].blocks())
    assert [block.index for block in blocks] == [0, 0, 0]
    assert [block.session - blocks[0].session for block in blocks] == [0, 1, 2]
    assert [(block.t0_ns - NOMINAL_START_NS) / 1e9 for block in blocks] == [0, 10, 30]
    assert [set(block.samples.ravel()) for block in blocks] == [{0.0}, {1.0}, {2.0}]
    short = list(streams(recording)[0].blocks(0.004))
    assert [block.index for block in short] == [0, 4, 8] * 3


def test_snapshots_without_a_clock_follow_their_numbers(tmp_path):
    write_snapshots(tmp_path / "s.parquet", [3, 4, 6], None, snapshot_period_s=2)
    blocks = list(streams(open_recording(tmp_path / "s.parquet"))[0].blocks(session=5, t0_ns=1_000))
    assert [block.t0_ns - 1_000 for block in blocks] == [0, 2_000_000_000, 6_000_000_000]
    assert [block.session for block in blocks] == [5, 6, 7]


def test_a_clock_that_jumps_is_corrected_and_a_pause_is_kept():
    numbers = np.arange(14)
    clock = numbers * 10.0 + 5
    clock[9:] += 3600  # the machine stood still for an hour
    right = np.round((clock - 5) * 1e9).astype(np.int64)
    clock[[4, 5]] = [7.0, 4000.0]
    found = snapshot_times(numbers, np.full(14, 0.1), clock, 10.0)
    np.testing.assert_array_equal(found, right)


def test_a_clock_may_pass_midnight():
    clock = np.array([86380.0, 86390.0, 0.0, 10.0])
    found = snapshot_times(np.arange(4), np.full(4, 0.1), clock, None)
    np.testing.assert_array_equal(found, np.arange(4) * 10_000_000_000)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(-3, 5), st.floats(0, 86400), st.floats(0.01, 20)), min_size=1, max_size=20),
    clocked=st.booleans(),
    period=st.none() | st.floats(0.1, 100),
)
def test_snapshots_always_go_forward_without_overlap(steps, clocked, period):
    numbers = np.cumsum([step[0] for step in steps])
    lengths = np.array([step[2] for step in steps])
    clock = np.array([step[1] for step in steps]) if clocked else None
    times = snapshot_times(numbers, lengths, clock, period)
    assert times[0] == 0
    assert (np.diff(times) >= np.round(lengths[:-1] * 1e9)).all()


def test_real_snapshots_of_femto_go_forward_also_where_the_clock_is_wrong(shared_data):
    path = shared_data / "femto" / "learning" / "Bearing2_1.parquet"
    recording = open_recording(path)
    blocks = list(streams(recording, parse_channels("horiz=x,vert=y"))[0].blocks())
    times = np.array([block.t0_ns for block in blocks])
    assert len(blocks) == recording.metadata["last_snapshot"] - recording.metadata["first_snapshot"] + 1
    assert (np.diff(times) > 5e9).all()
    assert {block.samples.shape for block in blocks} == {(2, 2560)}
    assert len({block.session for block in blocks}) == len(blocks)
