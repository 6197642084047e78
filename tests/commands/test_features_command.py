"""`thrumcast features`: the table in words, the document made of it, and the picture of a recording."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.commands.features import as_markdown
from pipeline.core.bearings import find
from pipeline.core.features.table import FEATURES, NAMES, STAGES
from pipeline.core.views import bearing_cursors, envelope_spectrum, shaft_cursors, spectrum
from pipeline.edges.recordings.recording import write_recording

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 12_000.0


@pytest.fixture(autouse=True)
def _a_place_without_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_document_is_what_the_table_says_now() -> None:
    written = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    assert written == as_markdown() + "\n", "run: thrumcast features ls --markdown > docs/features.md"


def test_the_document_has_one_row_for_every_feature() -> None:
    rows = [line for line in as_markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(NAMES)
    assert all(row.replace("\\|", "").count("|") == 8 for row in rows)


def test_the_document_says_what_every_stage_looks_at() -> None:
    assert {feature.stage for feature in FEATURES} == set(STAGES)
    assert all(f"* `{stage}`: {how}." in as_markdown() for stage, how in STAGES.items())


def test_ls_names_every_feature(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["features", "ls"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(NAMES)
    assert cli.run(["features", "ls", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [feature["name"] for feature in document["features"]] == list(NAMES)


@pytest.mark.parametrize("name", ["env_bpfo", "x.env_bpfo", "drive.end.env_bpfo"])
def test_explain_takes_a_name_with_or_without_its_channel(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["features", "explain", name]) == 0
    text = capsys.readouterr().out
    feature = next(feature for feature in FEATURES if feature.name == "env_bpfo")
    assert feature.formula in text
    assert feature.source in text
    assert STAGES[feature.stage] in text
    assert "speed, bearing" in text


def test_explain_refuses_an_unknown_name_and_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["features", "explain", "x.env_bpof"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "env_bpfo" in captured.err


def test_a_sine_shows_its_amplitude_at_its_frequency() -> None:
    t = np.arange(12_000) / RATE_HZ
    hz, amplitude = spectrum((9.81 + 0.7 * np.sin(2 * np.pi * 130 * t)).astype(np.float32), RATE_HZ)
    assert hz[amplitude.argmax()] == 130.0
    assert amplitude.max() == pytest.approx(0.7, rel=1e-4)


def test_an_amplitude_modulated_tone_shows_its_modulation() -> None:
    t = np.arange(12_000) / RATE_HZ
    x = (1 + 0.5 * np.cos(2 * np.pi * 87 * t)) * np.sin(2 * np.pi * 3000 * t)
    hz, amplitude = envelope_spectrum(x.astype(np.float32), RATE_HZ, 1000, 5000)
    assert hz[amplitude.argmax()] == 87.0
    # (1 + m cos)^2 = 1 + m^2/2 + 2m cos + (m^2/2) cos 2: lines of 2m and m^2/2
    assert amplitude.max() == pytest.approx(1.0, rel=1e-3)
    assert amplitude[174] == pytest.approx(0.125, rel=1e-3)
    assert hz[-1] == 4000.0


def test_a_line_that_cannot_be_told_from_another_claims_nothing() -> None:
    fan_end = bearing_cursors(find("6203").geometry.orders(), 1797.0, 1.0, 0.02)
    near = {cursor.label: cursor.near for cursor in fan_end}
    assert near["BPFO"] == "3x +1.6 Hz"
    assert near["2BSF"] == "4x -0.4 Hz"
    assert near["BPFI"] == "5x -1.6 Hz"
    assert near["FTF"] == ""
    drive_end = bearing_cursors(find("6205").geometry.orders(), 1797.0, 1.0, 0.02)
    assert {cursor.label for cursor in drive_end if not cursor.near} >= {"BPFO", "BPFI", "2BSF", "FTF"}
    assert [cursor.hz for cursor in shaft_cursors(1800.0)] == [30.0, 60.0, 90.0]


def recording(path: Path, **metadata: object) -> Path:
    t = np.arange(36_000) / RATE_HZ
    rng = np.random.default_rng(5)
    x = np.sin(2 * np.pi * 29.95 * t) + 0.1 * rng.standard_normal(len(t))
    known = {"sample_rate_hz": RATE_HZ, "units": "g", "dataset": "made", "recording": "one"} | metadata
    write_recording(path, np.stack([x, 0.5 * x]).astype(np.float32), ("x", "y"), known)
    return path


def test_plot_without_the_drawing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_matplotlib(name: str, *rest: object, **named: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)  # type: ignore[arg-type]

    file = recording(tmp_path / "r.parquet")
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert cli.run(["features", "plot", str(file)]) == 1
    assert "hint: pip install 'thrumcast[plots]'" in capsys.readouterr().err


def test_plot_draws_a_piece_with_its_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file = recording(tmp_path / "r.parquet", rpm=1797, fault_class="unbalance")
    arguments = ["features", "plot", str(file), "--channel", "y", "--at", "1.5", "--out", "p.png", "--bearing", "6205"]
    assert cli.run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["machine"], document["channel"], document["speed_rpm"]) == ("made-one", "y", 1797.0)
    picture = Path("p.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--at", "9"], 1, "found the end of"),
        (["--channel", "z"], 1, "z"),
        (["--bearing", "6299"], 2, "a bearing of the catalogue expected"),
        (["--out", "nowhere/p.png"], 1, "expected to write"),
        (["--seconds", "0"], 2, "--seconds"),
    ],
)
def test_plot_refuses_what_it_cannot_draw(
    arguments: list[str], code: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file = recording(tmp_path / "r.parquet", rpm=1797)
    assert cli.run(["features", "plot", str(file), *arguments]) == code
    assert why in capsys.readouterr().err
