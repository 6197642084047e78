"""`thrumcast status`: how the running service is, by its own word."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

import click

from pipeline.commands.common import Console, with_console
from pipeline.errors import NotReachable
from pipeline.service.http import split_bind


@click.command(name="status")
@click.option("--timeout", "timeout_s", type=float, default=5.0, show_default=True, help="Seconds to wait for it.")
@with_console
def command(console: Console, timeout_s: float) -> None:
    """Ask the service at web.bind how it is; exit code 4 if it is not ready, or does not answer."""
    from pipeline.errors import NotReachable

    found = ask(console.config().web.bind, timeout_s)
    console.result(found.document(), table(found))
    if not found.ready:
        failing = ", ".join(name for name, check in found.checks.items() if check[0] == "fail")
        msg = f"expected a service that is ready, found failing: {failing}"
        raise NotReachable(msg, hint="docs/operations.md says what each check means", reported=True)


# A running service asked over HTTP for its health and its counters.


TERMS = ("received", "committed", "duplicate", "late", "quarantined", "dropped", "in_flight")


@dataclass(frozen=True, slots=True)
class Found:
    """What a service said."""

    address: str
    ready: bool
    health: dict[str, Any]
    metrics: dict[str, float]  # those without a label, without the prefix

    @property
    def checks(self) -> dict[str, tuple[str, str]]:
        """Name -> status and what was found."""
        return {
            name: (str(entries[0]["status"]), str(entries[0].get("output", "")))
            for name, entries in self.health.get("checks", {}).items()
        }

    @property
    def messages(self) -> dict[str, int]:
        """Where the messages are; the first is the sum of the others."""
        return {t: int(self.metrics.get(f"messages_{t}{'' if t == 'in_flight' else '_total'}", 0)) for t in TERMS}

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "ready": self.ready, "address": self.address, "health": self.health, "messages": self.messages,
            "metrics": self.metrics,
        }  # fmt: skip


def ask(bind: str, timeout_s: float) -> Found:
    """The service that listens at `web.bind`.

    Raises:
        NotReachable: nobody answers there, or somebody else.
    """
    host, port = split_bind(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    hint = "is it running, with web.enabled and this web.bind? `thrumcast config show` prints the address"
    try:
        status, body = _get(host, port, "/readyz", timeout_s)
        health = json.loads(body)
        _, text = _get(host, port, "/metrics", timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        msg = f"expected a thrumcast service at {bind}, found: {error or type(error).__name__}"
        raise NotReachable(msg, hint=hint) from error
    if not isinstance(health, dict) or "checks" not in health:
        msg = f"expected a thrumcast service at {bind}, found: another HTTP server (status {status})"
        raise NotReachable(msg, hint=hint)
    return Found(bind, status == 200, health, parse_metrics(text.decode("utf-8", "replace")))


def parse_metrics(text: str) -> dict[str, float]:
    """Name -> value of every series of ours without a label."""
    values = {}
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if name.startswith("thrumcast_") and "{" not in name:
            values[name.removeprefix("thrumcast_")] = float(value)
    return values


def table(found: Found) -> str:
    """For people."""
    lines = [f"{'ready' if found.ready else 'NOT READY'}  {found.address}  version {found.health.get('version')}"]
    lines += [f"  {status:<5} {name:<18} {output}".rstrip() for name, (status, output) in found.checks.items()]
    received, *others = found.messages.items()
    lines.append(f"  messages: {received[1]} received = " + " + ".join(f"{n} {term}" for term, n in others))
    return "\n".join(lines)


def _get(host: str, port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
