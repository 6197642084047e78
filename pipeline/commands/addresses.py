"""Which broker a command speaks to: `--broker URL` over [mqtt] of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.edges.mqtt import MqttSettings

broker_option = click.option(
    "--broker", metavar="URL", default=None, help="mqtt://HOST:PORT [default: mqtt.host and mqtt.port]."
)


def broker_flags(url: str | None) -> dict[str, object]:
    """The configuration keys that a broker's URL stands for; nothing without one.

    Raises:
        ConfigError: it is no such URL.
    """
    if url is None:
        return {}
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_url(url) from error
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
        raise _bad_url(url)
    secure = parts.scheme == "mqtts"
    return {"mqtt.host": parts.hostname, "mqtt.port": port or (8883 if secure else 1883), "mqtt.tls": secure or None}


def _bad_url(url: str) -> ConfigError:
    shown = url.rsplit("@", 1)[-1]  # never repeat a password
    msg = f"--broker mqtt://HOST:PORT or mqtts://HOST:PORT expected, found: {shown}"
    if "//" not in url:
        return ConfigError(msg, hint=f"did you mean mqtt://{shown}?")
    return ConfigError(msg, hint="a name and a password go into mqtt.username and mqtt.password_file")


def mqtt_settings(config: Config, client_id: str | None = None) -> MqttSettings:
    """The connection that the configuration describes, under the service's client id or another one."""
    from pipeline.edges.mqtt import MqttSettings

    mqtt = config.mqtt
    return MqttSettings(
        client_id=client_id or mqtt.client_id,
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password_file=mqtt.password_path(),
        tls=mqtt.tls,
        ca_file=_path(mqtt.tls_ca_file),
        cert_file=_path(mqtt.tls_cert_file),
        key_file=_path(mqtt.tls_key_file),
        keepalive_s=mqtt.keepalive_s,
        session_expiry_s=mqtt.session_expiry_s,
        receive_maximum=mqtt.receive_maximum,
        # A broker drops what is larger without a word; what is only too large for us is to be quarantined by name.
        maximum_packet_bytes=min(max(16 * 2**20, 4 * mqtt.max_payload_bytes), 268_435_455),
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None
