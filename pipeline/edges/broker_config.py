"""How the two brokers are found, configured and called."""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Final, Literal

Kind = Literal["mosquitto", "iotcore"]

# In-flight and queue are far above any test; mosquitto drops the newest beyond them and tells nobody.
_MOSQUITTO: Final = """\
listener {port} {host}
allow_anonymous {anonymous}
persistence true
persistence_location {directory}/
autosave_interval 1
max_queued_messages 60000
max_queued_bytes 268435456
max_inflight_messages 2000
set_tcp_nodelay true
sys_interval 1
log_dest stderr
log_type error
log_type warning
log_type notice
"""

# rumqttd's defaults would listen on all interfaces, speak MQTT 3.1.1 only and cut clients that send more than 20 KiB.
# 16 segments of 16 MiB: what a slow consumer may lag behind before the oldest messages are gone.
_IOTCORE: Final = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 16

[v5.1]
name = "v5-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 4194304
max_inflight_count = 100
dynamic_filters = true
"""


def is_available(kind: Kind) -> bool:
    """Whether that broker is installed."""
    return _mosquitto() is not None if kind == "mosquitto" else importlib.util.find_spec("iotcore") is not None


def write_config(kind: Kind, directory: Path, host: str, port: int, *, anonymous: bool, extra: str = "") -> list[str]:
    """Writes the configuration into `directory` and says with which command the broker starts on it."""
    template = _MOSQUITTO if kind == "mosquitto" else _IOTCORE
    text = template.format(port=port, host=host, directory=directory, anonymous=str(anonymous).lower()) + extra
    if kind == "iotcore":
        config = directory / "iotcore.toml"
        config.write_text(text, encoding="utf-8")
        # -P: a folder named iotcore in the working directory is not it.
        return [sys.executable, "-P", "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        text += f"\nuser {getpass.getuser()}\n"  # else root becomes `mosquitto`, who may not write here
    config = directory / "mosquitto.conf"
    config.write_text(text, encoding="utf-8")
    return [_mosquitto() or "mosquitto", "-c", str(config)]


def _mosquitto() -> str | None:
    """Debian puts it where only root's PATH looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
