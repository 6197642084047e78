"""SIGHUP: what may change while the service runs does, and what may not is named."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_world import bundle

from models.registry import Registry
from pipeline.config.sources import load
from pipeline.config.specs import feature_spec
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.service.health import Vitals, ready_checks
from pipeline.service.models import LiveConfig, RegistryWatch, different

KEY = StreamKey("pump-01", "de")
MACHINE = '[machines.pump-01]\nspeed_rpm = 1480.0\nlimits_mm_s = [1.0, 2.0, 3.0]\nlimits_source = "maker"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(MACHINE)
    return path


def running(place: Path, levels: list[str] | None = None) -> LiveConfig:
    def read() -> Config:
        return load(place, environment={}).config

    return LiveConfig(read(), {}, read, (levels if levels is not None else []).append)


def test_limits_thresholds_and_the_level_of_the_log_follow_the_file(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    levels: list[str] = []
    service = running(place, levels)
    before = service.spec_of(KEY)
    text = MACHINE.replace("3.0]", "9.0]") + '[alarm]\nenter_p = 0.9\n[log]\nlevel = "debug"\n[model]\nalias = "b"\n'
    place.write_text(text)
    with caplog.at_level(logging.INFO):
        service.reload()
    after = service.spec_of(KEY)
    assert (before.limits.c_d_mm_s, after.limits.c_d_mm_s) == (3.0, 9.0)
    assert (before.alarm.enter_p, after.alarm.enter_p) == (0.8, 0.9)
    assert before.fingerprint == after.fingerprint, "remembered samples must stay usable"
    assert (levels, service.config.model.alias) == (["debug"], "b")
    assert "reloaded keys=alarm.enter_p,log.level,machines.pump-01.limits_mm_s,model.alias" in caplog.text
    assert "restart_needed" not in caplog.text


def test_what_cannot_change_is_named_and_stays(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = running(place)
    place.write_text(MACHINE.replace("1480", "990") + '[window]\nhop_s = 0.25\n[machines.new]\narea = "a"\n')
    service.reload()
    assert "restart_needed keys=machines.new.area,machines.pump-01.speed_rpm,window.hop_s" in caplog.text
    assert service.config.window.hop_s == 0.5
    assert service.spec_of(KEY).speed_rpm == 1480.0
    assert set(service.config.machines) == {"pump-01"}


def test_a_configuration_that_cannot_be_used_changes_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = running(place)
    before = service.config
    place.write_text("[alarm]\nenter_p = 7\n")
    service.reload()
    assert "reload_refused err=alarm.enter_p: expected float <= 1.0, found: 7" in caplog.text
    assert service.config == before


def test_the_limits_of_a_single_point_follow_too(place: Path) -> None:
    place.write_text('[machines.pump-01.points.de]\niso_group = 1\nsupport = "rigid"\n')
    service = running(place)
    before = service.spec_of(KEY).limits
    place.write_text('[machines.pump-01.points.de]\niso_group = 2\nsupport = "rigid"\n')
    service.reload()
    assert service.spec_of(KEY).limits != before
    assert different(service.config, load(place, environment={}).config) == []


def rewrite(directory: Path, name: str, content: bytes) -> None:
    """Change a file together with its sum."""
    (directory / name).write_bytes(content)
    sums = (directory / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in sums if not line.endswith(f"  {name}")]
    lines = [*kept, f"{hashlib.sha256(content).hexdigest()}  {name}"]
    (directory / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("damage", ["deep", "directory", "config", "sizes", "shape", "gone"])
def test_whatever_becomes_of_the_registry_the_old_model_goes_on_serving_and_health_says_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(tmp_path)
    model = bundle(np.random.default_rng(1))
    model = replace(model, spec=replace(model.spec, feature_schema=feature_spec(Config()).schema))
    for _ in range(2):
        registry.add(model)
    registry.point("champion", "v0001", why="first")
    config = load(None, {"data.dir": tmp_path}, environment={}).config
    watch = RegistryWatch.after(LiveConfig(config, {}, lambda: config))
    assert watch.due() is None
    registry.point("champion", "v0002", why="second")
    version, aliases = registry.root / "v0002", registry.root / "aliases.json"
    if damage == "deep":
        aliases.write_bytes(b"[" * 100_000)
    elif damage == "directory":
        aliases.unlink()
        aliases.mkdir()
    elif damage == "config":
        rewrite(version, "config.json", b'{"a":' * 50_000)
    elif damage == "sizes":
        document = json.loads((version / "config.json").read_text())
        document["network"]["hidden"] = 10**9
        rewrite(version, "config.json", json.dumps(document).encode())
    elif damage == "shape":
        document = json.loads((version / "data.json").read_text())
        rewrite(version, "data.json", json.dumps(document | {"unknown": [1]}).encode())
    else:
        shutil.rmtree(version)
    assert watch.due() is None
    assert watch.refusal
    assert "model_refused alias=champion" in caplog.text
    (check,) = [c for c in ready_checks(Vitals(refused_model=watch.refusal)) if c.name == "model:wanted"]
    assert (check.status, check.output) == ("warn", watch.refusal)
    if aliases.is_dir():
        aliases.rmdir()
    registry.root.joinpath("aliases.json").write_text('{"champion": "v0001", "history": []}')
    assert watch.due() is None
    assert watch.refusal is None
