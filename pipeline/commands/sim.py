"""`thrumcast sim`: a simulated plant, to a broker or into recordings."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.addresses import broker_flags, broker_option, mqtt_settings
from pipeline.commands.common import Console, with_console
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import Config
    from sim.channel import Faults
    from sim.fleet import Plant

DEFAULT_OUT_SECONDS = 60.0
DEFAULT_LIFE_S = 600.0
REPORT_EVERY_S = 5.0


@click.command(name="sim")
@click.option("--machines", type=click.IntRange(1), default=6, show_default=True, help="How many machines.")
@click.option("--seconds", type=float, default=None, help="Plant time [default: 60 into files, else no end].")
@click.option("--speed", type=float, default=None, help="Times real time; 0 = as fast as accepted [default: 1].")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same plant.")
@click.option("--rate-hz", type=float, default=12_000.0, show_default=True, help="Sampling rate per channel.")
@click.option("--block-s", type=float, default=0.25, show_default=True, help="Length of one message.")
@click.option("--failing", type=float, default=0.5, show_default=True, help="Share of the machines that fail.")
@click.option("--life-s", type=float, default=None, help="When they have failed [default: --seconds, else 600].")
@click.option("--training", is_flag=True, help="Machines to learn from: every failure mode, every severity.")
@click.option("--transport", metavar="FAULT=CHANCE,...", default="", help="A bad network: drop=0.01,reorder=0.1.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write recordings into this folder instead.")
@broker_option
@with_console
def command(
    console: Console,
    machines: int,
    seconds: float | None,
    speed: float | None,
    seed: int,
    rate_hz: float,
    block_s: float,
    failing: float,
    life_s: float | None,
    training: bool,
    transport: str,
    out: Path | None,
    broker: str | None,
) -> None:
    """Let a simulated plant run: physics, slow failures and known truth.

    Readings go to a broker in real or warped time, or with --out into recordings: one file per machine for as long
    as its true failure mode stays the same.
    """
    if out is not None and (broker is not None or speed is not None or transport):
        msg = "--out writes files: it goes with none of --broker, --speed and --transport"
        raise click.UsageError(msg)
    if seconds is not None and not seconds > 0:
        msg = f"a run must last longer than 0 s, found: {seconds:g}"
        raise ConfigError(msg)
    if out is not None and seconds is None:
        seconds = DEFAULT_OUT_SECONDS
    start_ns = None if out is not None else time.time_ns()
    life_s = life_s or seconds or DEFAULT_LIFE_S
    made = _plant(training, machines, seed, failing, life_s, rate_hz, block_s, start_ns)
    if out is not None and seconds is not None:
        _write(console, made, seconds, out)
    else:
        config = console.config(**broker_flags(broker))
        _publish(console, config, made, seconds, 1.0 if speed is None else speed, _faults(transport), seed)


def _plant(
    training: bool,
    machines: int,
    seed: int,
    failing: float,
    life_s: float,
    rate_hz: float,
    block_s: float,
    start_ns: int | None,
) -> Plant:
    from dataclasses import replace

    from sim.fleet import plant, training_plant

    if training:
        made = training_plant(seed, machines, life_s, rate_hz=rate_hz, block_s=block_s)
    else:
        made = plant(machines, seed, failing=failing, life_s=life_s, rate_hz=rate_hz, block_s=block_s)
    return made if start_ns is None else replace(made, start_ns=start_ns)


def _write(console: Console, made: Plant, seconds: float, out: Path) -> None:
    from sim.publish import to_recordings

    written = []
    began_s = time.monotonic()
    interrupted = False
    try:
        for recording in to_recordings(made, seconds, out):
            written.append(recording)
            console.say(f"{recording.path.name}: {recording.seconds:.2f} s, {recording.mode}")
    except KeyboardInterrupt:
        interrupted = True
    wall_s = time.monotonic() - began_s
    simulated_s = sum(w.seconds for w in written)
    document: dict[str, Any] = {
        "target": str(out),
        "machines": _machines(made),
        "recordings": [
            {"file": str(w.path), "machine": w.machine, "mode": w.mode, "seconds": w.seconds} for w in written
        ],
        "machine_seconds": simulated_s,
        "seconds": round(wall_s, 3),
        "interrupted": interrupted,
    }
    text = f"{len(written)} recordings, {simulated_s:.0f} machine-seconds, in {out} ({wall_s:.1f} s)"
    console.result(document, text)
    if interrupted:
        raise KeyboardInterrupt


def _publish(
    console: Console,
    config: Config,
    made: Plant,
    seconds: float | None,
    speed: float,
    faults: Faults | None,
    seed: int,
) -> None:
    import numpy as np

    from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
    from sim.channel import Counts, disturb
    from sim.publish import Sent, messages, to_broker

    settings = mqtt_settings(config, f"{config.mqtt.client_id}-sim-{os.getpid()}")
    counts, sent = Counts(), Sent()
    outgoing = messages(made.blocks(seconds), TopicTemplate(config.mqtt.readings_topic))
    if faults is not None:
        outgoing = disturb(outgoing, faults, np.random.default_rng((seed, 3)), counts)
    with MqttPublisher(settings) as publisher:
        publisher.connect()
        for machine in made.machines:
            console.detail(f"{machine.id}: {machine.make.speed_hz * 60:.0f} rpm, {machine.life}")
        console.say(f"{len(made.machines)} machines to {settings.address}; Ctrl-C ends")
        began_s = reported_s = time.monotonic()
        interrupted = False
        try:
            for sent in to_broker(outgoing, publisher, made.start_ns, speed=speed):
                if time.monotonic() - reported_s > REPORT_EVERY_S:
                    reported_s = time.monotonic()
                    late = f", {sent.behind_s:.1f} s behind" if sent.behind_s > 1 else ""
                    console.say(f"{sent.messages} messages, {sent.payload_bytes / 1e6:.1f} MB{late}")
        except KeyboardInterrupt:
            interrupted = True
        publisher.drain(timeout_s=2.0 if interrupted else 60.0)
        wall_s = time.monotonic() - began_s
    document: dict[str, Any] = {
        "target": settings.address,
        "machines": _machines(made),
        "messages": sent.messages,
        "acknowledged": publisher.acknowledged,
        "payload_bytes": sent.payload_bytes,
        "seconds": round(wall_s, 3),
        "interrupted": interrupted,
    }
    if faults is not None:
        document["transport"] = {name: getattr(counts, name) for name in Counts.__slots__}
    rate = sent.messages / wall_s if wall_s > 0 else 0.0
    text = f"{sent.messages} messages, {sent.payload_bytes / 1e6:.1f} MB to {settings.address} in {wall_s:.1f} s"
    console.result(document, f"{text} ({rate:.0f} messages/s)")
    if interrupted:
        raise KeyboardInterrupt


def _machines(made: Plant) -> list[dict[str, object]]:
    """What the plant is made of, and what will become of it; times in s since the start, None = never."""
    import math

    return [
        {
            "id": machine.id,
            "speed_rpm": round(60 * machine.make.speed_hz, 1),
            "mode": machine.life.mode,
            "shape": machine.life.shape,
            "onset_s": None if machine.life.mode == "healthy" else machine.life.onset_s,
            "detectable_s": at_s if math.isfinite(at_s := machine.life.detectable_s()) else None,
        }
        for machine in made.machines
    ]


def _faults(text: str) -> Faults | None:
    """The transport faults that `drop=0.01,reorder=0.1` asks for; None for none."""
    if not text:
        return None
    from sim.channel import FATES, Faults

    chances: dict[str, Any] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        try:
            if name.strip() not in FATES:
                raise ValueError(name)
            chances[name.strip()] = float(value)
        except ValueError as error:
            msg = f"--transport FAULT=CHANCE with a fault of {', '.join(FATES)} expected, found: {item}"
            raise ConfigError(msg, hint="for instance drop=0.01,reorder=0.1") from error
    return Faults(**chances)
