"""Which files are recordings, and by what name and session each of them is known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.recordings import METADATA
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.records import Block, is_id
from pipeline.edges.recordings.recording import find_recordings, input_id, open_recording, streams, write_recording
from pipeline.errors import RecordingError


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


@settings(max_examples=100, deadline=None)
@given(dataset=st.text(max_size=80), recording=st.text(max_size=80))
def test_whatever_a_recording_calls_itself_its_machine_is_an_id(tmp_path_factory, dataset, recording):
    from pipeline.edges.recordings.recording import machine_id

    assert is_id(machine_id({"dataset": dataset, "recording": recording}, Path("/data/..parquet")))


def test_long_names_stay_apart():
    from pipeline.edges.recordings.recording import machine_id

    assert machine_id({"recording": "a" * 70}, Path("x")) != machine_id({"recording": "a" * 71}, Path("x"))
    assert machine_id({"dataset": "A B", "recording": "1@2"}, Path("x")) == "A_B-1_2"
