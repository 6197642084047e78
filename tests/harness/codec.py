"""A block to encode, and payloads that are read or refused with a reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.core.codec import REASONS, Encoding, decode, encode
from pipeline.core.records import BearingOrders, Block, StreamKey
from pipeline.errors import DecodeError

KEY = StreamKey("pump-1", "drive")
LIMIT = 2 * 2**20
ENCODINGS: tuple[Encoding, ...] = ("msgpack", "json", "arrow")
T0_NS = 1_700_000_000 * 10**9


def an_example() -> Block:
    samples = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
    orders = BearingOrders(ftf=0.4, bpfo=3.05, bpfi=4.95, bsf=2.3)
    return Block(KEY, 7, 0, T0_NS, 12_000.0, ("x", "y", "z"), "g", samples, 1797.0, orders, "healthy")


def read(payload: bytes, content_type: str | None = None) -> Block:
    return decode(payload, KEY, max_payload_bytes=LIMIT, content_type=content_type)


def reason_of(payload: bytes, content_type: str | None = None, limit: int = LIMIT) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(payload, KEY, max_payload_bytes=limit, content_type=content_type)
    assert caught.value.reason in REASONS
    assert len(str(caught.value)) < 500
    return caught.value.reason


def packed(**changes: Any) -> bytes:
    """A valid MessagePack payload with some keys changed; `...` leaves a key out."""
    fields = msgspec.msgpack.decode(encode(an_example()))
    fields |= changes
    return msgspec.msgpack.encode({key: value for key, value in fields.items() if value is not ...})


VALID = {encoding: encode(an_example(), encoding) for encoding in ENCODINGS}
