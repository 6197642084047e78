"""SIGHUP: what may change while the service runs does, and what may not is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.config.sources import load
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.service.models import LiveConfig, different

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
