"""Rules that types alone cannot express: topics, addresses, and keys that depend on each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pipeline.config.bind import is_loopback
from pipeline.config.keys import KeyPath, dotted
from pipeline.config.tables import BearingConfig, Config, PayloadTable, PointTable
from pipeline.core.bearings import ORDERS, find
from pipeline.core.faults import KINDS
from pipeline.core.patterns import Path, TopicPattern, overlap
from pipeline.core.records import is_id
from pipeline.errors import ConfigError, ThrumcastError

# States of a stream that the service reports. They are no failure modes, so the network has no such classes.
RESERVED_MODES = ("unknown", "sensor_fault", "not_running")
GEOMETRY = ("elements", "element_diameter_mm", "pitch_diameter_mm")


def check(config: Config) -> Iterator[ConfigError]:
    """Every contradiction in a configuration: the key, what was expected and what was found."""
    yield from _topics(config)
    yield from _results_stay_out(config)
    yield from _security(config)
    yield from _rhythm(config)
    yield from _features(config)
    yield from _modes(config)
    if config.alarm.leave_p > config.alarm.enter_p:
        expected = f"at most alarm.enter_p ({config.alarm.enter_p})"
        yield _bad("alarm.leave_p", expected, config.alarm.leave_p, "an alarm that opens must not close at once")
    if not is_id(config.model.alias):
        yield _bad("model.alias", "a name of A-Z a-z 0-9 _ . -", config.model.alias, "for instance champion")
    if config.model.shadow and not is_id(config.model.shadow):
        yield _bad("model.shadow", 'a name of A-Z a-z 0-9 _ . -, or ""', config.model.shadow, "for instance challenger")
    for key, bind in (("web.bind", config.web.bind), ("opcua.bind", config.opcua.bind)):
        _, colon, port = bind.rpartition(":")
        if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535):
            yield _bad(key, "ADDRESS:PORT", bind, "for instance 127.0.0.1:8080")
    yield from _opcua(config)
    prefix = config.homeassistant.prefix
    if re.search(r"[{}+#\x00]", prefix) or prefix.startswith("$"):
        yield _bad("homeassistant.prefix", "a plain topic without wildcards", prefix, "homeassistant is its default")
    yield from _notify(config)
    for at, payload in enumerate(config.payloads):
        yield from _payload(config, f"payloads[{at}]", payload)
    for machine, table in config.machines.items():
        yield from _place(("machines", machine), table)
        for point, own in table.points.items():
            yield from _place(("machines", machine, "points", point), own)


def _bad(key: str, expected: str, found: object, hint: str) -> ConfigError:
    return ConfigError(f"{key}: expected {expected}, found: {found!r}", hint=hint)


def _topics(config: Config) -> Iterator[ConfigError]:
    template = config.mqtt.readings_topic
    hint = "for instance plant/{area}/{machine}/{point}/vibration"
    levels = template.split("/")
    names = [level[1:-1] for level in levels if re.fullmatch(r"\{\w+\}", level)]
    for name in ("machine", "point"):
        if names.count(name) != 1:
            yield _bad("mqtt.readings_topic", f"{{{name}}} exactly once, as a whole level", template, hint)
    if not set(names) <= {"area", "machine", "point"} or len(names) != len(set(names)):
        yield _bad(
            "mqtt.readings_topic",
            "only the placeholders {area}, {machine} and {point}, each at most once",
            template,
            hint,
        )
    fixed = [level for level in levels if level not in {f"{{{name}}}" for name in names}]
    if any(re.search(r"[{}+#\x00]", level) for level in fixed):
        yield _bad("mqtt.readings_topic", "levels that are a whole placeholder or plain text", template, hint)
    if template.startswith("$"):  # a shared subscription would spread one machine over several consumers
        yield _bad("mqtt.readings_topic", "a topic that does not begin with $", template, hint)
    base = config.mqtt.results_topic
    if not base or re.search(r"[{}+#\x00]", base) or "" in base.split("/") or base.startswith("$"):
        yield _bad("mqtt.results_topic", "a plain topic without wildcards", base, "for instance thrumcast")


def _results_stay_out(config: Config) -> Iterator[ConfigError]:
    """The service must not receive its own results as readings."""
    mqtt = config.mqtt
    place = f"{mqtt.results_topic}/machines/+/+"
    results = [f"{place}/{name}" for name in ("prediction", "state", "alarm")]
    results += [f"{mqtt.results_topic}/{name}" for name in ("status", "events/+")]
    readings = mqtt.readings_topic.split("/")
    for topic in results:
        levels = topic.split("/")
        meets = (a == b or a.startswith("{") or b == "+" for a, b in zip(readings, levels, strict=False))
        if len(levels) == len(readings) and all(meets):
            expected = f"a template that does not match the result topic {topic}"
            yield _bad("mqtt.readings_topic", expected, mqtt.readings_topic, "the service would read its own results")


def _security(config: Config) -> Iterator[ConfigError]:
    mqtt = config.mqtt
    for key in ("tls_ca_file", "tls_cert_file"):
        if getattr(mqtt, key) and not mqtt.tls:
            yield _bad("mqtt.tls", f"true, because mqtt.{key} is set", mqtt.tls, "set it to true, or remove the file")
    if mqtt.tls_key_file and not mqtt.tls_cert_file:
        yield _bad(
            "mqtt.tls_cert_file",
            "the certificate of mqtt.tls_key_file",
            "",
            "a key is of use only with its certificate",
        )


def _rhythm(config: Config) -> Iterator[ConfigError]:
    """Times that contradict each other."""
    commit, roll = config.commit.interval_s, config.archive.roll_s
    if commit > roll:
        yield _bad("commit.interval_s", f"at most archive.roll_s ({roll})", commit, "a roll writes committed rows only")
    if 0 < config.mqtt.session_expiry_s <= commit:
        expected = f"more than commit.interval_s ({commit}), or 0"
        found = config.mqtt.session_expiry_s
        yield _bad(
            "mqtt.session_expiry_s", expected, found, "the broker would drop unacknowledged messages with the session"
        )
    hops = [("window.hop_s", config.window.hop_s)]
    for machine, table in config.machines.items():
        for point in ("", *table.points):
            key = dotted(("machines", machine, *(("points", point) if point else ()), "window", "hop_s"))
            hops.append((key, config.machine(machine, point).window.hop_s))
    for key, hop_s in hops:
        if hop_s > config.model.max_gap_s:
            expected = f"at most model.max_gap_s ({config.model.max_gap_s})"
            yield _bad(key, expected, hop_s, "the hidden state would be reset before every window")
    if 0 < config.archive.compact_parts < 2:
        yield _bad(
            "archive.compact_parts", "0, or at least 2", config.archive.compact_parts, "merging takes two files or more"
        )


def _features(config: Config) -> Iterator[ConfigError]:
    features = config.features
    low, high = features.envelope_low_hz, features.envelope_high_hz
    if not low < high:
        yield _bad(
            "features.envelope_low_hz",
            f"less than features.envelope_high_hz ({high})",
            low,
            "the two are the ends of a band in Hz",
        )
    if 0 < features.bandwidth_hz < high:
        expected = f"at most features.bandwidth_hz ({features.bandwidth_hz})"
        yield _bad("features.envelope_high_hz", expected, high, "no signal is left above the bandwidth")


def _modes(config: Config) -> Iterator[ConfigError]:
    names = config.modes.names
    if not names:
        yield _bad("modes.names", "at least one mode", names, "remove the key to get the default modes")
    for name in names:
        if not is_id(name) or name in RESERVED_MODES or names.count(name) > 1:
            expected = f"distinct ids, none of them {', '.join(RESERVED_MODES)}"
            yield _bad("modes.names", expected, name, "an id consists of A-Z a-z 0-9 _ . -")
    for alias, mode in config.modes.aliases.items():
        if mode not in names:
            yield _bad(
                f"modes.aliases.{alias}", "one of modes.names", mode, "[modes.aliases] replaces the default aliases"
            )
        if alias in names:
            yield _bad(f"modes.aliases.{alias}", "an alias that is not the name of a mode", alias, "remove this alias")


def _notify(config: Config) -> Iterator[ConfigError]:
    notify = config.notify
    if notify.webhook_url and not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", notify.webhook_url):
        yield _bad("notify.webhook_url", "http:// or https:// with a host and no password", "an address that is not",
                   "a token belongs into webhook_token_file")  # fmt: skip
    if notify.webhook_token_file and not notify.webhook_url:
        yield _bad("notify.webhook_url", "an address, as webhook_token_file is set", "", "or remove that key")
    if notify.mail_to:
        for key in ("smtp_host", "mail_from"):
            if not getattr(notify, key):
                yield _bad(f"notify.{key}", "a value, as mail_to is set", "", "or remove mail_to")
    if notify.smtp_username and not notify.smtp_password_file:
        yield _bad("notify.smtp_password_file", "a file, as smtp_username is set", "", "it holds the password alone")
    if notify.smtp_username and not notify.smtp_starttls:
        yield _bad("notify.smtp_starttls", "true, as smtp_username is set", False, "a password is not sent in the open")


def _opcua(config: Config) -> Iterator[ConfigError]:
    opcua = config.opcua
    for key, other in (("certificate_file", "key_file"), ("username", "password_file")):
        if bool(getattr(opcua, key)) != bool(getattr(opcua, other)):
            yield _bad(f"opcua.{key}", f"it and {other}, or neither", getattr(opcua, key), "they belong together")
    if not is_loopback(opcua.bind) and not (opcua.certificate_file and opcua.username):
        yield _bad("opcua.bind", "127.0.0.1 without certificate_file and username", opcua.bind,
                   "set both, so that other machines see nothing without encryption and a password")  # fmt: skip


def _payload(config: Config, place: str, table: PayloadTable) -> Iterator[ConfigError]:
    """One [[payloads]] table: patterns that can be read, and everything that a block needs."""
    places: tuple[str, ...] = ()
    try:
        pattern = TopicPattern(table.topic)
    except ValueError as error:
        yield _bad(f"{place}.topic", str(error), table.topic, "for instance sensors/{machine}/{point}/accel")
    else:
        places = pattern.places
        own = next((topic for topic in _own_topics(config) if overlap(pattern.subscription, topic)), None)
        if own is not None:
            hint = "results must not come back as readings"
            yield _bad(f"{place}.topic", f"no topic such as {own}", table.topic, hint)
    binary = table.format == "raw"
    texts = {name: getattr(table, name) for name in (
        "packed", "time", "rate_hz", "unit", "scale", "speed_rpm", "machine", "point", "session", "index",
    )} | {f"samples.{channel}": path for channel, path in table.samples.items()}  # fmt: skip
    for name, text in texts.items():
        if isinstance(text, str) and text:
            yield from _payload_value(f"{place}.{name}", name, text, places, binary=binary)
    if binary or table.packed:
        if not table.channels or table.samples:
            yield _bad(f"{place}.channels", "the channels of the packed samples, and no samples", list(table.channels),
                       'for instance channels = ["x", "y", "z"]')  # fmt: skip
        if binary and table.packed:
            yield _bad(f"{place}.packed", "no path: a raw message is its samples", table.packed, "use skip_bytes")
    elif not table.samples or table.channels:
        yield _bad(f"{place}.samples", "a path for each channel", table.samples, 'such as { x = "$.data[*].x" }')
    for name in (*table.samples, *table.channels):
        if not is_id(name):
            yield _bad(f"{place}.samples", "channel names of A-Z a-z 0-9 _ . -", name, "for instance x")
    if table.format == "sparkplug" and not table.topic.startswith("spBv1.0/"):
        yield _bad(f"{place}.topic", "a topic that begins with spBv1.0/", table.topic, "spBv1.0/{group}/+/{machine}")
    if not table.time:
        yield _bad(f"{place}.time", "a path, or arrival", "", 'for instance "$.timestamp"; arrival is the last resort')
    if table.rate_hz is None and table.time == "arrival":
        yield _bad(f"{place}.rate_hz", "a rate, as time is the arrival", None, "in Hz")
    if not table.unit:
        yield _bad(f"{place}.unit", "the unit of the samples, or its path", "", "g, m/s2, mm/s, V or 1")
    if table.session and not table.index:
        yield _bad(f"{place}.index", "a path, because session is set", "", "or leave both out")
    if isinstance(table.scale, float) and not 0 < abs(table.scale) < float("inf"):
        yield _bad(f"{place}.scale", "a finite number other than 0", table.scale, "value = number x scale")


def _own_topics(config: Config) -> list[str]:
    """What thrumcast itself publishes or takes as a request."""
    names = [f"machines/+/+/{name}" for name in ("prediction", "state", "alarm", "forecast")]
    names += ["status", "events/alarms", "events/labels", "cmd/ack", "cmd/label", "cmd/reload", "cmd/+/response"]
    return [f"{config.mqtt.results_topic}/{name}" for name in names]


def _payload_value(key: str, name: str, text: str, places: tuple[str, ...], *, binary: bool) -> Iterator[ConfigError]:
    hint = "a text that begins with $ is a path into the message"
    if text.startswith("$"):
        if binary:
            yield _bad(key, "@OFFSET:TYPE, as a raw message has no paths", text, "for instance @0:<u8")
            return
        try:
            Path(text)
        except ValueError as error:
            yield _bad(key, str(error), text, hint)
    elif text.startswith("@"):
        if not binary or not re.fullmatch(r"@\d{1,7}:[<>]?[iuf][1248]", text) or text.endswith("f1"):
            yield _bad(key, "a path, or @OFFSET:TYPE in a raw message", text, "for instance @0:<u8")
    elif name in ("machine", "point", "unit"):
        unknown = set(re.findall(r"\{(\w+)\}", text)) - set(places)
        if unknown:
            yield _bad(key, "text, a path or placeholders of the topic", text, 'for instance machine = "press-1"')
    elif not (name == "time" and text == "arrival"):
        yield _bad(key, "a number or a path" if name != "time" else "a path, or arrival", text, hint)


def _place(path: KeyPath, table: PointTable) -> Iterator[ConfigError]:
    yield from _bearing(dotted((*path, "bearing")), table.bearing)
    given = table.limits_mm_s
    if given is not None and not given[0] < given[1] < given[2]:
        expected = "three increasing velocities: the limits A/B, B/C and C/D"
        yield _bad(dotted((*path, "limits_mm_s")), expected, list(given), "RMS in mm/s, for instance [2.3, 4.5, 7.1]")
    if given is not None and not table.limits_source:
        hint = "for instance a standard, the manufacturer, or learned"
        yield _bad(dotted((*path, "limits_source")), "the source of limits_mm_s", "", hint)
    if given is None and table.limits_source:
        hint = "for instance [2.3, 4.5, 7.1]"
        yield _bad(dotted((*path, "limits_mm_s")), "limits, because limits_source is set", None, hint)
    low, high = table.speed_min_rpm, table.speed_max_rpm
    if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
        missing = "speed_min_rpm" if low is None else "speed_max_rpm"
        yield _bad(
            dotted((*path, missing)), "both speed_min_rpm and speed_max_rpm, the first lower", [low, high], "in rpm"
        )
    if table.kind and table.kind not in KINDS:
        yield _bad(
            dotted((*path, "kind")), f"one of {', '.join(KINDS)}", table.kind, "leave it away for other machines"
        )
    if (table.iso_group is None) != (table.support is None):
        missing = "iso_group" if table.iso_group is None else "support"
        expected = "1 or 2" if table.iso_group is None else "rigid or flexible"
        yield _bad(dotted((*path, missing)), expected, None, "the limits of ISO 10816-3 depend on both")


def _bearing(key: str, bearing: BearingConfig | str | None) -> Iterator[ConfigError]:
    if bearing is None:
        return
    if isinstance(bearing, str):
        yield from _keyed(key, lambda: find(bearing))
        return
    given = [name for name in bearing.__struct_fields__ if getattr(bearing, name) is not None]
    is_geometry = set(given) in (set(GEOMETRY), {*GEOMETRY, "contact_angle_deg"})
    if not is_geometry and not (set(given) <= {*ORDERS, "elements"} and set(given) & set(ORDERS)):
        expected = f"either {', '.join(ORDERS)} (two of them, or one and elements) or {', '.join(GEOMETRY)} "
        expected += "(and contact_angle_deg)"
        yield _bad(key, expected, ", ".join(given), "give orders (multiples of the shaft speed) or the geometry")
        return
    element, pitch = bearing.element_diameter_mm, bearing.pitch_diameter_mm
    if element is not None and pitch is not None and element >= pitch:
        yield _bad(
            f"{key}.element_diameter_mm", f"less than pitch_diameter_mm ({pitch})", element, "diameters in millimetres"
        )
        return
    yield from _keyed(key, bearing.orders)


def _keyed(key: str, action: Callable[[], object]) -> Iterator[ConfigError]:
    """The error that the action raises, with the key before its message."""
    try:
        action()
    except ThrumcastError as error:
        yield ConfigError(f"{key}: {error.message}", hint=error.hint)
