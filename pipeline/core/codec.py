"""Payload bytes <-> Block, in MessagePack, JSON and Arrow IPC; docs: interfaces, "Readings in".

`decode` is total: any bytes give a `Block` or a `DecodeError` whose reason is one of `REASONS`, nothing else. The first
bytes tell the encoding; an MQTT 5 content type, if there is one, must agree. Plan of the decoder:

    size -> encoding -> typed map (msgspec checks shape and types in C) -> samples as float32 (C, n) -> the checks of
    `codec_map.block_of`, the same for all three encodings

Non-finite samples are let through: they make a window a sensor fault, which is knowledge, not a broken message.
Alignment: msgspec copies a MessagePack `bin` into a bytes object whose data is 16-byte aligned, so the float32 view is
aligned and does not keep the message alive. For 12 KB the copy is cheaper than a memoryview field, which would also
leave the samples at an odd offset.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.codec_map import REASONS, SCALE_RANGE, Head, Orders, block_of, checked_channels, scale_of
from pipeline.core.records import Block, Float32, StreamKey
from pipeline.errors import DecodeError

__all__ = ["CONTENT_TYPES", "REASONS", "Dtype", "Encoding", "decode", "encode"]

Encoding = Literal["msgpack", "json", "arrow"]
Dtype = Literal["f4", "i2"]

CONTENT_TYPES: Final[dict[Encoding, str]] = {
    "msgpack": "application/msgpack",
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
}
_ALIASES: Final[dict[str, Encoding]] = {
    **{name: encoding for encoding, name in CONTENT_TYPES.items()},
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
}
_REASON_OF_KEY: Final = {
    "v": "version", "session": "session", "index": "index", "t0": "time", "rate_hz": "rate", "channels": "channels",
    "unit": "unit", "dtype": "dtype", "scale": "scale", "samples": "samples", "speed_rpm": "speed", "orders": "orders",
    "truth": "truth", "about": "about", "speed_source": "speed",
}  # fmt: skip
_BAD_KEY: Final = re.compile(r"at `\$\.(\w+)")


class _Packed(Head, frozen=True, kw_only=True, omit_defaults=True):
    samples: bytes


class _Listed(Head, frozen=True, kw_only=True, omit_defaults=True):
    samples: list[list[float | None]]  # JSON has no NaN: null stands for it


class _Version(msgspec.Struct):
    v: int


_PACKED = msgspec.msgpack.Decoder(_Packed)
_LISTED = msgspec.json.Decoder(_Listed)
_PACKED_VERSION = msgspec.msgpack.Decoder(_Version)
_LISTED_VERSION = msgspec.json.Decoder(_Version)
_TO_MSGPACK = msgspec.msgpack.Encoder()
_TO_JSON = msgspec.json.Encoder()


def decode(payload: bytes, key: StreamKey, *, max_payload_bytes: int, content_type: str | None = None) -> Block:
    """The block that a payload carries; samples are float32 (C, n), C-contiguous, possibly read-only.

    Raises:
        DecodeError: for everything that is not a valid block, with a reason out of `REASONS`.
    """
    if len(payload) > max_payload_bytes:
        raise DecodeError("oversize", f"at most {max_payload_bytes} bytes expected, found: {len(payload)}")
    encoding = _encoding(payload)
    if content_type is not None:
        _agree(encoding, content_type)
    if encoding == "arrow":
        from pipeline.core.codec_arrow import read_stream  # pyarrow costs 0.3 s to load; most senders never need it

        head, samples = read_stream(payload)
        return block_of(head, samples, key)
    try:
        if encoding == "msgpack":
            packed = _PACKED.decode(payload)
            return block_of(packed, _from_bytes(packed), key)
        listed = _LISTED.decode(payload)
        return block_of(listed, _from_lists(listed), key)
    except DecodeError:
        raise
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise _malformed(payload, encoding, error) from None


def encode(block: Block, encoding: Encoding = "msgpack", *, dtype: Dtype = "f4", scale: float | None = None) -> bytes:
    """The payload of a block. As `i2` samples become round(value / scale), saturated; by default the largest just fits.

    JSON cannot tell NaN from infinity: both come back as NaN.

    Raises:
        ValueError: for non-finite samples as `i2`.
    """
    samples = np.ascontiguousarray(block.samples, dtype="<f4")
    codes: NDArray[np.int16] | Float32 = samples
    if dtype == "i2":
        codes, scale = _quantised(samples, scale)
    else:
        scale = None
    orders = block.orders and Orders(block.orders.ftf, block.orders.bpfo, block.orders.bpfi, block.orders.bsf)
    head = {
        "v": 1, "session": block.session, "index": block.index, "t0": block.t0_ns, "rate_hz": block.rate_hz,
        "channels": block.channels, "unit": block.unit, "dtype": dtype, "scale": scale, "speed_rpm": block.speed_rpm,
        "orders": orders, "truth": block.truth, "about": block.about,
        "speed_source": block.speed_source,
    }  # fmt: skip
    if encoding == "msgpack":
        return _TO_MSGPACK.encode(_Packed(**head, samples=codes.tobytes()))  # type: ignore[arg-type]
    if encoding == "json":
        return _TO_JSON.encode(_Listed(**head, samples=codes.tolist()))  # type: ignore[arg-type]
    from pipeline.core.codec_arrow import write_stream

    return write_stream(Head(**head), codes)  # type: ignore[arg-type]


def _encoding(payload: bytes) -> Encoding:
    first = payload[0] if payload else 0  # 0 begins none of the three
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return "msgpack"
    if first == 0xFF and payload[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    if first in b"{ \t\r\n" and payload[:64].lstrip(b" \t\r\n")[:1] == b"{":
        return "json"
    found = payload[:8].hex() or "nothing"
    msg = f"a payload that starts as a MessagePack map, JSON object or Arrow stream expected, found: {found}"
    raise DecodeError("encoding", msg)


def _agree(encoding: Encoding, content_type: str) -> None:
    named = _ALIASES.get(content_type.partition(";")[0].strip().lower())
    if named != encoding:
        raise DecodeError("content_type", f"content type of a {encoding} payload expected, found: {content_type[:80]}")


def _malformed(payload: bytes, encoding: Encoding, error: Exception) -> DecodeError:
    """Why the typed decoder refused: another version, a key of the wrong type, or no such map at all."""
    try:
        version = (_PACKED_VERSION if encoding == "msgpack" else _LISTED_VERSION).decode(payload).v
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        version = 1
    if version != 1:
        return DecodeError("version", f"`v` 1 expected, found: {version}")
    key = _BAD_KEY.search(str(error))
    reason = _REASON_OF_KEY.get(key.group(1), "malformed") if key else "malformed"
    return DecodeError(reason, f"a {encoding} map of a block expected, found: {str(error)[:200]}")


def _from_bytes(head: _Packed) -> Float32:
    channels = checked_channels(head.channels)
    scale = scale_of(head)
    size = 4 if scale is None else 2
    if not head.samples or len(head.samples) % (size * channels):
        msg = f"samples of {channels} channels x n x {size} bytes expected, found: {len(head.samples)} bytes"
        raise DecodeError("length", msg)
    if scale is None:
        return np.frombuffer(head.samples, dtype="<f4").reshape(channels, -1)
    return np.frombuffer(head.samples, dtype="<i2").reshape(channels, -1).astype(np.float32) * scale


def _from_lists(head: _Listed) -> Float32:
    channels = checked_channels(head.channels)
    scale = scale_of(head)
    if len(head.samples) != channels or len({len(row) for row in head.samples}) != 1 or not head.samples[0]:
        msg = (
            f"{channels} sample lists of one length >= 1 expected, found lengths: {[len(r) for r in head.samples[:8]]}"
        )
        raise DecodeError("length", msg)
    values = np.array(head.samples, dtype=np.float64)  # null becomes NaN
    if scale is not None:
        if not bool(np.all((values >= -32768) & (values <= 32767) & (values == np.rint(values)))):
            raise DecodeError("samples", "whole numbers of 16 bits as samples of dtype i2 expected, found others")
        return values.astype(np.float32) * scale
    with np.errstate(over="ignore"):  # beyond float32 is infinite: a sensor fault, not a warning
        return values.astype(np.float32)


def _quantised(samples: Float32, scale: float | None) -> tuple[NDArray[np.int16], float]:
    if not np.isfinite(samples).all():
        msg = "finite samples for dtype i2 expected, found NaN or infinity"
        raise ValueError(msg)
    if scale is None:
        scale = max(float(np.abs(samples).max(initial=0.0)) / 32767, SCALE_RANGE[0])
    codes = np.clip(np.rint(samples.astype(np.float64) / scale), -32768, 32767)
    return codes.astype("<i2"), scale
