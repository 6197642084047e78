"""`thrumcast record`: keep readings as recordings."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.addresses import broker_flags, broker_option
from pipeline.commands.common import Console, with_console


@click.command(name="record")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), default=None, help="Data directory.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder [default: DATA/archive/readings].")
@click.option("--machine", "machines", multiple=True, help="Only this machine; may be given several times.")
@click.option("--seconds", type=click.FloatRange(min=0), default=None, help="Stop after so long [default: Ctrl-C].")
@broker_option
@with_console
def command(
    console: Console,
    data_dir: Path | None,
    out: Path | None,
    machines: tuple[str, ...],
    seconds: float | None,
    broker: str | None,
) -> None:
    """Subscribe beside the service and keep the readings as they come, in order, each sample once.

    A part of a recording appears when it is full and at the end; what is not yet in a part is lost if this command
    is killed. The broker keeps nothing for it: readings that come while its connection is lost are missing from the
    recording, which is said. `thrumcast archive verify --parity` computes the archive's features again from it.
    """
    import signal
    import time
    from dataclasses import replace

    from pipeline.config.specs import stream_specs
    from pipeline.core import order
    from pipeline.core.records import StreamKey
    from pipeline.drivers.intake import MOST_BYTES, Admission, Intake
    from pipeline.edges.mqtt import MqttConnection, TopicTemplate
    from pipeline.edges.recordings.readings import READINGS_NAME, ReadingsWriter
    from pipeline.service.compose import folder, mqtt_settings

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    topics = TopicTemplate(config.mqtt.readings_topic)
    spec_of = stream_specs(config, {})
    intake = Intake(
        topics.parse,
        lambda machine: config.accepts(machine) and (not machines or machine in machines),
        config.mqtt.max_payload_bytes,
        admission=Admission(lambda key: spec_of(key).window),
    )
    writer = ReadingsWriter(out or config.data.path / READINGS_NAME)
    spec = order.OrderSpec(config.order.max_wait_s)
    states: dict[StreamKey, order.OrderState] = {}
    stopping = False
    passed_over = losses = 0

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    until_s = None if seconds is None else time.monotonic() + seconds
    settings = mqtt_settings(config, f"{config.mqtt.client_id}-record-{time.time_ns() % 10**9}")
    # Killed or not, it leaves no queue that the broker would fill for days under an id that nobody uses again.
    alone = replace(settings, clean_start=True, session_expiry_s=0)
    connection = MqttConnection(alone, subscriptions=[topics.subscription], max_waiting_bytes=MOST_BYTES)
    with connection.connect():
        console.say(f"recording {config.mqtt.host}:{config.mqtt.port} {topics.subscription} -> {folder(writer.folder)}")
        last = False
        while not last:  # once asked to stop, take what has arrived by now
            last = stopping or (until_s is not None and time.monotonic() >= until_s)
            messages = connection.take(1000, 0.25)
            while messages:
                batch = intake.read(messages, time.time_ns())
                for block in batch.blocks:
                    state = states.get(block.key) or order.OrderState()
                    states[block.key], ready, _ = order.push_all(spec, state, [block])
                    for one in ready:
                        writer.append(one)
                passed_over += len(batch.refused) + len(batch.strangers)
                connection.acknowledge(batch.messages)
                messages = messages[len(batch.messages) :]
            for event in connection.events():
                if event.kind == "disconnected":
                    losses += 1
                    console.warn(f"connection lost, readings are missing until the next one: {event.detail}")
    for state in states.values():
        for one in order.flush(state)[1]:
            writer.append(one)
    writer.close()
    document = {
        "out": str(writer.folder),
        "parts": writer.parts,
        "samples": writer.samples,
        "streams": len(states),
        "messages_passed_over": passed_over,
        "connections_lost": losses,
    }
    text = (
        f"{writer.samples} samples of {len(states)} streams in {writer.parts} parts, {passed_over} messages passed over"
    )
    console.result(document, text)
