"""The gate of `promote`, and a service that follows the registry."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from model_world import bundle

from models.bundle import Bundle
from models.evaluation.events import poisson_upper
from models.jobs.promotion import judge, promote, rollback
from models.registry import Registry
from pipeline.commands import promote as promote_command
from pipeline.config.tables import Config, DataConfig, ModelConfig
from pipeline.errors import GateRefused
from pipeline.service.models import LiveConfig, RegistryWatch, load_models


def numbers(
    recalls: dict[str, float], false_alarms: int = 1, days: float = 1.0, support: int = 100, fewer: int | None = None
) -> dict[str, object]:
    """Held-out numbers; `fewer` windows of mode_1."""
    per_class = {
        mode: {
            "precision": 1.0, "recall": r, "f1": r,
            "support": support if fewer is None or mode != "mode_1" else fewer,
        }
        for mode, r in recalls.items()
    }  # fmt: skip
    upper = poisson_upper(false_alarms) / days if days else None
    rate = {
        "false_alarms": false_alarms,
        "healthy_machine_days": days,
        "false_alarms_per_machine_day_upper": upper,
    }
    return {"per_class": per_class, "events": rate}


def version(
    rng: np.random.Generator, metrics: dict[str, object], split: str = "specimen", task: str = "window"
) -> Bundle:
    made = bundle(rng)
    spec = dataclasses.replace(made.spec, task=task)
    return dataclasses.replace(made, spec=spec, metrics=metrics, train={**made.train, "split": split})


GOOD = {"mode_0": 0.9, "mode_1": 0.8}


@pytest.fixture
def registry(tmp_path: Path, rng: np.random.Generator) -> Registry:
    registry = Registry(tmp_path)
    registry.add(version(rng, numbers(GOOD)))
    promote(tmp_path, "v0001", why="first")
    return registry


@pytest.mark.parametrize(
    ("metrics", "how", "problem"),
    [
        (numbers({"mode_0": 0.9, "mode_1": 0.7}), {}, "recall of mode_1 is down from 0.800 to 0.700"),
        (numbers({"mode_0": 0.9}), {}, "it does not know mode_1"),
        (numbers({"mode_0": 0.9, "mode_1": 0.0}, fewer=19), {}, "too little evidence for mode_1: 19 held-out windows"),
        (numbers(GOOD, fewer=49), {}, "too little evidence for mode_1: 49 held-out windows, 50 are needed"),
        (numbers(GOOD, false_alarms=3), {}, "false alarms are up: 3 in 1 healthy machine-days, the champion 1 in 1"),
        (numbers(GOOD, false_alarms=0, days=0.01), {}, "too little evidence on false alarms: 0 in 0.01"),
        (numbers(GOOD, false_alarms=0, days=0.0), {}, "too little evidence on false alarms: 0 in 0 healthy"),
        ({}, {}, "no held-out numbers, the champion has"),
        (numbers(GOOD), {"split": "time"}, "held out by time, the champion by specimen"),
        (numbers(GOOD), {"task": "sequence"}, "it says one mode per sequence, the champion one per window"),
    ],
)
def test_a_worse_version_is_refused_by_name_with_code_5_and_force_is_recorded(
    tmp_path: Path,
    registry: Registry,
    rng: np.random.Generator,
    metrics: dict[str, object],
    how: dict[str, str],
    problem: str,
) -> None:
    registry.add(version(rng, metrics, **how))
    with pytest.raises(GateRefused, match=problem) as refused:
        promote(tmp_path, "v0002", why="newer")
    assert refused.value.exit_code == 5
    assert registry.aliases() == {"champion": "v0001"}
    result = CliRunner().invoke(promote_command.command, ["v0002", "--data", str(tmp_path), "--force"])
    assert result.exit_code == 0
    assert problem in registry.history()[-1]["why"]
    assert rollback(tmp_path, None, why="worse") == ("v0002", "v0001")  # is not gated by numbers
    assert rollback(tmp_path, "v0002", why="back") == ("v0001", "v0002")


@pytest.mark.parametrize(
    "metrics",
    [
        numbers({"mode_0": 0.86, "mode_1": 0.8}),
        numbers(GOOD, false_alarms=2),
        numbers(GOOD, false_alarms=0, days=0.5),  # less time, but none: as sure as the champion
        numbers(GOOD, fewer=50),
        numbers({**GOOD, "mode_2": 0.1}),
    ],
)
def test_a_version_that_is_no_worse_passes(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, metrics: dict[str, object]
) -> None:
    registry.add(version(rng, metrics))
    assert judge(registry, registry.load("v0002")).problems == ()
    assert promote(tmp_path, "v0002", why="newer") == ("v0001", "v0002")


def test_a_mode_that_the_champion_never_recognised_needs_no_evidence(tmp_path: Path, rng: np.random.Generator) -> None:
    registry = Registry(tmp_path)
    registry.add(version(rng, numbers({"mode_0": 0.9, "mode_1": 0.02})))
    promote(tmp_path, "v0001", why="first")
    registry.add(version(rng, numbers({"mode_0": 0.9, "mode_1": 0.0}, fewer=3)))
    assert promote(tmp_path, "v0002", why="newer") == ("v0001", "v0002")


def test_promote_says_how_many_false_alarms_the_held_out_time_cannot_exclude(
    tmp_path: Path, registry: Registry, rng: np.random.Generator
) -> None:
    registry.add(version(rng, numbers(GOOD, days=1.0)))
    result = CliRunner().invoke(promote_command.command, ["v0002", "--data", str(tmp_path)])
    assert result.exit_code == 0
    assert "up to 4.7 false alarms per machine-day are not excluded" in result.stderr
    registry.add(version(rng, numbers(GOOD, days=1000.0)))
    result = CliRunner().invoke(promote_command.command, ["v0003", "--data", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(("answer", "serves"), [("y\n", "v0002"), ("n\n", "v0001"), ("", "v0001")])
def test_on_a_terminal_promote_shows_what_changes_and_asks(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    answer: str, serves: str,
) -> None:  # fmt: skip
    registry.add(version(rng, numbers(GOOD)))
    monkeypatch.setattr(promote_command, "somebody_is_there", lambda: True)
    result = CliRunner().invoke(promote_command.command, ["v0002", "--data", str(tmp_path)], input=answer)
    assert "champion: v0001 -> v0002. Continue?" in result.stderr
    assert registry.aliases()["champion"] == serves
    assert (result.exit_code == 0) == (serves == "v0002")


def test_promote_asks_nobody_who_is_not_there_or_has_said_yes(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, there, options in (("v0002", False, []), ("v0003", True, ["--yes"]), ("v0004", True, ["--json"])):
        registry.add(version(rng, numbers(GOOD)))
        monkeypatch.setattr(promote_command, "somebody_is_there", lambda there=there: there)
        result = CliRunner().invoke(promote_command.command, [name, *options, "--data", str(tmp_path)])
        assert result.exit_code == 0, result.output
        assert registry.aliases()["champion"] == name


def test_promoting_the_champion_to_itself_says_so_and_writes_nothing(tmp_path: Path, registry: Registry) -> None:
    history = registry.history()
    result = CliRunner().invoke(promote_command.command, ["champion", "--data", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "v0001 already is the champion\n")
    assert registry.history() == history


def test_a_model_that_says_values_cannot_become_champion(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(version(rng, numbers(GOOD)))
    load = Registry.load

    def other_task(self: Registry, name: str) -> Bundle:
        made = load(self, name)
        return dataclasses.replace(made, spec=dataclasses.replace(made.spec, task="life"))

    monkeypatch.setattr(Registry, "load", other_task)
    with pytest.raises(GateRefused, match="expected a model of failure modes, found one of the task life"):
        promote(tmp_path, "v0002", why="", force=True)
    assert registry.aliases() == {"champion": "v0001"}


def test_a_damaged_champion_does_not_keep_a_whole_version_from_serving(
    tmp_path: Path, registry: Registry, rng: np.random.Generator
) -> None:
    registry.add(version(rng, {}))
    (registry.root / "v0001" / "model.safetensors").write_bytes(b"")
    assert promote(tmp_path, "v0002", why="repair") == ("v0001", "v0002")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(Bundle, "check_fits", lambda self, schema: None)
    return Config(data=DataConfig(dir=str(tmp_path)), model=ModelConfig(shadow="challenger"))


def test_a_watch_is_due_once_per_move_of_an_alias_that_matters(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, config: Config
) -> None:
    watch = RegistryWatch.after(LiveConfig(config, {}, lambda: config))
    assert watch.due() is None
    registry.add(version(rng, numbers(GOOD)))
    registry.point("elsewhere", "v0002", why="")
    assert watch.due() is None
    registry.point("challenger", "v0002", why="")
    serving = watch.due()
    assert (serving.predictor.version, serving.shadow.version) == ("v0001", "v0002")
    promote(tmp_path, "v0002", why="")
    serving = watch.due()
    assert (serving.predictor.version, serving.shadow) == ("v0002", None)  # it need not shadow itself
    assert watch.due() is None
    watch.look_again()
    assert watch.due().predictor.version == "v0002"


def test_a_version_that_cannot_be_used_is_reported_and_the_old_one_stays(
    tmp_path: Path, registry: Registry, rng: np.random.Generator, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    watch = RegistryWatch.after(LiveConfig(config, {}, lambda: config))
    registry.add(version(rng, numbers(GOOD)))
    registry.point("champion", "v0002", why="")
    (registry.root / "v0002" / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.ERROR):
        assert watch.due() is None
    assert "model_refused alias=champion" in caplog.text
    registry.point("champion", "v0001", why="")
    assert watch.due() is None  # that is what serves


def test_a_shadow_that_cannot_be_used_is_reported_and_left_out(
    registry: Registry, rng: np.random.Generator, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add(version(rng, numbers(GOOD)))
    registry.point("challenger", "v0002", why="")
    (registry.root / "v0002" / "model.safetensors").write_bytes(b"")
    serving = load_models(config)
    assert (serving.predictor.version, serving.shadow) == ("v0001", None)
    assert "shadow_refused alias=challenger" in caplog.text
