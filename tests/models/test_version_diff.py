"""`thrumcast models diff`: what two versions were made of, and what was measured of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner
from model_world import bundle

from models.registry import Registry
from pipeline.commands import models as models_command


def numbers(recall: float) -> dict[str, object]:
    return {
        "windows": 200,
        "accuracy": recall,
        "per_class": {"mode_0": {"recall": recall, "support": 100}, "mode_1": {"recall": 0.0, "support": 0}},
        "events": {"false_alarms": round(10 * recall)},
    }


@pytest.fixture
def data(tmp_path, rng):
    registry = Registry(tmp_path)
    first = bundle(rng)
    registry.add(dataclasses.replace(first, metrics=numbers(0.8), train={**first.train, "split": "specimen"}))
    second = bundle(rng, features=6, classes=4)
    train = {**second.train, "split": "time", "settings": {"cell": "lstm", "seed": 0}}
    registry.add(dataclasses.replace(second, metrics=numbers(0.9), train=train, data={"machines": ["a"], "used": 7}))
    registry.point("challenger", "v0002", why="")
    return tmp_path


def run(data, *words):
    return CliRunner().invoke(models_command.command, ["diff", *words, "--data", str(data)])


def test_two_versions_are_shown_side_by_side_with_what_differs(data):
    result = run(data, "v0001", "challenger", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["versions"] == ["v0001", "v0002"]
    assert document["settings"] == {"cell": [None, "lstm"], "seed": [None, 0]}
    assert document["classes"]["only_second"] == ["mode_3"]
    assert document["inputs"] == {"both": [f"x.f{k}" for k in range(5)], "only_first": [], "only_second": ["x.f5"]}
    assert document["metrics"]["accuracy"] == [0.8, 0.9]
    assert document["metrics"]["mode_1.recall"] == [None, None]  # without a window nothing is known
    assert document["made"]["split"] == ["specimen", "time"]
    assert "task" not in document["made"]
    assert any("different splits" in remark for remark in document["remarks"])


def test_people_get_one_table_of_what_differs_and_one_of_the_numbers(data):
    text = run(data, "v0001", "v0002").stdout
    assert "made with" in text
    assert [line.split() for line in text.splitlines() if line.startswith("accuracy")] == [
        ["accuracy", "0.8", "0.9", "+0.1"]
    ]
    assert ["events.false_alarms", "8", "9", "+1"] in [line.split() for line in text.splitlines()]
    assert "only v0002: mode_3" in text


def test_a_version_beside_itself_differs_in_nothing(data):
    document = json.loads(run(data, "v0001", "v0001", "--json").stdout)
    assert (document["made"], document["settings"], document["remarks"]) == ({}, {}, [])


def test_a_version_that_is_not_there_is_named(data):
    result = run(data, "v0001", "v0009")
    assert "found: v0009" in str(result.exception)
