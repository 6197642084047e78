"""`thrumcast doctor`: whether this machine, this broker and this configuration can keep the promises, and which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.addresses import broker_flags, broker_option
from pipeline.commands.common import Console, with_console

if TYPE_CHECKING:
    from pipeline.commands.doctor_broker import Heard
    from pipeline.commands.doctor_report import Finding
    from pipeline.commands.status import Found
    from pipeline.config.tables import Config
    from pipeline.edges.mqtt.probe import Delivery

COMMIT_FSYNCS = 2  # of SQLite's write-ahead log, and now and then its checkpoint
ENOUGH_TURNS = 30  # the first ones compile and fill caches
BEYOND_WINDOW = 1500  # test messages; more than mosquitto's default queue of 1,000 holds


@click.command(name="doctor")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=None, help="Data directory.")
@broker_option
@click.option("--seconds", type=float, default=5.0, show_default=True, help="How long to listen for readings.")
@click.option(
    "--messages", type=click.IntRange(min=0), default=None,
    help="Small test messages that measure the broker's window and queue; 0: none [default: receive_maximum + 1500].",
)  # fmt: skip
@click.option("--rate", type=float, default=None, help="Messages/s to calculate with [default: as heard].")
@with_console
def command(
    console: Console, data_dir: Path | None, broker: str | None, seconds: float, messages: int | None,
    rate: float | None,
) -> None:  # fmt: skip
    """Look at disk, model, broker and readings, and calculate what can be promised.

    Publishes small messages below <results_topic>/doctor/ and leaves nothing behind. Exit codes: 0 fine or with
    warnings, 1 something fails, 3 configuration, 4 no broker.
    """
    from pipeline.commands import doctor_broker as wire
    from pipeline.commands import doctor_host as host
    from pipeline.commands.doctor_report import document, table
    from pipeline.errors import NotReachable, ThrumcastError

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    findings, fsync_s = host.look_at_disk(config.data.path)
    service, found = host.look_at_service(config)
    findings += [*host.look_at_data(config, found), service]
    unreachable: NotReachable | None = None
    promised: dict[str, Any] = {}
    try:
        settings = wire.probe_settings(config)
        console.say(f"asking the broker at {settings.address} ...")
        more, broker_says = wire.look_at_broker(config, settings)
        findings += more
        count = config.mqtt.receive_maximum + BEYOND_WINDOW if messages is None else messages
        more, delivered = wire.look_at_delivery(config, settings, count)
        findings += more
        console.say(f"listening for {seconds:g} s ...")
        heard = wire.listen(config, settings, broker_says, seconds)
        findings += wire.judge(config, heard)
        more, promised = promises(config, delivered, heard, found, fsync_s, rate)
        findings += more
    except NotReachable as error:
        unreachable = error
    bad = [finding.check for finding in findings if finding.status == "fail"]
    console.result({"ok": not bad and not unreachable, "findings": document(findings), "promises": promised},
                   table(findings))  # fmt: skip
    if unreachable is not None:
        unreachable.reported = True
        raise unreachable
    if bad:
        msg = f"expected every check to pass, found failing: {', '.join(bad)}"
        raise ThrumcastError(msg, hint="the advice stands above", reported=True)


def promises(
    config: Config, delivered: Delivery, heard: Heard, service: Found | None, fsync_s: float, rate: float | None
) -> tuple[list[Finding], dict[str, Any]]:
    """The guarantee calculator, fed with what was measured."""
    import math
    from dataclasses import asdict
    from statistics import median

    from pipeline.service.guarantee import Site, guarantee
    from pipeline.commands.doctor_report import Finding, duration
    from pipeline.core.order import REMEMBERED_SESSIONS

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
    basis = "as the service has measured" if per_message_s is not None else "disk alone: no service has measured more"
    at = f"at {site.rate_per_s:.3g} messages/s"
    outage_s = result.outage_s
    limit = "the session's expiry" if outage_s >= site.session_expiry_s else "the broker's queue"
    overloaded = result.load_ratio > 0.7
    findings = [
        Finding(
            "promise:sustainable", "warn" if overloaded else "pass",
            f"{result.sustainable_per_s:.4g} messages/s; load {result.load_ratio:.0%} "
            f"({site.commit_s(site.batch) * 1e3:.0f} ms for {site.batch} messages, {basis})",
            "raise mqtt.receive_maximum, make the window of the broker larger, or split the plant over two services",
        ),
        Finding(
            "promise:outage", "warn" if outage_s < 600 else "pass",
            f"{duration(outage_s)} {at}, then {limit} ends it",
            "an update takes minutes: raise the broker's max_queued_messages and max_queued_bytes",
        ),
        Finding(
            "promise:repeated", "pass", f"up to {result.repeated} messages come again after a crash, all recognised"
        ),
        Finding(
            "promise:latency", "pass",
            f"{duration(result.latency_s)} at most from a sample to its prediction, "
            f"{duration(result.latency_worst_s)} if a block is missing",
        ),
    ]  # fmt: skip
    values = {k: (v if math.isfinite(v) else None) for k, v in asdict(result).items()}
    inputs = {k: (v if math.isfinite(v) else None) for k, v in asdict(site).items()}
    return findings, values | {"basis": basis, "inputs": inputs}


def _per_message_s(service: Found | None) -> float | None:
    """What a message costs a running service, at its present load; a full batch costs less for each."""
    if service is None or service.metrics.get("turn_seconds_count", 0) < ENOUGH_TURNS:
        return None
    return service.metrics["turn_seconds_sum"] / max(1, service.messages["committed"])
