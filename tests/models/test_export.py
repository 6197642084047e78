"""ONNX: the same numbers as in serving over carried steps, or no file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from model_world import bundle

from models import export as exporting
from models.cells import CELLS
from models.predictor import NumpyPredictor
from models.registry import Registry
from models.scaling import Scaler
from pipeline.commands import models as models_command
from pipeline.errors import ModelError

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")


def model_of(rng, *, cell="gru", layers=1, members=1, task="window", direct=False):
    model = bundle(rng)
    changes = {"cell": cell, "layers": layers, "members": members, "task": task, "direct": direct}
    if task == "next":
        target = Scaler("standard", np.array([50, 2], np.float32), np.array([10, 0.1], np.float32))
        changes |= {"classes": (), "targets": ("a [s]", "b [g]"), "target_scaler": target}
    spec = replace(model.spec, **changes)
    scale = 0.15 if cell == "rnn_relu" else 0.4  # a relu state must not grow
    weights = {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    return replace(model, spec=spec, weights=weights)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_200_carried_steps_are_those_of_serving(rng, tmp_path, cell, layers, members):
    gap = exporting.export(model_of(rng, cell=cell, layers=layers, members=members), tmp_path / "model.onnx")
    assert gap < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("members", [1, 3])
def test_lines_that_speak_for_themselves_do_so_in_the_file_too(rng, tmp_path, members):
    assert exporting.export(model_of(rng, members=members, direct=True), tmp_path / "model.onnx") < 1e-5


def test_values_come_out_in_their_units(rng, tmp_path):
    assert exporting.export(model_of(rng, task="next", members=2), tmp_path / "model.onnx") < 1e-5


def test_the_batch_is_free_and_what_is_not_finite_is_missing(rng, tmp_path):
    model = model_of(rng, members=2)
    exporting.export(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    predictor = NumpyPredictor(model)
    x = rng.choice([np.inf, -np.inf, np.nan, 3e38, 1.0, 0.0], (17, 5)).astype(np.float32)
    p, h = predictor.step(x, predictor.initial(17))
    said, after = session.run(None, {"x": x, "h": predictor.initial(17)})
    np.testing.assert_allclose(said, p, atol=1e-6)
    np.testing.assert_allclose(after, h, atol=1e-6)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["outputs"]) == list(model.spec.classes)
    assert json.loads(about["inputs"]) == list(model.spec.inputs)


def test_a_file_that_does_not_agree_is_removed(rng, tmp_path, monkeypatch):
    graph = exporting._graph

    def wrong(onnx, model):
        other = {name: weight + np.float32(0.01) for name, weight in model.weights.items()}
        return graph(onnx, replace(model, weights=other))

    monkeypatch.setattr(exporting, "_graph", wrong)
    with pytest.raises(ModelError, match="over 200 steps"):
        exporting.export(model_of(rng), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_file_and_says_how_close_it_is(rng, tmp_path):
    registry = Registry(tmp_path)
    registry.add(bundle(rng))
    target = tmp_path / "out.onnx"
    run = CliRunner().invoke(
        models_command.command, ["export", "v0001", str(target), "--data", str(tmp_path), "--json"]
    )
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert document["steps"] == 200
    assert document["largest_difference"] < 1e-5
    assert target.exists()
