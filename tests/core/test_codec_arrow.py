"""The codec and Arrow streams of other writers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from harness.codec import LIMIT, T0_NS, read, reason_of

from pipeline.core.records import BearingOrders


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
