"""Messages of every kind that the service reads, grown from valid ones by a grammar: what anybody may publish or ask.

A document is a tree of JSON. Each of its leaves may become a wild value, each key may go, come twice or come from
another document, and the bytes may be damaged at the end.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.chaos.rubbish import rubbish

# Tables of other senders' messages: one per format that has a path into it.
PAYLOADS = """
[[payloads]]
topic = "sensors/{machine}/accel"
samples = { x = "$.data[*][0]", y = "$.data[*][1]" }
time = "$.ts"
rate_hz = "$.rate"
unit = "$.unit"
speed_rpm = "$.rpm"
session = "$.boot"
index = "$.n"
point = "$.point"

[[payloads]]
topic = "sensors/{machine}/packed"
packed = "$.b"
channels = ["x"]
time = "arrival"
rate_hz = 800.0
unit = "g"
point = "de"

[[payloads]]
topic = "telegraf/vibration"
format = "line"
samples = { x = "$.fields.x" }
time = "$.time"
rate_hz = 500.0
unit = "g"
machine = "$.tags.machine"
point = "de"

[[payloads]]
topic = "sensors/{machine}/table"
format = "csv"
samples = { x = "$.x" }
time = "$.t"
unit = "g"
point = "de"

[[payloads]]
topic = "spBv1.0/+/+/{device}/#"
format = "sparkplug"
samples = { x = "$.metrics[0].value" }
time = "$.timestamp"
rate_hz = 500.0
unit = "g"
machine = "{device}"
point = "de"
"""
CLIENT = "fuzzed"
_LABEL = {
    "machine": "pump-00", "point": "de", "mode": "unbalance", "from": "2026-05-01T10:00:00Z",
    "to": "2026-05-01T12:00:00Z", "certainty": "sure", "verdict": "confirmed", "note": "n", "client_token": "t",
    "author": "a", "stage": "severe", "source": "operator",
}  # fmt: skip
_ACCEL = {
    "data": [[1, 2], [3, 4], [5, 6]], "ts": 1_777_629_600, "rate": 100.0, "unit": "g", "rpm": 900, "boot": 1, "n": 0,
    "point": "de",
}  # fmt: skip
_BLOCK = {
    "v": 1, "session": 1, "index": 0, "t0": 1_777_629_600_000_000_000, "rate": 1000.0, "channels": ["x"], "unit": "g",
    "samples": [[0.1, 0.2, 0.3]], "rpm": 900.0, "about": {"maker": "m", "load_hp": 2},
}  # fmt: skip
_CLAIM = {"number": 1, "token": "ab", "holder": "process 1 on plant"}
SEEDS: dict[str, Any] = {
    "plant/main/wild/de/vibration": _BLOCK,
    "thrumcast/cmd/label": _LABEL,
    "thrumcast/cmd/ack": {"id": "pump-00/de/unbalance/1777629600000000000", "token": "t"},
    "thrumcast/cmd/reload": {"token": "t"},
    "thrumcast/cmd/../label": _LABEL,
    "thrumcast/cmd/": {"op": "retract", "id": "x"},
    f"thrumcast/clients/{CLIENT}": _CLAIM,
    "sensors/wild/accel": _ACCEL,
    "sensors/wild/packed": {"b": base64.b64encode(bytes(40)).decode()},
    "telegraf/vibration": "vibration,machine=wild x=1,x=2 1777629600000000000\nvibration,machine=wild x=3 1",
    "sensors/wild/table": "t,x\n1777629600,1\n1777629601,2\n",
    "spBv1.0/g/NDATA/n/wild": "\x08\x80\x80\x12\x05",
    "thrumcast/status": {"state": "online"},
    "thrumcast/machines/pump-00/de/alarm": {"id": "x"},
}


@dataclass(frozen=True)
class Raw:
    """Text that stands in JSON as it is."""

    text: str


WILD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, Raw("1" * 5000), Raw("1e999"),
    Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("1e-400"), 0.1, -0.0, 1e300, "", " ", "\0", "\n\r", "a\nERROR x=1",
    Raw('"\\ud800"'), Raw('"\\udfff\\u0000"'), "\u202e", "é" * 3, "x" * 70_000, "../../etc/passwd", "%s%n", "$.a",
    "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00+14:00", "2026-02-30", "1e5", "nan", [], {}, [[]], [None] * 50,
    Raw("[" * 3000 + "]" * 3000), Raw('{"a":' * 3000 + "1" + "}" * 3000), {"": {"": ""}}, [1, "a", None, {"b": []}],
)  # fmt: skip


def wild_messages(count: int, seed: int) -> Iterator[tuple[str, bytes, bool]]:
    """So many topics, payloads and whether they are retained; the same for the same seed."""
    chance = random.Random(seed)
    topics = sorted(SEEDS)
    damaged = rubbish(count, seed)
    for number in range(count):
        if number % 5 == 0:
            yield *next(damaged), False
            continue
        topic = chance.choice(topics)
        other = SEEDS[chance.choice(topics)] if chance.random() < 0.1 else SEEDS[topic]
        if topic.startswith("thrumcast/cmd/") and chance.random() < 0.2:
            topic = "thrumcast/cmd/" + chance.choice(("label/response", "reload/x", "x" * 300, "$SYS", "ack/"))
        yield topic, payload(chance, other), topic.startswith("thrumcast/clients") or chance.random() < 0.1


def payload(chance: random.Random, document: Any) -> bytes:
    """A document with faults as bytes."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        document = _changed(chance, document)
    data = _text(document).encode("utf-8", "surrogatepass") if not isinstance(document, str) else document.encode()
    if chance.random() < 0.15 and data:
        place = chance.randrange(len(data))
        damages = (b"", data[:place], data[:place] + chance.randbytes(3) + data[place + 1 :], data + data)
        data = chance.choice(damages)
    return data


def _changed(chance: random.Random, node: Any) -> Any:
    if isinstance(node, str) and len(node) > 20 and chance.random() < 0.7:  # text with a grammar of its own
        place = chance.randrange(len(node))
        piece = chance.choice(("", ",", "=", "\n", " ", '"', "9" * 400, "\\", "nan", ";"))
        return node[:place] + piece + node[place + 1 :]
    if isinstance(node, dict) and node and chance.random() < 0.9:
        key = chance.choice(list(node))
        act = chance.random()
        if act < 0.15:
            return {name: value for name, value in node.items() if name != key}
        if act < 0.25:
            other = chance.choice(list(SEEDS.values()))
            return node | (other if isinstance(other, dict) else {"": other})
        return node | {key: _changed(chance, node[key])}
    if isinstance(node, list) and node and chance.random() < 0.7:
        place = chance.randrange(len(node))
        return [*node[:place], _changed(chance, node[place]), *node[place + chance.randrange(2) :]]
    return chance.choice(WILD)


def _text(node: Any) -> str:
    if isinstance(node, Raw):
        return node.text
    if isinstance(node, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(value)}" for name, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    return json.dumps(node)


PATHS = (
    "/", "/livez", "/readyz", "/metrics", "/api/stream", "/api/openapi.json", "/api/v1/session", "/api/v1/fleet",
    "/api/v1/features", "/api/v1/alarms", "/api/v1/models", "/api/v1/quality", "/api/v1/settings", "/api/v1/labels",
    "/api/v1/labels/preview", "/api/v1/labels/x/retract", "/api/v1/alarms/acknowledge", "/api/v1/streams/pump-00/de",
    "/api/v1/streams/pump-00/de/window", "/api/v1/streams/pump-00/de/trend", "/static/", "/static/../../etc/passwd",
)  # fmt: skip


def wild_requests(count: int, seed: int) -> Iterator[bytes]:
    """So many requests over HTTP, each on a connection of its own; the same for the same seed."""
    chance = random.Random(seed)
    values = (
        "",
        "x",
        "1e999",
        "-1",
        "9" * 500,
        "%00",
        "%ff%fe",
        "a%0d%0aX:1",
        "2026-05-01T10:00:00Z",
        "nan",
        "..%2f..",
    )
    names = ("machine", "from", "to", "channel", "feature", "window", "points", "n", "id", "%5b%5d")
    for _ in range(count):
        path = chance.choice(PATHS)
        if chance.random() < 0.3:
            parts = path.split("/")
            parts[chance.randrange(len(parts))] = chance.choice(values)
            path = "/".join(parts)
        query = "&".join(f"{chance.choice(names)}={chance.choice(values)}" for _ in range(chance.randrange(4)))
        method = chance.choice(("GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "X" * 30))
        body = payload(chance, chance.choice((_LABEL, {"id": "pump-00/de/unbalance/1"}, {"by": "me"})))
        head = [f"{method} {path or '/'}?{query} HTTP/1.1", "Host: localhost", "Connection: close"]
        if method == "POST":
            kind = chance.choice(("application/json", "application/json", "text/plain", "application/json; charset=x"))
            head += [f"Content-Type: {kind}", "X-Requested-With: thrumcast", "Origin: http://localhost"]
        head.append(f"Content-Length: {chance.choice((len(body), len(body), 0, 10**12, -1, 'x'))}")
        if chance.random() < 0.1:
            head.append(chance.choice(("Transfer-Encoding: chunked", "Cookie: " + "a" * 9000, "Range: bytes=-1-")))
        data = "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + body
        yield data[: chance.randrange(len(data))] if chance.random() < 0.05 else data
