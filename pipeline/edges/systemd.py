"""Notifications to systemd for a service of Type=notify (see sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger("thrumcast.systemd")


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends datagrams to $NOTIFY_SOCKET. Does nothing if it is not set."""

    address: str = ""
    watchdog_s: float | None = None  # systemd kills the service after this time without WATCHDOG=1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Reads the variables that systemd has set for this process."""
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
        ours = pid is None or pid == str(os.getpid())
        return cls(environment.get("NOTIFY_SOCKET", ""), int(usec) / 1e6 if usec.isdecimal() and ours else None)

    def send(self, *lines: str) -> None:
        """Sends lines such as `READY=1`, `WATCHDOG=1`, `STATUS=20 machines`, `STOPPING=1`."""
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a manager that does not read must not block the service
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.debug("manager_unreachable address=%s err=%s", self.address, error)
