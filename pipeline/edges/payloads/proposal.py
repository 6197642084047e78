"""A proposal: the [[payloads]] table that a message of an unknown sender seems to need.

It looks at one message and guesses: the format by its first bytes, samples by shape, the rest by names of keys. What it
cannot find stands in the table as a line to fill in, with a comment.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.core.patterns import Path, described
from pipeline.core.units import UNITS
from pipeline.edges.payloads import documents
from pipeline.edges.payloads.mapping import as_number, instant
from pipeline.edges.payloads.sparkplug import Nodes
from pipeline.errors import DecodeError

LEAST_SAMPLES: Final = 4  # a shorter list of numbers is a vector, such as [x, y, z]
MOST_CHANNELS: Final = 8
_KEYS: Final = {
    "time": re.compile(r"(ts|t0?|time(stamp)?|date(time)?|epoch|when|at)(_?(s|ms|us|ns|utc))?", re.IGNORECASE),
    "rate_hz": re.compile(
        r"(sampl(e|ing)_?)?(rate|freq(uency)?|fs|odr|hz|sps)(_?hz)?|(fs|sr)|sample_?rate", re.IGNORECASE
    ),
    "unit": re.compile(r"units?|uom", re.IGNORECASE),
    "speed_rpm": re.compile(r"(speed_?)?rpm|speed", re.IGNORECASE),
    "machine": re.compile(r"machine(_?id)?|device(_?(id|name|eui))?|asset|mac|serial|node|host|dev", re.IGNORECASE),
    "index": re.compile(r"seq(uence)?(_?(no|nr|num|number))?|count(er)?|index|msg_?id", re.IGNORECASE),
}
_AXIS: Final = re.compile(
    r"((acc(el(eration)?)?|a|vib(ration)?)[._-]?)?(?P<axis>[xyz])([._-]?(acc(el)?|axis|g))?", re.IGNORECASE
)


@dataclass(slots=True)
class Proposal:
    """A table to paste, and what it is based on."""

    toml: str
    notes: list[str] = field(default_factory=list)


def propose(topic: str, payload: bytes) -> Proposal:
    """The table for a message like this one.

    Raises:
        DecodeError: the message is empty, or Sparkplug that cannot be parsed.
    """
    if not payload:
        msg = "a message with content expected, found an empty one"
        raise DecodeError("malformed", msg)
    kind, document = _parsed(topic, payload)
    pattern, places = _topic(topic, kind)
    lines: dict[str, str] = {"topic": json.dumps(pattern), "format": json.dumps(kind)}
    notes: list[str] = []
    if kind == "raw":
        _raw(payload, lines, notes)
        found: dict[str, str] = {}
    else:
        found = _known_keys(document, kind)
        _samples(document, kind, lines, notes, set(found.values()))
    _time(document, found, lines, notes)
    if "rate_hz" in found:
        lines["rate_hz"] = json.dumps(found["rate_hz"])
    else:
        measured = _measured(document, found.get("time"))
        lines["rate_hz"] = f"{measured or 1000.0}  # Hz: {'as its times say' if measured else 'PUT IN the real rate'}"
    lines["unit"] = json.dumps(found["unit"]) if "unit" in found else f'"g"  # PUT IN the real one: {", ".join(UNITS)}'
    if "speed_rpm" in found:
        lines["speed_rpm"] = json.dumps(found["speed_rpm"])
    if "machine" not in places:
        lines["machine"] = json.dumps(found["machine"]) if "machine" in found else '"machine-1"  # PUT IN its name'
    if "point" not in places:
        lines["point"] = '"main"'
    if "index" in found:
        notes.append(
            f"{found['index']} may be a counter: index = {json.dumps(found['index'])} with index_counts says so"
        )
    text = "\n".join(f"{key} = {value}" for key, value in lines.items())
    return Proposal(f"[[payloads]]\n{text}\n", notes)


def _parsed(topic: str, payload: bytes) -> tuple[str, Any]:
    if topic.startswith("spBv1.0/"):
        nodes = Nodes()
        kind = topic.split("/")[2] if topic.count("/") >= 3 else ""
        heard = topic.replace(f"/{kind}/", f"/{kind[0]}DATA/", 1) if kind[1:] == "BIRTH" else topic  # a birth has names
        return "sparkplug", nodes.read(heard, payload) or {}
    first = payload.lstrip()[:1]
    tries = ["json"] if first in (b"{", b"[") else []
    if 0x80 <= payload[0] <= 0x9F or payload[0] in (0xDC, 0xDD, 0xDE, 0xDF):
        tries.append("msgpack")
    tries += ["line", "csv"]
    for kind in tries:
        try:
            document = documents.parse(kind, payload)[0]
        except DecodeError:
            continue
        if kind != "csv" or any(all(as_number(c) is not None for c in column) for column in document["columns"]):
            return kind, document
    return "raw", payload


def _topic(topic: str, kind: str) -> tuple[str, tuple[str, ...]]:
    """The pattern of a topic: the level that looks like a machine's name, and the one after it, become placeholders."""
    if kind == "sparkplug":
        levels = topic.split("/")
        return ("spBv1.0/{group}/+/{machine}/{point}", ("machine", "point")) if len(levels) == 5 else (
            "spBv1.0/{group}/+/{machine}", ("machine",))  # fmt: skip
    levels = topic.split("/")
    numbered = [at for at, level in enumerate(levels) if re.search(r"\d", level) and "+" not in level]
    if not numbered:
        return topic, ()
    at = numbered[0]
    levels[at] = "{machine}"
    if len(levels) - at > 2:
        levels[at + 1] = "{point}"
        return "/".join(levels), ("machine", "point")
    return "/".join(levels), ("machine",)


# -- a walk over the document ----------------------------------------------------------------------------------------


def _leaves(node: Any, path: str = "$", key: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Path, last key and value of everything in a document that is not a map; lists of maps by their first entry."""
    if isinstance(node, dict) and depth < 6:
        for name, value in list(node.items())[:64]:
            plain = re.fullmatch(r"[A-Za-z_]\w*", str(name))
            yield from _leaves(value, f"{path}.{name}" if plain else f"{path}['{name}']", str(name), depth + 1)
    elif isinstance(node, list) and node and isinstance(node[0], dict) and depth < 6:
        for name in list(node[0])[:64]:
            column = [entry.get(name) if isinstance(entry, dict) else None for entry in node]
            plain = re.fullmatch(r"[A-Za-z_]\w*", str(name))
            yield f"{path}[*].{name}" if plain else f"{path}[*]['{name}']", str(name), column
    else:
        yield path, key, node


def _known_keys(document: Any, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, key, value in _leaves(document):
        for meaning, pattern in _KEYS.items():
            one = value[0] if isinstance(value, list) and value and meaning == "time" else value
            if meaning not in found and pattern.fullmatch(key) and _suits(meaning, one):
                found[meaning] = path
    if kind == "sparkplug":
        found["time"] = "$.timestamp"
    if kind == "line" and document.get("time"):
        found["time"] = "$.time"
    return found


def _suits(meaning: str, value: Any) -> bool:
    number = as_number(value)
    match meaning:
        case "time":
            try:
                instant(value, "auto", "")
            except DecodeError:
                return False
            return True
        case "rate_hz":
            return number is not None and 1 <= number <= 1e6
        case "speed_rpm":
            return number is not None and 0 <= number <= 1e6
        case "unit":
            return isinstance(value, str) and 0 < len(value) <= 20
        case "machine":
            return isinstance(value, str) and 0 < len(value) <= 64
        case _:
            return isinstance(value, int) and not isinstance(value, bool)


def _samples(document: Any, kind: str, lines: dict[str, str], notes: list[str], taken: set[str]) -> None:
    leaves = [leaf for leaf in _leaves(document) if leaf[0] not in taken]
    lists = [(path, key, value) for path, key, value in leaves if _are_numbers(value, LEAST_SAMPLES)]
    rows = [(path, value) for path, _, value in leaves if _width(value)]
    packed = [(path, value) for path, _, value in leaves if _is_packed(value)]
    axes = [(path, m["axis"].lower()) for path, key, value in leaves
            if (m := _AXIS.fullmatch(key.rpartition("/")[2])) and _are_numbers(value, 1)]  # fmt: skip
    channels: dict[str, str] = {}
    if len({axis for _, axis in axes}) > 1 or (axes and not lists and not rows):
        channels = {axis: path for path, axis in axes}
    elif rows:
        path, value = rows[0]
        width = _width(value)
        if len(value) <= MOST_CHANNELS < len(value[0]) or (len(value) <= MOST_CHANNELS and len(value[0]) > len(value)):
            channels = {_channel(at): f"{path}[{at}]" for at in range(len(value))}
        else:
            channels = {_channel(at): f"{path}[*][{at}]" for at in range(width)}
    elif lists:
        longest = max(len(value) for _, _, value in lists)
        alike = [(path, key) for path, key, value in lists if len(value) == longest][:MOST_CHANNELS]
        names = [re.sub(r"[^A-Za-z0-9_.-]", "-", key) or "x" for _, key in alike]
        if len(alike) == 1 or len(set(names)) < len(names) or names == ["columns"]:
            names = [_channel(at) for at in range(len(alike))]
        channels = dict(zip(names, (path for path, _ in alike), strict=True))
    elif packed:
        path, value = packed[0]
        lines["packed"] = json.dumps(path)
        lines["channels"] = '["x", "y", "z"]  # PUT IN the real ones'
        lines["dtype"] = '"i2"'
        notes.append(f"{path} is {described(value)}: dtype, channels, layout and scale are the sender's to say")
        return
    else:
        single = [
            (path, key) for path, key, value in leaves if as_number(value) is not None and not isinstance(value, str)
        ]
        channels = {re.sub(r"[^A-Za-z0-9_.-]", "-", key) or "x": path for path, key in single[:MOST_CHANNELS]}
    if not channels:
        notes.append("no samples were found: fill in `samples`")
        channels = {"x": "$.PUT_IN_THE_PATH"}
    lines["samples"] = (
        "{ " + ", ".join(f"{_quoted(name)} = {json.dumps(path)}" for name, path in channels.items()) + " }"
    )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _channel(at: int) -> str:
    return "xyz"[at] if at < 3 else f"c{at}"


def _are_numbers(value: Any, least: int) -> bool:
    values = value if isinstance(value, list) else [value]
    return len(values) >= least and all(as_number(one) is not None or one is None for one in values)


def _width(value: Any) -> int:
    """Length of the rows of a list of lists of numbers; 0 for anything else."""
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        return 0
    width = len(value[0])
    is_table = all(isinstance(row, list) and len(row) == width and _are_numbers(row, 1) for row in value)
    return width if is_table and min(width, len(value)) <= MOST_CHANNELS else 0


def _is_packed(value: Any) -> bool:
    if isinstance(value, bytes):
        return len(value) >= 16
    if not isinstance(value, str) or len(value) < 24:
        return False
    try:
        return len(base64.b64decode(value, validate=True)) >= 16
    except (binascii.Error, ValueError):
        return False


def _time(document: Any, found: dict[str, str], lines: dict[str, str], notes: list[str]) -> None:
    if "time" in found:
        lines["time"] = json.dumps(found["time"])
        return
    lines["time"] = '"arrival"'
    notes.append(
        "no time was found: arrival is only good to seconds, and counts samples twice that come again after a crash"
    )


def _measured(document: Any, time: str | None) -> float | None:
    """The rate by the times of the samples, to three digits; None where there is one time."""
    times = None if time is None else Path(time).find(document)
    if not isinstance(times, list) or len(times) < 2:
        return None
    try:
        span_ns = instant(times[-1], "auto", "")[0] - instant(times[0], "auto", "")[0]
    except DecodeError:
        return None
    return float(f"{(len(times) - 1) * 1e9 / span_ns:.3g}") if span_ns > 0 else None


def _raw(payload: bytes, lines: dict[str, str], notes: list[str]) -> None:
    lines["channels"] = '["x", "y", "z"]  # PUT IN the real ones'
    lines["dtype"] = '"i2"  # or f4, >i2, ...'
    lines["skip_bytes"] = "0  # bytes before the samples"
    notes.append(f"{len(payload)} bytes of no known format, beginning {payload[:8].hex(' ')}: taken for samples")
