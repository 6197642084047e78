"""`thrumcast land`: stores the readings of some machines for a distributed run."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import PATH, Console, broker_flags, broker_option, data_option, with_console


@click.command(name="land")
@data_option
@click.option("--out", type=PATH, help="Folder that all landers share [default: DATA/archive/readings].")
@click.option("--shards", "text", default="0/1", help="Which machines: shards FIRST-LAST/COUNT of crc32(machine).")
@click.option("--interval-s", default=1.0, type=click.FloatRange(min=0.05), help="How often parts are written.")
@broker_option
@with_console
def command(
    console: Console,
    data_dir: Path | None,
    out: Path | None,
    text: str,
    interval_s: float,
    broker: str | None,
) -> None:
    """Store readings as parts that `thrumcast spark` reads, and acknowledge each message when it is on the disk.

    One lander per range of shards, each with a session of its own at the broker: what arrives while a lander is away
    waits there. Refused messages go to OUT/.refused with their reasons. Runs until Ctrl-C or SIGTERM.
    """
    import signal
    from dataclasses import replace

    from pipeline.config.specs import stream_specs
    from pipeline.drivers.intake import MOST_BYTES, Admission, Intake
    from pipeline.drivers.landing import Lander, Shards
    from pipeline.edges.mqtt import MqttConnection, TopicTemplate
    from pipeline.edges.recordings.readings import READINGS_NAME, ReadingsWriter
    from pipeline.service.compose import folder, mqtt_settings
    from pipeline.service.payloads import payloads

    config = console.config(**{"data.dir": data_dir}, **broker_flags(broker))
    shards, topics = Shards.parse(text), TopicTemplate(config.mqtt.readings_topic)
    writer = ReadingsWriter(out or config.data.path / READINGS_NAME)
    shards.claim(writer.folder)
    mapped, spec_of = payloads(config), stream_specs(config, {})
    intake = Intake(
        topics.parse,
        config.accepts,
        config.mqtt.max_payload_bytes,
        admission=Admission(lambda key: spec_of(key).window),
        mapped=mapped.decode,
    )
    name = f"{config.mqtt.client_id}-land-{shards.first}-{shards.last}-of-{shards.count}"
    settings = replace(mqtt_settings(config, name), clean_start=False)
    stopping = False

    def stop_soon(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_soon)
    told: set[tuple[str, str]] = set()

    def tell(topic: str, reason: str, detail: str) -> None:
        if (topic, reason) not in told and len(told) < 10_000:
            told.add((topic, reason))
            console.warn(f"refused, {reason}: {detail} ({topic[:100]!r}; more of this kind are only counted)")

    subscriptions = [topics.subscription, *mapped.subscriptions]
    most_held = max(1, config.mqtt.receive_maximum // 2)
    with MqttConnection(settings, subscriptions=subscriptions, max_waiting_bytes=MOST_BYTES).connect() as connection:
        console.say(f"shards {shards} of {topics.subscription} -> {folder(writer.folder)}")
        if shards.last - shards.first + 1 < shards.count:
            console.say(
                f"machines of the other {shards.count - (shards.last - shards.first + 1)} shards need landers too"
            )
        lander = Lander(connection, intake, writer, shards, interval_s, most_held)
        lander.run(lambda: stopping, tell)
    document = {
        "out": str(writer.folder),
        "shards": str(shards),
        "messages": lander.taken,
        "of_other_shards": lander.others,
        "refused": lander.refused,
        "parts": writer.parts,
        "samples": writer.samples,
    }
    text = (
        f"{lander.taken} messages ({lander.others} of other shards, {lander.refused} refused) in {writer.parts} parts"
    )
    console.result(document, text)
