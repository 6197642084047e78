"""A training that Ctrl-C cuts short keeps what it has learned, and says what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.trained import QUICK, trained
from model_world import archive_of_plant

from models.registry import Registry
from models.training import folds
from models.training.folds import final_fit


def test_ctrl_c_keeps_the_last_whole_pass_but_makes_no_champion(tmp_path, rng, monkeypatch):
    archive_of_plant(tmp_path, rng)

    def cut_short(dataset, settings, held_out, watch, checkpoints):
        def interrupting(fold, seen, likelihood):
            watch(fold, seen, likelihood)
            if seen.epoch == 3:
                raise KeyboardInterrupt

        return final_fit(dataset, settings, held_out, interrupting, checkpoints)

    monkeypatch.setattr("models.jobs.train.final_fit", cut_short)
    result, said = trained(tmp_path)
    assert result.document["epochs"] == 3
    assert result.document["interrupted"]
    assert result.document["aliases"] == ["challenger"]
    assert any("interrupted" in line for line in said)
    assert Registry(tmp_path).predictor("challenger").version == "v0001"


def test_ctrl_c_during_the_folds_counts_those_that_are_done(tmp_path, rng, monkeypatch):
    archive_of_plant(tmp_path, rng)
    whole, calls = folds._one_fold, []

    def third_is_interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr("models.training.folds._one_fold", third_is_interrupted)
    result, said = trained(tmp_path)
    assert result.document["interrupted"]
    assert result.document["metrics"]["windows"] < 144
    assert any("the remaining folds are left out" in line for line in said)


@pytest.mark.parametrize("done", [0, 2, None], ids=["at once", "in the third fold", "never"])
def test_ctrl_c_during_the_leaky_split_says_how_many_of_its_folds_are_scored_and_costs_nothing_else(
    tmp_path, rng, monkeypatch, done
):
    archive_of_plant(tmp_path, rng)
    quick = replace(QUICK, epochs=4)
    whole, calls = folds._one_fold, []

    def interrupted(training, watch):
        calls.append(training.number)
        if done is not None and len(calls) == quick.folds + done + 1:
            raise KeyboardInterrupt
        return whole(training, watch)

    monkeypatch.setattr("models.training.folds._one_fold", interrupted)
    result, said = trained(tmp_path, settings=quick, leaky=True)
    words = f"interrupted: {done} of {quick.folds} folds of the leaky split are scored, the final fit follows"
    assert [line for line in said if "interrupted" in line] == ([] if done is None else [words])
    assert result.document["aliases"] == ["challenger", "champion"]
    leaky = result.document["metrics"].get("leaky")
    if done == 0:
        assert leaky is None
        assert "leaky" not in result.text
    else:
        assert (leaky["folds_done"], leaky["folds"]) == (done or quick.folds, quick.folds)
        part = "" if done is None else f" ({done} of {quick.folds} folds)"
        assert f"leaky{part}: do not quote" in result.text
