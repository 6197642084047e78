"""Sends the readings of a plant to a broker, in real time, faster, or as fast as possible, or writes recordings.

The readings carry event time. The wall clock only decides when they are sent, so a week can pass in a minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.codec import Encoding, encode
from pipeline.core.faults import HEALTHY
from pipeline.core.records import Block, Float32
from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
from pipeline.edges.recordings.recording import write_recording
from pipeline.errors import ConfigError, RecordingError
from sim.channel import Message, Senders
from sim.fleet import Plant, specimen
from sim.machine import Machine

DATASET = "sim"
MAX_EPISODE_S = 300.0  # a recording is in memory until it is written


class Progress(NamedTuple):
    """What has been sent, and how late the last message was in s (0: on time, or without a schedule)."""

    messages: int = 0
    payload_bytes: int = 0
    behind_s: float = 0.0


def messages(
    blocks: Iterable[Block], topics: TopicTemplate, *, encoding: Encoding = "msgpack", senders: Senders | None = None
) -> Iterator[Message]:
    """Blocks as messages, each due at the true time of its last sample, whatever the clock of the sender says."""
    for block in blocks:
        sent = block if senders is None else senders.send(block)
        if sent is not None:
            topic = topics.format(machine=block.key.machine, point=block.key.point)
            due_ns = block.t0_ns + round(block.samples.shape[1] * 1e9 / block.rate_hz)
            yield Message(topic, encode(sent, encoding), due_ns)


def to_broker(
    outgoing: Iterable[Message],
    publisher: MqttPublisher,
    start_ns: int,
    *,
    speed: float = 1.0,
    now_s: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Publishes at QoS 1, `speed` times faster than real time (0 = as fast as the broker accepts).

    Yields the progress after every message. `start_ns` is the event time of the start.

    Raises:
        ConfigError: the speed is below 0.
        NotReachable: the broker is lost.
    """
    if not math.isfinite(speed) or speed < 0:
        msg = f"speed must be 0 (as fast as accepted) or more, found: {speed:g}"
        raise ConfigError(msg, hint="1 = real time, 10 = ten times faster")
    began_s = now_s()
    payload_bytes = 0
    for count, message in enumerate(outgoing, start=1):
        behind_s = 0.0
        if speed > 0:
            behind_s = now_s() - (began_s + (message.due_ns - start_ns) / 1e9 / speed)
            if behind_s < 0:
                publisher.rest(-behind_s)
                behind_s = 0.0
        publisher.publish(message.topic, message.payload, qos=1)
        payload_bytes += len(message.payload)
        yield Progress(count, payload_bytes, behind_s)


@dataclass(frozen=True, slots=True)
class EpisodeRecording:
    """A recording of a machine during one episode."""

    path: Path
    machine: str
    mode: str
    seconds: float
    sensor: tuple[str, ...] = ()  # labels of the sensor faults


@dataclass(frozen=True, slots=True)
class Episode:
    """Blocks [first, last) of a machine with one truth and one state of the sensor."""

    first: int
    last: int
    mode: str
    sensor: tuple[str, ...] = ()


def episodes(plant: Plant, machine: Machine, seconds: float) -> list[Episode]:
    """Cuts a run into recordings: where truth or sensor state change, at every snapshot, and every MAX_EPISODE_S."""
    longest = plant.per_session or max(1, int(MAX_EPISODE_S / plant.block_s))
    found: list[Episode] = []
    for number in range(plant.count(seconds)):
        at_s = plant.begins_s(machine, number)
        mode = machine.life.truth(at_s).mode
        sensor = labels(machine, at_s)
        goes_on = bool(found) and (found[-1].mode, found[-1].sensor) == (mode, sensor)
        begins = bool(plant.per_session) and number % plant.per_session == 0
        if goes_on and not begins and number - found[-1].first < longest:
            found[-1] = Episode(found[-1].first, number + 1, mode, sensor)
        else:
            found.append(Episode(number, number + 1, mode, sensor))
    return found


def labels(machine: Machine, time_s: float) -> tuple[str, ...]:
    """Labels of the sensor faults at that time."""
    return tuple(event.kind for event in machine.events if event.family == "sensor" and event.on(time_s))


def to_recordings(plant: Plant, seconds: float, target: Path) -> Iterator[EpisodeRecording]:
    """Writes one recording per machine and episode into a folder, or a single one into a `.parquet` file.

    Raises:
        RecordingError: the folder contains recordings, or a single file would need several episodes.
    """
    plans = [(machine, episodes(plant, machine, seconds)) for machine in plant.machines]
    single = target.suffix == ".parquet"
    count = sum(len(plan) for _, plan in plans)
    if single and count > 1:
        msg = f"expected one episode for a single file, found: {count} episodes of {len(plans)} machine(s)"
        raise RecordingError(msg, hint="give a folder; every episode becomes a recording of its own")
    if not single and next(target.glob("*.parquet"), None) is not None:
        msg = f"expected a folder without recordings, found: {target} with some"
        raise RecordingError(msg, hint="remove them or give another folder; machines of two runs have the same names")
    if not single:
        target.mkdir(parents=True, exist_ok=True)
    for machine, plan in plans:
        stream = plant.stream(machine)
        for number, episode in enumerate(plan):
            blocks = [next(stream) for _ in range(episode.first, episode.last)]
            path = (
                target
                if single
                else target / f"{machine.id}_{number:03d}_{'_'.join((episode.mode, *episode.sensor))}.parquet"
            )
            samples: Float32 = np.concatenate([block.samples for block in blocks], axis=1)
            begins_s = plant.begins_s(machine, episode.first)
            write_recording(path, samples, blocks[0].channels, metadata(machine, number, blocks, begins_s))
            yield EpisodeRecording(path, machine.id, episode.mode, samples.shape[1] / machine.rate_hz, episode.sensor)


def metadata(machine: Machine, episode: int, blocks: list[Block], begins_s: float) -> dict[str, object]:
    """The metadata of a recording, with the keys of the public recordings.

    `bearing_id` names the physical machine, so a split keeps all its recordings together.
    """
    orders = machine.make.orders
    speeds = [block.speed_rpm for block in blocks if block.speed_rpm is not None]
    middle_s = begins_s + 0.5 * sum(block.samples.shape[1] for block in blocks) / machine.rate_hz
    truth = machine.life.truth(middle_s)
    return {
        "dataset": DATASET,
        "recording": machine.id,
        "bearing_id": f"{DATASET}-{specimen(machine)}",
        "episode": episode,
        "sample_rate_hz": machine.rate_hz,
        "rpm": round(float(np.mean(speeds)), 2),
        "units": blocks[0].unit,
        "fault_class": blocks[0].truth or HEALTHY,
        "fault_stage": truth.stage,
        "fault_place": truth.location,
        "severity": round(truth.severity, 4),
        "onset_s": truth.onset_s,
        "further_faults": ", ".join(truth.others),
        "sensor_faults": ", ".join(labels(machine, begins_s)),
        "nuisances": ", ".join(e.kind for e in machine.events if e.family != "sensor" and e.on(middle_s)),
        "fault_orders_of_shaft": {"ftf": orders.ftf, "bpfo": orders.bpfo, "bpfi": orders.bpfi, "bsf": orders.bsf},
        "kind": machine.make.kind,
        "entropy": list(machine.entropy),
        "start_time_ns": blocks[0].t0_ns,
        "source": "simulated by thrumcast",
    }
