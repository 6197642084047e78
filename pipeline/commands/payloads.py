"""`thrumcast payloads`: what [[payloads]] makes of a message, and a proposal for one that it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, broker_flags, broker_option, with_console

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.edges.payloads import Payloads


@click.group(name="payloads")
def command() -> None:
    """Read messages of other senders."""


@command.command("try")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--topic", metavar="TOPIC", help="Topic of the stored message, or what to listen to without FILE.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="How long to listen.")
@broker_option
@with_console
def try_(console: Console, file: Path | None, topic: str | None, seconds: float, broker: str | None) -> None:
    """Show what the mappings make of a message, stored in FILE or live on --topic.

    Prints a [[payloads]] table to paste for a message whose topic no table has. Exit code 1: a table claims the topic
    but cannot read the message; the table that is proposed may show why.
    """
    import time

    from pipeline.errors import DecodeError, ThrumcastError, UsageError
    from pipeline.service.payloads import payloads

    if file is None and topic is None:
        msg = "expected FILE or --topic, found: neither"
        raise UsageError(msg, hint="thrumcast payloads try message.json --topic sensors/press-1/accel")
    config = console.config(**broker_flags(broker))
    mapped = payloads(config)
    now_ns = time.time_ns()
    found = topic or "sensors/machine-1/main"
    if file is not None:
        payload = file.read_bytes()
    else:
        found, payload = _heard(console, config, found, seconds)
    document: dict[str, Any] = {"topic": found, "bytes": len(payload)}
    mapping = mapped.mapping_of(found)
    lines = [f"topic    {found}", f"payload  {len(payload)} bytes"]
    error: DecodeError | None = None
    if mapping is not None:
        document["table"] = mapping.spec.topic
        lines.append(f"table    [[payloads]] {mapping.spec.topic}")
        try:
            readings = _shown(mapped, found, payload, now_ns)
        except DecodeError as refused:
            error = refused
            document |= {"ok": False, "reason": refused.reason, "error": refused.message}
            lines.append(f"refused  {refused.reason}: {refused.message}")
        else:
            document |= {"ok": True, "blocks": readings}
            lines += _text(readings)
    if mapping is None or error is not None:
        document |= _proposed(found, payload, lines)
    console.result(document, "\n".join(lines))
    if error is not None:
        msg = f"{error.reason}: {error.message}"
        raise ThrumcastError(msg, hint="correct the table in config.toml", reported=True)


def _shown(mapped: Payloads, topic: str, payload: bytes, now_ns: int) -> list[dict[str, Any]]:
    """The blocks of a message as JSON has them."""
    import numpy as np

    mapping = mapped.mapping_of(topic)
    assert mapping is not None
    shown = []
    for reading in mapped.readings(mapping, topic, payload, now_ns):
        block = reading.block
        with np.errstate(all="ignore"):
            rms = [float(np.sqrt(np.mean(np.square(row, dtype=np.float64)))) for row in block.samples]
        shown.append(
            {
                "machine": block.key.machine,
                "point": block.key.point,
                "t0": block.t0_ns,
                "rate_hz": block.rate_hz,
                "unit": block.unit,
                "channels": list(block.channels),
                "samples": block.samples.shape[1],
                "rms": [value if np.isfinite(value) else None for value in rms],
                "speed_rpm": block.speed_rpm,
                "counted_by": reading.clock,
            }
        )
    return shown


def _text(readings: list[dict[str, Any]]) -> list[str]:
    from datetime import UTC, datetime

    if not readings:
        return ["blocks   none: the message says something, such as a birth, and carries no samples for this table"]
    lines = []
    for one in readings:
        at = datetime.fromtimestamp(one["t0"] / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rms = ", ".join(
            f"{name} {'not finite' if value is None else f'{value:.4g}'}"
            for name, value in zip(one["channels"], one["rms"], strict=True)
        )
        lines += [
            f"stream   {one['machine']}/{one['point']}",
            f"samples  {one['samples']} of {len(one['channels'])} channels at {one['rate_hz']:g} Hz, "
            f"{one['samples'] / one['rate_hz']:.3g} s",
            f"first    {at}, counted by {one['counted_by']}",
            f"rms      {rms} ({one['unit']})",
        ]
        if one["speed_rpm"] is not None:
            lines.append(f"speed    {one['speed_rpm']:g} rpm")
    return lines


def _proposed(topic: str, payload: bytes, lines: list[str]) -> dict[str, Any]:
    from pipeline.edges.payloads.proposal import propose
    from pipeline.errors import DecodeError

    try:
        proposal = propose(topic, payload)
    except DecodeError as error:
        lines.append(f"unknown  {error.message}")
        return {"proposal": None, "why": error.message}
    lines += ["", "a table for config.toml, to be checked:", "", proposal.toml]
    lines += [f"# {note}" for note in proposal.notes]
    return {"proposal": proposal.toml, "notes": proposal.notes}


def _heard(console: Console, config: Config, topic: str, seconds: float) -> tuple[str, bytes]:
    """The first message on a topic."""
    import time
    from dataclasses import replace

    from pipeline.edges.mqtt import MqttConnection
    from pipeline.errors import NotReachable
    from pipeline.service.compose import mqtt_settings

    settings = mqtt_settings(config, f"{config.mqtt.client_id}-try-{time.time_ns() % 10**9}")
    alone = replace(settings, clean_start=True, session_expiry_s=0)
    with MqttConnection(alone, subscriptions=[topic]).connect() as connection:
        console.say(f"listening to {topic} for at most {seconds:g} s")
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for message in connection.take(1, 0.25):
                connection.acknowledge([message])
                return message.topic, message.payload
    msg = f"expected a message on {topic} within {seconds:g} s, found: none"
    raise NotReachable(msg, hint="check the topic with mosquitto_sub, or listen longer with --seconds")
