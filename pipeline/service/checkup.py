"""A check-up of a site: this machine, the data directory and its model, the running service, the broker, the readings.

Each `look_at_*` function returns findings; `listen` collects what the broker delivers, `judge` turns it into findings.
`pipeline.service.guarantee` calculates from the measured values what can be promised.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from pipeline.config.secrets import exposed
from pipeline.core import codec
from pipeline.core.remedies import remedy
from pipeline.drivers.intake import unit_error
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.edges.mqtt import MqttConnection, TopicTemplate
from pipeline.edges.mqtt.probe import BrokerFeatures, Delivery, delivery, features
from pipeline.edges.places import links_outside
from pipeline.edges.store.database import JOURNAL_NAME, check_witness, count_streams, view_journal
from pipeline.edges.store.quarantine import refusals
from pipeline.errors import DecodeError, NotReachable, ThrumcastError
from pipeline.service.client import ServiceReport, ask
from pipeline.service.payloads import payloads

if TYPE_CHECKING:
    from pipeline.config.tables import Config
    from pipeline.core.records import Block, StreamKey
    from pipeline.edges.mqtt import MqttSettings
    from pipeline.edges.payloads import Payloads
    from pipeline.edges.ports import Message

Status = Literal["pass", "warn", "fail", "skip"]
SLOW_FSYNC_S = 0.2
LOW_BYTES = 2 * 2**30  # free disk space below which the check-up warns
EVERYTHING = "#"
DROPPED = "$SYS/broker/publish/messages/dropped"  # mosquitto's own count of dropped messages
CLOCK_S = (-1.0, 10.0)  # how far a sender's clock may be ahead of ours, and behind it
DECODED = 300  # messages that are decoded while listening
MOST_REFUSALS = 10  # topics and reasons that are named
NEAR_LIMIT = 0.8  # of a limit on streams, from which on the check-up warns
_FSYNCS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str  # area:name
    status: Status
    found: str
    advice: str = ""  # what to do unless the status is pass


def duration(seconds: float) -> str:
    """A duration for people: 2.1 h, 90 s, no limit."""
    if seconds == float("inf"):
        return "no limit"
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


# -- this machine ----------------------------------------------------------------------------------------------------


def look_at_disk(directory: Path) -> tuple[list[Finding], float]:
    """Checks that the data directory is writable, its free space, and the time of an fsync, which it returns in s."""
    place = directory
    while not place.exists():
        place = place.parent
    try:
        fsync_s = fsync_time_s(place)
    except OSError as error:
        advice = "choose another data.dir, or make it writable for the user that runs the service"
        return [Finding("disk:writable", "fail", f"{place}: {error.strerror}", advice)], SLOW_FSYNC_S
    free = shutil.disk_usage(place).free
    findings = [
        Finding("disk:writable", "pass", f"{directory}" + ("" if place == directory else " (will be created)")),
        Finding(
            "disk:free",
            "pass" if free > LOW_BYTES else "warn",
            f"{free / 1e9:.1f} GB",
            "`thrumcast archive prune --keep 90d --yes` removes old days, except those of snapshots",
        ),
        Finding(
            "disk:fsync",
            "pass" if fsync_s < SLOW_FSYNC_S else "warn",
            f"{fsync_s * 1e3:.1f} ms for an fsync (median of {_FSYNCS})",
            "every commit waits for an fsync: use a local SSD, not a network disk or an SD card",
        ),
    ]
    return findings, fsync_s


def fsync_time_s(directory: Path) -> float:
    """Median time in s to write 64 KiB and fsync it."""
    path, times_s = directory / f".doctor.{os.getpid()}", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_FSYNCS):
            began_s = time.perf_counter()
            os.write(descriptor, bytes(65536))
            os.fsync(descriptor)
            times_s.append(time.perf_counter() - began_s)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(times_s)


def look_at_data(config: Config, service: ServiceReport | None = None) -> list[Finding]:
    """Checks journal, machine facts and model of the data directory. `service` may use another directory."""
    directory = config.data.path
    findings = []
    try:
        view = view_journal(directory, ()) if (directory / JOURNAL_NAME).exists() else None
        found = (
            f"no journal yet in {directory}"
            if view is None
            else f"{len(view.parts)} files, {sum(p.rows for p in view.parts)} rows"
        )
        behind = check_witness(directory)
        if behind is None:
            findings.append(Finding("data:journal", "pass", found))
        else:
            findings.append(Finding("data:journal", "fail", behind.message, behind.hint or ""))
    except ThrumcastError as error:
        findings.append(Finding("data:journal", "fail", error.message, error.hint or ""))
    try:
        streams = len(MachinesFile(directory / MACHINES_NAME).load())
        findings.append(Finding("data:machines", "pass", f"facts of {streams} streams"))
    except ThrumcastError as error:
        findings.append(Finding("data:machines", "fail", error.message, error.hint or ""))
    try:
        from pipeline.service.models import load_bundle, model_set

        bundle = load_bundle(config)
        model = None if bundle is None else model_set(config, bundle).predictor
        advice = "features are archived without a model; `thrumcast train` makes one"
        status, serves = ("", "") if service is None else service.checks.get("model:loaded", ("", ""))
        if service is not None and status == "pass":
            advice = f"the service at {service.address} serves {serves}: give its data directory with --data"
        shown = f"no {config.model.alias} in {directory}"
        if model is not None:
            shown = f"{config.model.alias} is {model.version}"
        findings.append(Finding("model:loaded", "warn" if model is None else "pass", shown, advice))
    except ThrumcastError as error:
        findings.append(Finding("model:loaded", "fail", error.message, error.hint or ""))
    return findings


def look_at_streams(config: Config) -> list[Finding]:
    """Compares the streams that the journal knows with the limits of [streams]."""
    limits = config.streams
    try:
        streams = count_streams(config.data.path)
    except ThrumcastError:
        return []  # `data:journal` reports it
    found = [f"{sum(streams.values())} of {len(streams)} machines"]
    most = max(streams, key=lambda machine: streams[machine], default="")
    near = [
        f"{what}: {n} of at most {limit}"
        for what, n, limit in (
            ("machines (streams.max_machines)", len(streams), limits.max_machines),
            (f"streams of {most} (streams.max_per_machine)", streams.get(most, 0), limits.max_per_machine),
        )
        if 0 < NEAR_LIMIT * limit <= n
    ]
    advice = "what exceeds a limit goes to quarantine: raise it, or give senders rights for their own topics only"
    return [Finding("data:streams", "warn" if near else "pass", "; ".join(found + near), advice)]


def look_at_access(config: Config) -> list[Finding]:
    """Checks who may read secrets and data, and that no link leads out of the data directory."""
    directory = config.data.path
    secrets = [one.text for one in exposed(config)]
    found = Finding(
        "secrets:modes",
        "warn" if secrets else "pass",
        "; ".join(secrets) or "no secret that others may read",
        "chmod 600, or 640 with the group of the service",
    )
    if not directory.is_dir():
        return [found]
    mode = stat.S_IMODE(directory.stat().st_mode)
    links = [f"{link} leads outside" for link in links_outside(directory)]
    others = [f"mode {mode:04o} of {directory}"] if mode & 0o002 else []
    return [
        found,
        Finding(
            "data:access",
            "fail" if links else "warn" if others else "pass",
            "; ".join(links + others) or f"mode {mode:04o}, no link leads outside",
            "a service refuses links that lead outside" if links else f"chmod 750 {directory}",
        ),
    ]


def look_at_service(config: Config) -> tuple[Finding, ServiceReport | None]:
    """Checks whether a service runs at web.bind, and its health."""
    try:
        found = ask(config.web.bind, 2.0)
    except NotReachable:
        return Finding("service:ready", "skip", f"no service answers at {config.web.bind}"), None
    failing = ", ".join(found.failing)
    advice = "docs/operations.md explains each check"
    if failing:
        return Finding("service:ready", "warn", f"{found.address}: failing checks: {failing}", advice), found
    return Finding("service:ready", "pass", found.address), found


def look_at_senders(service: ServiceReport | None) -> list[Finding]:
    """Says how many messages never came and which streams contradict themselves, as the running service counts."""
    if service is None:
        return []
    lost, samples = (int(service.metrics.get(f"{n}_total", 0)) for n in ("messages_missing", "gap_samples"))
    missing = f"about {lost} messages, {samples} samples per channel, never came since the service began"
    advice = "the sensors count them: look at broker:queue, broker:dropped and the links of the sensors"
    return [
        *([Finding("readings:missing", "warn", missing, advice)] if lost else []),
        *_contradictions(service),
    ]


def _contradictions(service: ServiceReport) -> list[Finding]:
    return [
        Finding("readings:contradiction", "warn", f"{stream}: {kind}, {n} blocks", remedy(kind))
        for stream, kinds in service.contradictions.items()
        for kind, n in kinds.items()
        if kind != "rate_drift"
    ]


def look_at_quarantine(config: Config) -> list[Finding]:
    """Names what was refused during the last day, by topic and reason, with the decoder's sentence."""
    try:
        found = refusals(config.data.path, since=datetime.now(UTC) - timedelta(days=1))
    except ThrumcastError:
        return []  # `data:journal` reports it
    findings = [
        Finding(
            "data:quarantine", "warn", f"{one.count} of {one.topic}: {one.reason}: {one.detail}", remedy(one.reason)
        )
        for one in found[:MOST_REFUSALS]
    ]
    if len(found) > MOST_REFUSALS:
        more = f"{len(found) - MOST_REFUSALS} more pairs of topic and reason"
        findings.append(Finding("data:quarantine", "warn", more, "`thrumcast quarantine ls` lists all of them"))
    return findings


# -- the broker and its readings -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reception:
    """The messages that arrived while listening."""

    seconds: float = 0.0
    messages: int = 0  # that match the template or a [[payloads]] table
    bytes: int = 0
    streams: set[str] = field(default_factory=set)
    strangers: Counter[str] = field(default_factory=Counter)  # topics that do not match
    refused: Counter[str] = field(default_factory=Counter)  # reasons why payloads were not decoded
    details: dict[str, str] = field(default_factory=dict)  # reason -> topic of the first such payload, and why
    units: dict[str, str] = field(default_factory=dict)  # stream -> its unit, if that is unknown
    unknown: set[str] = field(default_factory=set)  # machines that the configuration does not accept
    late_s: list[float] = field(default_factory=list)  # time from the last sample of a block to its arrival
    block_s: list[float] = field(default_factory=list)
    dropped: int | None = None

    @property
    def rate_per_s(self) -> float:
        """Messages/s that match the template or a [[payloads]] table."""
        return self.messages / self.seconds if self.seconds else 0.0


def probe_settings(config: Config) -> MqttSettings:
    """The settings of the service, with another client id."""
    from pipeline.service.compose import mqtt_settings

    settings = mqtt_settings(config, f"{config.mqtt.client_id}-doctor-{secrets.token_hex(3)}")
    return replace(settings, clean_start=True)


def _reading_topics(config: Config) -> list[str]:
    """What the service subscribes to for its readings: the template's topics, and those of [[payloads]]."""
    template = TopicTemplate(config.mqtt.readings_topic)
    return list(dict.fromkeys([template.subscription, *payloads(config).subscriptions]))


def look_at_broker(config: Config, settings: MqttSettings) -> tuple[list[Finding], BrokerFeatures]:
    """Connects and checks the limits and features that the broker announces in its CONNACK.

    Raises:
        NotReachable: the broker does not answer or refuses the connection.
    """
    wanted_topics = _reading_topics(config)
    found = features(settings, [*wanted_topics, EVERYTHING, DROPPED])
    size = config.mqtt.max_payload_bytes
    granted, wanted = found.session_expiry_s, config.mqtt.session_expiry_s
    local = config.mqtt.host in ("127.0.0.1", "::1", "localhost")
    return [
        Finding("broker:reachable", "pass", f"{settings.address}, MQTT 5"),
        *(
            Finding(
                "broker:subscribe",
                "pass" if found.subscriptions[topic] else "fail",
                f"{topic} {'allowed' if found.subscriptions[topic] else 'refused'}",
                f"allow {config.mqtt.username or 'anonymous clients'} to read it (acl_file)",
            )
            for topic in wanted_topics
        ),
        Finding(
            "broker:qos_1",
            "pass" if found.maximum_qos >= 1 else "fail",
            f"maximum QoS {found.maximum_qos}",
            "without QoS 1 messages can be lost",
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
            f"mqtt.max_payload_bytes is {size:,}: the broker drops larger messages",
        ),
        Finding(
            "broker:session",
            "pass" if 0 < wanted <= granted else "warn",
            f"kept for {duration(granted)} while the service is disconnected"
            + ("" if granted == wanted else f", requested: {duration(wanted)}"),
            "raise mqtt.session_expiry_s, or the broker's limit (mosquitto: persistent_client_expiration)",
        ),
        Finding(
            "broker:encryption",
            "pass" if config.mqtt.tls or local else "warn",
            "TLS" if config.mqtt.tls else "none" + (" (this machine)" if local else ""),
            "passwords and readings travel in clear text: set mqtt.tls and mqtt.tls_ca_file",
        ),
    ], found


def look_at_delivery(config: Config, settings: MqttSettings, count: int) -> tuple[list[Finding], Delivery]:
    """Publishes test messages, reads them back, and measures the in-flight window and the queue of the broker.

    Raises:
        NotReachable: the connection was lost.
    """
    topic = f"{config.mqtt.results_topic}/doctor/{secrets.token_hex(4)}"
    found = delivery(settings, topic, count)
    user = config.mqtt.username or "anonymous clients"
    if not found.arrived:
        how = "refused" if found.refused else "the message did not come back"
        advice = f"allow {user} to write and read {config.mqtt.results_topic}/# (acl_file)"
        return [Finding("broker:publish", "fail", f"{topic}: {how}", advice)], found
    findings = [Finding("broker:publish", "pass", f"round trip in {found.round_trip_s * 1e3:.1f} ms")]
    if not count:
        return findings, found
    window, wanted = found.in_flight, config.mqtt.receive_maximum
    findings.append(
        Finding(
            "broker:window",
            "pass" if window >= min(wanted, count) else "warn",
            f"{window} unacknowledged messages, {wanted} requested (mqtt.receive_maximum)",
            "the broker sends fewer messages than one commit could cover; see `sustainable` below",
        )
    )
    kept = f"{found.queued} messages beyond the window" + ("" if found.dropped else ", or more")
    advice = "mosquitto: raise max_queued_messages (default 1,000); see deploy/mosquitto.conf"
    if found.dropped:
        kept += f"; {found.dropped} more were acknowledged to the sender and then dropped"
    findings.append(Finding("broker:queue", "warn" if found.dropped else "pass", kept, advice))
    return findings, found


def listen(config: Config, settings: MqttSettings, broker: BrokerFeatures, seconds: float) -> Reception:
    """Receives messages for `seconds`.

    Raises:
        NotReachable: the connection was lost.
    """
    mapped = payloads(config)
    wide = broker.subscriptions.get(EVERYTHING, False)
    topics = [EVERYTHING] if wide else _reading_topics(config)
    topics += [DROPPED] if broker.subscriptions.get(DROPPED, False) else []
    heard = Reception()
    ours = replace(settings, session_expiry_s=0)
    with MqttConnection(ours, subscriptions=topics, max_waiting=500) as connection:
        connection.connect()
        began_s = time.monotonic()
        while (left_s := began_s + seconds - time.monotonic()) > 0:
            messages = connection.take(500, min(left_s, 0.25))
            for message in messages:
                _hear(config, mapped, message, heard)
            connection.acknowledge(messages)
        heard.seconds = time.monotonic() - began_s
    return heard


def _hear(config: Config, mapped: Payloads, message: Message, heard: Reception) -> None:
    if message.topic == DROPPED:
        heard.dropped = int(message.payload) if message.payload.isdigit() else None
        return
    key = TopicTemplate(config.mqtt.readings_topic).parse(message.topic)
    if key is None and mapped.mapping_of(message.topic) is None:
        if not message.topic.startswith((f"{config.mqtt.results_topic}/", "$")) and len(heard.strangers) < 1000:
            heard.strangers[message.topic] += 1
        return
    heard.messages += 1
    heard.bytes += len(message.payload)
    blocks: list[Block] = []
    if len(heard.late_s) + heard.refused.total() < DECODED:
        try:
            blocks = _decoded(config, mapped, message, key)
        except DecodeError as error:
            heard.refused[error.reason] += 1
            heard.details.setdefault(error.reason, f"{message.topic}: {error}")
    for stream in {block.key for block in blocks} or ({key} if key is not None else set()):
        heard.streams.add(str(stream))
        if not config.accepts(stream.machine):
            heard.unknown.add(stream.machine)
    for block in blocks:
        if block.unit_sent is not None:
            heard.units[str(block.key)] = block.unit_sent
        length_s = block.samples.shape[1] / block.rate_hz
        heard.block_s.append(length_s)
        heard.late_s.append(time.time() - block.t0_ns / 1e9 - length_s)


def _decoded(config: Config, mapped: Payloads, message: Message, key: StreamKey | None) -> list[Block]:
    """As the service reads it: a table comes before the template."""
    blocks = mapped.decode(message, time.time_ns())
    if blocks is not None:
        return blocks
    assert key is not None
    return [codec.decode(message.payload, key, max_payload_bytes=config.mqtt.max_payload_bytes)]


def judge(config: Config, heard: Reception) -> list[Finding]:
    """Checks topics, machines, payloads and clocks of the received messages."""
    template = " or ".join([config.mqtt.readings_topic, *(table.topic for table in config.payloads)])
    some = ", ".join(topic for topic, _ in heard.strangers.most_common(5))
    rate = f"{heard.rate_per_s:.3g} messages/s of {len(heard.streams)} streams in {heard.seconds:.1f} s"
    findings = [
        Finding(
            "readings:match",
            "pass" if heard.messages else "warn",
            rate if heard.messages else f"none in {heard.seconds:.1f} s",
            f"no topic matches {template}" + (f"; topics seen: {some}" if some else "; listen longer with --seconds"),
        )
    ]
    if heard.strangers and heard.messages:
        findings.append(Finding("readings:strangers", "pass", f"{len(heard.strangers)} other topics, such as {some}"))
    if heard.unknown:
        advice = "list them under [machines], or set mqtt.accept_unknown_machines = true"
        findings.append(
            Finding("readings:machines", "warn", f"not accepted: {', '.join(sorted(heard.unknown))}", advice)
        )
    if heard.refused:
        for reason, n in heard.refused.most_common():
            found = f"{reason} {n}, the first at {heard.details[reason]}"
            findings.append(Finding("readings:payload", "warn", found, remedy(reason)))
    for stream, unit in heard.units.items():
        found = f"{stream}: {unit_error(unit)}"
        findings.append(Finding("readings:unit", "warn", found, remedy("unit_unknown")))
    if heard.late_s:
        late_s, (low_s, high_s) = median(heard.late_s), CLOCK_S
        advice = "synchronise both clocks with NTP; a replay of old recordings also causes this"
        status: str = "pass" if low_s <= late_s <= high_s else "warn"
        findings.append(
            Finding("readings:clock", "warn" if status == "warn" else "pass",
                    f"blocks arrive {late_s:.2f} s after their last sample (median)", advice)
        )  # fmt: skip
    if heard.dropped:
        advice = "the broker's own count since its start, for all clients; see max_queued_messages"
        findings.append(Finding("broker:dropped", "warn", f"{heard.dropped} messages", advice))
    return findings
