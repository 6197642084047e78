"""The codec: what is encoded comes back, and any bytes give a block or a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.codec import CONTENT_TYPES, REASONS, Encoding, decode, encode
from pipeline.core.records import BearingOrders, Block, StreamKey
from pipeline.errors import DecodeError

KEY = StreamKey("pump-1", "drive")
LIMIT = 2 * 2**20
ENCODINGS: tuple[Encoding, ...] = ("msgpack", "json", "arrow")
T0_NS = 1_700_000_000 * 10**9

ids = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True).filter(lambda text: text.strip(".") != "")
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
                ids,
                st.text(max_size=500)
                | st.integers(-(2**53), 2**53)
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.booleans(),
                max_size=5,
            )
        ),
    )


def an_example() -> Block:
    samples = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
    orders = BearingOrders(ftf=0.4, bpfo=3.05, bpfi=4.95, bsf=2.3)
    return Block(KEY, 7, 0, T0_NS, 12_000.0, ("x", "y", "z"), "g", samples, 1797.0, orders, "healthy")


def head(block: Block) -> tuple[Any, ...]:
    return tuple(getattr(block, name) for name in Block.__slots__ if name != "samples")


def read(payload: bytes, content_type: str | None = None) -> Block:
    return decode(payload, KEY, max_payload_bytes=LIMIT, content_type=content_type)


def reason_of(payload: bytes, content_type: str | None = None, limit: int = LIMIT) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(payload, KEY, max_payload_bytes=limit, content_type=content_type)
    assert caught.value.reason in REASONS
    assert len(str(caught.value)) < 500
    return caught.value.reason


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


def packed(**changes: Any) -> bytes:
    """A valid MessagePack payload with some keys changed; `...` leaves a key out."""
    fields = msgspec.msgpack.decode(encode(an_example()))
    fields |= changes
    return msgspec.msgpack.encode({key: value for key, value in fields.items() if value is not ...})


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


VALID = {encoding: encode(an_example(), encoding) for encoding in ENCODINGS}
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


# -- reasons ---------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        *[("version", {"v": v}) for v in (0, 2, "1", None)],
        ("version", {"v": 2, "samples": ..., "shape": [3, 8]}),
        *[("session", {"session": value}) for value in (-1, "boot", 1.5, None)],
        *[("index", {"index": value}) for value in (-1, 2**62 + 1, 2**64 - 1, 0.5)],
        *[("time", {"t0": value}) for value in (0, 946_684_800 * 10**9 - 1, 4_102_444_800 * 10**9, -1, 1.7e18)],
        *[("rate", {"rate_hz": value}) for value in (NAN, INF, 0, -1, 0.5, 1e7, "fast", None)],
        *[("channels", {"channels": value}) for value in
          ([], ["x", "x", "y"], ["x", "y", "a b"], ["x", "y", ""], ["x", "y", ".."], ["x", "y", "z" * 65],
           ["x", "y", 3], "xyz", [f"c{i}" for i in range(65)])],
        *[("unit", {"unit": value}) for value in ("", "G", "furlong", 1)],
        *[("dtype", {"dtype": value}) for value in ("f8", "", "<f4", 4)],
        *[("scale", {"dtype": "i2", "scale": value}) for value in (None, 0, -1.0, NAN, INF, 1e-300, "1")],
        ("scale", {"scale": 0.5}),
        *[("length", {"samples": value}) for value in (b"", b"1234", bytes(13), bytes(4 * 3 * 8 - 4))],
        ("length", {"dtype": "i2", "scale": 1.0, "samples": bytes(8)}),
        *[("samples", {"samples": value}) for value in ([1.0, 2.0], 7)],
        *[("speed", {"speed_rpm": value}) for value in (NAN, INF, -1, 1e7, "slow")],
        *[("orders", {"orders": value}) for value in
          ({"ftf": 1.0}, {"ftf": 0.0, "bpfo": 1.0, "bpfi": 1.0, "bsf": 1.0},
           {"ftf": 1, "bpfo": NAN, "bpfi": 1, "bsf": 1}, {"ftf": 1, "bpfo": INF, "bpfi": 1, "bsf": 1}, [1, 2, 3, 4])],
        *[("about", {"about": value}) for value in
          (1, {"a b": 1}, {"a": NAN}, {"a": "x" * 501}, {"a": [1]}, {f"k{i}": i for i in range(65)})],
        *[("truth", {"truth": value}) for value in ("", "not an id", "t" * 65, "..", 1)],
        *[("malformed", {key: ...}) for key in ("session", "index", "t0", "rate_hz", "channels", "unit", "samples")],
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_a_fixed_word(reason: str, changes: dict[str, Any]) -> None:
    assert reason_of(packed(**changes)) == reason


def test_every_reason_is_reached_by_some_payload() -> None:
    reached = {reason_of(packed(**changes)) for changes in (
        {"v": 2}, {"session": -1}, {"index": -1}, {"t0": 0}, {"rate_hz": 0}, {"channels": []}, {"unit": ""},
        {"dtype": ""}, {"scale": 2.0}, {"samples": 1}, {"samples": b""}, {"speed_rpm": -1}, {"orders": 1},
        {"truth": ""}, {"about": 1}, {"t0": ...},
    )}  # fmt: skip
    reached |= {reason_of(b""), reason_of(packed(), limit=10), reason_of(packed(), "text/plain")}
    assert reached == set(REASONS)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"[]", b"\x90", b" " * 100 + b"{}", b"\xff\xff", b"PK\x03\x04", b"\xef\xbb\xbf{}"]
)
def test_what_is_no_map_is_an_unknown_encoding(payload: bytes) -> None:
    assert reason_of(payload) == "encoding"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_payload_at_the_limit_passes_and_one_byte_more_does_not(encoding: Encoding) -> None:
    payload = VALID[encoding]
    assert decode(payload, KEY, max_payload_bytes=len(payload)).session == 7
    assert reason_of(payload, limit=len(payload) - 1) == "oversize"


def test_a_content_type_must_agree_with_the_bytes() -> None:
    assert read(VALID["json"], "Application/JSON; charset=utf-8").session == 7
    assert read(VALID["msgpack"], "application/x-msgpack").session == 7
    assert reason_of(VALID["json"], "application/msgpack") == "content_type"
    assert reason_of(VALID["msgpack"], "application/octet-stream") == "content_type"
    assert reason_of(VALID["msgpack"], "") == "content_type"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x81\xa1q" + b"\x91" * 500_000,
        b"\x81\xa1q" * 300_000,
        b'{"q":' + b"[" * 500_000,
        b'{"q":' * 200_000,
        b"\x81\xa8channels\xdd\xff\xff\xff\xff",
        b"\x81\xa7samples\xc6\xff\xff\xff\xff" + b"x" * 100,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4unit\xa2\xff\xfe",
    ],
    ids=range(8),
)
def test_deep_nesting_and_claims_of_gigabytes_are_only_malformed(payload: bytes) -> None:
    assert reason_of(payload) == "malformed"


@pytest.mark.parametrize("samples", [[], [[]], [[1.0], [2.0]], [[1], [2], [3, 4]], [[1], [2], []]])
def test_json_samples_that_are_no_rectangle_are_refused(samples: list[Any]) -> None:
    fields = json.loads(VALID["json"])
    assert reason_of(json.dumps(fields | {"samples": samples}).encode()) == "length"


@pytest.mark.parametrize("value", [0.5, 40_000, None])
def test_json_codes_must_be_whole_numbers_of_sixteen_bits(value: float | None) -> None:
    fields = json.loads(VALID["json"]) | {"dtype": "i2", "scale": 1.0, "samples": [[1], [2], [value]]}
    assert reason_of(json.dumps(fields).encode()) == "samples"


# -- Arrow -----------------------------------------------------------------------------------------------------------


def arrow_stream(
    columns: dict[str, pa.Array],
    *,
    batches: int = 1,
    options: pa.ipc.IpcWriteOptions | None = None,
    drop: str | None = None,
    **metadata: str,
) -> bytes:
    text = {"v": "1", "session": "7", "index": "0", "t0": str(T0_NS), "rate_hz": "12000", "unit": "g"} | metadata
    text.pop(drop or "", None)
    table = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)).replace_schema_metadata(text)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(table)
    return sink.getvalue().to_pybytes()


def floats(n: int = 8) -> pa.Array:
    return pa.array(np.zeros(n, dtype=np.float32))


def test_an_arrow_stream_of_another_writer_is_read() -> None:
    block = read(arrow_stream({"x": floats(), "y": floats()}, orders='{"ftf":1,"bpfo":2,"bpfi":3,"bsf":4}', note="any"))
    assert block.channels == ("x", "y")
    assert block.orders == BearingOrders(1, 2, 3, 4)


def test_a_null_in_an_arrow_column_is_a_missing_sample() -> None:
    block = read(arrow_stream({"x": pa.array([1.0, None], pa.float32())}))
    np.testing.assert_array_equal(block.samples, np.array([[1, np.nan]], dtype=np.float32))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_arrow_buffers_are_refused_before_they_are_unpacked(codec: str) -> None:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    bomb = arrow_stream({"x": floats(50_000_000)}, options=options)
    assert len(bomb) < LIMIT
    before = pa.total_allocated_bytes()
    assert reason_of(bomb) == "malformed"
    assert pa.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("malformed", arrow_stream({"x": floats()}, batches=0)),
        ("malformed", arrow_stream({"x": floats()}, batches=2)),
        ("malformed", arrow_stream({"x": floats()}, drop="t0")),
        ("malformed", arrow_stream({"x": floats()}, t0="9" * 100)),
        ("malformed", arrow_stream({"x": floats()}, orders="[" * 100_000)),
        ("length", arrow_stream({"x": floats(0)})),
        ("channels", arrow_stream({})),
        ("channels", arrow_stream({"a/b": floats()})),
        ("channels", arrow_stream({f"c{i}": floats() for i in range(65)})),
        ("dtype", arrow_stream({"x": pa.array([1.0])})),
        ("dtype", arrow_stream({"x": pa.array([[1.0]], pa.list_(pa.float32()))})),
        ("dtype", arrow_stream({"x": pa.nulls(1_000_000_000)})),
        ("dtype", arrow_stream({"x": floats(), "y": pa.array([1] * 8, pa.int16())})),
        ("dtype", arrow_stream({"x": pa.array([1], pa.int16())})),
        ("malformed", arrow_stream({"x": pa.array(["a"]).dictionary_encode()})),
        ("scale", arrow_stream({"x": pa.array([1], pa.int16())}, dtype="i2")),
        ("samples", arrow_stream({"x": pa.array([1, None], pa.int16())}, dtype="i2", scale="0.1")),
        ("version", arrow_stream({"x": floats()}, v="2")),
        ("rate", arrow_stream({"x": floats()}, rate_hz="nan")),
        ("session", arrow_stream({"x": floats()}, session="-1")),
    ],
)
def test_what_is_wrong_with_an_arrow_stream_is_named(reason: str, payload: bytes) -> None:
    assert reason_of(payload) == reason
