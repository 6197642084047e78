"""Public data sets by name: each preset reads the layout of its set, and refuses another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pipeline.commands.recordings import PRESETS as OFFERED
from pipeline.commands.recordings import UNEVEN as OFFERED_UNEVEN
from pipeline.edges.recordings.contents import UNEVEN
from pipeline.edges.recordings.presets import NOMINAL_START_NS, PRESETS
from pipeline.edges.recordings.recording import Options, open_recordings, search, streams
from pipeline.errors import RecordingError

RNG = np.random.default_rng(2)


def rows(path: Path, columns: int, *, head: str = "", before: str = "", sign: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        head + "".join(before + sign.join(f"{v:.3f}" for v in row) + "\n" for row in RNG.standard_normal((64, columns)))
    )
    return path


def test_the_command_offers_what_there_is() -> None:
    assert sorted(OFFERED) == sorted(PRESETS)
    assert OFFERED_UNEVEN == UNEVEN
    assert all(one.source and one.title for one in PRESETS.values())


def test_ims(tmp_path: Path) -> None:
    path = rows(tmp_path / "2nd_test" / "2004.02.12.10.32.39", 4, sign="\t")
    found = open_recordings(path, Options(preset="ims"))
    keys = {str(stream.key) for one in found for stream in streams(one)}
    assert keys == {f"IMS-2nd_test/bearing{k}" for k in range(1, 5)}
    assert {one.metadata["bearing_id"] for one in found} == {f"IMS/2nd_test/bearing{k}" for k in range(1, 5)}
    one = next(one for one in found if one.part == "bearing1")
    assert (one.rate_hz, one.unit, one.speed_rpm, one.metadata["fault_at_end"]) == (
        20_000.0,
        "g",
        2000.0,
        "bearing_outer",
    )
    assert one.start_ns() == 1_076_581_959 * 10**9
    orders = streams(one)[0].orders
    assert orders is not None
    assert orders.bpfo * 2000 / 60 == pytest.approx(236.4, abs=0.1)
    eight = rows(tmp_path / "1st_test" / "2003.10.22.12.06.24", 8, sign="\t")
    assert {one.channels for one in open_recordings(eight, Options(preset="ims"))} == {
        (f"b{k}_x", f"b{k}_y") for k in range(1, 5)
    }


def test_xjtu(tmp_path: Path) -> None:
    head = "Horizontal_vibration_signals,Vertical_vibration_signals\n"
    for name in ("35Hz12kN/Bearing1_1/1.csv", "35Hz12kN/Bearing1_1/2.csv", "40Hz10kN/Bearing3_5/1.csv"):
        rows(tmp_path / name, 2, head=head)
    (tmp_path / "readme.txt").write_text("words")
    found = search([tmp_path], "xjtu")
    assert [Path(path).name for path in found.passed_over] == ["readme.txt"]
    opened = [open_recordings(path, Options(preset="xjtu"))[0] for path in found.paths]
    assert [one.machine for one in opened] == ["XJTU-Bearing1_1", "XJTU-Bearing1_1", "XJTU-Bearing3_5"]
    assert [one.start_ns() - NOMINAL_START_NS for one in opened] == [0, 60 * 10**9, 0]
    assert [(one.rate_hz, one.speed_rpm, one.unit) for one in opened] == [
        (25_600.0, 2100.0, "g"), (25_600.0, 2100.0, "g"), (25_600.0, 2400.0, "g"),
    ]  # fmt: skip
    orders = streams(opened[0])[0].orders
    assert orders is not None
    assert orders.bpfo * 35 == pytest.approx(107.9, abs=0.1)


def test_femto(tmp_path: Path) -> None:
    path = rows(tmp_path / "Bearing1_3" / "acc_00002.csv", 2, before="9,39,39,65664,")
    (one,) = open_recordings(path, Options(preset="femto"))
    assert (one.channels, one.rate_hz, one.speed_rpm) == (("horiz", "vert"), 25_600.0, 1800.0)
    assert one.start_ns() == NOMINAL_START_NS + 10 * 10**9
    assert [stream.key for stream in streams(one)] == [("FEMTO-Bearing1_3", "main")]


def test_cwru(tmp_path: Path) -> None:
    for number, rate, truth in (
        (97, 48_000, "normal"),
        (105, 12_000, "inner_race"),
        (109, 48_000, "inner_race"),
        (278, 12_000, "inner_race"),
    ):
        savemat(
            tmp_path / f"{number}.mat", {f"X{number:03d}_DE_time": RNG.standard_normal(99), f"X{number:03d}RPM": 1797.0}
        )
        (one,) = open_recordings(tmp_path / f"{number}.mat", Options(preset="cwru"))
        assert (one.machine, one.rate_hz, one.truth, one.speed_rpm) == (f"CWRU-{number}", rate, truth, 1797.0)
        assert one.channels == ("drive_end",)


def test_mfpt(tmp_path: Path) -> None:
    savemat(
        tmp_path / "InnerRaceFault_vload_1.mat",
        {"bearing": {"gs": RNG.standard_normal(99), "sr": 48_828.0, "load": 0.0, "rate": 25.0}},
    )
    (one,) = open_recordings(tmp_path / "InnerRaceFault_vload_1.mat", Options(preset="mfpt"))
    assert (one.rate_hz, one.truth, one.unit, one.channels) == (48_828.0, "inner_race", "g", ("gs",))


def test_paderborn(tmp_path: Path) -> None:
    signals = np.array(
        [("force", RNG.standard_normal(400)), ("vibration_1", RNG.standard_normal(6400))],
        dtype=[("Name", object), ("Data", object)],
    )
    savemat(tmp_path / "N09_M07_F10_KA04_1.mat", {"N09_M07_F10_KA04_1": {"Y": signals}})
    (one,) = open_recordings(tmp_path / "N09_M07_F10_KA04_1.mat", Options(preset="paderborn"))
    assert (one.rate_hz, one.truth, one.speed_rpm, one.channels) == (64_000.0, "outer_race", 900.0, ("vibration_1",))
    assert one.metadata["bearing_id"] == "PADERBORN/KA04"


def test_uored_and_hust(tmp_path: Path) -> None:
    (one,) = open_recordings(
        rows(tmp_path / "O_6_2.csv", 2, head="Accelerometer,Microphone\n"), Options(preset="uored")
    )
    assert (one.rate_hz, one.truth, one.channels) == (42_000.0, "outer_race", ("Accelerometer",))
    savemat(tmp_path / "I604.mat", {"data": RNG.standard_normal(99), "fs": 51_200.0})
    (one,) = open_recordings(tmp_path / "I604.mat", Options(preset="hust"))
    assert (one.rate_hz, one.truth, one.metadata["bearing"]) == (51_200.0, "inner_race", "6206")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_file_of_another_layout_is_refused_by_name(tmp_path: Path, preset: str) -> None:
    path = rows(tmp_path / "other.csv", 3, head="a,b,c\n")
    with pytest.raises(RecordingError, match=r"other\.csv"):
        open_recordings(path, Options(preset=preset))
