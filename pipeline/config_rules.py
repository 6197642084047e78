"""The rules of the configuration that a type alone cannot say: topics, addresses, and keys that go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from pipeline.config import Config
from pipeline.config_keys import KeyPath, dotted
from pipeline.config_machines import BearingConfig, PointTable
from pipeline.core.bearings import find
from pipeline.core.records import is_id
from pipeline.errors import ConfigError

# What a stream can be besides one of the modes: an output, but no class of the network.
RESERVED_MODES = ("unknown", "sensor_fault", "not_running")
ORDERS = ("ftf", "bpfo", "bpfi", "bsf")
GEOMETRY = ("elements", "element_diameter_mm", "pitch_diameter_mm")


def check(config: Config) -> None:
    """Refuses a configuration whose values do not fit together.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    _check_topics(config)
    _check_results_stay_out(config)
    _check_security(config)
    _check_rhythm(config)
    _check_features(config)
    _check_modes(config)
    if config.alarm.leave_p > config.alarm.enter_p:
        expected = f"at most alarm.enter_p ({config.alarm.enter_p})"
        _refuse("alarm.leave_p", expected, config.alarm.leave_p, "an alarm that opens must not close at once")
    if not is_id(config.model.alias):
        _refuse("model.alias", "a name of A-Z a-z 0-9 _ . -", config.model.alias, "for instance champion")
    if config.model.shadow and not is_id(config.model.shadow):
        _refuse(
            "model.shadow", "a name of A-Z a-z 0-9 _ . -, or nothing", config.model.shadow, "for instance challenger"
        )
    _, colon, port = config.web.bind.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        _refuse("web.bind", "ADDRESS:PORT", config.web.bind, "for instance 127.0.0.1:8080")
    for machine, table in config.machines.items():
        _check_place(("machines", machine), table)
        for point, own in table.points.items():
            _check_place(("machines", machine, "points", point), own)


def _refuse(key: str, expected: str, found: object, hint: str) -> NoReturn:
    msg = f"{key}: expected {expected}, found: {found!r}"
    raise ConfigError(msg, hint=hint)


def _check_topics(config: Config) -> None:
    template = config.mqtt.readings_topic
    hint = "for instance plant/{area}/{machine}/{point}/vibration"
    levels = template.split("/")
    names = [level[1:-1] for level in levels if re.fullmatch(r"\{\w+\}", level)]
    for name in ("machine", "point"):
        if names.count(name) != 1:
            _refuse("mqtt.readings_topic", f"{{{name}}} once, as a level of its own", template, hint)
    if not set(names) <= {"area", "machine", "point"} or len(names) != len(set(names)):
        _refuse("mqtt.readings_topic", "no placeholder but {area}, {machine}, {point}, each once", template, hint)
    fixed = [level for level in levels if level[1:-1] not in names]
    if any(re.search(r"[{}+#\x00]", level) or not level for level in fixed):
        _refuse("mqtt.readings_topic", "levels that are a whole placeholder or plain text", template, hint)
    if template.startswith("$"):  # a shared subscription would spread one machine over several consumers
        _refuse("mqtt.readings_topic", "a topic that does not begin with $", template, hint)
    base = config.mqtt.results_topic
    if not base or re.search(r"[{}+#\x00]", base) or "" in base.split("/") or base.startswith("$"):
        _refuse("mqtt.results_topic", "a plain topic without wildcards", base, "for instance thrumcast")


def _check_results_stay_out(config: Config) -> None:
    """A service that subscribes to its own results would feed on them."""
    mqtt = config.mqtt
    place = f"{mqtt.results_topic}/machines/+/+"
    results = [f"{place}/{name}" for name in ("prediction", "state", "alarm")]
    results += [f"{mqtt.results_topic}/{name}" for name in ("status", "events/+")]
    readings = mqtt.readings_topic.split("/")
    for topic in results:
        levels = topic.split("/")
        meets = (a == b or a.startswith("{") or b == "+" for a, b in zip(readings, levels, strict=False))
        if len(levels) == len(readings) and all(meets):
            expected = f"a template that {topic} does not fit"
            _refuse("mqtt.readings_topic", expected, mqtt.readings_topic, "results must not come back as readings")


def _check_security(config: Config) -> None:
    mqtt = config.mqtt
    for key in ("tls_ca_file", "tls_cert_file"):
        if getattr(mqtt, key) and not mqtt.tls:
            _refuse("mqtt.tls", f"true, because mqtt.{key} is set", mqtt.tls, "or remove that key")
    if mqtt.tls_key_file and not mqtt.tls_cert_file:
        _refuse("mqtt.tls_cert_file", "the certificate of mqtt.tls_key_file", "", "a key alone proves nothing")


def _check_rhythm(config: Config) -> None:
    """Times that contradict each other: the service would run and never do what was meant."""
    commit, roll = config.commit.interval_s, config.archive.roll_s
    if commit > roll:
        _refuse("commit.interval_s", f"at most archive.roll_s ({roll})", commit, "only committed rows become files")
    if 0 < config.mqtt.session_expiry_s <= commit:
        expected = f"more than commit.interval_s ({commit}), or 0"
        found = config.mqtt.session_expiry_s
        _refuse("mqtt.session_expiry_s", expected, found, "the broker would forget what is not yet acknowledged")
    hops = [("window.hop_s", config.window.hop_s)]
    for machine, table in config.machines.items():
        for point in ("", *table.points):
            key = dotted(("machines", machine, *(("points", point) if point else ()), "window", "hop_s"))
            hops.append((key, config.machine(machine, point).window.hop_s))
    for key, hop_s in hops:
        if hop_s > config.model.max_gap_s:
            expected = f"at most model.max_gap_s ({config.model.max_gap_s})"
            _refuse(key, expected, hop_s, "the network's memory would be reset before every window")
    if 0 < config.archive.compact_parts < 2:
        _refuse("archive.compact_parts", "0, or at least 2", config.archive.compact_parts, "one file is one already")


def _check_features(config: Config) -> None:
    features = config.features
    low, high = features.envelope_low_hz, features.envelope_high_hz
    if not low < high:
        _refuse("features.envelope_low_hz", f"less than features.envelope_high_hz ({high})", low, "a band, in Hz")
    if 0 < features.bandwidth_hz < high:
        expected = f"at most features.bandwidth_hz ({features.bandwidth_hz})"
        _refuse("features.envelope_high_hz", expected, high, "nothing is left above the bandwidth")


def _check_modes(config: Config) -> None:
    names = config.modes.names
    if not names:
        _refuse("modes.names", "at least one mode", names, "leave the key out for the usual ones")
    for name in names:
        if not is_id(name) or name in RESERVED_MODES or names.count(name) > 1:
            expected = f"different ids other than {', '.join(RESERVED_MODES)}"
            _refuse("modes.names", expected, name, "ids are of A-Z a-z 0-9 _ . -")
    for alias, mode in config.modes.aliases.items():
        if mode not in names:
            _refuse(f"modes.aliases.{alias}", "one of modes.names", mode, "[modes.aliases] replaces the usual ones")
        if alias in names:
            _refuse(f"modes.aliases.{alias}", "an alias that is no mode itself", alias, "remove it")


def _check_place(path: KeyPath, table: PointTable) -> None:
    _check_bearing(dotted((*path, "bearing")), table.bearing)
    given = table.limits_mm_s
    if given is not None and not given[0] < given[1] < given[2]:
        expected = "three rising velocities, the boundaries A/B, B/C and C/D"
        _refuse(dotted((*path, "limits_mm_s")), expected, list(given), "RMS in mm/s, for instance [2.3, 4.5, 7.1]")
    if given is not None and not table.limits_source:
        _refuse(
            dotted((*path, "limits_source")), "where limits_mm_s come from", "", "a standard, the maker, or learned"
        )
    if given is None and table.limits_source:
        _refuse(
            dotted((*path, "limits_mm_s")), "limits, as limits_source is given", None, "for instance [2.3, 4.5, 7.1]"
        )
    low, high = table.speed_min_rpm, table.speed_max_rpm
    if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
        missing = "speed_min_rpm" if low is None else "speed_max_rpm"
        _refuse(dotted((*path, missing)), "speed_min_rpm below speed_max_rpm, both given", [low, high], "1/min")
    if (table.iso_group is None) != (table.support is None):
        missing = "iso_group" if table.iso_group is None else "support"
        expected = "1 or 2" if table.iso_group is None else "rigid or flexible"
        _refuse(dotted((*path, missing)), expected, None, "ISO 10816-3 has limits for a group on a support")


def _check_bearing(key: str, bearing: BearingConfig | str | None) -> None:
    if bearing is None:
        return
    if isinstance(bearing, str):
        _keyed(key, lambda: find(bearing))
        return
    given = [name for name in bearing.__struct_fields__ if getattr(bearing, name) is not None]
    allowed = (set(ORDERS), set(GEOMETRY), {*GEOMETRY, "contact_angle_deg"})
    if set(given) not in allowed:
        expected = f"either {', '.join(ORDERS)} or {', '.join(GEOMETRY)} (and contact_angle_deg)"
        _refuse(key, expected, ", ".join(given), "orders are multiples of the shaft speed")
    element, pitch = bearing.element_diameter_mm, bearing.pitch_diameter_mm
    if element is not None and pitch is not None and element >= pitch:
        _refuse(f"{key}.element_diameter_mm", f"less than pitch_diameter_mm ({pitch})", element, "in millimetres")
    _keyed(key, bearing.orders)


def _keyed(key: str, action: Callable[[], object]) -> None:
    """Does it, and lets an error name the key."""
    try:
        action()
    except ConfigError as error:
        msg = f"{key}: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error
