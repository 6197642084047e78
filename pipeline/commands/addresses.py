"""Broker addresses on the command line."""

from __future__ import annotations

from urllib.parse import urlsplit

from pipeline.errors import ConfigError


def broker_flags(url: str | None) -> dict[str, object]:
    """`mqtt://HOST[:PORT]` as the configuration keys that it overrides; nothing without one.

    Raises:
        ConfigError: it is not such an address.
    """
    if url is None:
        return {}
    try:
        parts = urlsplit(url if "//" in url else f"mqtt://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("mqtt", "mqtts") or not host or parts.path not in ("", "/") or parts.username:
        msg = f"a broker as mqtt://HOST:PORT expected, found: {url}"
        raise ConfigError(msg, hint="user, password and certificates belong in [mqtt] of config.toml")
    flags: dict[str, object] = {"mqtt.host": host, "mqtt.port": port}
    return flags | ({"mqtt.tls": True} if parts.scheme == "mqtts" else {})
