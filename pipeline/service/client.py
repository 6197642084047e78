"""Asking a running service over HTTP for its health and its metrics, as `thrumcast status` and `doctor` do."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pipeline.config.bind import split_bind
from pipeline.errors import NotReachable

TERMS = ("received", "committed", "duplicate", "late", "quarantined", "dropped", "in_flight")


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """The answer of a service."""

    address: str
    ready: bool
    health: dict[str, Any]  # the document of /readyz
    metrics: dict[str, float]  # those without labels, by name without the prefix
    contradictions: dict[str, dict[str, int]] = field(default_factory=dict)  # stream -> kind -> blocks
    refused: dict[str, int] = field(default_factory=dict)  # reason -> messages

    @property
    def checks(self) -> dict[str, tuple[str, str]]:
        """Name of a check -> its status and what it found."""
        return {
            name: (str(entries[0]["status"]), str(entries[0].get("output", "")))
            for name, entries in self.health.get("checks", {}).items()
        }

    @property
    def failing(self) -> list[str]:
        """Names of the checks that fail."""
        return [name for name, (status, _) in self.checks.items() if status == "fail"]

    @property
    def messages(self) -> dict[str, int]:
        """Number of messages by their fate. The first entry, `received`, is the sum of the others."""
        return {t: int(self.metrics.get(f"messages_{t}{'' if t == 'in_flight' else '_total'}", 0)) for t in TERMS}

    def document(self) -> dict[str, Any]:
        """The report for --json."""
        return {
            "ready": self.ready, "address": self.address, "health": self.health, "messages": self.messages,
            "metrics": self.metrics, "contradictions": self.contradictions, "refused": self.refused,
        }  # fmt: skip


def ask(bind: str, timeout_s: float) -> ServiceReport:
    """Asks the service that listens at `web.bind`.

    Raises:
        NotReachable: nothing answers there, or another program does.
    """
    host, port = split_bind(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    hint = "is it running, with web.enabled and this web.bind? `thrumcast config show` prints the address"
    try:
        status, body = _get(host, port, "/readyz", timeout_s)
        health = json.loads(body)
        _, text = _get(host, port, "/metrics", timeout_s)
        metrics = parse_metrics(text.decode("utf-8", "replace"))
        contradictions, refused = parse_troubles(text.decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        msg = f"expected a thrumcast service at {bind}, found: {error or type(error).__name__}"
        raise NotReachable(msg, hint=hint) from error
    if not isinstance(health, dict) or "checks" not in health:
        msg = f"expected a thrumcast service at {bind}, found: another HTTP server (status {status})"
        raise NotReachable(msg, hint=hint)
    return ServiceReport(bind, status == 200, health, metrics, contradictions, refused)


def parse_metrics(text: str) -> dict[str, float]:
    """Name, without the prefix -> value, for all of our series without labels.

    Raises:
        ValueError: the text is not in the Prometheus text format.
    """
    return {
        sample.name.removeprefix("thrumcast_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("thrumcast_") and not sample.labels
    }


def parse_troubles(text: str) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Contradictions by stream and kind, and refused messages by reason."""
    contradictions: dict[str, dict[str, int]] = {}
    refused: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "thrumcast_contradictions_total":
                kinds = contradictions.setdefault(f"{labels['machine']}/{labels['point']}", {})
                kinds[labels["kind"]] = int(sample.value)
            elif sample.name == "thrumcast_quarantine_reasons_total":
                refused[labels["reason"]] = int(sample.value)
    return contradictions, refused


def _get(host: str, port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
