"""How to reach a broker, and what to say when it cannot be reached."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError, NotReachable


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """One client of one broker. The client id names the session: unique per broker, the same after a restart."""

    client_id: str
    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None  # None = the system's certificates
    cert_file: Path | None = None  # our own certificate, for brokers that ask for one
    key_file: Path | None = None  # its key; None = in cert_file
    keepalive_s: int = 30
    clean_start: bool = False
    session_expiry_s: int = 7 * 86400
    receive_maximum: int = 2000
    maximum_packet_bytes: int = 16 * 2**20  # a broker throws larger messages away without a word
    connect_timeout_s: float = 5.0
    backoff_s: tuple[float, float] = (1.0, 10.0)  # shortest and longest wait before connecting again
    transport: Literal["tcp", "websockets"] = "tcp"
    websocket_path: str = "/mqtt"

    @property
    def address(self) -> str:
        """Host and port for messages to people."""
        return f"{self.host}:{self.port}"

    def password(self) -> str | None:
        """What the password file says, without the line end.

        Raises:
            ConfigError: if the file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"mqtt.password_file as a readable text file expected, found: {self.password_file}: {error}"
            raise ConfigError(msg, hint="it holds the password alone and must be readable by this user") from error


def not_reachable(settings: MqttSettings, why: Exception | str) -> NotReachable:
    """The error for a broker that does not answer at `settings.address`, with a hint that fits the cause."""
    msg = f"an MQTT broker at {settings.address} expected, found: {why}"
    text = str(why)
    if isinstance(why, ConnectionRefusedError):
        hint = "is it running? mqtt.host and mqtt.port say where it is looked for"
    elif isinstance(why, socket.gaierror):
        hint = "check the name in mqtt.host"
    elif isinstance(why, ssl.SSLError):
        hint = (
            "check mqtt.tls, mqtt.port and mqtt.tls_ca_file: it must have signed a certificate for mqtt.host; if the "
        )
        hint += "broker asks for one of ours: mqtt.tls_cert_file"
    elif "Bad user name" in text or "Not authorized" in text:
        hint = "check mqtt.username and mqtt.password_file, and what the broker allows this user"
    elif isinstance(why, OSError):
        hint = "check mqtt.host, mqtt.port and the network between"
    else:
        hint = "it must speak MQTT 5 on this port; check mqtt.port, mqtt.tls, mqtt.username and mqtt.password_file"
    return NotReachable(msg, hint=hint)


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Checks the broker's certificate, and shows ours if there is one.

    Raises:
        ConfigError: a file cannot be used; the error names its key.
    """
    for key, path in (
        ("mqtt.tls_ca_file", settings.ca_file),
        ("mqtt.tls_cert_file", settings.cert_file),
        ("mqtt.tls_key_file", settings.key_file),
    ):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            msg = f"{key}: expected a readable PEM file, found: {path} ({error.strerror})"
            raise ConfigError(msg, hint="this user must be able to read it") from error
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except ssl.SSLError as error:
        msg = f"mqtt.tls_ca_file: expected certificates in PEM, found: {settings.ca_file} ({error.reason or error})"
        raise ConfigError(msg, hint="it begins with -----BEGIN CERTIFICATE-----") from error
    if settings.cert_file is not None:
        try:
            # An empty password instead of a question at a terminal that a service does not have.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            found = f"{settings.cert_file} ({reason})"
            msg = f"mqtt.tls_cert_file: expected a certificate with its unencrypted key, found: {found}"
            raise ConfigError(msg, hint="check that mqtt.tls_key_file belongs to it") from error
    return context
