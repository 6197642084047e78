"""`thrumcast doctor`: checks this machine, the broker and the configuration, and calculates what they can promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, broker_flags, broker_option, data_option, with_console

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.edges.mqtt.probe import Delivery
    from pipeline.service.checkup import Finding, Reception
    from pipeline.service.client import ServiceReport

COMMIT_FSYNCS = 2  # per commit: the write-ahead log of SQLite, and sometimes its checkpoint
ENOUGH_TURNS = 30  # turns before a measured time per message is used; the first ones compile and fill caches
BEYOND_WINDOW = 1500  # test messages; more than the default queue of mosquitto, 1,000


@click.command(name="doctor")
@data_option
@broker_option
@click.option("--seconds", type=float, default=5.0, help="How long to listen for readings.")
@click.option(
    "--messages", type=click.IntRange(min=0),
    help="Test messages to measure the broker's window and queue; 0: none [default: receive_maximum + 1500].",
)  # fmt: skip
@click.option("--rate", type=float, help="Messages/s to calculate with [default: as received].")
@with_console
def command(
    console: Console, data_dir: Path | None, broker: str | None, seconds: float, messages: int | None,
    rate: float | None,
) -> None:  # fmt: skip
    """Check disk, model, broker and readings, and calculate what can be promised.

    Publishes small messages below <results_topic>/doctor/ and removes all traces. Exit codes: 0 no check fails,
    1 a check fails, 3 configuration, 4 no broker.
    """
    from dataclasses import asdict

    from pipeline.errors import NotReachable, ThrumcastError
    from pipeline.service import checkup

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    findings, fsync_s = checkup.look_at_disk(config.data.path)
    service, found = checkup.look_at_service(config)
    findings += [
        *checkup.look_at_data(config, found),
        *checkup.look_at_streams(config),
        *checkup.look_at_access(config),
        service,
    ]
    findings += [*checkup.look_at_quarantine(config), *checkup.look_at_senders(found)]
    unreachable: NotReachable | None = None
    promised: dict[str, Any] = {}
    try:
        settings = checkup.probe_settings(config)
        console.say(f"checking the broker at {settings.address} ...")
        more, broker_says = checkup.look_at_broker(config, settings)
        findings += more
        count = config.mqtt.receive_maximum + BEYOND_WINDOW if messages is None else messages
        more, delivered = checkup.look_at_delivery(config, settings, count)
        findings += more
        console.say(f"listening for {seconds:g} s ...")
        heard = checkup.listen(config, settings, broker_says, seconds)
        findings += checkup.judge(config, heard)
        more, promised = promises(config, delivered, heard, found, fsync_s, rate)
        findings += more
    except NotReachable as error:
        unreachable = error
    bad = [finding.check for finding in findings if finding.status == "fail"]
    document = {"ok": not bad and not unreachable, "findings": [asdict(f) for f in findings], "promises": promised}
    console.result(document, _text(findings))
    if unreachable is not None:
        unreachable.reported = True
        raise unreachable
    if bad:
        msg = f"expected every check to pass, found failing checks: {', '.join(bad)}"
        raise ThrumcastError(msg, hint="see the advice above", reported=True)


def promises(
    config: Config,
    delivered: Delivery,
    heard: Reception,
    service: ServiceReport | None,
    fsync_s: float,
    rate: float | None,
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings and values of the guarantee calculator for the measured site."""
    import math
    from dataclasses import asdict
    from statistics import median

    from pipeline.core.order import REMEMBERED_SESSIONS
    from pipeline.service.checkup import Finding, duration
    from pipeline.service.guarantee import Site, guarantee

    site = Site(
        receive_maximum=config.mqtt.receive_maximum,
        in_flight=delivered.in_flight if delivered.sent else config.mqtt.receive_maximum,
        batch_limit=REMEMBERED_SESSIONS,
        commit_interval_s=config.commit.interval_s,
        disk_s=max(COMMIT_FSYNCS * fsync_s, 1e-4),
        per_message_s=(per_message_s := _per_message_s(service)) or 0.0,
        max_wait_s=config.order.max_wait_s,
        block_s=median(heard.block_s) if heard.block_s else 0.0,
        rate_per_s=heard.rate_per_s if rate is None else rate,
        queue_messages=delivered.queued if delivered.dropped else math.inf,
        session_expiry_s=config.mqtt.session_expiry_s,
    )
    result = guarantee(site)
    basis = "as measured by the service" if per_message_s is not None else "disk only: no running service to measure"
    at = f"at {site.rate_per_s:.3g} messages/s"
    outage_s = result.outage_s
    limit = "the session expiry" if outage_s >= site.session_expiry_s else "the broker's queue"
    overloaded = result.load_ratio > 0.7
    findings = [
        Finding(
            "promise:sustainable", "warn" if overloaded else "pass",
            f"{result.sustainable_per_s:.4g} messages/s; load {result.load_ratio:.0%} "
            f"({site.commit_s(site.batch) * 1e3:.0f} ms for {site.batch} messages, {basis})",
            "raise mqtt.receive_maximum, enlarge the broker's window, or split the plant between two services",
        ),
        Finding(
            "promise:outage", "warn" if outage_s < 600 else "pass",
            f"{duration(outage_s)} {at}, limited by {limit}",
            "an update takes minutes: raise max_queued_messages and max_queued_bytes of the broker",
        ),
        Finding(
            "promise:repeated", "pass", f"up to {result.repeated} messages are repeated after a crash, all recognised"
        ),
        Finding(
            "promise:latency", "pass",
            f"at most {duration(result.latency_s)} from a sample to its commit, "
            f"{duration(result.latency_worst_s)} if a block is missing",
        ),
    ]  # fmt: skip
    values = {k: (v if math.isfinite(v) else None) for k, v in asdict(result).items()}
    inputs = {k: (v if math.isfinite(v) else None) for k, v in asdict(site).items()}
    return findings, values | {"basis": basis, "inputs": inputs}


def _per_message_s(service: ServiceReport | None) -> float | None:
    """Seconds that the service spends per message at its present load; in a full batch it is less."""
    if service is None or service.metrics.get("turn_seconds_count", 0) < ENOUGH_TURNS:
        return None
    return service.metrics["turn_seconds_sum"] / max(1, service.messages["committed"])


def _text(findings: list[Finding]) -> str:
    """One line per finding; advice below it unless it passed."""
    lines = []
    for finding in findings:
        lines.append(f"  {finding.status:<4} {finding.check:<22} {finding.found}".rstrip())
        if finding.advice and finding.status != "pass":
            lines.append(f"       {'':<22} -> {finding.advice}")
    return "\n".join(lines)
