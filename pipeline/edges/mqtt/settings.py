"""The settings of a client, paho's client as we use it (MQTT 5, manual acknowledgement, external loop), and its errors.

Two facts of paho 2 shape this module; tests cover both:

* paho writes at once unless `on_socket_register_write` is set. With it, writes wait for `loop_write`, so a batch of
  acknowledgements is one write.
* paho closes a connection whose PINGRESP does not arrive within the keep-alive. While reading is paused, the PINGRESP
  is unread behind the messages, so `forgive_ping` resets that clock.
"""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from pipeline.errors import ConfigError, NotReachable

PACKET_IDS = 65_535


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
    cert_file: Path | None = None  # our own certificate, for brokers that require one
    key_file: Path | None = None  # its key; None = in cert_file
    keepalive_s: int = 30
    clean_start: bool = False
    session_expiry_s: int = 7 * 86400
    receive_maximum: int = 2000
    maximum_packet_bytes: int = 16 * 2**20  # a broker silently drops larger messages
    connect_timeout_s: float = 5.0
    backoff_s: tuple[float, float] = (1.0, 10.0)  # shortest and longest wait before connecting again

    @property
    def address(self) -> str:
        """Host and port for messages to people."""
        return f"{self.host}:{self.port}"

    def password(self) -> str | None:
        """The content of the password file without the line end.

        Raises:
            ConfigError: the file is unreadable.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"mqtt.password_file: expected a readable text file, found: {self.password_file}: {error}"
            raise ConfigError(msg, hint="it contains only the password and must be readable for this user") from error


def not_reachable(settings: MqttSettings, why: Exception | str) -> NotReachable:
    """The error for a broker that does not answer at `settings.address`, with a hint that fits the cause."""
    msg = f"expected an MQTT broker at {settings.address}, found: {why}"
    text = str(why)
    if isinstance(why, ConnectionRefusedError):
        hint = "is it running? mqtt.host and mqtt.port give its address"
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


class Client(paho.Client):
    """paho's client with two additions."""

    def publish(
        self,
        topic: str,
        payload: paho.PayloadType = None,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> paho.MQTTMessageInfo:
        """Publishes with the next free packet id.

        paho counts ids cyclically, also at QoS 0, and drops a message whose id still waits for its PUBACK.
        """
        info = super().publish(topic, payload, qos, retain, properties)
        for _ in range(PACKET_IDS):
            if info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            info = super().publish(topic, payload, qos, retain, properties)
        return info

    def forgive_ping(self) -> None:
        """Stops waiting for the last PINGRESP: reading is paused, or messages prove that the connection is alive."""
        self._ping_t = 0.0


def make_client(settings: MqttSettings, will: tuple[str, bytes] | None) -> Client:
    """A configured client without callbacks, not yet connected.

    Raises:
        ConfigError: the password file or a certificate is unusable.
    """
    client = Client(CallbackAPIVersion.VERSION2, client_id=settings.client_id, protocol=paho.MQTTv5, manual_ack=True)
    client.connect_timeout = settings.connect_timeout_s
    client.max_inflight_messages = 0  # no limit: we keep our own windows, and the one of paho costs a scan per PUBACK
    client.max_queued_messages = 0
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password())
    if settings.tls:
        _use_tls(client, settings)
    if will is not None:
        client.will_set(will[0], will[1], qos=1, retain=True)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.maximum_packet_bytes
    client.connect_async(
        settings.host, settings.port, settings.keepalive_s, clean_start=settings.clean_start, properties=properties
    )
    client.on_socket_register_write = lambda *_: None  # its presence defers writes
    return client


def _use_tls(client: Client, settings: MqttSettings) -> None:
    """Sets up TLS with the check of the broker's certificate and, if configured, our own. Errors name the file."""
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
            # An empty password prevents a prompt, which a service cannot answer.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            found = f"{settings.cert_file} ({reason})"
            msg = f"mqtt.tls_cert_file: expected a certificate with its unencrypted key, found: {found}"
            raise ConfigError(msg, hint="check that mqtt.tls_key_file belongs to it") from error
    client.tls_set_context(context)


class Attempt(threading.Thread):
    """One blocking `reconnect` on its own thread: name lookup, TCP and TLS can take seconds.

    No other thread uses the client until `done`.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(name="mqtt-connect", daemon=True)
        self.client = client
        self.error: Exception | None = None
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        """Connects, and keeps an error for the thread of the owner."""
        try:
            self.client.reconnect()
        except Exception as error:
            _close_sockets(error)
            self.error = error
        finally:
            self.done.set()


def _close_sockets(error: Exception) -> None:
    """Closes the socket of a failed TLS handshake, which paho keeps only in a local variable."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, socket.socket):
                value.close()


class CallbackErrors:
    """Keeps errors of callbacks until paho has finished its packet; raising through paho would interrupt it."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    def guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback without the two leading arguments of paho; its errors are kept."""

        def guarded(_client: object, _userdata: object, *arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._first = self._first or error

        return guarded

    def raise_first(self) -> None:
        """Raises the oldest kept error, once."""
        if self._first is not None:
            error, self._first = self._first, None
            raise error
