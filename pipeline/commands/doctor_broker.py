"""The doctor asks the broker: may we in, what can it do, what comes, and whose clock is wrong."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from pipeline.commands.doctor_report import Finding, duration
from pipeline.core import codec
from pipeline.edges.mqtt import MqttConnection, TopicTemplate
from pipeline.edges.mqtt.probe import BrokerFeatures, Delivery, delivery, features
from pipeline.errors import DecodeError

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.edges.mqtt import MqttSettings
    from pipeline.edges.ports import Message

EVERYTHING = "#"
DROPPED = "$SYS/broker/publish/messages/dropped"  # mosquitto's own count of what it threw away
CLOCK_S = (-1.0, 10.0)  # how far ahead of ours, and how far behind, a sender's clock may seem to be
DECODED = 300  # messages that are looked into


@dataclass(slots=True)
class Heard:
    """What came while we listened."""

    seconds: float = 0.0
    messages: int = 0  # of the template
    bytes: int = 0
    streams: set[str] = field(default_factory=set)
    strangers: Counter[str] = field(default_factory=Counter)  # other topics
    refused: Counter[str] = field(default_factory=Counter)  # reasons why a payload is no block
    unknown: set[str] = field(default_factory=set)  # machines that config does not accept
    late_s: list[float] = field(default_factory=list)  # arrival minus the block's last sample
    block_s: list[float] = field(default_factory=list)
    dropped: int | None = None

    @property
    def rate_per_s(self) -> float:
        """Messages of the template."""
        return self.messages / self.seconds if self.seconds else 0.0


def probe_settings(config: Config) -> MqttSettings:
    """As the service, under another client id."""
    from pipeline.service.compose import mqtt_settings

    settings = mqtt_settings(config, f"{config.mqtt.client_id}-doctor-{secrets.token_hex(3)}")
    return replace(settings, clean_start=True)


def look_at_broker(config: Config, settings: MqttSettings) -> tuple[list[Finding], BrokerFeatures]:
    """Reachable, and what its CONNACK says.

    Raises:
        NotReachable: it does not answer, or refuses.
    """
    template = TopicTemplate(config.mqtt.readings_topic)
    found = features(settings, [template.subscription, EVERYTHING, DROPPED])
    may_read = found.subscriptions[template.subscription]
    size = config.mqtt.max_payload_bytes
    granted, wanted = found.session_expiry_s, config.mqtt.session_expiry_s
    local = config.mqtt.host in ("127.0.0.1", "::1", "localhost")
    return [
        Finding("broker:reachable", "pass", f"{settings.address}, MQTT 5"),
        Finding(
            "broker:subscribe",
            "pass" if may_read else "fail",
            f"{template.subscription} {'allowed' if may_read else 'refused'}",
            f"allow {config.mqtt.username or 'anonymous clients'} to read it (acl_file)",
        ),
        Finding(
            "broker:qos_1",
            "pass" if found.maximum_qos >= 1 else "fail",
            f"maximum QoS {found.maximum_qos}",
            "without QoS 1 nothing is promised",
        ),
        Finding(
            "broker:retain",
            "pass" if found.retain else "fail",
            "available" if found.retain else "not available",
            "states, alarms and the status are retained messages",
        ),
        Finding(
            "broker:packet_size",
            "pass" if found.maximum_packet_bytes >= size else "warn",
            f"{found.maximum_packet_bytes:,} bytes at most",
            f"mqtt.max_payload_bytes is {size:,}: larger messages are dropped by the broker",
        ),
        Finding(
            "broker:session",
            "pass" if 0 < wanted <= granted else "warn",
            f"kept for {duration(granted)} while the service is away"
            + ("" if granted == wanted else f", asked for: {duration(wanted)}"),
            "mqtt.session_expiry_s, and the broker's limit (mosquitto: persistent_client_expiration)",
        ),
        Finding(
            "broker:encryption",
            "pass" if config.mqtt.tls or local else "warn",
            "TLS" if config.mqtt.tls else "none" + (" (this machine)" if local else ""),
            "names, passwords and readings can be read on the way: mqtt.tls, mqtt.tls_ca_file",
        ),
    ], found


def look_at_delivery(config: Config, settings: MqttSettings, count: int) -> tuple[list[Finding], Delivery]:
    """Publish and read back, and how much the broker keeps for a client that acknowledges nothing.

    Raises:
        NotReachable: it went away.
    """
    topic = f"{config.mqtt.results_topic}/doctor/{secrets.token_hex(4)}"
    found = delivery(settings, topic, count)
    user = config.mqtt.username or "anonymous clients"
    if not found.arrived:
        how = "refused" if found.refused else "did not come back"
        advice = f"allow {user} to write and read {config.mqtt.results_topic}/# (acl_file)"
        return [Finding("broker:publish", "fail", f"{topic}: {how}", advice)], found
    findings = [Finding("broker:publish", "pass", f"and back in {found.round_trip_s * 1e3:.1f} ms")]
    if not count:
        return findings, found
    window, wanted = found.in_flight, config.mqtt.receive_maximum
    findings.append(
        Finding(
            "broker:window",
            "pass" if window >= min(wanted, count) else "warn",
            f"{window} messages unacknowledged, {wanted} asked for (mqtt.receive_maximum)",
            "the broker sends fewer than one commit could cover; see `sustainable` below",
        )
    )
    kept = f"{found.queued} messages beyond the window" + ("" if found.dropped else ", or more")
    advice = "mosquitto: max_queued_messages (its default is 1,000); see deploy/mosquitto.conf"
    if found.dropped:
        kept += f"; {found.dropped} more were confirmed to the sender and dropped"
    findings.append(Finding("broker:queue", "warn" if found.dropped else "pass", kept, advice))
    return findings, found


def listen(config: Config, settings: MqttSettings, broker: BrokerFeatures, seconds: float) -> Heard:
    """Everything that comes for some seconds.

    Raises:
        NotReachable: the broker went away.
    """
    template = TopicTemplate(config.mqtt.readings_topic)
    wide = broker.subscriptions.get(EVERYTHING, False)
    topics = [EVERYTHING if wide else template.subscription]
    topics += [DROPPED] if broker.subscriptions.get(DROPPED, False) else []
    heard = Heard()
    ours = replace(settings, session_expiry_s=0)
    with MqttConnection(ours, subscriptions=topics, max_waiting=500) as connection:
        connection.connect()
        began_s = time.monotonic()
        while (left_s := began_s + seconds - time.monotonic()) > 0:
            messages = connection.take(500, min(left_s, 0.25))
            for message in messages:
                _hear(config, template, message, heard)
            connection.acknowledge(messages)
        heard.seconds = time.monotonic() - began_s
    return heard


def _hear(config: Config, template: TopicTemplate, message: Message, heard: Heard) -> None:
    if message.topic == DROPPED:
        heard.dropped = int(message.payload) if message.payload.isdigit() else None
        return
    key = template.parse(message.topic)
    if key is None:
        if not message.topic.startswith((f"{config.mqtt.results_topic}/", "$")) and len(heard.strangers) < 1000:
            heard.strangers[message.topic] += 1
        return
    heard.messages += 1
    heard.bytes += len(message.payload)
    heard.streams.add(str(key))
    if not config.accepts(key.machine):
        heard.unknown.add(key.machine)
    if len(heard.late_s) + heard.refused.total() >= DECODED:
        return
    try:
        block = codec.decode(message.payload, key, max_payload_bytes=config.mqtt.max_payload_bytes)
    except DecodeError as error:
        heard.refused[error.reason] += 1
        return
    length_s = block.samples.shape[1] / block.rate_hz
    heard.block_s.append(length_s)
    heard.late_s.append(time.time() - block.t0_ns / 1e9 - length_s)


def judge(config: Config, heard: Heard) -> list[Finding]:
    """What the listening says."""
    template = config.mqtt.readings_topic
    some = ", ".join(topic for topic, _ in heard.strangers.most_common(5))
    rate = f"{heard.rate_per_s:.3g} messages/s of {len(heard.streams)} streams in {heard.seconds:.1f} s"
    findings = [
        Finding(
            "readings:match",
            "pass" if heard.messages else "warn",
            rate if heard.messages else f"none in {heard.seconds:.1f} s",
            f"nothing fits {template}" + (f"; seen topics: {some}" if some else "; listen longer with --seconds"),
        )
    ]
    if heard.strangers and heard.messages:
        findings.append(Finding("readings:strangers", "pass", f"{len(heard.strangers)} other topics, such as {some}"))
    if heard.unknown:
        advice = "name them under [machines], or set mqtt.accept_unknown_machines = true"
        findings.append(
            Finding("readings:machines", "warn", f"not accepted: {', '.join(sorted(heard.unknown))}", advice)
        )
    if heard.refused:
        found = ", ".join(f"{reason} {n}" for reason, n in heard.refused.most_common())
        findings.append(Finding("readings:payload", "warn", found, "docs/connect.md has the format"))
    if heard.late_s:
        late_s, (low_s, high_s) = median(heard.late_s), CLOCK_S
        advice = "set both clocks by NTP; a replay of old recordings looks the same"
        status: str = "pass" if low_s <= late_s <= high_s else "warn"
        findings.append(
            Finding("readings:clock", "warn" if status == "warn" else "pass",
                    f"blocks come {late_s:.2f} s after their last sample (median)", advice)
        )  # fmt: skip
    if heard.dropped:
        advice = "the broker's own count since it started, of all its clients; see max_queued_messages"
        findings.append(Finding("broker:dropped", "warn", f"{heard.dropped} messages", advice))
    return findings
