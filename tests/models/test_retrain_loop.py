"""From what an operator says, and from what has drifted, to the next version."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from harness.trained import QUICK
from model_world import SCHEMA, SECOND_NS, START_NS, archive_of_plant

from models.jobs.train import TrainRequest, train
from models.registry import Registry
from pipeline.cli import group
from pipeline.config.tables import Config
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.drivers.results import iso
from pipeline.edges.store.archive import Archive
from pipeline.edges.store.journal import Commit, Journal

DAY_NS = 86_400 * SECOND_NS


def run(data: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(group, [*arguments, "--data", str(data), "--json"])
    assert result.exit_code == 0, result.output or result.exception
    return json.loads(result.stdout)


def teach(data: Path) -> list[str]:
    said: list[str] = []
    settings = dataclasses.replace(QUICK, epochs=3)
    train(TrainRequest(data, Config(), settings, None), say=said.append, warn=said.append)
    return said


@pytest.fixture
def plant(tmp_path: Path, rng: np.random.Generator) -> Path:
    archive_of_plant(tmp_path, rng, machines=6, windows=150)
    return tmp_path


def later(data: Path, rng: np.random.Generator, levels: dict[str, float], windows: int = 150) -> None:
    """The healthy machines a day after: kurtosis and crest around another level."""
    rows = []
    for machine, level in levels.items():
        for window in range(windows):
            start = START_NS + DAY_NS + window * SECOND_NS // 2
            values = np.array([[1.0, level, level + 1]]) + rng.normal(0, 0.4, (1, 3))
            rows.append(
                FeatureRow(
                    StreamKey(machine, "de"), 2, window, start, start + SECOND_NS, 12e3, 1500.0, 1.0, 0, None, ("x",),
                    values.astype(np.float32), SCHEMA.name,
                )
            )  # fmt: skip
    with Journal(data) as journal:
        archive = Archive(data, journal, SCHEMA)
        journal.commit(Commit(features=rows))
        archive.roll()


def test_a_label_reaches_the_next_version_and_until_then_is_said_to_be_waiting(plant: Path) -> None:
    teach(plant)
    span = ("--from", iso(START_NS), "--to", iso(START_NS + 20 * SECOND_NS))
    added = run(plant, "labels", "add", "pump-01", "inner_race", *span, "--certainty", "guess")
    (label,) = added["labels"]
    assert added["windows"] == {label["id"]: 40}
    assert run(plant, "labels", "ls")["not_in_model"] == [label["id"]]
    said = teach(plant)
    assert any("labels:  1 used for 40 windows" in text for text in said)
    data = Registry(plant).load("v0002").data
    assert data["labels"]["used"] == {label["id"]: 40}
    assert data["windows_per_mode"]["bearing_inner"] == 40
    assert run(plant, "labels", "ls")["not_in_model"] == []
    run(plant, "labels", "retract", label["id"])
    teach(plant)
    assert "bearing_inner" not in Registry(plant).load("v0003").data["windows_per_mode"]


def test_a_label_outside_of_what_the_archive_has_is_kept_with_a_warning_that_says_what_it_has(plant: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(group, ["labels", "add", *arguments, "--data", str(plant)])
        assert result.exit_code == 0, result.output
        return result.stderr

    inside = ("--from", iso(START_NS), "--to", iso(START_NS + 20 * SECOND_NS))
    outside = ("--from", "2001-05-01T10:00:00Z", "--to", "2001-05-01T12:00:00Z")
    assert said("pump-01", "inner_race", *inside) == ""
    end = START_NS + 149 * SECOND_NS // 2 + SECOND_NS
    span = f"pump-01/de {iso(START_NS)[:19]}Z to {iso(end)[:19]}Z"
    for place in (("pump-01",), ("pump-01", "--point", "de")):
        warning = said(*place, "inner_race", *outside)
        assert "covers no archived window: it is kept for windows that may still arrive; there is " + span in warning
    assert len(run(plant, "labels", "ls")["labels"]) == 3


HEALTHY = ("pump-00", "pump-02", "pump-04")


def test_no_drift_is_called_none(plant: Path, rng: np.random.Generator) -> None:
    teach(plant)
    later(plant, rng, dict.fromkeys(HEALTHY, 3.0))
    document = run(plant, "drift")
    assert document["verdict"] == {"fleet": [], "machines": {}, "suggestion": None}
    assert (document["windows"], document["machines"]) == (450, list(HEALTHY))


def test_what_moves_on_all_machines_is_a_reason_to_train_again_and_on_one_to_look_at_it(
    plant: Path, rng: np.random.Generator
) -> None:
    teach(plant)
    later(plant, rng, dict.fromkeys(HEALTHY, 3.8))
    document = run(plant, "drift")
    assert document["verdict"]["fleet"] == ["x.kurtosis", "x.crest"]
    assert "train again" in document["verdict"]["suggestion"]
    shown = CliRunner().invoke(group, ["drift", "--data", str(plant)]).stdout
    assert "suggestion: 2 inputs moved the same way" in shown
    alone = run(plant, "drift", "--machine", "pump-02")
    assert set(alone["verdict"]["machines"]) == {"pump-02"}


def test_one_machine_that_moves_is_not_a_reason_to_train(plant: Path, rng: np.random.Generator) -> None:
    teach(plant)
    later(plant, rng, {"pump-00": 3.0, "pump-02": 3.8, "pump-04": 3.0})
    verdict = run(plant, "drift")["verdict"]
    assert verdict["fleet"] == []
    assert set(verdict["machines"]) == {"pump-02"}
    assert "look at the machine" in verdict["suggestion"]


@pytest.mark.parametrize(("machines", "trained"), [(6, "450 healthy"), (2, "all 300")])
def test_drift_says_which_windows_it_compares_and_how_many_it_would_need(
    tmp_path: Path, rng: np.random.Generator, machines: int, trained: str
) -> None:
    archive_of_plant(tmp_path, rng, machines=machines, windows=150)
    teach(tmp_path)
    later(tmp_path, rng, {"pump-00": 3.0}, windows=20)
    head, *rest = CliRunner().invoke(group, ["drift", "--data", str(tmp_path)]).stdout.splitlines()
    assert head.startswith("v0001: 20 good windows without a known fault, of 1 machine, since ")
    assert head.endswith(f" UTC; against {trained} training windows")
    assert "too few windows: 100 per machine are needed" in rest


def test_drift_says_when_there_is_nothing_after_the_training(plant: Path) -> None:
    teach(plant)
    result = CliRunner().invoke(group, ["drift", "--data", str(plant)])
    assert "expected good windows without a known fault from" in str(result.exception)


def test_alarms_are_replayed_over_a_version_that_has_predicted_nothing_yet(plant: Path) -> None:
    teach(plant)
    document = run(plant, "evaluate", "--alarms", "enter_s=1,5")
    assert document["source"] == "its predictions now: it has none in the archive"
    assert [row["setting"] for row in document["settings"]] == ["as configured", "enter_s=1", "enter_s=5"]
    assert document["windows"] == 6 * (150 - Config().model.warm_up_windows)
