"""Recordings: every format gives the same blocks however they are cut, and bad files say what is wrong."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from harness.recordings import METADATA, joined
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.records import BearingOrders
from pipeline.edges.recordings.recording import (
    NOMINAL_START_NS,
    RecordingWriter,
    find_recordings,
    open_recording,
    parse_channels,
    streams,
    write_recording,
)
from pipeline.errors import RecordingError, UsageError

ORDERS = {"bpfi": 5.4152, "bpfo": 3.5848, "ftf": 0.39828, "bsf": 2.35675}


@settings(max_examples=40, deadline=None)
@given(
    samples=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 300)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    block_s=st.floats(0.001, 0.5),
)
def test_what_was_written_comes_back_whatever_the_length_of_the_blocks(tmp_path_factory, samples, block_s):
    path = tmp_path_factory.mktemp("recording") / "a.parquet"
    channels = ["x", "y", "z"][: len(samples)]
    write_recording(path, samples, channels, METADATA)
    (stream,) = streams(open_recording(path))
    blocks = list(stream.blocks(block_s))
    np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks], axis=1), samples)
    assert stream.channels == tuple(channels)
    assert blocks[0].index == 0
    assert all(a.end == b.index for a, b in pairwise(blocks))
    assert all(block.t0_ns == NOMINAL_START_NS + block.index * 1_000_000 for block in blocks)
    assert all(block.samples.flags.c_contiguous and block.samples.dtype == np.float32 for block in blocks)
    assert len({block.session for block in blocks}) == 1


def test_a_long_file_is_read_in_pieces(tmp_path, rng):
    path = tmp_path / "long.parquet"
    samples = rng.standard_normal((2, 300_000)).astype(np.float32)
    with RecordingWriter(path, ["x", "y"], METADATA) as writer:
        for cut in np.array_split(samples, 7, axis=1):
            writer.append(cut)
    (stream,) = streams(open_recording(path))
    np.testing.assert_array_equal(joined(stream, 7.0), samples)


def test_a_recording_says_what_it_is(tmp_path):
    path = tmp_path / "a.parquet"
    write_recording(
        path, np.ones((1, 5)), ["x"], METADATA | {"fault_class": "inner_race", "fault_orders_of_shaft": ORDERS}
    )
    recording = open_recording(path)
    assert (recording.machine, recording.rate_hz, recording.unit) == ("TEST-7", 1000.0, "g")
    assert (recording.truth, recording.speed_rpm, recording.samples) == ("inner_race", 1500.0, 5)
    (block,) = streams(recording)[0].blocks()
    assert (block.truth, block.speed_rpm, block.unit) == ("inner_race", 1500.0, "g")
    assert block.orders == BearingOrders(ftf=0.39828, bpfo=3.5848, bpfi=5.4152, bsf=2.35675)


@pytest.mark.parametrize(
    ("unit", "expected"), [("g", "g"), ("m/s^2", "m/s2"), ("mm/s", "mm/s"), ("V", "V"), ("unknown (relative)", "1")]
)
def test_an_unknown_unit_is_one(tmp_path, unit, expected):
    write_recording(tmp_path / "a.parquet", np.ones((1, 5)), ["x"], METADATA | {"units": unit})
    assert open_recording(tmp_path / "a.parquet").unit == expected


def test_orders_may_be_given_by_channel(tmp_path):
    path = tmp_path / "a.parquet"
    fan = {**ORDERS, "bpfi": 4.9}
    write_recording(
        path,
        np.ones((3, 5)),
        ["drive_end", "fan_end", "base"],
        METADATA | {"fault_orders_of_shaft": {"drive_end": ORDERS, "fan_end": fan}},
    )
    recording = open_recording(path)
    found = [stream.orders for stream in streams(recording, parse_channels("drive_end=x,fan_end=x,base=x"))]
    assert [orders and orders.bpfi for orders in found] == [5.4152, 4.9, None]
    assert streams(recording)[0].orders is None  # two bearings, one stream: neither speaks for it
    (pair,) = streams(recording, parse_channels("drive_end=x,base=y"))
    assert pair.orders is not None
    assert pair.orders.bpfi == 5.4152


def test_channels_with_the_same_new_name_are_streams_of_their_own(tmp_path):
    path = tmp_path / "a.parquet"
    write_recording(path, np.arange(20).reshape(4, 5), ["a", "b", "c", "d"], METADATA)
    found = streams(open_recording(path), parse_channels("a=x, b=y, c=x"))
    assert [(s.key.point, s.originals, s.channels) for s in found] == [
        ("main", ("a", "b"), ("x", "y")),
        ("c", ("c",), ("x",)),
    ]
    assert [s.key.point for s in streams(open_recording(path), parse_channels("a=x,b=y,c=x,d=y"))] == ["main", "main_2"]
    np.testing.assert_array_equal(joined(found[1]), [[10, 11, 12, 13, 14]])
    assert streams(open_recording(path), parse_channels("d"))[0].key == ("TEST-7", "d")


@pytest.mark.parametrize("text", ["", "a=", "=x", "a=x,,b=y", "a=x,a=y", "a=x.y"])
def test_channels_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_channels(text)
    assert caught.value.hint is not None


def test_an_unknown_channel_is_answered_with_those_there_are(tmp_path):
    write_recording(tmp_path / "a.parquet", np.ones((2, 5)), ["drive_end", "base"], METADATA)
    with pytest.raises(RecordingError, match="found: drive_edn") as caught:
        streams(open_recording(tmp_path / "a.parquet"), parse_channels("drive_edn=x"))
    assert caught.value.hint == "did you mean drive_end? there are drive_end, base: --channels drive_end=x"


def test_a_stream_of_nothing_but_nan_is_refused_and_single_ones_pass(tmp_path):
    path = tmp_path / "a.parquet"
    write_recording(path, np.array([[np.nan] * 9, [np.nan] * 8 + [1.0]]), ["dead", "alive"], METADATA)
    recording = open_recording(path)
    with pytest.raises(RecordingError, match="found no number in: dead"):
        list(streams(recording, parse_channels("dead"))[0].blocks())
    assert joined(streams(recording)[0]).shape == (2, 9)


def test_the_later_part_of_a_recording_has_its_own_session_and_time(tmp_path):
    write_recording(tmp_path / "a.parquet", np.ones((1, 5)), ["x"], METADATA | {"start_sample": 0})
    write_recording(tmp_path / "b.parquet", np.ones((1, 5)), ["x"], METADATA | {"start_sample": 6000})
    (a,), (b,) = (list(streams(open_recording(tmp_path / name))[0].blocks()) for name in ("a.parquet", "b.parquet"))
    assert a.key == b.key
    assert b.t0_ns - a.t0_ns == 6_000_000_000
    assert b.session > a.session


def test_a_recording_is_written_whole_or_not_at_all(tmp_path):
    with (
        pytest.raises(RecordingError, match="shape"),
        RecordingWriter(tmp_path / "a.parquet", ["x"], METADATA) as writer,
    ):
        writer.append(np.ones((2, 5)))
    assert list(tmp_path.iterdir()) == []
    for channels, metadata in (([], METADATA), (["x", "x"], METADATA), (["x"], {}), (["x"], {"sample_rate_hz": 0})):
        with pytest.raises(RecordingError):
            RecordingWriter(tmp_path / "a.parquet", channels, metadata)
    with pytest.raises(RecordingError, match="shape"):
        write_recording(tmp_path / "a.parquet", np.ones(5), ["x"], METADATA)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="expected to write"):
        write_recording(tmp_path / "file" / "a.parquet", np.ones((1, 5)), ["x"], METADATA)


def test_real_recordings_of_cwru_and_hit_open_and_read_whole(shared_data):
    files = find_recordings([shared_data / "cwru", shared_data / "hit_sm"])
    assert len(files) == 88
    machines = [open_recording(path).machine for path in files]
    assert len(set(machines)) == len(files)
    recording = open_recording(shared_data / "cwru" / "12k_drive_end" / "IR007_0.parquet")
    assert (recording.machine, recording.truth, recording.speed_rpm) == ("CWRU-105", "inner_race", 1797.0)
    (stream,) = streams(recording, parse_channels("drive_end=x"))
    expected = pq.read_table(recording.path, columns=["drive_end"])["drive_end"].to_numpy()
    np.testing.assert_array_equal(joined(stream)[0], expected)
    assert stream.orders is not None
    assert stream.orders.bpfi == 5.4152


def test_partial_bearing_data_are_completed_or_refused_by_name(tmp_path: Path) -> None:
    samples = np.zeros((1, 500), np.float32)
    facts = {"sample_rate_hz": 1000.0, "fault_orders_of_shaft": {"bpfo": 3.585, "bpfi": 5.415}}
    write_recording(tmp_path / "a.parquet", samples, ("x",), facts)
    one = open_recording(tmp_path / "a.parquet")
    orders = one.orders("x")
    assert orders is not None
    assert (round(orders.ftf, 3), round(orders.bsf, 2)) == (0.398, 2.36)
    assert any("9 elements follow from bpfo and bpfi" in note for note in one.notes)
    write_recording(tmp_path / "b.parquet", samples, ("x",), facts | {"fault_orders_of_shaft": {"bpfo": 3.585}})
    other = open_recording(tmp_path / "b.parquet")
    assert other.orders("x") is None
    assert any("found: bpfo; its defect lines are not looked for" in note for note in other.notes)
