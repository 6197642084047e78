"""Sparkplug B messages as an edge node writes them, by hand: the other end of the parser under test."""

from __future__ import annotations

import struct
from collections.abc import Iterable


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def lengthy(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def metric(name: str = "", *, alias: int | None = None, kind: str, value: object, at_ms: int | None = None) -> bytes:
    """One metric: kind is `double`, `float`, `int16`, `int64`, `bool`, `text`, `bytes` or `floats`."""
    out = lengthy(1, name.encode()) if name else b""
    if alias is not None:
        out += b"\x10" + varint(alias)
    if at_ms is not None:
        out += b"\x18" + varint(at_ms)
    datatype = {"double": 10, "float": 9, "int16": 2, "int64": 4, "bool": 11, "text": 12, "bytes": 17, "floats": 30}[
        kind
    ]
    if name:
        out += b"\x20" + varint(datatype)
    match kind:
        case "double":
            return out + b"\x69" + struct.pack("<d", value)
        case "float":
            return out + b"\x65" + struct.pack("<f", value)
        case "int16":
            return out + b"\x50" + varint(int(str(value)) & 0xFFFFFFFF)
        case "int64":
            return out + b"\x58" + varint(int(str(value)) & 0xFFFFFFFFFFFFFFFF)
        case "bool":
            return out + b"\x70" + varint(bool(value))
        case "text":
            return out + lengthy(15, str(value).encode())
        case "bytes":
            assert isinstance(value, bytes)
            return out + lengthy(16, value)
        case _:
            assert isinstance(value, list)
            return out + lengthy(16, struct.pack(f"<{len(value)}f", *value))


def payload(at_ms: int, metrics: Iterable[bytes], seq: int = 0) -> bytes:
    body = b"".join(lengthy(2, one) for one in metrics)
    return b"\x08" + varint(at_ms) + body + b"\x18" + varint(seq)
