"""Pictures are drawn where matplotlib is, and nothing else is missing where it is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_world import archive_of_plant

from models.bundle import load
from models.evaluation import plots
from models.evaluation.events import FaultOutcome
from models.evaluation.metrics import ece, reliability
from models.jobs.train import TrainRequest, train
from models.settings import TrainSettings
from pipeline.config.tables import Config
from pipeline.errors import ModelError

QUICK = TrainSettings(epochs=4, hidden=6, members=1, folds=2)


def trained(data):
    said: list[str] = []
    result = train(TrainRequest(data, Config(), QUICK), say=said.append, warn=said.append)
    return data / "registry" / result.version, said


def test_a_version_has_its_pictures_and_is_still_whole(tmp_path, rng):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    archive_of_plant(tmp_path, rng)
    version, _ = trained(tmp_path)
    pictures = sorted(path.name for path in version.glob("*.png"))
    assert pictures == ["confusion.png", "curves.png", "delay.png", "reliability.png"]
    assert all((version / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    listed = [line.split()[1] for line in (version / "SHA256SUMS").read_text().splitlines()]
    assert set(listed) == {path.name for path in version.iterdir()} - {"SHA256SUMS"}
    load(version)
    (version / "curves.png").write_bytes(b"")
    with pytest.raises(ModelError, match=r"curves\.png: expected sha256"):
        load(version)


def test_without_matplotlib_the_version_is_complete_and_the_pictures_are_said_to_be_missing(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    archive_of_plant(tmp_path, rng)
    version, said = trained(tmp_path)
    assert not list(version.glob("*.png"))
    assert any("need matplotlib" in line for line in said)
    load(version)


def test_the_reliability_table_adds_up_to_the_calibration_error(rng):
    p = rng.dirichlet([1.0, 1.0, 1.0], 500)
    y = rng.integers(0, 3, 500)
    rows = reliability(y, p)
    assert sum(row["windows"] for row in rows) == 500
    total = sum(row["windows"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / 500
    assert total == pytest.approx(ece(y, p))
    assert reliability(np.empty(0, np.int64), np.empty((0, 3))) == []


def test_the_picture_of_delays_calls_missed_only_what_the_numbers_call_missed():
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    outer = [
        FaultOutcome("outer", "detected", 4.0),
        FaultOutcome("outer", "too_short"),
        FaultOutcome("outer", "too_short"),
    ]
    inner = [FaultOutcome("inner", "missed"), FaultOutcome("inner", "misdiagnosed"), FaultOutcome("inner", "too_short")]
    (axes,) = plots._delay([*outer, *inner]).axes
    assert [text.get_text() for text in axes.texts] == ["1 misdiagnosed, 1 missed, 1 too short", "2 too short"]


def test_no_word_of_the_picture_of_delays_lies_on_a_point_and_none_is_cut_off():
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    late = [FaultOutcome("outer", "detected", at) for at in np.linspace(5.5, 19.5, 12)]
    others = [FaultOutcome("outer", name) for name in ("standing", "misdiagnosed", "missed", "too_short")]
    figure = plots._delay([*late, *others])
    figure.canvas.draw()
    (axes,) = figure.axes
    (text,) = axes.texts
    box = text.get_window_extent()
    points = np.concatenate([axes.transData.transform(line.get_xydata()) for line in axes.lines])
    assert not ((points[:, 0] > box.x0 - 4) & (abs(points[:, 1] - (box.y0 + box.y1) / 2) < 20)).any()
    assert box.x1 <= figure.bbox.x1


def test_losses_of_training_and_of_held_out_machines_have_axes_of_their_own(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    entry = {"split": "honest", "aim": "new", "fold": 0, "member": 0, "epoch": 1, "loss": 0.9, "held_out_nll": 0.2}
    log = tmp_path / "metrics.jsonl"
    log.write_text("\n".join(json.dumps(entry | {"epoch": n, "fold": f}) for f in (0, None) for n in (1, 2)))
    with log.open("a") as more:
        more.writelines("\n" + json.dumps(entry | {"epoch": n, "fold": 1, "held_out_nll": 3.0}) for n in (1, 2))
    upper, lower = plots._learning(log).axes
    assert {line.get_ydata()[0] for line in upper.lines} == {0.9}
    assert {line.get_ydata()[0] for line in lower.lines} == {0.2, 3.0}
    assert lower.get_ylim()[1] > 3.0
    log.write_text(json.dumps(entry | {"fold": None, "held_out_nll": None}))
    assert len(plots._learning(log).axes) == 1
