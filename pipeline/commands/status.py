"""`thrumcast status`: how the running service is, by its own word."""

from __future__ import annotations

import click

from pipeline.commands.common import Console, with_console


@click.command(name="status")
@click.option("--timeout", "timeout_s", type=float, default=5.0, show_default=True, help="Seconds to wait for it.")
@with_console
def command(console: Console, timeout_s: float) -> None:
    """Ask the service at web.bind how it is; exit code 4 if it is not ready, or does not answer."""
    from pipeline.commands.status_ask import ask, table
    from pipeline.errors import NotReachable

    found = ask(console.config().web.bind, timeout_s)
    console.result(found.document(), table(found))
    if not found.ready:
        failing = ", ".join(name for name, check in found.checks.items() if check[0] == "fail")
        msg = f"expected a service that is ready, found failing: {failing}"
        raise NotReachable(msg, hint="docs/operations.md says what each check means", reported=True)
