"""Recordings in CSV, WAV, MAT and Parquet: how each is read, and what is said of a file that is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.recordings import METADATA, joined
from scipy.io import savemat, wavfile

from pipeline.edges.recordings.recording import open_recording, parse_channels, streams, write_recording
from pipeline.errors import RecordingError


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
