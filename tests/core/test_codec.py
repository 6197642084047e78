"""The codec: what is encoded comes back, and any bytes give a block or a reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from harness.codec import ENCODINGS, KEY, T0_NS, VALID, an_example, read, reason_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.codec import CONTENT_TYPES, REASONS, Encoding, encode
from pipeline.core.codec_map import NO_FACTS
from pipeline.core.records import BearingOrders, Block
from pipeline.errors import DecodeError

letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
ids = st.text(letters, min_size=1, max_size=64).filter(lambda text: text.strip(".") != "")
positive = st.floats(1e-6, 1e6)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 50))


@st.composite
def blocks(draw: st.DrawFn, *, finite: bool = False) -> Block:
    count, n = draw(shapes)
    samples = draw(
        hnp.arrays(
            np.float32, (count, n), elements=st.floats(width=32, allow_nan=not finite, allow_infinity=not finite)
        )
    )
    return Block(
        key=KEY,
        session=draw(st.integers(0, 2**64 - 1)),
        index=draw(st.integers(0, 2**62)),
        t0_ns=draw(st.integers(946_684_800 * 10**9, 4_102_444_800 * 10**9 - 1)),
        rate_hz=draw(st.floats(1.0, 1e6)),
        channels=tuple(draw(st.lists(ids, min_size=count, max_size=count, unique=True))),
        unit=draw(st.sampled_from(["g", "m/s2", "mm/s", "V", "1"])),
        samples=samples,
        speed_rpm=draw(st.none() | st.floats(0, 1e6)),
        orders=draw(st.none() | st.builds(BearingOrders, positive, positive, positive, positive)),
        truth=draw(st.none() | ids),
        about=draw(
            st.none()
            | st.dictionaries(
                ids.filter(lambda name: name not in (*NO_FACTS, "speed_rpm")),
                st.text(max_size=500)
                | st.integers(-(2**53), 2**53)
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.booleans(),
                max_size=5,
            )
        ),
    )


def head(block: Block) -> tuple[Any, ...]:
    return tuple(getattr(block, name) for name in Block.__slots__ if name != "samples")


def read_or_refuse(payload: bytes) -> None:
    """The promise: a whole block or a DecodeError with a fixed reason."""
    try:
        block = read(payload)
    except DecodeError as error:
        if error.reason in REASONS:
            return
        raise
    assert block.samples.dtype == np.float32
    assert block.samples.shape[0] == len(block.channels)
    assert block.samples.shape[1] > 0
    assert block.samples.flags.c_contiguous
    assert block.samples.flags.aligned


# -- what is encoded comes back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(block=blocks(finite=True))
def test_a_block_comes_back_as_it_was(encoding: Encoding, block: Block) -> None:
    again = read(encode(block, encoding), CONTENT_TYPES[encoding])
    assert head(again) == head(block)
    np.testing.assert_array_equal(again.samples, block.samples)


@pytest.mark.parametrize("encoding", ["msgpack", "arrow"])
@given(block=blocks())
def test_every_bit_of_a_binary_block_comes_back_also_of_samples_that_are_not_finite(
    encoding: Encoding, block: Block
) -> None:
    assert read(encode(block, encoding)).samples.tobytes() == block.samples.tobytes()


@given(block=blocks())
def test_json_keeps_where_samples_are_not_finite(block: Block) -> None:
    again = read(encode(block, "json")).samples
    np.testing.assert_array_equal(np.isfinite(again), np.isfinite(block.samples))
    np.testing.assert_array_equal(again[np.isfinite(again)], block.samples[np.isfinite(again)])


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(codes=hnp.arrays(np.int16, shapes), scale=st.floats(1e-9, 1e3))
def test_converter_codes_come_back_as_code_times_scale(encoding: Encoding, codes: np.ndarray, scale: float) -> None:
    scale = float(np.float32(scale))
    samples = codes.astype(np.float32) * np.float32(scale)
    block = Block(KEY, 0, 0, T0_NS, 1000.0, tuple(f"c{i}" for i in range(len(codes))), "V", samples)
    again = read(encode(block, encoding, dtype="i2", scale=scale)).samples
    np.testing.assert_array_equal(again, samples)


@given(block=blocks(finite=True))
def test_without_a_scale_codes_are_off_by_half_a_step_at_most(block: Block) -> None:
    largest = float(np.abs(block.samples).max())
    if 1e-20 < largest < 1e30:
        again = read(encode(block, dtype="i2")).samples
        step = largest / 32767
        assert np.abs(again.astype(np.float64) - block.samples).max() <= step * 0.5 + largest * 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_codes_cannot_carry_what_is_not_finite(bad: float) -> None:
    block = an_example()
    samples = block.samples.copy()
    samples[0, 0] = bad
    block = Block(KEY, 0, 0, T0_NS, 1.0, block.channels, "g", samples)
    with pytest.raises(ValueError, match="finite samples"):
        encode(block, dtype="i2")


def test_codes_beyond_sixteen_bits_are_saturated() -> None:
    block = Block(KEY, 0, 0, T0_NS, 1.0, ("x",), "g", np.array([[1e6, -1e6, 3.0]], dtype=np.float32))
    assert read(encode(block, dtype="i2", scale=1.0)).samples.tolist() == [[32767.0, -32768.0, 3.0]]


def test_a_payload_is_its_table_in_the_documents() -> None:
    fields = msgspec.msgpack.decode(encode(an_example()))
    samples = fields.pop("samples")
    assert samples == an_example().samples.astype("<f4").tobytes()
    assert fields == {
        "v": 1, "session": 7, "index": 0, "t0": T0_NS, "rate_hz": 12_000.0, "channels": ["x", "y", "z"], "unit": "g",
        "speed_rpm": 1797.0, "orders": {"ftf": 0.4, "bpfo": 3.05, "bpfi": 4.95, "bsf": 2.3}, "truth": "healthy",
    }  # fmt: skip


def test_a_map_written_by_hand_in_json_is_read() -> None:
    text = """
      {"v": 1, "session": 1, "index": 10, "t0": 1700000000000000000, "rate_hz": 1000, "channels": ["x", "y"],
       "unit": "mm/s", "samples": [[1, 2.5, null], [0, -1e39, 3]], "note": {"deep": [1, 2]}}"""
    block = read(text.encode())
    np.testing.assert_array_equal(block.samples, np.array([[1, 2.5, np.nan], [0, -np.inf, 3]], dtype=np.float32))
    assert (block.index, block.end, block.rate_hz, block.speed_rpm, block.orders) == (10, 13, 1000.0, None, None)


# -- any bytes -------------------------------------------------------------------------------------------------------


def mutations(payload: bytes) -> st.SearchStrategy[bytes]:
    """A valid payload with bytes changed, removed, repeated or put in."""
    at = st.integers(0, len(payload))

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(payload)
        for start, length, new in edits:
            data[start : start + length] = new
        return bytes(data)

    edit = st.tuples(at, st.integers(0, 8), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=6).map(mutate)


anything = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda first, rest: first + rest, st.sampled_from([b"\x8a", b"\xde\x00\x0a", b"\xdf", b"{", b"\xff" * 4]),
              st.binary(max_size=300)),
    *[mutations(payload) for payload in VALID.values()],
)  # fmt: skip


@settings(max_examples=500)
@given(payload=anything)
def test_any_bytes_give_a_block_or_a_reason(payload: bytes) -> None:
    read_or_refuse(payload)


@pytest.mark.slow
@settings(max_examples=100_000, suppress_health_check=list(HealthCheck))
@given(payload=anything)
def test_a_hundred_thousand_payloads_give_a_block_or_a_reason(payload: bytes) -> None:
    read_or_refuse(payload)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_beginning_of_a_payload_is_refused_and_so_is_a_tail(encoding: Encoding) -> None:
    payload = VALID[encoding]
    for length in range(len(payload) - (8 if encoding == "arrow" else 0)):  # Arrow's end mark may be missing
        reason_of(payload[:length])
    if encoding != "arrow":
        assert reason_of(payload + b"x") == "malformed"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_single_flipped_bit_gives_a_block_or_a_reason(encoding: Encoding) -> None:
    payload = VALID[encoding]
    for bit in range(len(payload) * 8):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        read_or_refuse(bytes(flipped))
