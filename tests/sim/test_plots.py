"""Pictures: every kind is drawn for every sort of fault, and what cannot be drawn is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import run

pytest.importorskip("matplotlib", reason="the pictures need the extra `plots`")


@pytest.mark.parametrize("mode", ["bearing_ball", "gear_tooth", "cavitation"])
def test_the_four_pictures_of_a_machine_are_written(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["waveform", "spectrum", "envelope", "waterfall"]
    assert run(["sim", "plot", *kinds, "--mode", mode, "--rate-hz", "12000", "--out", str(tmp_path), "--json"]) == 0
    files = [Path(name) for name in json.loads(capsys.readouterr().out)["files"]]
    assert [path.stem for path in files] == [f"{mode}_{kind}" for kind in kinds]
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 15_000  # an empty frame is smaller


def test_the_same_seed_draws_the_same_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(["sim", "plot", "waveform", "--rate-hz", "12000", "--out", str(tmp_path / name), "--quiet"]) == 0
    first, second = ((tmp_path / name / "bearing_outer_waveform.png").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["life", "--mode", "healthy"], "expected a failure mode for the picture of a life"),
        (["--mode", "imbalance"], "a failure mode must be one of"),
        (["--mode", "banana"], "hint: "),
        (["--kind", "turbine"], "a kind of machine must be one of"),
        (["--mode", "gear_wear", "--kind", "fan"], "a fan can have"),
        (["--mode", "bearing_outer", "--rate-hz", "2000"], "rate_hz must be at least"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_of_usage(
    arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "plot", *arguments, "--out", str(tmp_path)]) == 2
    assert word in capsys.readouterr().err
