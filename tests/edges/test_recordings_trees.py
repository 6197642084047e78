"""Files that are trees of arrays (MATLAB, HDF5, NumPy, TDMS, UFF58, LVM, XLSX), and the door around every reader."""

from __future__ import annotations

import datetime
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from harness.recordings import METADATA, joined
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat, wavfile

from pipeline.edges.recordings import contents
from pipeline.edges.recordings.recording import Options, open_recordings, parse_channels, streams, write_recording
from pipeline.errors import RecordingError

RNG = np.random.default_rng(9)
N = 600


def opened(path: Path, **options: object) -> dict[str, np.ndarray]:
    """Samples by stream and channel."""
    found = {}
    for recording in open_recordings(path, Options(**({"rate_hz": 1000.0} | options))):  # type: ignore[arg-type]
        for stream in streams(recording):
            for name, row in zip(stream.channels, joined(stream), strict=True):
                found[f"{stream.key.point}/{name}"] = row
    return found


def signal(n: int = N) -> np.ndarray:
    return RNG.standard_normal(n).astype(np.float32)


# -- which arrays are signals ------------------------------------------------------------------------------------------


def test_every_length_of_a_matlab_file_is_a_stream_of_its_own_and_is_found_by_name(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"vib": signal(600), "tacho": signal(6000), "vib_fs": 600.0, "tacho_fs": 6000.0})
    found = open_recordings(tmp_path / "a.mat")
    assert {(one.channels, one.samples, one.rate_hz) for one in found} == {
        (("tacho",), 6000, 6000.0),
        (("vib",), 600, 600.0),
    }
    chosen = [s for one in found for s in streams(one, parse_channels("vib=x"))]
    assert [(s.channels, s.recording.samples) for s in chosen] == [(("x",), 600)]
    with pytest.raises(RecordingError, match="found: vibr"):
        streams(found[0], parse_channels("vibr=x"))


def test_two_recordings_of_cwru_in_one_file_stay_apart(tmp_path: Path) -> None:
    values = {
        name: signal(n)[:, None] for name, n in (("X098_DE_time", 300), ("X098_FE_time", 300), ("X099_DE_time", 300))
    }
    savemat(tmp_path / "99.mat", values | {"X099RPM": 1750.0})
    assert sorted(opened(tmp_path / "99.mat")) == ["X098/drive_end", "X098/fan_end", "X099/drive_end"]
    speeds = {one.part: one.speed_rpm for one in open_recordings(tmp_path / "99.mat", Options(rate_hz=12000.0))}
    assert speeds == {"X098": None, "X099": 1750.0}


@pytest.mark.parametrize("shape", [(3, N), (N, 3)])
def test_the_long_side_of_a_matrix_is_time(tmp_path: Path, shape: tuple[int, int]) -> None:
    matrix = RNG.standard_normal(shape).astype(np.float32)
    savemat(tmp_path / "a.mat", {"data": matrix})
    np.save(tmp_path / "b.npy", matrix)
    wanted = matrix if shape[0] == 3 else matrix.T
    for name in ("a.mat", "b.npy"):
        np.testing.assert_array_equal(np.stack(list(opened(tmp_path / name).values())), wanted)


def test_structs_cells_and_arrays_of_structs_are_walked_and_give_the_rate(tmp_path: Path) -> None:
    x = signal()
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = x, signal(900)
    content = {
        "bearing": {"gs": x, "sr": 4000.0, "rate": 25.0, "inner": {"deep": signal(700)}},
        "cells": cell,
        "Y": np.array([("vibration_1", x), ("force", signal(800))], dtype=[("Name", object), ("Data", object)]),
    }
    savemat(tmp_path / "a.mat", content)
    found = {name: one for one in open_recordings(tmp_path / "a.mat", Options(rate_hz=1.0)) for name in one.channels}
    assert {"gs", "deep", "cells_1", "cells_2", "vibration_1", "force"} <= set(found)
    assert found["gs"].rate_hz == 4000.0


def test_a_matlab_file_without_signals_lists_what_is_in_it(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"cube": np.ones((4, 5, 6)), "name": "pump", "k": 3.0})
    with pytest.raises(RecordingError, match=r"cube \(float64, 4x5x6\)"):
        opened(tmp_path / "a.mat")


def test_npz_gives_named_channels_and_the_rate(tmp_path: Path) -> None:
    x, y = signal(), signal()
    np.savez(tmp_path / "a.npz", x=x, y=y, fs=2000)
    (recording,) = open_recordings(tmp_path / "a.npz")
    assert (recording.channels, recording.rate_hz) == (("x", "y"), 2000.0)
    np.testing.assert_array_equal(joined(streams(recording)[0]), np.stack([x, y]))


def test_hdf5_and_matlab_73(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    x = signal()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("run/acc", data=x)
        data.attrs["fs"], data.attrs["units"] = 5000.0, "mg"
        file.create_dataset("run/note", data="pump 4")
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")
    (recording,) = open_recordings(tmp_path / "a.h5")
    assert (recording.rate_hz, recording.unit, recording.channels) == (5000.0, "g", ("acc",))
    np.testing.assert_allclose(joined(streams(recording)[0])[0], x * 0.001, rtol=1e-6)
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file.create_dataset("x", data=x[None, :]).attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("fs", data=[[2500.0]])
    content = bytearray((tmp_path / "b.mat").read_bytes())
    content[:19] = b"MATLAB 7.3 MAT-file"
    (tmp_path / "b.mat").write_bytes(content)
    (recording,) = open_recordings(tmp_path / "b.mat")
    assert recording.rate_hz == 2500.0
    np.testing.assert_array_equal(joined(streams(recording)[0])[0], x)


def test_tdms(tmp_path: Path) -> None:
    nptdms = pytest.importorskip("nptdms")
    x, tacho = signal(), signal(300)
    start = np.datetime64("2026-05-01T10:00:00")
    with nptdms.TdmsWriter(tmp_path / "a.tdms") as writer:
        common = {"wf_start_time": start, "wf_start_offset": 0.0}
        writer.write_segment(
            [
                nptdms.ChannelObject("g", "acc", x, properties=common | {"wf_increment": 1 / 2000, "unit_string": "g"}),
                nptdms.ChannelObject(
                    "g", "tacho", tacho, properties=common | {"wf_increment": 1 / 1000, "unit_string": "V"}
                ),
            ]
        )
    found = {one.channels: (one.rate_hz, one.unit) for one in open_recordings(tmp_path / "a.tdms")}
    assert {name: (pytest.approx(rate), unit) for name, (rate, unit) in found.items()} == {
        ("acc",): (2000.0, "g"),
        ("tacho",): (1000.0, "V"),
    }
    assert open_recordings(tmp_path / "a.tdms")[0].start_ns() == 1_777_629_600 * 10**9


def test_uff58(tmp_path: Path) -> None:
    pyuff = pytest.importorskip("pyuff")
    x = signal()
    given = pyuff.prepare_58(
        binary=0,
        func_type=1,
        data=x.astype(float),
        x=np.arange(N) / 1000,
        id1="acc",
        abscissa_spacing=1,
        abscissa_inc=0.001,
        ordinate_axis_units_lab="m/s2",
        return_full_dict=True,
    )
    one = {
        k: v if v is not None else "NONE" if k[:2] == "id" or k.endswith(("name", "lab")) else 0
        for k, v in given.items()
    }
    pyuff.UFF(str(tmp_path / "a.uff")).write_sets([one], mode="overwrite")
    (recording,) = open_recordings(tmp_path / "a.uff")
    assert (recording.rate_hz, recording.unit) == (1000.0, "m/s2")
    np.testing.assert_allclose(joined(streams(recording)[0])[0], x, rtol=1e-4, atol=1e-4)


def test_xlsx_with_a_preamble_and_dates(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    x = np.round(signal().astype(float), 6)
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Operator", "A. B."], [], ["Time", "acc"], ["s", "mg"]):
        sheet.append(row)
    for i, value in enumerate(x):
        sheet.append([i / 500, float(value)])
    other = book.create_sheet("dates")
    begin = datetime.datetime(2026, 5, 1, 10)  # noqa: DTZ001
    other.append(["when", "acc [g]"])
    for i, value in enumerate(x):
        other.append([begin + datetime.timedelta(milliseconds=2 * i), float(value)])
    book.save(tmp_path / "a.xlsx")
    found = {one.part: one for one in open_recordings(tmp_path / "a.xlsx")}
    assert {(one.rate_hz, one.unit, one.samples) for one in found.values()} == {(500.0, "g", N)}
    assert found["dates"].start_ns() == 1_777_629_600 * 10**9
    np.testing.assert_allclose(joined(streams(found["dates"])[0])[0], x, rtol=1e-6)


def lvm(sign: str, decimal: str, starts: tuple[str, ...], n: int = 100) -> tuple[str, np.ndarray]:
    x = np.round(RNG.standard_normal(n * len(starts)), 6)
    text = f"LabVIEW Measurement\t\nSeparator\t{'Tab' if sign == chr(9) else 'Comma'}\n"
    text += f"Decimal_Separator\t{decimal}\nX_Columns\tOne\nDate\t2026/05/01\n"
    text = text.replace("\t", sign) + f"***End_of_Header***{sign}\n\n"
    for k, start in enumerate(starts):
        rows = "".join(f"{i / 1000:.6f}{sign}{x[k * n + i]:.6f}\n".replace(".", decimal) for i in range(n))
        head = f"Channels\t1\nSamples\t{n}\nDate\t2026/05/01\nTime\t{start}\n"
        head += "Y_Unit_Label\tg\nX_Dimension\tTime\nX0\t0.0\nDelta_X\t0.001\n"
        text += (
            head.replace("\t", sign).replace(".", decimal)
            + f"***End_of_Header***{sign}\nX_Value{sign}acc{sign}Comment\n{rows}\n"
        )
    return text, x


@pytest.mark.parametrize(("sign", "decimal"), [("\t", "."), ("\t", ","), (",", ".")])
def test_lvm_with_segments_and_gaps_between_them(tmp_path: Path, sign: str, decimal: str) -> None:
    text, x = lvm(sign, decimal, ("10:00:00.0", "10:00:00.1", "10:00:00.5"))
    (tmp_path / "a.lvm").write_text(text)
    (recording,) = open_recordings(tmp_path / "a.lvm")
    assert (recording.rate_hz, recording.unit, recording.channels) == (1000.0, "g", ("acc",))
    blocks = list(streams(recording)[0].blocks())
    assert [(block.index, block.samples.shape[1]) for block in blocks] == [(0, 200), (500, 100)]
    np.testing.assert_allclose(np.concatenate([block.samples[0] for block in blocks]), x, rtol=1e-5)
    assert recording.start_ns() == 1_777_629_600 * 10**9


# -- the door ----------------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path, kind in (
        (tmp_path / "pipe.csv", "a named pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(RecordingError, match=f"found {kind}"):
            open_recordings(path)


def test_a_reader_that_takes_too_long_or_too_much_memory_is_stopped(tmp_path: Path, monkeypatch) -> None:
    savemat(tmp_path / "a.mat", {"x": signal()})
    monkeypatch.setattr(contents, "MOST_BYTES", 100)
    with pytest.raises(RecordingError, match="GiB of samples"):
        opened(tmp_path / "a.mat")
    monkeypatch.setattr(contents, "READER_S", 0.05)

    def slow() -> None:
        while True:
            pass

    with pytest.raises(RecordingError, match="it takes longer"):
        contents.guarded(tmp_path / "a.mat", slow)


def test_an_exception_of_any_kind_becomes_an_error_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"x")

    def broken() -> None:
        raise AssertionError

    with pytest.raises(RecordingError, match=r"a.mat: AssertionError"):
        contents.guarded(tmp_path / "a.mat", broken)


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.where,)


@pytest.mark.parametrize("name", ["a.mat", "a.npy", "a.npz", "a.csv", "a.h5"])
def test_nothing_unpickles(tmp_path: Path, name: str) -> None:
    evil = Evil()
    evil.where = str(tmp_path / "ran")
    content = pickle.dumps(evil)
    if name == "a.npy":
        array = io.BytesIO()
        np.save(array, np.array([evil], object), allow_pickle=True)
        content = array.getvalue()
    elif name == "a.npz":
        array = io.BytesIO()
        np.savez(array, x=np.array([evil] * 20, object))
        content = array.getvalue()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordingError, match=name):
        opened(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_wav_without_channels_and_a_matlab_file_of_one_byte_are_errors(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 8000, signal())
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[22:24] = struct.pack("<H", 0)
    (tmp_path / "a.wav").write_bytes(content)
    (tmp_path / "b.mat").write_bytes(b"M")
    for name in ("a.wav", "b.mat"):
        with pytest.raises(RecordingError, match=name):
            opened(tmp_path / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small file of every format whose library is there."""
    folder = tmp_path_factory.mktemp("whole")
    x = signal(64)
    wavfile.write(folder / "a.wav", 8000, x)
    savemat(folder / "a.mat", {"s": {"x": x, "fs": 1000.0}, "c": np.array([x, "a"], object)})
    savemat(folder / "b.mat", {"x": x}, do_compression=True)
    savemat(folder / "c.mat", {"x": x}, format="4")
    np.save(folder / "a.npy", x)
    np.savez_compressed(folder / "a.npz", x=x, fs=1000.0)
    write_recording(folder / "a.parquet", x[None], ["x"], METADATA)
    (folder / "a.csv").write_text(
        "time;x\ns;g\n" + "".join(f"{i / 100};{v:.4f}\n".replace(".", ",") for i, v in enumerate(x))
    )
    (folder / "a.lvm").write_text(lvm("\t", ".", ("10:00:00",), 64)[0])
    try:
        import h5py

        with h5py.File(folder / "a.h5", "w") as file:
            file["x"] = x
    except ImportError:
        pass
    try:
        import nptdms

        with nptdms.TdmsWriter(folder / "a.tdms") as writer:
            writer.write_segment([nptdms.ChannelObject("g", "x", x, properties={"wf_increment": 0.001})])
    except ImportError:
        pass
    try:
        import openpyxl

        book = openpyxl.Workbook()
        for value in x:
            book.active.append([float(value)])
        book.save(folder / "a.xlsx")
    except ImportError:
        pass
    (folder / "a.uff").write_text("    -1\n    58\nNONE\n" + "NONE\n" * 10 + "  1.0  2.0\n    -1\n")
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_files_of_every_format_are_recordings_or_errors_with_the_path(
    whole: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(whole))
    content = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "header", "insert"]))
    if how == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        end = min(len(content), 256) if how == "header" else len(content)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, end - 1))
            content[at : at + (how != "insert")] = data.draw(st.binary(min_size=1, max_size=4))
    damaged = tmp_path_factory.mktemp("damaged") / path.name
    damaged.write_bytes(content)
    try:
        for recording in open_recordings(damaged, Options(rate_hz=1000.0)):
            for stream in streams(recording):
                for block in stream.blocks():
                    assert block.samples.dtype == np.float32
    except RecordingError as error:
        said = str(error)
    else:
        return
    assert str(damaged) in said
