"""Versions of other tasks than one mode per window: evaluated and compared as what they are, or refused by name."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from model_world import archive_of_plant

from models.jobs.compare import compare_cells
from models.jobs.evaluate import EvaluateRequest, evaluate
from models.jobs.train import TrainRequest, train
from models.jobs.values import train_values
from models.registry import Registry
from models.settings import TrainSettings
from pipeline.commands import train as train_command
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.edges.machines import MachinesFile
from pipeline.errors import ThrumcastError

SMALL = TrainSettings(hidden=6, members=2, epochs=6, folds=2)


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """A plant that ran to its failure, with a version of each task."""
    data = tmp_path_factory.mktemp("lives")
    archive_of_plant(data, np.random.default_rng(5))
    keys = [StreamKey(f"pump-{number:02d}", "de") for number in range(6)]
    MachinesFile(data / "machines.jsonl").update_all({key: {"run_to_failure": True} for key in keys})
    made = {}
    for task in ("next", "life"):
        request = TrainRequest(data, Config(), replace(SMALL, task=task, targets="rms" if task == "next" else ""))
        made[task] = train_values(request, say=quiet, warn=quiet).document
    return data, made


@pytest.mark.parametrize("task", ["next", "life"])
def test_a_version_that_says_values_is_evaluated_as_what_it_is(lives, task):
    data, made = lives
    again = evaluate(EvaluateRequest(data, Config(), task), say=quiet, warn=quiet)
    assert again.document["values"] == made[task]["metrics"]["values"]
    assert "accuracy" not in again.document
    assert "RMSE" in again.text
    remarks: list[str] = []
    whole = evaluate(EvaluateRequest(data, Config(), task, split="none"), say=quiet, warn=remarks.append)
    assert next(iter(whole.document["values"].values()))["errors"]["model"]["rmse"] > 0
    assert any("6 of 6 machines were in the training data" in remark for remark in remarks)


def test_a_version_of_one_mode_per_sequence_is_evaluated_and_compared_per_sequence(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    request = TrainRequest(tmp_path, Config(), replace(SMALL, task="sequence"))
    made = train(request, say=quiet, warn=quiet).document["metrics"]
    again = evaluate(EvaluateRequest(tmp_path, Config()), say=quiet, warn=quiet).document
    names = ("windows", "accuracy", "ece")
    assert made["windows"] == 6
    assert {name: again[name] for name in names} == {name: made[name] for name in names}
    whole = evaluate(EvaluateRequest(tmp_path, Config(), split="none"), say=quiet, warn=quiet)
    assert whole.document["windows"] == 6
    (row,) = compare_cells(request, ["gru"], say=quiet, warn=quiet).document["cells"]
    assert (row["accuracy"], row["ece"]) == (made["accuracy"], made["ece"])


def test_versions_of_different_tasks_are_not_set_against_each_other(lives):
    with pytest.raises(ThrumcastError, match="another version of the task next, found: v0002 of the task life"):
        evaluate(EvaluateRequest(lives[0], Config(), "next", against="life"), say=quiet, warn=quiet)
    both = evaluate(EvaluateRequest(lives[0], Config(), "next", against="next"), say=quiet, warn=quiet)
    assert both.document["against"]["values"] == both.document["values"]


def test_cells_that_say_values_are_compared_by_their_errors(lives):
    settings = replace(SMALL, task="next", targets="rms,crest", epochs=2, hidden=5, members=1, folds=2)
    compared = compare_cells(TrainRequest(lives[0], Config(), settings), ["gru", "rnn_tanh"], say=quiet, warn=quiet)
    rows = compared.document["cells"]
    assert [row["cell"] for row in rows] == ["gru", "rnn_tanh"]
    assert all(set(row["rmse"]) == {"x.rms", "x.crest"} for row in rows)
    assert rows[0]["rmse"] != rows[1]["rmse"]
    assert set(compared.document["naive"]["x.rms"]) == {"mean", "as it is"}
    assert "accuracy" not in compared.text


def test_a_split_by_time_of_lives_says_that_both_sides_have_the_same_machines(lives, tmp_path):
    data = tmp_path / "copy"
    shutil.copytree(lives[0], data)
    settings = replace(SMALL, task="life", epochs=2, hidden=5, members=1)
    said: list[str] = []
    made = train_values(TrainRequest(data, Config(), settings, split="time"), say=quiet, warn=said.append)
    assert any("train and test share their machines" in remark for remark in said)
    assert "train and test share their machines" in Registry(data).load(made.version).card


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--set", "task=next", "--resume", "last"], "--resume does not go together with task=next"),
        (["--set", "task=life", "--leaky"], "--leaky does not go together with task=life"),
        (["--compare", "gru", "--resume", "last"], "--resume does not go together with --compare"),
    ],
)
def test_options_that_would_be_ignored_are_refused_by_name(tmp_path, words, found):
    result = CliRunner().invoke(train_command.command, ["--data", str(tmp_path), *words])
    assert result.exit_code == 2
    assert found in result.stderr
