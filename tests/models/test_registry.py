"""Versions, and the names that point at them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from model_world import bundle

from models.evaluation.diagnosis import self_test
from models.jobs.promotion import promote, rollback
from models.registry import Registry
from pipeline.commands import models as models_command
from pipeline.commands import promote as promote_command
from pipeline.errors import GateRefused, ModelError


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


def test_reading_an_empty_registry_creates_nothing(tmp_path, registry):
    assert registry.versions() == []
    assert registry.aliases() == {}
    with pytest.raises(ModelError, match="known: none"):
        registry.resolve("champion")
    assert list(tmp_path.iterdir()) == []


def test_versions_are_numbered_in_order_and_know_their_name(registry, rng):
    names = [registry.add(bundle(rng)) for _ in range(3)]
    assert names == ["v0001", "v0002", "v0003"]
    assert registry.versions() == names
    assert [registry.load(name).spec.version for name in names] == names
    assert registry.predictor("v0002").version == "v0002"
    assert registry.load("v0003").card == "# Model card v0003\n"


def test_version_10000_comes_after_version_9999(registry, rng):
    registry.add(bundle(rng))
    (registry.root / "v0001").rename(registry.root / "v9999")
    assert registry.add(bundle(rng)) == "v10000"
    assert registry.versions() == ["v9999", "v10000"]


def test_a_version_that_could_not_be_written_is_not_there(registry, rng):
    broken = bundle(rng)
    broken.metrics["nan"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        registry.add(broken)
    assert registry.versions() == []
    assert [path.name for path in registry.root.iterdir()] == [".lock"]


def test_an_alias_moves_and_every_move_is_remembered(registry, rng):
    registry.add(bundle(rng)), registry.add(bundle(rng))
    assert registry.point("champion", "v0001", why="first") is None
    assert registry.point("champion", "v0002", why="better") == "v0001"
    assert registry.aliases() == {"champion": "v0002"}
    assert registry.resolve("champion") == "v0002"
    document = json.loads((registry.root / "aliases.json").read_text())
    assert set(document) == {"champion", "history"}
    assert [(m["alias"], m["from"], m["to"], m["why"]) for m in document["history"]] == [
        ("champion", None, "v0001", "first"),
        ("champion", "v0001", "v0002", "better"),
    ]
    assert all(move["at"] and move["by"] for move in document["history"])


@pytest.mark.parametrize("alias", ["history", "v0001", "", "../x", "Champion", "a/b"])
def test_a_name_that_cannot_be_an_alias_is_refused(registry, rng, alias):
    registry.add(bundle(rng))
    with pytest.raises(ModelError, match="expected an alias"):
        registry.point(alias, "v0001", why="")


@pytest.mark.parametrize("name", ["v0009", "../v0001", "/etc", "champion", ""])
def test_an_unknown_version_says_which_there_are(registry, rng, name):
    registry.add(bundle(rng))
    with pytest.raises(ModelError, match="known: v0001"):
        registry.load(name)


def test_a_version_under_another_name_is_refused(registry, rng):
    registry.add(bundle(rng))
    (registry.root / "v0001").rename(registry.root / "v0007")
    with pytest.raises(ModelError, match=r"expected config.json of v0007, found: v0001"):
        registry.load("v0007")


@pytest.mark.parametrize("content", ["{", "[]", '{"history": 3}'])
def test_a_damaged_alias_file_is_named(registry, rng, content):
    registry.add(bundle(rng))
    (registry.root / "aliases.json").write_text(content)
    with pytest.raises(ModelError, match=r"aliases.json: expected"):
        registry.aliases()


def test_rolling_back_goes_further_back_each_time(tmp_path, registry, rng):
    for name in [registry.add(bundle(rng)) for _ in range(3)]:
        promote(tmp_path, name, why="")
    assert rollback(tmp_path, None, why="worse") == ("v0003", "v0002")
    assert rollback(tmp_path, None, why="worse") == ("v0002", "v0001")
    with pytest.raises(ModelError, match="none before v0001"):
        rollback(tmp_path, None, why="worse")
    assert rollback(tmp_path, "v0003", why="after all") == ("v0001", "v0003")
    assert registry.history()[-1]["why"] == "after all"


def test_a_live_model_passes_the_self_test(rng):
    assert self_test(bundle(rng)) == []


@pytest.mark.parametrize("part", ["head.weight", "gru.weight_ih_l0"])
def test_a_collapsed_model_is_told_from_a_live_one(rng, part):
    collapsed = bundle(rng)
    collapsed.weights[part][:] = 0
    if part != "head.weight":
        collapsed.weights["gru.weight_hh_l0"][:] = 0
        for name in ("gru.bias_ih_l0", "gru.bias_hh_l0"):
            collapsed.weights[name][:] = 0
    assert any("says the same whatever it sees" in problem for problem in self_test(collapsed))


def test_a_state_that_does_not_move_is_found(rng):
    stuck = bundle(rng)
    units = stuck.spec.hidden
    stuck.weights["gru.weight_ih_l0"][units : 2 * units] = 0
    stuck.weights["gru.weight_hh_l0"][units : 2 * units] = 0
    stuck.weights["gru.bias_ih_l0"][units : 2 * units] = 50.0  # the update gate keeps the old state for ever
    assert any("state does not move" in problem for problem in self_test(stuck))


def test_a_collapsed_model_is_not_promoted_and_the_champion_stays(tmp_path, registry, rng):
    registry.add(bundle(rng))
    promote(tmp_path, "v0001", why="")
    collapsed = bundle(rng)
    collapsed.weights["head.weight"][:] = 0
    registry.add(collapsed)
    with pytest.raises(GateRefused, match="v0002: expected a model that works") as refused:
        promote(tmp_path, "v0002", why="")
    assert refused.value.exit_code == 5
    assert registry.aliases() == {"champion": "v0001"}


def test_a_damaged_version_is_not_promoted_and_is_listed_with_its_problem(tmp_path, registry, rng):
    registry.add(bundle(rng))
    (registry.root / "v0001" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model.safetensors: expected sha256"):
        promote(tmp_path, "v0001", why="")
    listed = CliRunner().invoke(models_command.command, ["ls", "--data", str(tmp_path), "--json"])
    assert listed.exit_code == 0
    (row,) = json.loads(listed.stdout)["versions"]
    assert "model.safetensors" in row["problem"]


def test_promote_and_models_say_what_they_did(tmp_path, registry, rng):
    registry.add(bundle(rng)), registry.add(bundle(rng))
    run = CliRunner().invoke
    assert "champion: none -> v0001" in run(promote_command.command, ["v0001", "--data", str(tmp_path)]).stdout
    moved = run(promote_command.command, ["v0002", "--data", str(tmp_path), "--why", "quieter", "--json"])
    assert json.loads(moved.stdout) == {"champion": "v0002", "before": "v0001", "why": "quieter"}
    shown = run(models_command.command, ["show", "champion", "--data", str(tmp_path), "--json"])
    document = json.loads(shown.stdout)
    assert document["aliases"] == ["champion"]
    assert document["history"][-1]["why"] == "quieter"
    assert "# Model card v0002" in run(models_command.command, ["show", "v0002", "--data", str(tmp_path)]).stdout


def test_the_weights_of_two_versions_are_their_own(registry, rng):
    first, second = bundle(rng), bundle(rng)
    registry.add(first), registry.add(second)
    assert np.array_equal(registry.load("v0001").weights["head.bias"], first.weights["head.bias"])
    assert np.array_equal(registry.load("v0002").weights["head.bias"], second.weights["head.bias"])


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "content",
    [DEEP, b'{"a":' * 50_000, b"\xff\xfe{}", b"[]", b'{"champion": 1}', b'{"champion": ["v0001"]}', b'{"history": {}}',
     b'{"history": [1]}', b'{"history": [{}]}', b"", b"1" * 6000],
)  # fmt: skip
def test_aliases_that_are_none_are_refused_by_name(registry, content):
    registry.root.mkdir()
    (registry.root / "aliases.json").write_bytes(content)
    for read in (registry.aliases, registry.history, lambda: registry.resolve("champion"), registry.rollback_target):
        with pytest.raises(ModelError, match=r"aliases\.json"):
            read()


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop"])
def test_something_else_in_the_place_of_the_aliases_is_refused_and_holds_nothing_up(registry, kind):
    registry.root.mkdir()
    path = registry.root / "aliases.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(ModelError, match=r"aliases\.json"):
        registry.aliases()
