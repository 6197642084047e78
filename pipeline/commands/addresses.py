"""Which broker a command speaks to: `--broker URL` over [mqtt] of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    pass

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
