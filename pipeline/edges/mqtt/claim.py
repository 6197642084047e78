"""Claims to a client id: two services with one id disconnect each other forever, and mosquitto 2.0 gives no reason.

Each service publishes a retained claim under its client id and reads the present claim at every connection. A newly
started service raises its claim above the one it finds, whatever its clock says. A service that connects *again* and
finds a higher claim may have been replaced. It ends once the broker has closed its connection three times within a
minute while that claim stands: a claim alone is a message that anybody may publish, so it ends nobody.

rumqttd (iotcore) sends no retained messages to a known session, so claims do not work there. But its clients are on its
own machine, where a lock works: the second service is refused before it connects.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.errors import ConfigError

HIGHEST = 2**63 - 1  # claims at or above it are ignored; ours can still go above every other one
LONGEST_HOLDER = 100  # characters of a holder in the log
_UNPRINTABLE = re.compile(r"[^\w .:@/-]")  # a holder is what a stranger wrote: it must not forge a line of the log
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class Claim:
    """The claim of one process to one client id."""

    topic: str
    number: int = field(default_factory=time.time_ns)
    holder: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}")
    token: str = field(default_factory=lambda: secrets.token_hex(8))  # distinguishes two claims with the same number

    def payload(self) -> bytes:
        """The retained payload."""
        return json.dumps({"number": self.number, "token": self.token, "holder": self.holder}).encode()

    def meet(self, payload: bytes, *, first: bool) -> str | None:
        """Reads the present claim; returns its holder if it is higher than ours.

        On the `first` connection of a process our claim is raised above it instead and must be published again.
        """
        try:
            found = json.loads(payload)
            number, token, holder = int(found["number"]), str(found["token"]), str(found["holder"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None  # not a claim: ignore it
        if not 0 <= number < HIGHEST or token == self.token or (number, token) < (self.number, self.token):
            return None
        if first:
            self.number = number + 1
            return None
        return _UNPRINTABLE.sub("?", holder)[:LONGEST_HOLDER]


def claim_topic(base: str, client_id: str) -> str:
    """The topic of claims to a client id. The id is quoted and fills one level."""
    return f"{base}/clients/{quote(client_id, safe='')}"


@contextlib.contextmanager
def alone_here(settings: MqttSettings) -> Iterator[None]:
    """Locks the client id among all services that use a broker on this machine.

    The lock is a socket with an abstract name. All processes with the same loopback see it, also under PrivateTmp of
    systemd or as another user; a container with its own loopback does not. It ends with its process.

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
        lock.listen(
            socket.SOMAXCONN
        )  # each process that asks for the holder takes a place in the backlog; none is accepted
        yield


def _holder(name: str) -> str:
    """The process that listens under an abstract name, if the kernel tells it."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            (pid,) = struct.unpack_from("i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:  # it has just ended, or others are asking
            return "unknown"
    return str(pid) if pid else "one of another container"
