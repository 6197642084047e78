"""`thrumcast status`: the health and the message counts of the running service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.commands.common import Console, with_console

if TYPE_CHECKING:
    from pipeline.service.client import ServiceReport


@click.command(name="status")
@click.option("--timeout", "timeout_s", type=float, default=5.0, help="How long to wait, in s.")
@with_console
def command(console: Console, timeout_s: float) -> None:
    """Ask the service at web.bind for its health. Exit code 4: it is not ready or does not answer."""
    from pipeline.errors import NotReachable
    from pipeline.service.client import ask

    found = ask(console.config().web.bind, timeout_s)
    console.result(found.document(), _text(found))
    if not found.ready:
        msg = f"expected a service that is ready, found failing checks: {', '.join(found.failing)}"
        raise NotReachable(msg, hint="docs/operations.md explains each check", reported=True)


def _text(found: ServiceReport) -> str:
    from pipeline.core.remedies import remedy

    lines = [f"{'ready' if found.ready else 'NOT READY'}  {found.address}  version {found.health.get('version')}"]
    lines += [f"  {status:<5} {name:<18} {output}".rstrip() for name, (status, output) in found.checks.items()]
    received, *others = found.messages.items()
    lines.append(f"  messages: {received[1]} received = " + " + ".join(f"{n} {term}" for term, n in others))
    if lost := int(found.metrics.get("messages_missing_total", 0)):
        samples = int(found.metrics.get("gap_samples_total", 0))
        lines.append(f"  missing: about {lost} messages, {samples} samples per channel; `thrumcast doctor` looks why")
    if found.refused:
        reasons = ", ".join(f"{reason} {n}" for reason, n in found.refused.items())
        lines.append(f"  quarantined: {reasons}; `thrumcast quarantine ls` says why")
    for stream, kinds in found.contradictions.items():
        for kind, n in kinds.items():
            status = "info" if kind == "rate_drift" else "warn"
            lines.append(f"  {status}  {stream}: {kind} ({n} blocks): {remedy(kind)}")
    return "\n".join(lines)
