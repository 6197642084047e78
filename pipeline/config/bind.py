"""Addresses to listen on: `ADDRESS:PORT`."""

from __future__ import annotations

import ipaddress


def split_bind(bind: str) -> tuple[str, int]:
    """Host and port; an IPv6 address stands in brackets."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(bind: str) -> bool:
    """Whether only this machine can reach the address."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
