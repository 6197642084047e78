"""Payload bytes -> Block and back, for the 12 KiB block of a three-axis sensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section
from benchmarks.vibration import blocks
from pipeline.core.codec import Encoding, decode, encode
from pipeline.core.records import StreamKey

ENCODINGS: Final[tuple[Encoding, ...]] = ("msgpack", "json", "arrow")
MAX_PAYLOAD_BYTES = 2**21


def run(effort: Effort) -> Section:
    """Decode and encode, beside one copy of the samples."""
    key = StreamKey("bench", "de")
    block = blocks(key, 1)[0]
    payloads = {encoding: encode(block, encoding) for encoding in ENCODINGS}
    cases: dict[str, Callable[[], object]] = {"copy": block.samples.copy}
    for encoding in ENCODINGS:
        cases[f"decode {encoding}"] = partial(decode, payloads[encoding], key, max_payload_bytes=MAX_PAYLOAD_BYTES)
        cases[f"encode {encoding}"] = partial(encode, block, encoding)
    times = interleaved(cases, effort.samples)
    copy = times.pop("copy")
    beside = f"one copy of the samples ({copy.us:.2g} us)"
    rows = [Row(name, t.us, "us/block", beside, t.us / copy.us, t.dirty or copy.dirty) for name, t in times.items()]
    document = {
        "decode_us": {encoding: times[f"decode {encoding}"].us for encoding in ENCODINGS},
        "encode_us": {encoding: times[f"encode {encoding}"].us for encoding in ENCODINGS},
        "payload_bytes": {encoding: len(payload) for encoding, payload in payloads.items()},
    }
    shape = " x ".join(str(n) for n in block.samples.shape)
    return Section(f"codec: a block of {shape} float32", rows, document)
