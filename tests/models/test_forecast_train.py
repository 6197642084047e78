"""A training with a forecast: what it registers, how far it trusts its decoder, and when it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness.trained import fewer_steps
from model_world import archive_of_lives

from models.forecast import Forecaster
from models.jobs.train import TrainRequest, train
from models.registry import Registry
from models.settings import TrainSettings
from models.training.forecast import UNTRIED
from pipeline.config.tables import Config
from pipeline.errors import ThrumcastError

SMALL = TrainSettings(hidden=16, members=1, batch=16, learning_rate=0.01, decoder=16, weight_decay=0.0, forecast=3)


@pytest.fixture(autouse=True)
def quick_decoder():
    with pytest.MonkeyPatch.context() as patch:
        fewer_steps(patch)
        yield


def test_a_forecast_goes_the_whole_way_to_a_version_and_beats_what_mostly_comes(tmp_path, rng):
    archive_of_lives(tmp_path, rng)
    quick = replace(
        SMALL, epochs=15, folds=3, structure_offset=0.0, structure_drop=0.0, noise=0.05, hidden=12, chunk=30
    )
    result = train(TrainRequest(tmp_path, Config(), quick), say=lambda _: None, warn=lambda _: None)
    numbers = result.document["metrics"]["forecast"]
    guesses = numbers["guesses"]
    assert guesses["model"]["accuracy"] > 0.9
    assert guesses["model"]["log_loss"] < guesses["what mostly comes"]["log_loss"]
    assert (numbers["changes"], numbers["machines"]) == (9, 9)
    assert numbers["gain"]["interval_90"][0] > 0
    assert "best naive guess" not in result.text
    model = Registry(tmp_path).load(result.version)
    assert model.spec.trust == numbers["trust"] > 0.3
    predictor, forecaster = Registry(tmp_path).predictor(), Forecaster(model)
    _, h = predictor.step(np.full((1, 2), 3.0, np.float32), predictor.initial(1))
    best = forecaster.beam(h, 3)[0][0]
    assert set(best.modes) <= set(predictor.classes)


def test_where_nothing_can_be_foreseen_the_guess_is_what_mostly_comes_and_the_text_says_so(tmp_path, rng):
    archive_of_lives(tmp_path, rng, early=0.0)
    quick = replace(
        SMALL, epochs=15, folds=3, structure_offset=0.0, structure_drop=0.0, noise=0.05, hidden=12, chunk=30
    )
    result = train(TrainRequest(tmp_path, Config(), quick), say=lambda _: None, warn=lambda _: None)
    numbers = result.document["metrics"]["forecast"]
    assert numbers["guesses"]["model"]["log_loss"] < numbers["guesses"]["what mostly comes"]["log_loss"] + 0.05
    assert numbers["trust"] < 0.3
    assert "best naive guess" in result.text


def test_without_anything_held_back_the_decoder_is_trusted_little_and_that_is_said(tmp_path, rng):
    archive_of_lives(tmp_path, rng)
    said = []
    result = train(
        TrainRequest(tmp_path, Config(), replace(SMALL, epochs=3), split="none"), say=said.append, warn=said.append
    )
    assert Registry(tmp_path).load(result.version).spec.trust == UNTRIED[1]
    assert any("how far the decoder is trusted" in line for line in said)


def test_ctrl_c_during_the_forecast_keeps_the_network_and_a_resumed_training_goes_on_with_it(
    tmp_path, rng, monkeypatch
):
    archive_of_lives(tmp_path, rng)
    quick = replace(SMALL, aim="new", epochs=3, folds=2)

    def run(resume: str | None = None):
        request = TrainRequest(tmp_path, Config(), quick, resume=resume)
        return train(request, say=lambda _: None, warn=lambda _: None)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("models.jobs.train.with_forecast", interrupted)
    cut = run()
    monkeypatch.undo()
    assert cut.document["interrupted"]
    assert Registry(tmp_path).load(cut.version).spec.decoder == 0
    resumed = run("last")
    assert not resumed.document["interrupted"]
    a, b = (Registry(tmp_path).load(each.version) for each in (cut, resumed))
    assert b.spec.decoder == quick.decoder
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_recordings_of_one_condition_each_have_no_future(tmp_path, rng):
    from model_world import archive_of_plant

    archive_of_plant(tmp_path, rng)
    quick = replace(SMALL, epochs=3, folds=2)
    with pytest.raises(ThrumcastError, match="one mode follows another"):
        train(TrainRequest(tmp_path, Config(), quick), say=lambda _: None, warn=lambda _: None)
    assert not any(path.is_dir() for path in (tmp_path / "runs").iterdir())  # refused before the first pass
