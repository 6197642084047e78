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


def table(path: Path, seed: int = 0, head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).standard_normal(64)
    path.write_text(head + "".join(f"{value:.4f}\n" for value in values))
    return path


def test_what_a_folder_does_not_read_is_named_with_its_reason(tmp_path):
    from pipeline.edges.recordings.recording import search

    for name in ("a.csv", "b.txt", "2004.02.12.10.32.39", "c/no_suffix"):
        table(tmp_path / name)
    table(tmp_path / "units.csv", head="Accel\nm/s^2\n")
    (tmp_path / "iso.csv").write_text("".join(f"2026-05-01 10:00:00.{i:03d},{i % 7}.5\n" for i in range(64)))
    (tmp_path / "preamble.csv").write_text("Title\tRig\nFs\t1000\n\nData\n" + "0.5\t\n1.25\t\n" * 20)
    unread = {
        "notes.txt": "text without rows",
        "photo.png": "no format",
        "manifest.csv": "a table of text",
        ".hidden.csv": "hidden",
        "script.py": "no format",
        "LICENSE": "text without rows",
        "blob.bin": "no format",
    }
    for name in unread:
        (tmp_path / name).write_text("just words\nand more words\n")
    (tmp_path / "manifest.csv").write_text("file,class,rpm\nb/1.parquet,ball,1796\nb/2.parquet,ball,1797\n")
    (tmp_path / "blob.bin").write_bytes(bytes(range(256)))
    os.mkfifo(tmp_path / "pipe.csv")
    found = search([tmp_path])
    assert len(found.recordings) == 7
    said = {Path(path).name: why for path, why in found.passed_over.items()}
    assert said.keys() == {*unread, "pipe.csv"}
    assert all(why in said[name] for name, why in (unread | {"pipe.csv": "no regular file"}).items())


def test_ids_by_file_stay_apart_and_readable_in_every_script(tmp_path):
    from pipeline.edges.recordings.ids import readable_id

    names = [
        "насос",
        "пресс",
        "泵",
        "泵二",
        "ポンプ",
        "P#1",
        "P@1",
        "P 1",
        "P_1",
        "Pumpe Süd",
        "Pumpe Sßd",
        "Pumpe Sud",
        "..",
        "é",
        "e",
    ]
    ids = [readable_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(map(is_id, ids))
    assert readable_id("насос").startswith("nasos-")
    assert (readable_id("P_1"), readable_id("e")) == ("P_1", "e")


@settings(max_examples=200, deadline=None)
@given(one=st.text(min_size=1, max_size=70), other=st.text(min_size=1, max_size=70))
def test_two_names_never_give_one_id(one, other):
    from pipeline.edges.recordings.ids import readable_id

    assert is_id(readable_id(one))
    assert (readable_id(one) == readable_id(other)) is (one == other)


def test_the_same_file_name_in_different_folders_is_another_machine_and_the_folder_is_the_specimen(tmp_path):
    from pipeline.edges.recordings.recording import places, search

    for k, name in enumerate(("35Hz/Bearing1_1/1", "35Hz/Bearing1_1/2", "35Hz/Bearing1_2/1", "37Hz/Bearing1_1/1")):
        table(tmp_path / "in" / f"{name}.csv", k)
    found = places(search([tmp_path / "in"]).recordings)
    assert sorted(one.machine for one in found.values()) == [
        "35Hz-Bearing1_1-1",
        "35Hz-Bearing1_1-2",
        "35Hz-Bearing1_2-1",
        "37Hz-Bearing1_1-1",
    ]
    assert {one.specimen for one in found.values()} == {"35Hz/Bearing1_1", "35Hz/Bearing1_2", "37Hz/Bearing1_1"}
    files = [path for path in found if path.name == "1.csv"]
    assert len({one.machine for one in places(search(files).recordings).values()}) == 3
    alone = [places(search([path]).recordings)[path] for path in files]
    first = alone[0]
    assert {one.machine for one in alone} == {"1"}
    later = places(search([files[1]]).recordings, taken={first.machine: first.folder})[files[1]]
    assert later.machine.startswith("1-")
    again = places(search([files[0]]).recordings, taken={first.machine: first.folder})[files[0]]
    assert again.machine == "1"
    by_folder = places(search([tmp_path / "in"]).recordings, "folder")
    assert {one.machine for one in by_folder.values()} == {"35Hz-Bearing1_1", "35Hz-Bearing1_2", "37Hz-Bearing1_1"}


@pytest.mark.parametrize(
    ("spelling", "unit", "scale"),
    [
        ("mg", "g", 1e-3),
        ("gn", "g", 1),
        ("G", "g", 1),
        ("m/s²", "m/s2", 1),
        ("m/s/s", "m/s2", 1),
        ("m s^-2", "m/s2", 1),
        ("mm/s^2", "m/s2", 1e-3),
        ("mm/s²", "m/s2", 1e-3),
        ("mm/s rms", "mm/s", 1),
        ("in/s", "mm/s", 25.4),
        ("ips", "mm/s", 25.4),
        ("m/s", "mm/s", 1e3),
        ("mV", "V", 1e-3),
        ("[g]", "g", 1),
        ("ft/s^2", "m/s2", 0.3048),
        ("m/sec^2", "m/s2", 1),
    ],
)
def test_units_are_converted_at_the_door(tmp_path, spelling, unit, scale):
    write_recording(tmp_path / "a.parquet", np.ones((1, 64)), ["x"], METADATA | {"units": spelling})
    recording = open_recording(tmp_path / "a.parquet")
    assert recording.unit == unit
    (block,) = streams(recording)[0].blocks()
    np.testing.assert_allclose(block.samples, scale, rtol=1e-6)


@pytest.mark.parametrize("spelling", ["furlong", "um", "counts", "not stated in the mirror"])
def test_a_unit_without_a_factor_is_named(tmp_path, spelling):
    write_recording(tmp_path / "a.parquet", np.ones((1, 64)), ["x"], METADATA | {"units": spelling})
    recording = open_recording(tmp_path / "a.parquet")
    assert recording.unit == "1"
    assert any(spelling in note for note in recording.notes)


def test_counts_with_a_scale_are_converted(tmp_path):
    facts = METADATA | {"units": "counts", "scale": 0.0039, "scale_units": "g"}
    write_recording(tmp_path / "a.parquet", np.full((1, 64), 256.0), ["x"], facts)
    (block,) = streams(open_recording(tmp_path / "a.parquet"))[0].blocks()
    assert block.unit == "g"
    np.testing.assert_allclose(block.samples, 0.9984, rtol=1e-6)


@pytest.mark.parametrize(("name", "hint"), [("a.ide", "ideexport"), ("a.xls", "xlsx"), ("a.tgz", "unpack")])
def test_a_format_that_is_not_read_says_what_reads_it(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"\x1a\x45\xdf\xa3\x00\x01\x02")
    with pytest.raises(RecordingError) as refused:
        open_recording(tmp_path / name)
    assert hint in str(refused.value.hint)
