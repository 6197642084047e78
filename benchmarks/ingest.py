"""End to end: a plant, a private broker, and `thrumcast run` as its own process, in wall-clock time.

* ingest: 12 KiB blocks at QoS 1 as fast as they are accepted. The service decodes, cuts windows, computes features,
  steps the network, commits to its journal, writes Parquet and publishes. Beside it, in turns, two clients take and
  acknowledge only: paho-mqtt, and the service's own connection. The sender and the broker share the machine with all.
* latency: from the publishing of the block that completes a window to the arrival of its prediction, at 80 blocks/s.
* alarm: from the publishing of the block that raises an alarm to the arrival of that alarm, which is committed first.
  Every fsync takes 5 ms more than this disk needs; 300 blocks/s come, and a roll begins every 2 s.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from benchmarks.measure import Effort, median
from benchmarks.model import untrained
from benchmarks.plant import RECEIVERS, Receiver, Service, slow_disk, wait_until
from benchmarks.report import Row, Section
from benchmarks.vibration import BLOCK, CHANNELS, RATE_HZ, block, vibration
from models.predictor import NumpyPredictor
from models.registry import CHAMPION, Registry
from pipeline.config.specs import default_spec, stream_specs
from pipeline.config.tables import AlarmConfig, Config
from pipeline.core.codec import encode
from pipeline.core.engine import Engine
from pipeline.core.records import Float32, StreamKey
from pipeline.core.state import StreamState
from pipeline.core.window import length_and_hop
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttConnection, MqttPublisher, MqttSettings, TopicTemplate
from pipeline.errors import ThrumcastError

STREAMS = 16  # of the ingest measurement
LEAD = 2000  # messages that the sender may be ahead: keeps every consumer busy and the broker's memory small
LATENCY_STREAMS = 8
BLOCKS_PER_S = RATE_HZ / BLOCK  # of each stream
LATENCY_WARM_UP_S = 1.0  # until the first windows are whole
FSYNC_S = 0.005
ALARM_EVERY_S = 0.12
QUICK_TO_ALARM = Config(
    alarm=AlarmConfig(enter_p=0.1, enter_s=0.5, leave_p=0.05)
)  # the untrained network is never sure
CYCLE = 16  # different blocks of samples, sent over and over
RECEIVE_TOPICS = {name: TopicTemplate(f"bench-{name}/{{machine}}/{{point}}") for name in RECEIVERS}
RESULTS = "thrumcast/machines/+/+/prediction"
ALARMS = "thrumcast/events/alarms"


class Consumer(Protocol):
    """Who is being measured."""

    def consumed(self) -> int:
        """Messages done with, so far."""

    def cpu_s(self) -> float | None:
        """CPU seconds used, so far."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a consumer did while the sender was busy."""

    msgs_per_s: float
    cpu_us_per_msg: float | None
    sender_bound: bool  # the sender never got its whole lead: the consumer could have done more


def run(effort: Effort) -> Section:
    """Both measurements, with one broker and one service.

    Raises:
        NotReachable: no broker is installed.
        ThrumcastError: the service does not do its work.
    """
    config = Config()
    samples = np.split(vibration(len(CHANNELS), CYCLE * BLOCK, RATE_HZ), CYCLE, axis=1)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thrumcast-bench-")))
        broker = stack.enter_context(PrivateBroker(directory / "broker"))
        service = stack.enter_context(Service(directory, broker.port))
        settings = MqttSettings(client_id="bench-results", port=broker.port, clean_start=True)
        results = stack.enter_context(MqttConnection(settings, subscriptions=[RESULTS, "thrumcast/status"])).connect()
        service.start(lambda registry: _serve(registry, config))
        receivers = {
            name: Receiver(broker.port, RECEIVE_TOPICS[name].subscription, RECEIVERS[name]) for name in RECEIVERS
        }
        for receiver in receivers.values():
            stack.enter_context(receiver)
        plant = MqttPublisher(MqttSettings(client_id="bench-plant", port=broker.port))
        stack.enter_context(plant).connect()
        for receiver in receivers.values():
            wait_until(receiver.ready.is_set, lambda: plant.rest(0.05), "a client that receives")
        wait_until(lambda: bool(results.take(1, 0.2)), service.check, "a service that is online")
        latency_s = latencies(plant, results, samples, TopicTemplate(config.mqtt.readings_topic), 1.5 * effort.seconds)
        to_service = sender(plant, TopicTemplate(config.mqtt.readings_topic), samples)
        to_receiver = {name: sender(plant, RECEIVE_TOPICS[name], samples) for name in RECEIVERS}
        done: dict[str, list[Rate]] = {"service": [], **{name: [] for name in RECEIVERS}}
        for _ in range(effort.rounds):
            for name, receiver in receivers.items():
                done[name].append(rate(plant, to_receiver[name], receiver, effort.seconds))
            done["service"].append(rate(plant, to_service, service, effort.seconds))
            results.take(1000, 0.0)
    alarm_s, is_slow = alarms(samples, 3 * effort.seconds)
    return _section(config, done, latency_s, alarm_s, is_slow)


def _serve(registry: Registry, config: Config) -> None:
    registry.point(CHAMPION, registry.add(untrained(config)), why="benchmark")


def sender(plant: MqttPublisher, topics: TopicTemplate, samples: list[Float32]) -> Iterator[None]:
    """Each `next` publishes the next block of the next stream."""
    keys = [StreamKey(f"ingest-{i:02d}", "de") for i in range(STREAMS)]
    for number in count():
        for i, key in enumerate(keys):
            payload = encode(block(key, number, samples[(number + i) % CYCLE]))
            plant.publish(topics.format(machine=key.machine, point=key.point), payload)
            yield


def rate(plant: MqttPublisher, messages: Iterator[None], consumer: Consumer, seconds: float) -> Rate:
    """Messages per second between the first and the last time that the consumer's count was seen to grow.

    The service counts in commits; so whole commits are counted, at least three, and the rest of the time is not.
    """
    begun = last = consumer.consumed()
    sent = 0
    marks: list[tuple[float, int]] = []
    cpu_s = consumer.cpu_s()
    led = False
    until_s = time.monotonic() + seconds

    def turn() -> None:
        nonlocal last, sent, led
        for _ in range(32):
            if sent - (last - begun) >= LEAD:
                led = True
                plant.service(0.005)
                break
            next(messages)
            sent += 1
        last = consumer.consumed()
        if last != (marks[-1][1] if marks else begun):
            marks.append((time.monotonic(), last))

    wait_until(lambda: time.monotonic() >= until_s and len(marks) > 2, turn, "three commits")
    wait_until(lambda: consumer.consumed() - begun >= sent, lambda: plant.rest(0.05), "the end of the queue")
    plant.drain()
    used_s = consumer.cpu_s()
    cpu_us = None if cpu_s is None or used_s is None else (used_s - cpu_s) / sent * 1e6
    (first_s, first), (last_s, newest) = marks[0], marks[-1]
    return Rate((newest - first) / (last_s - first_s), cpu_us, not led)


def latencies(
    plant: MqttPublisher, results: MqttConnection, samples: list[Float32], topics: TopicTemplate, seconds: float
) -> list[float]:
    """Seconds from publishing the last block of a window to its prediction; blocks come at their natural pace."""
    length, hop = length_and_hop(default_spec().window, RATE_HZ)
    complete_at: dict[tuple[str, int], float] = {}  # machine and window -> when its last block was published
    found: list[float] = []
    began_s = time.monotonic()

    def collect(timeout_s: float) -> None:
        for message in results.take(1000, timeout_s):
            parts = message.topic.split("/")
            if parts[-1] == "prediction":
                window = msgspec.json.decode(message.payload)["window"]
                if (at_s := complete_at.pop((parts[2], window), None)) is not None:
                    found.append(time.monotonic() - at_s)

    for number in range(int((LATENCY_WARM_UP_S + seconds) * BLOCKS_PER_S)):
        for i in range(LATENCY_STREAMS):  # out of step with each other, as machines are
            due_s = began_s + (number + i / LATENCY_STREAMS) / BLOCKS_PER_S
            plant.service(0.0)
            while (left_s := due_s - time.monotonic()) > 0:
                collect(left_s)
            key = StreamKey(f"latency-{i}", "de")
            end = (number + 1) * BLOCK
            payload = encode(block(key, number, samples[(number + i) % CYCLE]))
            plant.publish(topics.format(machine=key.machine, point=key.point), payload)
            for window in range(max(0, -(-(end - BLOCK - length + 1) // hop)), (end - length) // hop + 1):
                complete_at[key.machine, window] = time.monotonic()
    wait_until(lambda: not complete_at, lambda: collect(0.05), "all predictions")
    return found


def alarms(samples: list[Float32], seconds: float) -> tuple[list[float], bool]:
    """Seconds from publishing a block to the alarm that it raises, and whether the disk could be made slow.

    Every machine raises one alarm, with the same block.
    """
    config, found = QUICK_TO_ALARM, list[float]()
    alarm = config.alarm
    settings = {
        f"THRUMCAST_ALARM__{name.upper()}": str(getattr(alarm, name)) for name in ("enter_p", "enter_s", "leave_p")
    }
    due_at = _block_that_alarms(config, samples)
    published_s: dict[str, float] = {}
    topics = TopicTemplate(config.mqtt.readings_topic)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thrumcast-bench-")))
        broker = stack.enter_context(PrivateBroker(directory / "broker"))
        service = stack.enter_context(Service(directory, broker.port))
        slow = slow_disk(directory, service.data_dir, FSYNC_S)
        listening = MqttSettings(client_id="bench-results", port=broker.port, clean_start=True)
        results = stack.enter_context(MqttConnection(listening, subscriptions=[ALARMS, "thrumcast/status"])).connect()
        service.start(lambda registry: _serve(registry, config), settings | slow)
        wait_until(lambda: bool(results.take(1, 0.2)), service.check, "a service that is online")
        plant = stack.enter_context(MqttPublisher(MqttSettings(client_id="bench-plant", port=broker.port))).connect()

        def collect(timeout_s: float) -> None:
            for message in results.take(1000, timeout_s):
                event = msgspec.json.decode(message.payload)
                if event.get("type") == "raised" and (at_s := published_s.pop(event["machine"], None)) is not None:
                    found.append(time.monotonic() - at_s)

        began_s = time.monotonic()
        for number in range(round(seconds / ALARM_EVERY_S)):
            key = StreamKey(f"alarm-{number:03d}", "de")
            for i in range(due_at + 1):
                plant.service(0.0)
                due_s = began_s + (number + (i + 1) / (due_at + 1)) * ALARM_EVERY_S
                while (left_s := due_s - time.monotonic()) > 0:
                    collect(left_s)
                if i == due_at:
                    published_s[key.machine] = time.monotonic()
                payload = encode(block(key, i, samples[i % CYCLE]))
                plant.publish(topics.format(machine=key.machine, point=key.point), payload)
        wait_until(lambda: not published_s, lambda: collect(0.05), "all alarms")
    return found, bool(slow)


def _block_that_alarms(config: Config, samples: list[Float32]) -> int:
    engine = Engine(stream_specs(config, {}), NumpyPredictor(untrained(config)))
    states: dict[StreamKey, StreamState] = {}
    for number in range(1000):
        step = engine.step(states, [block(StreamKey("alarm", "de"), number, samples[number % CYCLE])])
        states |= step.states
        if step.alarms:
            return number
    msg = "a network of random numbers that alarms expected, found: none within 1000 blocks"
    raise ThrumcastError(msg)


def _section(
    config: Config, done: dict[str, list[Rate]], latency_s: list[float], alarm_s: list[float], is_slow: bool
) -> Section:
    receiver, service = done["paho"], done["service"]
    alone, whole = (median([r.msgs_per_s for r in rates]) for rates in (receiver, service))
    ratio = median([s.msgs_per_s / r.msgs_per_s for r, s in zip(receiver, service, strict=True)])
    p50, p99 = (float(np.percentile(latency_s, p)) * 1000 for p in (50, 99))
    interval_ms = config.commit.interval_s * 1000
    limited = "; the sender could do no more" if any(r.sender_bound for r in receiver) else ""
    beside = f"paho-mqtt, which takes and acknowledges only ({alone:,.0f} msg/s{limited})"
    committing = f"commit.interval_s ({interval_ms:g} ms): a prediction does not wait for the commit"
    rows = [
        Row("service: readings to archive", whole, "msg/s", beside, ratio),
        Row("latency, median", p50, "ms", committing, p50 / interval_ms),
        Row("latency, 99 %", p99, "ms", f"the same; {len(latency_s)} windows", p99 / interval_ms),
    ]
    raised = {f"p{p}": float(np.percentile(alarm_s, p)) * 1000 for p in (50, 99)}
    disk = f"fsync takes {FSYNC_S * 1000:g} ms more" if is_slow else "this disk: no C compiler to make it slow"
    rows += [
        Row("raised alarm, median", raised["p50"], "ms", f"one fsync ({disk})", raised["p50"] / FSYNC_S / 1000),
        Row(
            "raised alarm, 99 %",
            raised["p99"],
            "ms",
            f"the same; {len(alarm_s)} alarms",
            raised["p99"] / FSYNC_S / 1000,
        ),
    ]
    ingest: dict[str, float | bool] = {
        "receive_only_msgs_per_s": alone,
        "service_msgs_per_s": whole,
        "ratio": ratio,
        "receive_only_sender_bound": any(r.sender_bound for r in receiver),
        "service_sender_bound": any(r.sender_bound for r in service),
    }
    cpu = [[r.cpu_us_per_msg for r in rates if r.cpu_us_per_msg] for rates in (receiver, service, done["ours"])]
    if all(cpu):
        alone_us, whole_us, ours_us = (median(values) for values in cpu)
        ingest |= {"receive_only_cpu_us_per_msg": alone_us, "service_cpu_us_per_msg": whole_us}
        ingest |= {"own_receive_only_cpu_us_per_msg": ours_us}
        beside = f"paho-mqtt, which only receives ({alone_us:.3g} us)"
        rows.insert(1, Row("service: CPU time", whole_us, "us/msg", beside, whole_us / alone_us))
        rows.insert(2, Row("our connection, receiving only", ours_us, "us/msg", beside, ours_us / alone_us))
    documents = {"ingest": ingest, "latency_ms": {"p50": p50, "p99": p99, "windows": len(latency_s)}}
    documents |= {"alarm_ms": raised | {"alarms": len(alarm_s), "slow_disk": is_slow}}
    title = f"end to end: {STREAMS} streams, blocks of 3 x {BLOCK} float32, QoS 1; latency at 8 streams x 10 blocks/s"
    return Section(title, rows, documents)
