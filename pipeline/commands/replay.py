"""`thrumcast replay`: publishes recordings over MQTT, as if the machines were running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import PATH, Console, broker_flags, broker_option, recording_warnings, with_console
from pipeline.commands.recordings import by_note, reading_options, say_passed_over

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.core.records import Block
    from pipeline.edges.recordings.contents import Options
    from pipeline.edges.recordings.recording import RecordedStream


@click.command(name="replay")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--channels", metavar="NAME[=AS],...", help="Channels to use, and their new names.")
@reading_options
@click.option(
    "--speed", type=click.FloatRange(min=0), default=1.0, help="Times real time; 0 = as fast as the broker accepts."
)
@broker_option
@click.option(
    "--block-s",
    type=click.FloatRange(min=0.001),
    default=0.25,
    help="Length of a message in s; shorter if the service would refuse it.",
)
@click.option("--area", default="replay", help="Area in the topic.")
@with_console
def command(
    console: Console,
    inputs: tuple[Path, ...],
    channels: str | None,
    reading: Options,
    speed: float,
    broker: str | None,
    block_s: float,
    area: str,
) -> None:
    """Publish recordings (files or folders) to the broker one by one, each as a session that starts now.

    Speed, bearing and true failure mode are sent with the readings if the recording states them.
    """
    import time

    from pipeline.core.codec import encode
    from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
    from pipeline.edges.recordings.recording import open_recordings, parse_channels, places, search, streams
    from pipeline.errors import RecordingError, ThrumcastError
    from pipeline.service.compose import mqtt_settings

    config = console.config(**broker_flags(broker))
    channel_map = parse_channels(channels) if channels else None
    topics = TopicTemplate(config.mqtt.readings_topic)
    files = search(inputs, reading.preset)
    paths, where = files.paths, places(files.recordings, reading.machine_from)
    notes: dict[str, list[str]] = {}
    sent_messages = sent_bytes = sent_streams = 0
    began_s = time.monotonic()
    settings = mqtt_settings(config, f"{config.mqtt.client_id}-replay-{time.time_ns() % 10**9}")
    with (
        recording_warnings(console) as (in_part, skipped),
        MqttPublisher(settings).connect() as publisher,
        console.progress(len(paths), "recordings") as bar,
    ):
        for path in paths:
            try:
                found = []
                for recording in open_recordings(path, reading, where[path]):
                    if recording.left_out and channel_map is None:
                        in_part[str(path)] = f"columns without numbers are ignored: {', '.join(recording.left_out)}"
                    if recording.notes:
                        notes[str(path)] = [*notes.get(str(path), []), *recording.notes]
                    found += streams(recording, channel_map)
                for stream in found:
                    longest_s = min(block_s, _longest_s(config, stream))
                    at_s = time.monotonic()
                    for block, due_s in _timed(config, stream, longest_s):
                        if speed > 0:
                            publisher.rest(max(0.0, at_s + due_s / speed - time.monotonic()))
                        payload = encode(block)
                        topic = topics.format(area=area, machine=block.key.machine, point=block.key.point)
                        publisher.publish(topic, payload)
                        sent_messages += 1
                        sent_bytes += len(payload)
                    sent_streams += 1
            except RecordingError as error:
                skipped[str(path)] = str(error)
            bar.advance()
        publisher.drain()
        acknowledged = publisher.acknowledged
    seconds = time.monotonic() - began_s
    for remark in by_note(notes):
        console.detail(remark)
    say_passed_over(console, files.passed_over)
    document = {
        "inputs": len(paths),
        "streams": sent_streams,
        "messages": sent_messages,
        "acknowledged": acknowledged,
        "payload_bytes": sent_bytes,
        "seconds": round(seconds, 3),
        "messages_per_s": round(sent_messages / seconds, 1),
        "skipped": [{"input": name, "reason": why} for name, why in skipped.items()],
        "passed_over": [{"input": name, "reason": why} for name, why in files.passed_over.items()],
        "notes": [{"input": name, "note": note} for name, said in notes.items() for note in said],
    }
    console.result(
        document,
        f"{sent_messages} messages of {sent_streams} streams, {acknowledged} acknowledged, "
        f"in {seconds:.1f} s; {len(skipped)} skipped"
        + f", {len(files.passed_over)} files passed over"
        * bool(files.passed_over),
    )
    if paths and len(skipped) == len(paths):
        msg = f"expected at least one readable recording, found: {len(skipped)} that cannot be read"
        raise ThrumcastError(msg, hint="see the reasons above", reported=True)


def _longest_s(config: Config, stream: RecordedStream) -> float:
    """Length in s of the longest block that the service accepts, by windows and by bytes."""
    from pipeline.config.specs import stream_specs
    from pipeline.core.window import LEAST_SAMPLES, is_too_slow, longest_block_s
    from pipeline.errors import RecordingError

    window, rate_hz = stream_specs(config, {})(stream.key).window, stream.recording.rate_hz
    if is_too_slow(window, rate_hz):
        msg = f"expected at least {LEAST_SAMPLES} samples in a window of {window.length_s:g} s, found in "
        msg += f"{stream.recording.path}: {rate_hz:g} Hz"
        raise RecordingError(msg, hint="the service would refuse every message; raise window.length_s")
    channels = len(stream.channels)
    samples = max(1, config.mqtt.max_payload_bytes // 2 // (4 * channels))  # the other half is room for names and facts
    return min(longest_block_s(window, rate_hz, channels), samples / rate_hz)


def _timed(config: Config, stream: RecordedStream, block_s: float) -> Iterator[tuple[Block, float]]:
    """Blocks of a stream in a session that starts now, and when each is complete, in s after its first sample."""
    import time
    from dataclasses import replace
    from itertools import islice

    from pipeline.core.codec_map import MAX_FACTS, is_fact
    from pipeline.edges.machines import recording_facts

    now_ns = time.time_ns()
    recording = stream.recording
    facts = recording_facts(recording.metadata, recording.machine, rate_hz=recording.rate_hz, unit=recording.unit)
    about = dict(islice(filter(is_fact, facts.items()), MAX_FACTS))
    for block in stream.blocks(block_s, session=now_ns, t0_ns=now_ns):
        truth = None if block.truth is None else config.modes.resolve(block.truth)
        due_s = (block.t0_ns - now_ns) / 1e9 + block.samples.shape[1] / block.rate_hz
        first = block.session == now_ns and block.index == 0
        yield replace(block, truth=truth, about=about if first else None), due_s
