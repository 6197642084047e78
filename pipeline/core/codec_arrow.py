"""Arrow IPC streams <-> the map of a block: one column per channel, the other keys as text in the schema metadata.

A stream from outside is bounded before anything is made of it: one schema and one record batch of flat float32 or int16
columns. Compressed buffers are refused, because Arrow unpacks them to whatever size they claim before anyone can look;
an uncompressed batch is a view of the payload and can be no larger than it. PyArrow does not tell whether a batch is
compressed, so that one field is read from the (already verified) flatbuffer here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.codec_map import MAX_CHANNELS, Head, Orders, checked_channels, scale_of
from pipeline.core.records import Fact, Float32
from pipeline.errors import DecodeError

if TYPE_CHECKING:
    import pyarrow as pa

_REFUSALS: Final = (
    msgspec.MsgspecError, struct.error, ValueError, TypeError, OverflowError, OSError, EOFError, RecursionError,
)  # fmt: skip
_KEYS: Final = (
    "v", "session", "index", "t0", "rate_hz", "unit", "dtype", "scale", "speed_rpm", "truth", "speed_source",
)  # fmt: skip
_MAX_TEXT: Final = 64  # bytes of a metadata value; the longest legal one is a truth
_RECORD_BATCH_SLOT, _COMPRESSION_SLOT = (
    2,
    3,
)  # field numbers in Arrow's Message.fbs: Message.header, RecordBatch.compression


def read_stream(payload: bytes) -> tuple[Head, Float32]:
    """The map and the samples (C, n).

    Raises:
        DecodeError: for a stream that is not exactly one batch of one block.
    """
    import pyarrow as pa

    try:
        batch = _only_batch(payload)
        head = _head(batch)
        return head, _samples(batch, head)
    except DecodeError:
        raise
    except (*_REFUSALS, pa.ArrowException) as error:
        raise DecodeError("malformed", f"an Arrow stream of a block expected, found: {str(error)[:200]}") from None


def write_stream(head: Head, samples: NDArray[Any]) -> bytes:
    """One schema, one batch, end of stream; samples (C, n) float32 or int16."""
    import pyarrow as pa

    metadata = {key: str(value) for key in _KEYS if (value := getattr(head, key)) is not None}
    if head.about is not None:
        metadata["about"] = msgspec.json.encode(head.about).decode()
    if head.orders is not None:
        metadata["orders"] = msgspec.json.encode(head.orders).decode()
    columns = [pa.array(row) for row in samples]
    schema = pa.schema([pa.field(name, columns[0].type) for name in head.channels], metadata=metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def _only_batch(payload: bytes) -> pa.RecordBatch:
    import pyarrow as pa

    messages = list(pa.ipc.MessageReader.open_stream(pa.py_buffer(payload)))
    kinds = [message.type for message in messages]
    if kinds != ["schema", "record batch"]:
        raise DecodeError("malformed", f"one schema and one record batch expected, found: {kinds[:4]}")
    schema = pa.ipc.read_schema(messages[0])
    if not 1 <= len(schema) <= MAX_CHANNELS:
        raise DecodeError("channels", f"1 to {MAX_CHANNELS} channels expected, found: {len(schema)}")
    for column in schema:
        if column.type not in (pa.float32(), pa.int16()) or column.type != schema.field(0).type:
            raise DecodeError("dtype", f"columns all float32 or all int16 expected, found: {str(column.type)[:40]}")
    if _is_compressed(messages[1].metadata.to_pybytes()):
        raise DecodeError("malformed", "uncompressed Arrow buffers expected, found compressed ones")
    batch = pa.ipc.read_record_batch(messages[1], schema)
    batch.validate(full=True)
    return batch


def _is_compressed(message: bytes) -> bool:
    root = struct.unpack_from("<I", message, 0)[0]
    header = _field(message, root, _RECORD_BATCH_SLOT)
    if header is None:
        raise DecodeError("malformed", "an Arrow record batch with a header expected, found none")
    record_batch = header + struct.unpack_from("<I", message, header)[0]
    return _field(message, record_batch, _COMPRESSION_SLOT) is not None


def _field(flatbuffer: bytes, table: int, slot: int) -> int | None:
    """Where a field of a flatbuffer table stands; None if the table leaves it out."""
    vtable = table - struct.unpack_from("<i", flatbuffer, table)[0]
    if vtable < 0:
        raise DecodeError("malformed", "a flatbuffer table inside its message expected, found it outside")
    entry = 4 + 2 * slot
    if entry >= struct.unpack_from("<H", flatbuffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", flatbuffer, vtable + entry)[0]
    return table + offset if offset else None


def _head(batch: pa.RecordBatch) -> Head:
    metadata = batch.schema.metadata or {}
    fields: dict[str, Any] = {}
    for key in _KEYS:
        raw = metadata.get(key.encode())
        if raw is None:
            continue
        if len(raw) > _MAX_TEXT:
            raise DecodeError("malformed", f"at most {_MAX_TEXT} bytes as metadata `{key}` expected, found: {len(raw)}")
        fields[key] = raw.decode()
    named = fields.setdefault("dtype", "f4")
    stored = "f4" if batch.schema.field(0).type == "float" else "i2"
    if named != stored:
        raise DecodeError("dtype", f"columns of dtype {stored} expected from the stream, metadata says: {named}")
    raw_orders = metadata.get(b"orders")
    orders = None if raw_orders is None else msgspec.json.decode(raw_orders, type=Orders)
    raw_about = metadata.get(b"about")
    about = None if raw_about is None else msgspec.json.decode(raw_about, type=dict[str, Fact])
    given = {"channels": batch.schema.names, "orders": orders, "about": about}
    return msgspec.convert({**fields, **given}, Head, strict=False)


def _samples(batch: pa.RecordBatch, head: Head) -> Float32:
    channels = checked_channels(head.channels)
    scale = scale_of(head)
    if batch.num_rows < 1:
        raise DecodeError("length", "at least one sample expected, found none")
    if scale is not None and any(column.null_count for column in batch.columns):
        raise DecodeError("samples", "int16 columns without nulls expected, found nulls")
    samples = np.empty((channels, batch.num_rows), dtype=np.float32)
    for row, column in zip(samples, batch.columns, strict=True):
        row[:] = column.to_numpy(zero_copy_only=False)  # a null becomes NaN
    if scale is not None:
        samples *= scale
    return samples
