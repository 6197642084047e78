"""`make compare`: MQTT clients that take and acknowledge only, beside each other.

    python -m benchmarks.clients [--quick]

12 KiB messages at QoS 1 over MQTT 5, from a private broker on the same machine, in turns within one run. Each client
runs in a process of its own, as its documentation has it. Stated is the CPU time of that process for each message.
What is not installed is named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ingest import CYCLE, Rate, rate, sender
from benchmarks.measure import QUICK, Effort, median
from benchmarks.plant import RECEIVERS, Receive, Receiver, wait_until
from benchmarks.report import facts_text, machine_facts
from benchmarks.vibration import BLOCK, CHANNELS, RATE_HZ, vibration
from pipeline.edges.broker import PrivateBroker
from pipeline.edges.mqtt import MqttPublisher, MqttSettings, TopicTemplate

STOP_S = 0.1  # how often a client looks whether it should stop


def _with_aiomqtt(port: int, subscription: str, taken: Synchronized[int], ready: Event, stop: Event) -> None:
    import aiomqtt

    async def receive() -> None:
        client = aiomqtt.Client("127.0.0.1", port, identifier="bench-aiomqtt", protocol=aiomqtt.ProtocolVersion.V5)
        async with client:
            await client.subscribe(subscription, qos=1)
            ready.set()
            async for _ in client.messages:
                taken.value += 1

    asyncio.run(_until(receive(), stop))


def _with_gmqtt(port: int, subscription: str, taken: Synchronized[int], ready: Event, stop: Event) -> None:
    import gmqtt

    async def receive() -> None:
        client = gmqtt.Client("bench-gmqtt")

        def count(*_: object) -> int:
            taken.value += 1
            return 0

        client.on_message = count
        client.on_subscribe = lambda *_: ready.set()
        await client.connect("127.0.0.1", port)
        client.subscribe(subscription, qos=1)
        await asyncio.Event().wait()

    asyncio.run(_until(receive(), stop))


def _with_awscrt(port: int, subscription: str, taken: Synchronized[int], ready: Event, stop: Event) -> None:
    from awscrt import mqtt5

    def count(_: object) -> None:
        taken.value += 1

    def subscribe(_: object) -> None:
        wanted = mqtt5.Subscription(topic_filter=subscription, qos=mqtt5.QoS.AT_LEAST_ONCE)
        client.subscribe(mqtt5.SubscribePacket(subscriptions=[wanted])).add_done_callback(lambda _: ready.set())

    options = mqtt5.ClientOptions(
        host_name="127.0.0.1",
        port=port,
        connect_options=mqtt5.ConnectPacket(client_id="bench-awscrt"),
        on_publish_callback_fn=count,
        on_lifecycle_event_connection_success_fn=subscribe,
    )
    client = mqtt5.Client(options)
    client.start()
    stop.wait()
    client.stop()


async def _until(work: Any, stop: Event) -> None:
    task = asyncio.ensure_future(work)
    while not stop.is_set() and not task.done():
        await asyncio.sleep(STOP_S)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


PEERS: dict[str, tuple[str, Receive]] = {
    "paho-mqtt": ("paho-mqtt", RECEIVERS["paho"]),
    "aiomqtt (over paho-mqtt)": ("aiomqtt", _with_aiomqtt),
    "gmqtt": ("gmqtt", _with_gmqtt),
    "awscrt": ("awscrt", _with_awscrt),
    "thrumcast's connection (over mqtt5)": ("mqtt5", RECEIVERS["ours"]),
}


def measure(effort: Effort, found: dict[str, Receive]) -> dict[str, list[Rate]]:
    """Rate and CPU time of each client, one round after the other."""
    samples = np.split(vibration(len(CHANNELS), CYCLE * BLOCK, RATE_HZ), CYCLE, axis=1)
    topics = {name: TopicTemplate(f"client-{i}/{{machine}}/{{point}}") for i, name in enumerate(found)}
    done: dict[str, list[Rate]] = {name: [] for name in found}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thrumcast-bench-")))
        broker = stack.enter_context(PrivateBroker(directory / "broker"))
        receivers = {
            name: stack.enter_context(Receiver(broker.port, topics[name].subscription, receive))
            for name, receive in found.items()
        }
        plant = stack.enter_context(MqttPublisher(MqttSettings(client_id="bench-plant", port=broker.port))).connect()
        messages = {name: sender(plant, topics[name], samples) for name in found}
        for name, receiver in receivers.items():
            wait_until(receiver.ready.is_set, lambda: plant.rest(0.05), f"{name} that receives")
        for number in range(effort.rounds + 1):  # the first is to warm up
            for name, receiver in receivers.items():
                one = rate(plant, messages[name], receiver, effort.seconds)
                if number:
                    done[name].append(one)
    return done


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="too short for numbers to be quoted")
    effort = QUICK if parser.parse_args(arguments).quick else Effort()
    began_s = time.monotonic()
    found, missing = {}, []
    for name, (package, receive) in PEERS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"left out: {name} is not installed")
        else:
            found[f"{name} {version}"] = receive
    facts = machine_facts()
    done = measure(effort, found)
    print(facts_text(facts, [round(value, 2) for value in os.getloadavg()]))
    print(f"\n{'':<42} {'CPU us/message':>15} {'x ours':>8} {'messages/s':>12}")
    cpu = {name: median([one.cpu_us_per_msg or float("nan") for one in rates]) for name, rates in done.items()}
    ours = list(cpu.values())[-1]
    for name, rates in done.items():
        rate_of = median([one.msgs_per_s for one in rates])
        bound = "  (the sender could do no more)" if any(one.sender_bound for one in rates) else ""
        print(f"{name:<42} {cpu[name]:>15.1f} {cpu[name] / ours:>8.2f} {rate_of:>12,.0f}{bound}")
    print("\n".join(missing))
    print(f"{time.monotonic() - began_s:.0f} s; medians of {effort.rounds} rounds in turns.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
