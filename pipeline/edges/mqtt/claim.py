"""Who holds a client id: two services under one id throw each other out for ever, and mosquitto 2.0 tells neither why.

Each service publishes a claim, retained, under the client id, and reads what stands there at every connection. A newly
started service always comes out above the claim it finds, whatever its clock says; one that connects *again* and finds
a claim above its own has been replaced meanwhile, and ends. So the newest wins, after one exchange.

rumqttd (iotcore) sends nothing retained to a session that it knows already, so nobody meets a claim there. But its
clients are on its own machine, and there a lock does: the second service is refused before it connects.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class Claim:
    """One process's claim to one client id."""

    topic: str
    number: int = field(default_factory=time.time_ns)
    holder: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}")
    token: str = field(default_factory=lambda: secrets.token_hex(8))  # tells two claims of one number apart

    def payload(self) -> bytes:
        """What is published, retained."""
        return json.dumps({"number": self.number, "token": self.token, "holder": self.holder}).encode()

    def meet(self, payload: bytes, *, first: bool) -> str | None:
        """Reads the claim that stands there; returns the holder if it is above ours, which ends us.

        On the `first` connection of a process ours is put above it instead, and must be published again.
        """
        try:
            found = json.loads(payload)
            number, token, holder = int(found["number"]), str(found["token"]), str(found["holder"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None  # nobody's claim: whatever it is, it cannot throw us out
        if token == self.token or (number, token) < (self.number, self.token):
            return None
        if first:
            self.number = number + 1
            return None
        return holder


def claim_topic(base: str, client_id: str) -> str:
    """Where claims to a client id stand; the id fills one level, whatever is in it."""
    return f"{base}/clients/{quote(client_id, safe='')}"


@contextlib.contextmanager
def alone_here(settings: MqttSettings) -> Iterator[None]:
    """Holds the client id among the services that use a broker on this machine, whoever runs them.

    The lock is a socket with an abstract name: those who share a loopback see it, also from under systemd's
    PrivateTmp or as another user, a container with a loopback of its own does not, and it ends with its process.

    Raises:
        ConfigError: another process holds it.
    """
    if settings.host not in LOOPBACK:
        yield
        return
    what = hashlib.sha256(f"{settings.port} {settings.client_id}".encode()).hexdigest()[:16]
    name = f"\0thrumcast-{what}"
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found = f"it held by process: {_holder(name)}"
            msg = f"mqtt.client_id: expected one service under {settings.client_id!r}, found {found}"
            hint = "stop that process, or give this service another id and another data.dir"
            raise ConfigError(msg, hint=hint) from error
        lock.listen(socket.SOMAXCONN)  # everyone who asks for the holder takes a place: nobody is let in
        yield


def _holder(name: str) -> str:
    """The process that listens under an abstract name, where the kernel tells."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            (pid,) = struct.unpack_from("i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:  # it has just gone, or others are asking
            return "unknown"
    return str(pid) if pid else "one of another container"
