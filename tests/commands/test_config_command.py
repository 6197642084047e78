"""`thrumcast config`: what is set and where, and the password that it never shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.config import resolved

from pipeline import cli
from pipeline.config.tables import MqttConfig
from pipeline.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_configuration")
SECRET = "correct horse"


def test_the_password_is_read_from_its_file() -> None:
    Path("secret").write_text(f"{SECRET}\n", encoding="utf-8")
    assert MqttConfig(password_file="secret").password() == SECRET
    assert MqttConfig().password() is None


def test_the_password_can_come_from_the_service_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert MqttConfig().password() is None
    Path("mqtt_password").write_text(SECRET, encoding="utf-8")
    assert MqttConfig().password() == SECRET


@pytest.mark.parametrize("command", [["config", "show"], ["config", "show", "--json"], ["config", "check", "-vv"]])
def test_no_command_prints_the_password(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("secret").write_text(SECRET, encoding="utf-8")
    assert cli.run([*command, "--set", "mqtt.password_file=secret"]) == 0
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    if command[1] == "show":
        assert "********" in captured.out


def test_a_password_written_into_the_file_is_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(f'[mqtt]\npassword = "{SECRET}"')
    assert SECRET not in str(caught.value)
    assert caught.value.hint == "nearest known key: mqtt.password_file"


def test_show_tells_value_and_origin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[window]\nlength_s = 2\n", encoding="utf-8")
    monkeypatch.setenv("THRUMCAST_MQTT__TLS", "true")
    assert cli.run(["config", "show", "--set", "data.dir=D"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["window.length_s"] == ["2.0", "file", "config.toml"]
    assert lines["mqtt.tls"] == ["true", "env", "THRUMCAST_MQTT__TLS"]
    assert lines["data.dir"] == ['"D"', "flag", "a", "flag"]
    assert lines["window.hop_s"] == ["0.5", "default"]


def test_show_as_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[window]\nlength_s = 2\n", encoding="utf-8")
    assert cli.run(["config", "show", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == "config.toml"
    assert document["settings"]["window.length_s"] == {"value": 2.0, "source": "file", "place": "config.toml"}
    assert document["settings"]["modes.aliases"]["value"]["ball"] == "bearing_ball"


def test_check_says_ok_or_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "check"]) == 0
    assert capsys.readouterr().out.startswith("ok: no file, defaults (0 of ")
    assert cli.run(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "file": None, "set": 0}
    assert cli.run(["config", "check", "--set", "window.hop=1"]) == 3
    assert capsys.readouterr().err == "error: window.hop: unknown key\nhint: nearest known key: window.hop_s\n"


def test_check_refuses_a_password_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "check", "--set", "mqtt.password_file=nowhere"]) == 3
    assert "mqtt.password_file: expected a readable file with the password" in capsys.readouterr().err


def test_a_setting_without_a_value_is_a_usage_error() -> None:
    assert cli.run(["config", "check", "--set", "window.hop_s"]) == 2
