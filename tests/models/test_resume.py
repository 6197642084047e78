"""A training that was interrupted goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_world import archive_of_plant, network_config

from models.jobs.train import TrainRequest, train
from models.registry import Registry
from models.settings import TrainSettings
from models.training import folds
from models.training.checkpoint import Checkpoints, Progress
from models.training.loop import fit
from models.training.objective import Example
from pipeline.config.tables import Config
from pipeline.errors import ModelError, ThrumcastError

QUICK = TrainSettings(epochs=6, hidden=6, members=2, learning_rate=0.02, folds=3)


def run(data, **changes):
    request = TrainRequest(data, Config(), **({"settings": QUICK} | changes))
    return train(request, say=lambda _: None, warn=lambda _: None)


def weights_of(data, version: str) -> dict[str, np.ndarray]:
    return Registry(data).load(version).weights


def examples(rng) -> list[Example]:
    return [Example(rng.normal(0, 1, (20, 2)).astype(np.float32), rng.integers(0, 2, 20)) for _ in range(8)]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_fit_that_goes_on_from_a_saved_state_gives_the_same_weights(rng, tmp_path, stop):
    data, settings = examples(rng), replace(QUICK, dropout=0.3)
    config = network_config(2, 2, 6, dropout=0.3)
    checkpoints = Checkpoints(tmp_path)

    def keep(report, network):
        if report.epoch == stop:
            checkpoints.save("part", Progress(report.state(), {"x": np.ones(2, np.float32)}, finished=False))
        return True

    whole = fit(data, config, settings, epochs=5, after_epoch=keep).state_dict()
    saved = checkpoints.load("part")
    assert saved is not None
    assert saved.state.epoch == stop
    assert not saved.finished
    resumed = fit(data, config, settings, epochs=5, start=saved.state).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("call", [4, 7], ids=["second fold, second member", "first fold for known machines"])
def test_an_interrupted_training_that_is_resumed_gives_the_version_it_would_have_given(
    tmp_path, rng, monkeypatch, call
):
    archive_of_plant(tmp_path, rng)
    whole = run(tmp_path)
    member = folds._one_member
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return member(*arguments)

    monkeypatch.setattr(folds, "_one_member", interrupted)
    cut = run(tmp_path)
    monkeypatch.undo()
    assert len(calls) == call
    assert cut.document["interrupted"]
    resumed = run(tmp_path, resume="last", settings=TrainSettings())
    assert resumed.document["run"] == cut.document["run"]
    assert not resumed.document["interrupted"]
    a, b = weights_of(tmp_path, whole.version), weights_of(tmp_path, resumed.version)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert resumed.document["metrics"] == whole.document["metrics"]


def test_a_run_with_other_settings_or_of_other_data_is_not_resumed(tmp_path, rng):
    archive_of_plant(tmp_path / "one", rng)
    first = run(tmp_path / "one")
    with pytest.raises(ModelError, match="expected the same settings"):
        run(tmp_path / "one", resume=first.document["run"], settings=replace(QUICK, hidden=7))
    archive_of_plant(tmp_path / "other", rng)  # the same machines, and other readings
    (tmp_path / "one/runs").rename(tmp_path / "other/runs")
    with pytest.raises(ModelError, match="expected the same data"):
        run(tmp_path / "other", resume=first.document["run"])


def test_a_run_that_is_not_there_is_named(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    with pytest.raises(ThrumcastError, match="expected a run of"):
        run(tmp_path, resume="last")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "part.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ModelError, match="expected a checkpoint"):
        Checkpoints(tmp_path).load("part")
    assert Checkpoints(tmp_path).load("another") is None
