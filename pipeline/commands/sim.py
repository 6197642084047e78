"""`thrumcast sim`: simulates a plant, to a broker, into recordings or an archive. `sim plot` draws machines."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import PATH, Console, broker_flags, broker_option, usage_errors, with_console
from pipeline.errors import ArchiveError, ConfigError, ThrumcastError, UsageError

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from sim.fleet import Plant
    from sim.scenario import Scenario

REPORT_EVERY_S = 5.0
DEFAULT_OUT_SECONDS = 60.0
DEFAULT_LIFE_S = 600.0
PICTURES = ("waveform", "spectrum", "envelope", "waterfall", "life")


@click.group(name="sim", invoke_without_command=True)
@click.option("--scenario", type=PATH, help="Scenario as a TOML file; flags override it.")
@click.option("--machines", type=click.IntRange(1), help="Number of machines [default: 6].")
@click.option("--seconds", type=float, help="Plant time in s [default: 60 into files, else without end].")
@click.option(
    "--speed", type=click.FloatRange(min=0), help="Times real time; 0 = as fast as the broker accepts [default: 1]."
)
@click.option("--seed", type=click.IntRange(0), help="The same seed gives the same plant [default: 1].")
@click.option("--rate-hz", type=float, help="Sampling rate per channel, 1000 to 51200 [default: 12000].")
@click.option("--block-s", type=float, help="Length of one message in s [default: 0.25].")
@click.option("--axes", default="x,y,z", metavar="NAME,...", help="Axes to send.")
@click.option("--failing", type=float, help="Share of the machines that fail [default: 0.5].")
@click.option("--onset", type=(float, float), help="Range of the start of faults, in parts of life [default: .05 .95].")
@click.option("--life-s", type=float, help="Length of a life in s [default: --seconds, else 600].")
@click.option("--shift", type=float, help="Shift machines out of the usual ranges: 0.3 = by 30 %.")
@click.option("--modes", metavar="MODE,...", help="Only these failure modes.")
@click.option("--training", is_flag=True, help="Machines for training: every failure mode, every severity.")
@click.option(
    "--transport",
    metavar="FAULT=CHANCE,...",
    default="",
    show_default=False,
    help="Simulate a bad network: drop=0.01,reboot=0.001.",
)
@click.option("--out", type=PATH, help="Write recordings into this folder instead.")
@click.option("--archive", type=PATH, help="Compute features into this data directory instead.")
@click.option("--workers", type=click.IntRange(1), help="Processes for --archive [default: all cores].")
@click.option(
    "--nameplates",
    type=PATH,
    help="Only write the facts of the machines into this data directory, as their senders would send them.",
)
@click.option(
    "--orders",
    type=PATH,
    metavar="FILE",
    help='File to break machines by while the plant runs: lines like {"machine": "pump-05", "do": "damage"}.',
)
@click.option("--truth", type=PATH, help="Write all faults and events as JSON into this file.")
@broker_option
@with_console
def command(
    console: Console,
    scenario: Path | None,
    transport: str,
    out: Path | None,
    archive: Path | None,
    workers: int | None,
    nameplates: Path | None,
    orders: Path | None,
    truth: Path | None,
    broker: str | None,
    training: bool,
    axes: str,
    machines: int | None,
    seconds: float | None,
    speed: float | None,
    seed: int | None,
    rate_hz: float | None,
    block_s: float | None,
    failing: float | None,
    onset: tuple[float, float] | None,
    life_s: float | None,
    shift: float | None,
    modes: str | None,
) -> None:
    """Simulate a plant: physics, slow failures and known truth.

    Readings go to a broker in real time or faster; with --out into recordings, one per machine and condition; with
    --archive as features into a data directory for training.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if out is not None and archive is not None:
        msg = "--out and --archive do not go together"
        raise click.UsageError(msg)
    into_files = out or archive
    if into_files is not None and (broker is not None or speed is not None or transport):
        msg = "--out and --archive write files: they do not go together with --broker, --speed or --transport"
        raise click.UsageError(msg)
    if orders is not None and into_files is not None:
        msg = "--orders needs a plant that runs: it does not go together with --out and --archive"
        raise click.UsageError(msg)
    given = {
        "machines": machines,
        "seconds": seconds,
        "speed": speed,
        "seed": seed,
        "rate_hz": rate_hz,
        "block_s": block_s,
        "failing": failing,
        "onset": onset,
        "life_s": life_s,
        "shift": shift,
        "modes": None if modes is None else tuple(mode.strip() for mode in modes.split(",")),
    }
    from sim.scenario import Scenario

    with scenario_errors(scenario):
        wanted = scenario_of(scenario, given, transport, files=into_files is not None)
        start_ns = None if into_files is not None else time.time_ns()
        made = plant_of(wanted, axes, start_ns, training=training)
    if into_files is not None and wanted.transport != Scenario().transport:
        console.say("[transport] of the scenario is ignored: files have no network")
    if nameplates is not None:
        _name(console, made, nameplates)
        return
    if truth is not None:
        _tell(made, wanted, truth)
    lasts_s = wanted.plant.seconds
    if out is not None and lasts_s is not None:
        _write(console, made, lasts_s, out)
    elif archive is not None and lasts_s is not None:
        _fill(console, console.config(**{"data.dir": archive}), made, lasts_s, workers or os.cpu_count() or 1)
    else:
        _publish(console, console.config(**broker_flags(broker)), made, wanted, orders)


@command.command(name="plot")
@click.argument("kinds", nargs=-1, type=click.Choice(PICTURES))
@click.option("--mode", default="bearing_outer", help="Failure mode, or healthy.")
@click.option(
    "--severity", type=click.FloatRange(0, 1), default=0.5, help="0 = sound, 1 = failed; ignored by the picture life."
)
@click.option("--kind", "machine_kind", help="pump, fan, motor or gearbox [default: one that can have the fault].")
@click.option("--seed", type=click.IntRange(0), default=1, help="Seed of the machine.")
@click.option("--rate-hz", type=float, default=25_600.0, help="Sampling rate.")
@click.option("--axis", type=click.Choice(("x", "y", "z")), default="x", help="Axis of the sensor.")
@click.option("--out", type=PATH, default=Path("sim-plots"), help="Folder for the PNGs.")
@with_console
def plot(
    console: Console,
    kinds: tuple[str, ...],
    mode: str,
    severity: float,
    machine_kind: str | None,
    seed: int,
    rate_hz: float,
    axis: str,
    out: Path,
) -> None:
    """Draw waveform, spectrum, envelope spectrum with cursors, waterfall of a run-up, and trends over a life.

    Draws all five without KINDS. Needs matplotlib: `pip install thrumcast[plots]`.
    """
    try:
        from sim import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        msg = "expected matplotlib for drawing, found: none"
        raise ThrumcastError(msg, hint="pip install 'thrumcast[plots]'") from error
    try:
        with usage_errors():
            subject = plots.subject(mode, severity, machine_kind, seed, rate_hz, axis)
            out.mkdir(parents=True, exist_ok=True)
            written = [plots.draw_picture(kind, subject, out / f"{mode}_{kind}.png") for kind in kinds or PICTURES]
    except OSError as error:
        msg = f"expected a folder that can be written, found: {out}: {error}"
        raise ThrumcastError(msg) from error
    document = {"machine": subject.machine.id, "mode": mode, "severity": severity, "files": [str(p) for p in written]}
    console.result(document, "\n".join(str(path) for path in written))


@contextlib.contextmanager
def scenario_errors(path: Path | None) -> Iterator[None]:
    """Errors are of the command line (exit code 2), unless the scenario file alone is invalid too (3)."""
    from sim.scenario import build, read

    try:
        yield
    except ConfigError as error:
        if path is not None:
            build(read(path))
        raise UsageError(error.message, hint=error.hint) from error


def scenario_of(path: Path | None, given: dict[str, Any], transport: str, *, files: bool) -> Scenario:
    """The scenario of the file, or an empty one, overridden by the flags."""
    import msgspec

    from sim.scenario import PlantTable, RecipeTable, Scenario, read

    base = Scenario() if path is None else read(path)
    flags = {name: value for name, value in given.items() if value is not None}
    of_plant = {name: flags[name] for name in PlantTable.__struct_fields__ if name in flags}
    of_recipe = {name: flags[name] for name in RecipeTable.__struct_fields__ if name in flags}
    plant = msgspec.structs.replace(base.plant, **of_plant)
    if files and plant.seconds is None:
        plant = msgspec.structs.replace(plant, seconds=DEFAULT_OUT_SECONDS)
    recipe = msgspec.structs.replace(base.recipe, **of_recipe)
    if recipe.life_s is None:
        recipe = msgspec.structs.replace(recipe, life_s=plant.seconds or DEFAULT_LIFE_S)
    network = msgspec.structs.replace(base.transport, **_chances(transport))
    described = base.machines[: flags.get("machines")]  # with fewer machines than in the file, its first ones
    return msgspec.structs.replace(base, plant=plant, recipe=recipe, transport=network, machines=described)


def plant_of(wanted: Scenario, axes: str, start_ns: int | None, *, training: bool) -> Plant:
    """The plant of a scenario, or one for training; start_ns None: the fixed start of all simulated plants."""
    from dataclasses import replace

    from sim.population import AXES
    from sim.recipe import training_plant
    from sim.scenario import build

    names = tuple(axis.strip() for axis in axes.split(","))
    if len(set(names)) < len(names) or not set(names) <= set(AXES):
        msg = f"--axes takes some of {', '.join(AXES)}, each once, found: {axes}"
        raise ConfigError(msg, hint="x and y are radial, z is axial: --axes x,z")
    if training:
        p, r = wanted.plant, wanted.recipe
        life_s = r.life_s or DEFAULT_LIFE_S
        made = training_plant(p.seed, p.machines, life_s, rate_hz=p.rate_hz, block_s=p.block_s, shift=r.shift)
    else:
        made = build(wanted)
    seconds = wanted.plant.seconds
    if seconds is not None and not made.block_s <= seconds < math.inf:
        msg = f"expected a run of at least one block of {made.block_s:g} s, found: {seconds:g} s"
        raise ConfigError(msg)
    return replace(made, axes=names, start_ns=made.start_ns if start_ns is None else start_ns)


def _chances(text: str) -> dict[str, float]:
    """Reads `drop=0.01,reorder=0.1`: probabilities by transport fault."""
    from sim.scenario import TransportTable

    names = TransportTable.__struct_fields__
    chances: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        try:
            if name.strip() not in names:
                raise ValueError(name)
            chances[name.strip()] = float(value)
        except ValueError as error:
            msg = f"expected --transport FAULT=CHANCE with a fault of {', '.join(names)}, found: {item}"
            raise ConfigError(msg, hint="for instance drop=0.01,reorder=0.1") from error
    return chances


def _tell(made: Plant, wanted: Scenario, path: Path) -> None:
    """Writes all present and future faults and events, to check predictions against them."""
    import json

    from sim.fleet import truth_document

    document = {
        "title": wanted.title,
        "seed": wanted.plant.seed,
        "start_ns": made.start_ns,
        "machines": [truth_document(machine) for machine in made.machines],
    }
    try:
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"expected a file that can be written, found: {path}: {error}"
        raise ThrumcastError(msg, hint="its folder must exist") from error


def _name(console: Console, made: Plant, directory: Path) -> None:
    """Writes the facts of every machine, which a service reads at its start, such as the teeth of gears."""
    from pipeline.core.records import StreamKey
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.store.database import DirectoryLock
    from sim.fleet import POINT, about

    lock = DirectoryLock(directory)
    try:
        facts = {StreamKey(machine.id, POINT): about(machine) for machine in made.machines}
        changed = MachinesFile(directory / MACHINES_NAME).update_all(facts)
    finally:
        lock.release()
    console.result({"data": str(directory), "changed": changed}, f"{changed} machines in {directory / MACHINES_NAME}")


def _fill(console: Console, config: Config, made: Plant, seconds: float, workers: int) -> None:
    from functools import partial

    from pipeline.config.specs import stream_specs
    from pipeline.service.compose import opened
    from sim.archive import fill

    if (config.data.path / "archive").exists():
        msg = f"expected a data directory without an archive, found: {config.data.path} with one"
        raise ArchiveError(msg, hint="give another one; machines of two plants have the same names and times")
    began_s = time.monotonic()
    rows = 0
    specs, workers = partial(stream_specs, config), min(workers, len(made.machines))
    with opened(config) as (journal, archive), console.progress(len(made.machines), "machines") as bar:
        for run in fill(made, seconds, config.data.path, journal, archive, specs, workers=workers):
            rows += run.rows
            bar.advance()
    wall_s = time.monotonic() - began_s
    simulated_s = made.simulated_s(seconds) * len(made.machines)
    document = {
        "target": str(config.data.path),
        "machines": _machines(made),
        "windows": rows,
        "machine_seconds": simulated_s,
        "seconds": round(wall_s, 3),
    }
    speed = simulated_s / wall_s if wall_s > 0 else 0.0
    text = f"{rows} windows of {len(made.machines)} machines in {config.data.path} ({wall_s:.1f} s"
    console.result(document, f"{text}, {speed:.0f} machine-seconds per second with features)")


def _write(console: Console, made: Plant, seconds: float, out: Path) -> None:
    from sim.publish import to_recordings

    written = []
    began_s = time.monotonic()
    interrupted = False
    try:
        for recording in to_recordings(made, seconds, out):
            written.append(recording)
            broken = "".join(f", sensor: {label}" for label in recording.sensor)
            console.say(f"{recording.path.name}: {recording.seconds:.2f} s, {recording.mode}{broken}")
    except KeyboardInterrupt:
        interrupted = True
    wall_s = time.monotonic() - began_s
    simulated_s = sum(w.seconds for w in written)
    document: dict[str, Any] = {
        "target": str(out),
        "machines": _machines(made),
        "recordings": [
            {"file": str(w.path), "machine": w.machine, "mode": w.mode, "seconds": w.seconds, "sensor": list(w.sensor)}
            for w in written
        ],
        "machine_seconds": simulated_s,
        "seconds": round(wall_s, 3),
        "interrupted": interrupted,
    }
    text = f"{len(written)} recordings, {simulated_s:.0f} machine-seconds, in {out} ({wall_s:.1f} s"
    console.result(
        document, f"{text}, {simulated_s / max(wall_s, 1e-9):.0f} machine-seconds per second, files included)"
    )
    if interrupted:
        raise KeyboardInterrupt


def _publish(console: Console, config: Config, made: Plant, wanted: Scenario, orders: Path | None) -> None:
    import numpy as np

    from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
    from pipeline.service.compose import mqtt_settings
    from sim.channel import Counts, Faults, Senders, Upsets, disturb
    from sim.publish import Progress, messages, to_broker
    from sim.stage import Orders, changing

    if orders is not None and made.snapshots is not None:
        msg = "--orders needs a plant that always runs, found: one with snapshots"
        raise ConfigError(msg, hint="leave out plant.record_s and plant.every_s")
    settings = mqtt_settings(config, f"{config.mqtt.client_id}-sim-{os.getpid()}")
    counts, sent = Counts(), Progress()
    seed, speed = wanted.plant.seed, wanted.plant.speed
    faults, upsets = wanted.transport_faults(), wanted.upsets()
    senders = None if upsets == Upsets() else Senders(upsets, np.random.default_rng((seed, 4)), counts)
    topics = TopicTemplate(config.mqtt.readings_topic)
    seconds = wanted.plant.seconds
    blocks = made.blocks(seconds) if orders is None else changing(made, Orders(orders), seconds)
    outgoing = messages(blocks, topics, senders=senders)
    if faults != Faults():
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
    if (faults, upsets) != (Faults(), Upsets()):
        document["transport"] = {name: getattr(counts, name) for name in Counts.__slots__}
    rate = sent.messages / wall_s if wall_s > 0 else 0.0
    text = f"{sent.messages} messages, {sent.payload_bytes / 1e6:.1f} MB to {settings.address} in {wall_s:.1f} s"
    console.result(document, f"{text} ({rate:.0f} messages/s)")
    if interrupted:
        raise KeyboardInterrupt


def _machines(made: Plant) -> list[dict[str, object]]:
    """The machines of the plant with their faults and events; times in s since the start, None = never."""
    from sim.fleet import truth_document

    return [truth_document(machine) for machine in made.machines]
