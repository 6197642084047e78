"""Settings that each make sense alone and none together are refused at the start, by the name of a key."""

from __future__ import annotations

import pytest

from pipeline.config.sources import load
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"mqtt.tls_ca_file": "ca.pem"}, "mqtt.tls"),
        ({"mqtt.tls_cert_file": "me.pem"}, "mqtt.tls"),
        ({"mqtt.tls": True, "mqtt.tls_key_file": "me.key"}, "mqtt.tls_cert_file"),
        ({"commit.interval_s": 20.0, "archive.roll_s": 10.0}, "commit.interval_s"),
        ({"mqtt.session_expiry_s": 1}, "mqtt.session_expiry_s"),
        ({"model.max_gap_s": 0.4}, "window.hop_s"),
        ({"archive.compact_parts": 1}, "archive.compact_parts"),
        ({"mqtt.readings_topic": "thrumcast/machines/{machine}/{point}/state"}, "mqtt.readings_topic"),
        ({"mqtt.readings_topic": "{machine}/{point}"}, "mqtt.readings_topic"),  # thrumcast/status
        ({"mqtt.readings_topic": "{area}/machines/{machine}/{point}/alarm"}, "mqtt.readings_topic"),
        ({"mqtt.readings_topic": "{area}/{machine}/{point}"}, "mqtt.readings_topic"),  # thrumcast/events/alarms
    ],
)
def test_a_contradiction_is_refused_and_named(flags: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, flags, environment={})
    assert caught.value.message.startswith(f"{key}: expected")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "flags",
    [
        {"mqtt.readings_topic": "thrumcast/in/{machine}/{point}/vibration"},
        {"mqtt.readings_topic": "plant/{machine}/{point}"},
        {"mqtt.readings_topic": "{area}/{machine}/{point}", "mqtt.results_topic": "out/of/thrumcast"},
        {"mqtt.tls": True, "mqtt.tls_ca_file": "ca.pem", "mqtt.tls_cert_file": "me.pem"},
        {"mqtt.session_expiry_s": 0},
        {"archive.compact_parts": 0},
        {"commit.interval_s": 10.0, "archive.roll_s": 10.0},
    ],
)
def test_what_fits_together_is_taken(flags: dict[str, object]) -> None:
    assert load(None, flags, environment={}).config


def test_the_window_of_a_single_machine_is_looked_at_too(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[machines.slow.points.de]\nwindow = { length_s = 60.0, hop_s = 40.0 }\n")
    with pytest.raises(ConfigError, match=r"machines\.slow\.points\.de\.window\.hop_s"):
        load(path, environment={})
