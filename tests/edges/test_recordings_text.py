"""Text of any dialect: the block of numbers is found, and what stands around it is understood."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from harness.recordings import joined
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edges.recordings.recording import Options, open_recordings, streams
from pipeline.errors import RecordingError

RATE_HZ = 1000.0


def signal(rows: int = 400, columns: int = 2) -> np.ndarray:
    return np.round(np.random.default_rng(3).standard_normal((columns, rows)), 4).astype(np.float32)


def written(path: Path, samples: np.ndarray, *, sign: str = ",", decimal: str = ".", head: str = "", tail: str = "",
            ending: str = "", encoding: str = "utf-8") -> Path:  # fmt: skip
    rows = [sign.join(f"{value:.4f}".replace(".", decimal) for value in row) + ending for row in samples.T]
    path.write_bytes((head + "\n".join(rows) + "\n" + tail).encode(encoding))
    return path


def opened(path: Path, **options: object) -> np.ndarray:
    options = {"rate_hz": RATE_HZ} | options
    (recording,) = open_recordings(path, Options(**options))  # type: ignore[arg-type]
    return joined(streams(recording)[0])


@pytest.mark.parametrize("sign", [",", ";", "\t", " ", "   "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "2004.02.12.10.32.39", "no_suffix"])
def test_every_separator_and_decimal_sign_is_found_whatever_the_suffix(
    tmp_path: Path, sign: str, decimal: str, name: str
) -> None:
    if sign == decimal == ",":
        pytest.skip("no reader can tell them apart")
    samples = signal()
    np.testing.assert_array_equal(opened(written(tmp_path / name, samples, sign=sign, decimal=decimal)), samples)


def test_one_column_with_decimal_commas_is_one_column(tmp_path: Path) -> None:
    samples = signal(columns=1)
    np.testing.assert_array_equal(opened(written(tmp_path / "a.csv", samples, decimal=",", head="Kanal 1\n")), samples)


@pytest.mark.parametrize(
    "head",
    [
        "Title\tRig run 3\nSampling Frequency\t5120\nUnits\tg\n\nData\n",
        "# rate 1000 Hz\n# operator: Jürgen\nx,y\n",
        "DATAQ\n" + "".join(f"Key {i}: value {i}\n" for i in range(40)) + "\n\nx;y\n",
        "x,y\ng,g\n",
        "x,y\n\n",
        "Channels,2\nRange,5\nFilter,100\nGain,1\nRun,7\nSerial,12\nComment,none\nx,y\n",
        "%x,%y\n",
        '"x","y"\n',
        "",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_preamble_units_and_comments_stand_above_the_numbers(tmp_path: Path, head: str, encoding: str) -> None:
    samples = signal()
    path = written(tmp_path / "a.csv", samples, head=head, encoding=encoding)
    np.testing.assert_array_equal(opened(path), samples)


@pytest.mark.parametrize("tail", ["Rate 1000, overflows 0\n", "\n\n", "End of file\nchecksum: abc\n", "\x1a"])
def test_lines_below_the_numbers_are_ignored_with_a_word(tmp_path: Path, tail: str) -> None:
    samples = signal()
    path = written(tmp_path / "a.csv", samples, head="x,y\n", tail=tail)
    np.testing.assert_array_equal(opened(path), samples)
    (recording,) = open_recordings(path, Options(rate_hz=RATE_HZ))
    said = any("below the numbers" in note for note in recording.notes)
    assert said is bool(tail.strip("\n\x1a"))


def test_a_separator_at_the_end_of_rows_makes_no_column(tmp_path: Path) -> None:
    samples = signal()
    for head in ("", "x\ty\n", "x\ty\t\n"):
        path = written(tmp_path / "a.txt", samples, sign="\t", ending="\t", head=head)
        np.testing.assert_array_equal(opened(path), samples)


def test_columns_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", signal(), head="Acc,Acc\n")
    (recording,) = open_recordings(path, Options(rate_hz=RATE_HZ))
    assert streams(recording)[0].channels == ("Acc", "Acc_2")


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    samples = signal()
    plain = written(tmp_path / "a.csv", samples, head="x,y\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.csv.zst").write_bytes(pa.compress(plain.read_bytes(), "zstd", asbytes=True))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.write(plain, "inside.csv")
    for name in ("b.csv.gz", "c.csv.zst", "d.zip"):
        np.testing.assert_array_equal(opened(tmp_path / name), samples)
    with zipfile.ZipFile(tmp_path / "d.zip", "a") as archive:
        archive.write(plain, "second.csv")
    with pytest.raises(RecordingError, match=r"expected one file in .*d.zip, found 2"):
        opened(tmp_path / "d.zip")


@pytest.mark.parametrize(
    ("line", "rate_hz"),
    [
        ("Sampling Frequency\t5120", 5120.0), ("Sample rate: 25.6 kHz", 25600.0), ("fs=12000", 12000.0),
        ("Sampling Rate [Hz];48000", 48000.0), ("Delta_X\t0.001", 1000.0), ("dt = 0.5 ms", 2000.0),
        ("# rate 800 Hz", 800.0), ("Abtastrate: 2000 Hz", 2000.0), ("Sample interval (us): 100", 10000.0),
    ],
)  # fmt: skip
def test_a_line_above_the_numbers_says_the_rate_and_the_file_counts(tmp_path: Path, line: str, rate_hz: float) -> None:
    path = written(tmp_path / "a.txt", signal(), sign="\t", head=f"{line}\n\na\tb\n")
    (recording,) = open_recordings(path)
    assert recording.rate_hz == pytest.approx(rate_hz)
    (recording,) = open_recordings(path, Options(rate_hz=333.0))
    assert recording.rate_hz == pytest.approx(rate_hz)
    assert any("and not --rate 333" in note for note in recording.notes)


def test_units_in_a_row_in_brackets_or_in_a_line_are_converted_and_others_are_named(tmp_path: Path) -> None:
    samples = signal()
    for head in ("a,b\nmg,mg\n", "a [mg],b [mg]\n", "Units,mg\n\na,b\n", "a (mg),b (mg)\n"):
        path = written(tmp_path / "a.csv", samples, head=head)
        (recording,) = open_recordings(path, Options(rate_hz=RATE_HZ))
        assert (recording.unit, recording.scale) == ("g", 0.001)
        np.testing.assert_allclose(joined(streams(recording)[0]), samples * 0.001, rtol=1e-6)
    path = written(tmp_path / "a.csv", samples, head="a [mg],b [mm/s]\n")
    two = open_recordings(path, Options(rate_hz=RATE_HZ))
    assert {(one.unit, one.channels) for one in two} == {("g", ("a [mg]",)), ("mm/s", ("b [mm/s]",))}
    assert len({stream.key for one in two for stream in streams(one)}) == 2


def test_options_overrule_what_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,5;2,5\n" * 30)
    np.testing.assert_array_equal(opened(path), np.tile([[1.5], [2.5]], 30))
    assert opened(path, separator="semicolon", decimal=",", skip=10).shape == (2, 20)
    (recording,) = open_recordings(path, Options(rate_hz=1.0, columns=("left", "right")))
    assert recording.channels == ("left", "right")
    with pytest.raises(RecordingError, match="--columns for 2 columns"):
        open_recordings(path, Options(rate_hz=1.0, columns=("left",)))


def test_a_row_of_another_width_in_the_middle_is_an_error_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "1.5,2.5\n" * 50 + "3.5\n" + "1.5,2.5\n" * 50)
    with pytest.raises(RecordingError, match=r"found in row 52: '3\.5'"):
        opened(path)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400), suffix=st.sampled_from([".csv", ".txt", "", ".tsv"]))
def test_any_bytes_are_a_recording_or_an_error_with_the_path(tmp_path_factory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(content)
    try:
        for recording in open_recordings(path, Options(rate_hz=100.0)):
            for stream in streams(recording):
                list(stream.blocks())
    except RecordingError as error:
        said = str(error)
    else:
        return
    assert str(path) in said


def table(path: Path, rows: list[str], head: str = "", tail: str = "") -> Path:
    path.write_text(head + "\n".join(rows) + "\n" + tail)
    return path


@pytest.mark.parametrize("word", ["Mean", "Mittelwert", "max:", "Average (all)"])
def test_a_summary_below_the_numbers_is_no_row(tmp_path: Path, word: str) -> None:
    samples = signal()
    path = written(tmp_path / "a.csv", samples, head="x,y\n", tail=f"{word},0.1\n")
    np.testing.assert_array_equal(opened(path), samples)
    (one,) = open_recordings(path, Options(rate_hz=RATE_HZ))
    assert any(word in note for note in one.notes)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("name", ["micros", "Time [us]", "timestamp_us"])
def test_a_counter_that_starts_again_at_zero_is_time_and_not_vibration(tmp_path: Path, bits: int, name: str) -> None:
    begin = (1 << bits) - 9_000
    rows = [f"{(begin + 250 * i) % (1 << bits)},{i % 7}.5,{i % 5}.25" for i in range(1000)]
    (one,) = open_recordings(table(tmp_path / "a.csv", rows, f"{name},x,y\n"), Options())
    assert (one.channels, one.rate_hz, one.samples) == (("x", "y"), 4000.0, 1000)
    assert any(f"{bits} bits" in note for note in one.notes)


def test_a_clock_that_is_set_back_is_no_counter_that_starts_again(tmp_path: Path) -> None:
    rows = [f"{(100_000 + 250 * i) if i < 500 else 250 * i},{i % 7}.5" for i in range(1000)]
    with pytest.raises(RecordingError, match="step back in data row 501"):
        open_recordings(table(tmp_path / "a.csv", rows, "micros,x\n"), Options())


def test_speed_and_temperature_are_no_vibration(tmp_path: Path) -> None:
    rows = [f"{i % 7}.5,1480,{40 + i / 100},{i % 3}" for i in range(400)]
    path = table(tmp_path / "a.csv", rows, "acc_mg,rpm,Temp [°C],load_side\n")
    (one,) = open_recordings(path, Options(rate_hz=RATE_HZ))[:1]
    found = open_recordings(path, Options(rate_hz=RATE_HZ))
    assert {name for one in found for name in one.channels} == {"acc_mg", "load_side"}
    assert {one.unit: one.scale for one in found} == {"g": 0.001, "1": 1.0}
    assert one.speed_rpm == 1480.0
    assert any("rpm, Temp [°C]" in note for note in one.notes)
    varying = [f"{i % 7}.5,{1000 + i}" for i in range(400)]
    (one,) = open_recordings(table(tmp_path / "b.csv", varying, "x,rpm\n"), Options(rate_hz=RATE_HZ))
    assert one.speed_rpm is None
    assert any("varies" in note for note in one.notes)
    (one,) = open_recordings(
        table(tmp_path / "c.csv", [str(i % 9) for i in range(400)], "temp\n"), Options(rate_hz=1.0)
    )
    assert one.channels == ("temp",), "something has to be the channel"


def test_points_between_thousands_are_refused_by_row_and_never_cut_into_columns(tmp_path: Path) -> None:
    rows = [f"0,{i:05d};1.{i % 999:03d},5" for i in range(400)]
    path = table(tmp_path / "a.csv", rows, "t;a\n")
    (one,) = open_recordings(path, Options())
    assert one.channels == ("a",)
    with pytest.raises(RecordingError, match=r"column a .* row 2: '1\.000,5'"):
        joined(streams(one)[0])
