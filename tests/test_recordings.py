"""Recordings: every format gives the same blocks however they are cut, and bad files say what is wrong."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat, wavfile

from pipeline.core.records import BearingOrders, Block, is_id
from pipeline.edges.recordings import (
    NOMINAL_START_NS,
    RecordedStream,
    RecordingWriter,
    find_recordings,
    input_id,
    open_recording,
    parse_channels,
    streams,
    write_recording,
)
from pipeline.errors import RecordingError, UsageError

ORDERS = {"bpfi": 5.4152, "bpfo": 3.5848, "ftf": 0.39828, "bsf": 2.35675}
METADATA = {"sample_rate_hz": 1000, "dataset": "TEST", "recording": "7", "rpm": 1500, "units": "g"}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240101)


def shared_data() -> Path:
    folder = Path(os.environ.get("THRUMCAST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    return folder


def joined(stream: RecordedStream, block_s: float = 10.0) -> np.ndarray:
    return np.concatenate([block.samples for block in stream.blocks(block_s)], axis=1)


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


def test_csv_with_and_without_a_header_and_with_decimal_commas(tmp_path):
    samples = np.array([[0, 0.5, -1.25], [1, 2, 3]], np.float32)
    texts = {
        "header.csv": "time,ax,ay,note\n0,0,1,ok\n1,0.5,2,\n2,-1.25,3,ok\n",
        "bare.csv": "0\t1\n0.5\t2\n-1.25\t3\n",
        "comma.csv": "ax;ay\n0,0;1\n0,5;2\n-1,25;3\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        recording = open_recording(tmp_path / name, rate_hz=100)
        assert recording.samples == 3
        assert recording.channels == (("ch1", "ch2") if name == "bare.csv" else ("ax", "ay"))
        assert recording.machine == name.removesuffix(".csv")
        np.testing.assert_array_equal(joined(streams(recording)[0]), samples)


def test_a_csv_whose_first_lines_look_like_integers_keeps_its_fractions(tmp_path):
    values = np.concatenate([np.zeros(400_000), [0.5]])
    (tmp_path / "a.csv").write_text("x\n" + "\n".join(f"{v:g}" for v in values) + "\n")
    (stream,) = streams(open_recording(tmp_path / "a.csv", rate_hz=1000))
    assert joined(stream, 1000.0)[0, -1] == 0.5


@pytest.mark.parametrize("at", [0, 1233, 149_999])  # of more than one block
def test_a_word_among_the_numbers_of_a_csv_is_refused_by_row_and_column_unless_the_column_is_not_wanted(tmp_path, at):
    rows = [f"{i / 7:.6f},{i / 3:.6f}" for i in range(150_000)]
    rows[at] = f"abc,{at / 3:.6f}"
    (tmp_path / "word.csv").write_text("x,y\n" + "\n".join(rows) + "\n")
    recording = open_recording(tmp_path / "word.csv", rate_hz=1000)
    assert (recording.channels, recording.samples, recording.left_out) == (("x", "y"), 150_000, ())
    with pytest.raises(RecordingError, match=f"in column x of .*word.csv, found in row {at + 2}: 'abc'"):
        joined(streams(recording)[0])
    (wanted,) = streams(recording, parse_channels("y"))
    assert joined(wanted).shape == (1, 150_000)


def test_columns_of_a_csv_without_a_number_are_left_out_by_name(tmp_path):
    text = "label,x,when,nothing,time\nok,1,12:00:01,,12:01\nnan,2,12:00:02,,12:02\n"
    (tmp_path / "a.csv").write_text(text)
    recording = open_recording(tmp_path / "a.csv", rate_hz=100)
    assert recording.channels == ("x",)
    assert recording.left_out == ("label", "when", "nothing")


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float32"])
def test_wav_codes_become_fractions_of_full_scale(tmp_path, dtype, rng):
    wanted = rng.uniform(-0.9, 0.9, (500, 2))
    codes = {
        "int16": lambda x: np.round(x * 2**15),
        "int32": lambda x: np.round(x * 2**31),
        "uint8": lambda x: np.round(x * 128 + 128),
        "float32": lambda x: x,
    }[dtype](wanted).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 8000, codes)
    recording = open_recording(tmp_path / "a.wav", rate_hz=1.0)
    assert (recording.rate_hz, recording.channels, recording.unit) == (8000.0, ("ch1", "ch2"), "1")
    np.testing.assert_allclose(joined(streams(recording)[0]), wanted.T, atol=0.004 if dtype == "uint8" else 4e-5)


def test_a_matlab_file_with_the_names_of_cwru(tmp_path, rng):
    de, fe = rng.standard_normal((2, 400, 1))
    content = {"X105_DE_time": de, "X105_FE_time": fe, "X105RPM": np.array([[1797]]), "note": "text", "n": np.ones(20)}
    savemat(tmp_path / "105.mat", content)
    recording = open_recording(tmp_path / "105.mat", rate_hz=12000)
    assert recording.channels == ("drive_end", "fan_end")
    assert (recording.speed_rpm, recording.machine) == (1797.0, "105")
    assert recording.metadata["skipped_variables"] == "n"
    np.testing.assert_array_equal(joined(streams(recording)[0]), np.stack([de, fe])[..., 0].astype(np.float32))


def test_the_rate_of_the_file_counts_and_the_callers_only_where_there_is_none(tmp_path):
    write_recording(tmp_path / "a.parquet", np.ones((1, 5)), ["x"], METADATA)
    assert open_recording(tmp_path / "a.parquet", rate_hz=5.0).rate_hz == 1000.0
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    with pytest.raises(RecordingError, match="expected a sampling rate, found none") as caught:
        open_recording(tmp_path / "a.csv")
    assert "--rate" in caught.value.hint
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(RecordingError, match="above 0 Hz"):
            open_recording(tmp_path / "a.csv", rate_hz=rate)


@pytest.mark.parametrize(
    "name", ["junk.parquet", "junk.wav", "junk.mat", "empty.csv", "empty.parquet", "header.csv", "text.csv", "a.xyz"]
)
def test_an_unreadable_file_is_one_line_and_a_hint(tmp_path, name):
    content = {"empty": b"", "header": b"x,y\n", "text": b"name,kind\na,b\nc,d\n"}.get(name.split(".")[0], b"no" * 999)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        open_recording(tmp_path / name, rate_hz=100)
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_missing_file_and_broken_metadata_are_recording_errors(tmp_path):
    with pytest.raises(RecordingError, match="no such file"):
        open_recording(tmp_path / "none.parquet")
    table = pa.table({"x": [1.0]})
    for text in ("{", "[1]", '{"sample_rate_hz": "fast"}'):
        pq.write_table(table.replace_schema_metadata({"recording_metadata": text}), tmp_path / "a.parquet")
        with pytest.raises(RecordingError):
            open_recording(tmp_path / "a.parquet", rate_hz=100)


def test_a_file_that_is_cut_off_is_a_recording_error_when_its_samples_are_read(tmp_path, rng):
    path = tmp_path / "a.parquet"
    write_recording(path, rng.standard_normal((1, 5000)), ["x"], METADATA)
    (stream,) = streams(open_recording(path))
    content = bytearray(path.read_bytes())
    content[50:4000] = bytes(3950)
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="readable parquet file"):
        list(stream.blocks())


def test_a_stream_of_nothing_but_nan_is_refused_and_single_ones_pass(tmp_path):
    path = tmp_path / "a.parquet"
    write_recording(path, np.array([[np.nan] * 9, [np.nan] * 8 + [1.0]]), ["dead", "alive"], METADATA)
    recording = open_recording(path)
    with pytest.raises(RecordingError, match="found no number in: dead"):
        list(streams(recording, parse_channels("dead"))[0].blocks())
    assert joined(streams(recording)[0]).shape == (2, 9)


def test_folders_are_searched_and_tables_of_text_passed_over_unless_named(tmp_path):
    for name in ("b/2.parquet", "b/1.parquet", "a.parquet", ".hidden/x.parquet", "_work/x.parquet"):
        write_recording(tmp_path / name, np.ones((1, 5)), ["x"], METADATA)
    (tmp_path / "manifest.csv").write_text("file,class,rpm\nb/1.parquet,ball,1796\n")
    (tmp_path / "numbers.csv").write_text("x,y\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"broken")
    own = pa.table({"x.rms": [1.0]}).replace_schema_metadata({"thrumcast": "{}"})
    pq.write_table(own, tmp_path / "part-00000001.parquet")
    found = [path.relative_to(tmp_path).as_posix() for path in find_recordings([tmp_path])]
    assert found == ["a.parquet", "b/1.parquet", "b/2.parquet", "broken.parquet", "numbers.csv"]
    manifest = tmp_path / "manifest.csv"
    assert find_recordings([manifest, tmp_path / "b", tmp_path / "b" / "1.parquet"]) == [
        manifest,
        tmp_path / "b" / "1.parquet",
        tmp_path / "b" / "2.parquet",
    ]
    (tmp_path / "empty").mkdir()
    for missing in ("none", "empty"):
        with pytest.raises(RecordingError, match="found no"):
            find_recordings([tmp_path / missing])


def test_an_input_is_known_by_its_content_and_what_is_done_with_it(tmp_path):
    for name, value in (("a", b"1" * 99), ("b", b"1" * 99), ("c", b"1" * 98 + b"2")):
        (tmp_path / name).write_bytes(value)
    os.utime(tmp_path / "c", ns=(1, 1))
    a, b, c = (input_id(tmp_path / name, "drive_end=x") for name in "abc")
    assert a == b != c
    assert a != input_id(tmp_path / "a", "drive_end=y") != input_id(tmp_path / "a")
    with pytest.raises(RecordingError, match="no such file"):
        input_id(tmp_path / "none")


def test_two_nameless_files_of_the_same_name_have_sessions_of_their_own(tmp_path):
    found: list[Block] = []
    for folder, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pump.csv").write_text(f"x\n{value}\n{value}\n")
        found += streams(open_recording(tmp_path / folder / "pump.csv", rate_hz=10))[0].blocks()
    assert found[0].key == found[1].key
    assert found[0].session != found[1].session


def test_the_later_part_of_a_recording_has_its_own_session_and_time(tmp_path):
    write_recording(tmp_path / "a.parquet", np.ones((1, 5)), ["x"], METADATA | {"start_sample": 0})
    write_recording(tmp_path / "b.parquet", np.ones((1, 5)), ["x"], METADATA | {"start_sample": 6000})
    (a,), (b,) = (list(streams(open_recording(tmp_path / name))[0].blocks()) for name in ("a.parquet", "b.parquet"))
    assert a.key == b.key
    assert b.t0_ns - a.t0_ns == 6_000_000_000
    assert b.session > a.session


@settings(max_examples=100, deadline=None)
@given(dataset=st.text(max_size=80), recording=st.text(max_size=80))
def test_whatever_a_recording_calls_itself_its_machine_is_an_id(tmp_path_factory, dataset, recording):
    from pipeline.edges.recordings import machine_id

    assert is_id(machine_id({"dataset": dataset, "recording": recording}, Path("/data/..parquet")))


def test_long_names_stay_apart():
    from pipeline.edges.recordings import machine_id

    assert machine_id({"recording": "a" * 70}, Path("x")) != machine_id({"recording": "a" * 71}, Path("x"))
    assert machine_id({"dataset": "A B", "recording": "1@2"}, Path("x")) == "A_B-1_2"


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


def test_real_recordings_of_cwru_and_hit_open_and_read_whole():
    folder = shared_data()
    files = find_recordings([folder / "cwru", folder / "hit_sm"])
    assert len(files) == 88
    machines = [open_recording(path).machine for path in files]
    assert len(set(machines)) == len(files)
    recording = open_recording(folder / "cwru" / "12k_drive_end" / "IR007_0.parquet")
    assert (recording.machine, recording.truth, recording.speed_rpm) == ("CWRU-105", "inner_race", 1797.0)
    (stream,) = streams(recording, parse_channels("drive_end=x"))
    expected = pq.read_table(recording.path, columns=["drive_end"])["drive_end"].to_numpy()
    np.testing.assert_array_equal(joined(stream)[0], expected)
    assert stream.orders is not None
    assert stream.orders.bpfi == 5.4152
