"""`thrumcast record`: stores readings as recordings."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import PATH, Console, broker_flags, broker_option, data_option, with_console


@click.command(name="record")
@data_option
@click.option("--out", type=PATH, help="Folder [default: DATA/archive/readings].")
@click.option("--machine", "machines", multiple=True, help="Only this machine; may be repeated.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after this time, in s [default: Ctrl-C].")
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
    """Subscribe beside the service and store the readings in order, each sample once.

    A file appears when it is full and at the end; samples that are in no file yet are lost if this command is killed.
    The broker queues nothing for this command: readings that arrive during a lost connection are missing, with a
    warning. `thrumcast archive verify --parity` recomputes the features of the archive from the recordings.
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
    from pipeline.service.payloads import payloads

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    topics = TopicTemplate(config.mqtt.readings_topic)
    mapped = payloads(config)
    spec_of = stream_specs(config, {})
    intake = Intake(
        topics.parse,
        lambda machine: config.accepts(machine) and (not machines or machine in machines),
        config.mqtt.max_payload_bytes,
        admission=Admission(lambda key: spec_of(key).window),
        mapped=mapped.decode,
    )
    writer = ReadingsWriter(out or config.data.path / READINGS_NAME)
    spec = order.OrderSpec(config.order.max_wait_s, config.order.rate_tolerance)
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
    # No session: the broker would queue messages for days under a client id that is never used again.
    alone = replace(settings, clean_start=True, session_expiry_s=0)
    subscriptions = [topics.subscription, *mapped.subscriptions]
    connection = MqttConnection(alone, subscriptions=subscriptions, max_waiting_bytes=MOST_BYTES)
    with connection.connect():
        console.say(f"recording {config.mqtt.host}:{config.mqtt.port} {topics.subscription} -> {folder(writer.folder)}")
        last = False
        while not last:  # after the stop, store the messages that have arrived
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
                    console.warn(f"connection lost, readings are missing until it is restored: {event.detail}")
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
    text = f"{writer.samples} samples of {len(states)} streams in {writer.parts} parts, {passed_over} messages refused"
    console.result(document, text)
