"""A private broker on the loopback of this machine, for the demo and the tests: mosquitto if installed, else iotcore.

mosquitto keeps its sessions over a restart; iotcore (rumqttd in a wheel) keeps nothing.
"""

from __future__ import annotations

import ctypes
import getpass
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self

from pipeline.errors import NotReachable

__all__ = ["Kind", "PrivateBroker", "handshake", "is_available"]

_HOST: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 20.0
_STOP_TIMEOUT_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1

Kind = Literal["mosquitto", "iotcore"]

# In-flight window and queue are far above the needs of any test; mosquitto silently drops messages beyond them.
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

# By default rumqttd listens on all interfaces, speaks MQTT 3.1.1 only and disconnects clients that send over 20 KiB.
# 16 segments of 16 MiB: how far a slow consumer may lag before the oldest messages are dropped.
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
    """Writes the configuration into `directory` and returns the command that starts the broker."""
    template = _MOSQUITTO if kind == "mosquitto" else _IOTCORE
    text = template.format(port=port, host=host, directory=directory, anonymous=str(anonymous).lower()) + extra
    if kind == "iotcore":
        config = directory / "iotcore.toml"
        config.write_text(text, encoding="utf-8")
        # -P: ignore a folder named iotcore in the working directory.
        return [sys.executable, "-P", "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        text += f"\nuser {getpass.getuser()}\n"  # else it becomes user `mosquitto`, who cannot write here
    config = directory / "mosquitto.conf"
    config.write_text(text, encoding="utf-8")
    return [_mosquitto() or "mosquitto", "-c", str(config)]


def _mosquitto() -> str | None:
    """The path of mosquitto. Debian installs it in /usr/sbin, which is not on the PATH of users."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


class PrivateBroker:
    """A broker process that ends with this process: `with PrivateBroker() as broker: ... broker.port`.

    On Linux it also ends with the thread that started it, so start it from a thread that lasts. Its configuration, log
    and database are in `directory`, or in a temporary folder.

    Raises:
        NotReachable: no broker (or not the requested one) is installed, or it does not start.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        kind: Kind | None = None,
        port: int | None = None,
        anonymous: bool = True,
        extra_config: str = "",
    ) -> None:
        """`extra_config` is appended to the configuration file of the broker."""
        self.host = _HOST
        self.kind = kind or _first_available()
        if not is_available(self.kind):
            msg = f"expected the broker {self.kind} on this machine, found: nothing"
            raise NotReachable(msg, hint="apt install mosquitto" if self.kind == "mosquitto" else "pip install iotcore")
        self._wanted_port = port
        self.port = port or _free_port()
        self._anonymous = anonymous
        self._extra_config = extra_config
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="thrumcast-broker-")
        self.directory = (directory or Path(self._temporary.name if self._temporary else ".")).resolve()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id; None if it is not running."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> Self:
        """Starts the process and waits until it answers a CONNECT. Does nothing if it is running."""
        tries = 1 if self._wanted_port or self._process else 5  # another program may take a free port first
        while not self.running:
            tries -= 1
            why = "the port is in use"
            if _is_free(self.port):  # else the other program, perhaps also a broker, would answer
                self._spawn()
                if self._answers():
                    break
                self.kill()
                why = f"its log says {self._log_tail()}"
            if tries == 0:
                msg = f"expected an answer of {self.kind} on {self.host}:{self.port}, found: {why}"
                raise NotReachable(msg, hint=f"choose another port; the log is {self.directory / 'broker.log'}")
            self.port = _free_port()
        return self

    def terminate(self) -> None:
        """Stops it in order: mosquitto writes its database first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it at once."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stops and starts it again on the same port."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def __enter__(self) -> Self:
        """Starts."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stops, and removes the temporary directory."""
        self.terminate()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = write_config(
            self.kind, self.directory, self.host, self.port, anonymous=self._anonymous, extra=self._extra_config
        )
        with (self.directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # keep Ctrl-C from the broker: it stops last
                preexec_fn=_die_with_parent(),
            )

    def _answers(self) -> bool:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self.running and time.monotonic() < deadline_s:
            if handshake(self.host, self.port) is not None:
                return self.running
            time.sleep(0.01)
        return False

    def _end(self, signal_number: int) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log_tail(self) -> str:
        lines = (self.directory / "broker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "nothing"


def handshake(host: str, port: int, *, timeout_s: float = 1.0) -> int | None:
    """Sends an MQTT 5 CONNECT; returns the reason code of the CONNACK (0 = accepted), or None without a CONNACK."""
    client_id = f"probe-{secrets.token_hex(4)}".encode()
    body = b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + len(client_id).to_bytes(2, "big") + client_id
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as sock:
            sock.sendall(b"\x10" + bytes([len(body)]) + body)
            answer = b""
            while len(answer) < 4:  # type, length, flags, reason code
                part = sock.recv(4 - len(answer))
                if not part:
                    return None
                answer += part
            sock.sendall(b"\xe0\x00")
    except OSError:
        return None
    return answer[3] if answer[0] == 0x20 else None


def _first_available() -> Kind:
    for kind in ("mosquitto", "iotcore"):
        if is_available(kind):
            return kind
    msg = "expected a broker on this machine (mosquitto, or the Python package iotcore), found: neither"
    raise NotReachable(msg, hint="apt install mosquitto, or pip install iotcore")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        return int(sock.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore closed connections of an earlier broker
        try:
            sock.bind((_HOST, port))
        except OSError:
            return False
        return True


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before it becomes the broker. Symbols are looked up here, before the fork."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
