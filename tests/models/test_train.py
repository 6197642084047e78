"""From an archive to a version that serves, and honest numbers about it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from harness.trained import QUICK, trained
from model_world import SCHEMA, SECOND_NS, START_NS, archive_of_plant

from models.bundle import load
from models.jobs.evaluate import EvaluateRequest, evaluate, replay_alarms
from models.jobs.train import TrainRequest, train
from models.registry import Registry
from models.settings import TrainSettings
from pipeline.commands import evaluate as evaluate_command
from pipeline.commands import train as train_command
from pipeline.config.tables import Config
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal
from pipeline.edges.store.snapshot import snapshot
from pipeline.errors import ConfigError, ModelError, ThrumcastError

KEYS = {
    "version", "windows", "accuracy", "macro_f1", "macro_auroc", "ece", "per_class", "confusion", "recordings",
    "events", "split", "train_data", "seconds",
}  # fmt: skip


@pytest.fixture
def plant(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    return tmp_path


def test_an_archive_becomes_a_champion_that_knows_machines_it_never_saw(plant):
    result, said = trained(plant)
    assert "6 machines" in said[0]
    assert result.document["aliases"] == ["challenger", "champion"]
    assert result.document["split"] == "specimen"
    assert result.document["metrics"]["accuracy"] > 0.95
    assert result.document["metrics"]["recordings"]["accuracy"] == 1.0
    assert result.document["windows"] == 144
    assert Registry(plant).predictor().classes == ("healthy", "bearing_outer")


def test_the_second_version_is_only_a_challenger(taught):
    result, _ = trained(taught)
    assert result.document["aliases"] == ["challenger"]
    assert Registry(taught).aliases() == {"challenger": "v0002", "champion": "v0001"}


def test_the_same_data_and_seed_give_the_same_weights_and_numbers(plant):
    first, second = trained(plant)[0], trained(plant)[0]
    registry = Registry(plant)
    a, b = (registry.load(result.version) for result in (first, second))
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert a.metrics == b.metrics
    other = registry.load(trained(plant, settings=TrainSettings(**{**QUICK.document(), "seed": 5}))[0].version)
    assert not np.array_equal(a.weights["head.weight"], other.weights["head.weight"])


def test_a_version_says_what_it_was_made_of(taught):
    model = load(taught / "registry" / "v0001")
    assert model.data["machines"] == [f"pump-{n:02d}" for n in range(6)]
    assert model.data["feature_schema"] == "test-1"
    assert model.train["settings"]["hidden"] == 12
    assert model.train["split"] == "specimen"
    assert model.spec.inputs == ("x.kurtosis", "x.crest")  # gain-free
    assert "# Model card v0001" in model.card
    assert "bearing_outer" in model.card
    log = (taught / "runs" / model.train["run"] / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    assert {entry["fold"] for entry in entries} == {0, 1, 2, 3, 4, None}
    assert all(entry["loss"] > 0 for entry in entries)


def test_evaluate_says_the_numbers_that_train_has_printed(plant):
    settings = replace(QUICK, epochs=24, patience=1, members=2)  # some folds stop early
    result, _ = trained(plant, settings=settings)
    again = evaluate(EvaluateRequest(plant, Config()), say=lambda _: None, warn=lambda _: None).document
    said = result.document["metrics"]
    assert {key: again[key] for key in said if key != "likelihood"} == {
        k: v for k, v in said.items() if k != "likelihood"
    }


def test_evaluate_splits_as_the_version_was_split(tmp_path, rng):
    archive_of_plant(tmp_path, rng, machines=2)
    trained(tmp_path)
    assert (
        evaluate(EvaluateRequest(tmp_path, Config()), say=lambda _: None, warn=lambda _: None).document["split"]
        == "time"
    )


def test_without_specimens_to_hold_back_the_split_is_by_time_and_that_is_said(tmp_path, rng):
    archive_of_plant(tmp_path, rng, machines=2)
    result, said = trained(tmp_path)
    assert result.document["split"] == "time"
    assert any("splitting by time instead" in line for line in said)
    with pytest.raises(ThrumcastError, match="two or more groups"):
        trained(tmp_path, split="specimen")


def test_split_none_trains_without_numbers_and_says_so(plant):
    result, said = trained(plant, split="none")
    assert result.document["metrics"] == {}
    assert any("no honest numbers" in line for line in said)


def test_one_failure_mode_alone_is_refused_and_nothing_is_registered(tmp_path, rng):
    archive_of_plant(tmp_path, rng, machines=2, modes=("normal",))
    with pytest.raises(ThrumcastError, match="at least two failure modes with known truth, found: healthy"):
        trained(tmp_path)
    assert Registry(tmp_path).versions() == []


def test_a_model_that_collapsed_is_not_registered(plant, monkeypatch):
    monkeypatch.setattr("models.jobs.registration.self_test", lambda model: ["it says the same whatever it sees"])
    with pytest.raises(ModelError, match="says the same"):
        trained(plant)
    assert Registry(plant).versions() == []


@pytest.mark.parametrize("split", ["none", "specimen", "load_hp", "machine", "time"])
def test_evaluate_has_every_promised_key_whatever_the_split(taught, split):
    run = CliRunner().invoke(evaluate_command.command, ["--data", str(taught), "--split", split, "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert document.keys() >= KEYS
    assert document["split"] == split
    assert document["accuracy"] > 0.9
    assert set(document["events"]) >= {
        "detections", "missed", "misdiagnosed", "false_alarms", "false_alarms_per_machine_day", "detection_delay_s",
    }  # fmt: skip
    row = document["recordings"]["predictions"][0]
    assert set(row) >= {"machine", "point", "session", "truth", "predicted", "share"}
    assert document["confusion"]["labels"] == ["healthy", "bearing_outer"]


def test_scoring_what_was_trained_on_warns_by_name(taught):
    said: list[str] = []
    request = EvaluateRequest(taught, Config(), None, None, "none")
    evaluate(request, say=said.append, warn=said.append)
    assert any("6 of 6 machines were in the training data of v0001" in line for line in said)


def test_a_replay_of_alarms_has_the_delays_of_the_evaluation_and_warns_of_the_same_machines(taught):
    said: list[str] = []
    request = EvaluateRequest(taught, Config(), None, None, "none")
    replayed = replay_alarms(request, ["enter_s=3"], say=said.append, warn=said.append).document
    evaluated = evaluate(request, say=lambda _: None, warn=lambda _: None).document
    assert replayed["settings"][0]["events"] == evaluated["events"]
    assert replayed["remarks"] == evaluated["remarks"]
    assert any("6 of 6 machines were in the training data of v0001" in line for line in said)


def test_two_versions_are_compared_on_the_same_windows(taught):
    trained(taught, settings=TrainSettings(**{**QUICK.document(), "epochs": 1}))
    request = EvaluateRequest(taught, Config(), "v0001", "challenger", "none")
    result = evaluate(request, say=lambda _: None, warn=lambda _: None)
    assert result.document["against"]["version"] == "v0002"
    assert result.document["against"]["windows"] == result.document["windows"]
    assert "difference" in result.text


def test_evaluating_without_a_model_says_how_to_get_one(plant):
    with pytest.raises(ModelError) as refused:
        evaluate(EvaluateRequest(plant, Config()), say=lambda _: None, warn=lambda _: None)
    assert "thrumcast train" in str(refused.value.hint)


def test_train_and_evaluate_print_a_table_to_people(plant):
    words = ["--data", str(plant), *(f"--set={key}={getattr(QUICK, key)}" for key in ("epochs", "hidden"))]
    run = CliRunner().invoke(train_command.command, words)
    assert run.exit_code == 0, run.output
    assert "v0001: challenger, champion" in run.stdout
    assert "truth \\ predicted" in run.stdout
    assert run.stdout.index("events") < run.stdout.index("windows  ")
    shown = CliRunner().invoke(evaluate_command.command, ["--data", str(plant)])
    assert "held out by specimen" in shown.stdout


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("hiden=3", "expected key=value", "hidden"),
        ("epochs", "expected key=value", ""),
        ("epochs=many", "a whole number, found: many", ""),
        ("layers=3", "1 or 2, found: 3", ""),
        ("dropout=1.0", "0 to below 1", ""),
        ("scaler=magic", "standard, minmax, robust", ""),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_could(word, message, hint):
    with pytest.raises(ConfigError, match=message) as refused:
        TrainSettings.parse([word])
    assert hint in str(refused.value)


def test_settings_survive_the_way_through_a_version(taught):
    model = Registry(taught).load("v0001")
    assert TrainSettings.from_document(model.train["settings"]) == QUICK


def test_a_version_says_which_archive_it_has_learned_from_and_a_snapshot_can_be_learned_from_again(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    with Journal(tmp_path) as journal:
        Archive(tmp_path, journal, SCHEMA).roll()
    snapshot(tmp_path, "before")

    def run(snapshot=None):
        request = TrainRequest(tmp_path, Config(), dataclasses.replace(QUICK, epochs=3), snapshot=snapshot)
        return train(request, say=lambda _: None, warn=lambda _: None)

    document = run().document
    now = document["data"]["archive"]
    assert (now["snapshot"], now["rows"], now["pending_rows"]) == (None, document["windows"], 0)
    late = FeatureRow(
        StreamKey("pump-09", "de"), 1, 0, START_NS, START_NS + SECOND_NS, 12e3, 1500.0, 1.0, 0, "normal", ("x",),
        np.ones((1, 3), np.float32), SCHEMA.name,
    )  # fmt: skip
    with Journal(tmp_path) as journal:
        Archive(tmp_path, journal, SCHEMA)
        journal.commit(Commit(features=[late]))
    later, again = run().document, run("before").document
    assert later["data"]["archive"] == now | {"pending_rows": 1}
    assert again["data"]["archive"] == now | {"snapshot": "before"}
    assert again["windows"] == document["windows"] == later["windows"] - 1
    assert Registry(tmp_path).load(again["version"]).data["archive"]["snapshot"] == "before"
    a, b = (Registry(tmp_path).load(each["version"]).weights for each in (document, again))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    with pytest.raises(ThrumcastError, match="nowhere"):
        run("nowhere")


def test_data_without_any_truth_are_described_in_whole_sentences_and_once(tmp_path, rng):
    archive_of_plant(tmp_path, rng, modes=("run_to_failure", "run_to_failure"))
    said: list[str] = []
    with pytest.raises(ThrumcastError, match="two failure modes with known truth, found: none") as error:
        train(TrainRequest(tmp_path, Config(), QUICK), say=said.append, warn=said.append)
    assert "modes:   none is known" in said[0]
    assert all(line == line.rstrip() for line in said[0].splitlines())
    assert "machines" not in str(error.value)
