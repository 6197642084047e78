"""Payloads that should never be sent: damaged, hostile, or absurd but valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pipeline.chaos.plant import Plant
from pipeline.config.specs import default_spec
from pipeline.core.codec import decode, encode
from pipeline.core.records import Block
from pipeline.drivers.intake import Admission
from pipeline.edges.mqtt import TopicTemplate
from pipeline.errors import DecodeError

_TOPICS = TopicTemplate("plant/{area}/{machine}/{point}/vibration")
_PATHS = ("..", "...", ".", "a%2e%2e%2f", "~root", "con:", "a" * 65, "x y", "tür", "--", "*", "$SYS")
_LIMIT = 2_097_152
_ADMISSION = Admission(lambda key: default_spec().window)

Kind = Callable[[np.random.Generator, Block], bytes]


def rubbish(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` topics and payloads; the same seed gives the same."""
    rng = np.random.default_rng(seed)
    plant = Plant(streams=1, messages=64, seed=seed)
    for number in range(count):
        name = f"wild-{int(rng.integers(40)):02d}"
        if number % 11 == 0:
            name = _PATHS[int(rng.integers(len(_PATHS)))]
        block = plant.block(int(rng.integers(64)))
        small = replace(block, session=int(rng.integers(2**63)), samples=block.samples[:, :16])
        kind = _KINDS[number % len(_KINDS)] if number % 2500 else _RARE[number // 2500 % len(_RARE)]
        yield f"plant/main/{name}/de/vibration", kind(rng, small)


def is_refused(topic: str, payload: bytes) -> bool:
    """Whether the service must refuse a message whatever channels it knows."""
    key = _TOPICS.parse(topic)
    if key is None:
        return True
    try:
        _ADMISSION(decode(payload, key, max_payload_bytes=_LIMIT))
    except DecodeError:
        return True
    return False


def _cut(rng: np.random.Generator, block: Block) -> bytes:
    payload = encode(block, "json" if rng.integers(2) else "msgpack")
    return payload[: int(rng.integers(len(payload)))]


def _flipped(rng: np.random.Generator, block: Block) -> bytes:
    payload = bytearray(encode(block))
    for _ in range(int(rng.integers(1, 9))):
        payload[int(rng.integers(len(payload)))] = int(rng.integers(256))
    return bytes(payload)


def _noise(rng: np.random.Generator, block: Block) -> bytes:
    return rng.bytes(int(rng.integers(400)))


def _not_a_number(rng: np.random.Generator, block: Block) -> bytes:
    bad = [np.nan, np.inf, -np.inf, 3e38][int(rng.integers(4))]
    return encode(replace(block, samples=np.full_like(block.samples, bad)))


def _other_times(rng: np.random.Generator, block: Block) -> bytes:
    t0_ns = [0, 1, 4_102_444_800 * 10**9, 2**62, 9_223_372_036_854_775_000][int(rng.integers(5))]
    return encode(replace(block, t0_ns=t0_ns))


def _absurd(rng: np.random.Generator, block: Block) -> bytes:
    changes = [
        {"rate_hz": 1e-9}, {"rate_hz": 1e300}, {"rate_hz": float("nan")}, {"index": 2**62}, {"speed_rpm": -1e9},
        {"unit": "parsec"}, {"channels": ("x", "x", "x")}, {"channels": ("../x", "y", "z")}, {"truth": "\0" * 99},
        {"session": 2**64 - 1}, {"about": {f"k{i}": i for i in range(500)}},
    ]  # fmt: skip
    return encode(replace(block, **changes[int(rng.integers(len(changes)))]))  # type: ignore[arg-type]


def _deep(rng: np.random.Generator, block: Block) -> bytes:
    depth = int(rng.integers(100, 20_000))
    return [b'{"v":' + b"[" * depth, b"\x81\xa1v" + b"\x91" * depth, b'{"a":' * depth][int(rng.integers(3))]


def _lying(rng: np.random.Generator, block: Block) -> bytes:
    """A few bytes that announce gigabytes."""
    return [b"\xdf\xff\xff\xff\xff", b"\x81\xa7samples\xc6\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f"][
        int(rng.integers(3))
    ]


def _no_text(rng: np.random.Generator, block: Block) -> bytes:
    return encode(block, "json").replace(b'"g"', b'"\xff\xfe\xc3\x28"')


def _compressed(rng: np.random.Generator, block: Block) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = pa.table({"x": pa.array(np.zeros(200_000, np.float32))})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _huge(rng: np.random.Generator, block: Block) -> bytes:
    return encode(block)[:200] + bytes(10 * 2**20)


def _a_million_windows(rng: np.random.Generator, block: Block) -> bytes:
    """Valid, but the rate is so low that every sample starts a window."""
    samples = rng.standard_normal((1, 1_000_000)).astype(np.float32)
    return encode(replace(block, rate_hz=1.0, channels=("x",), samples=samples), dtype="i2")


def _far_too_slow(rng: np.random.Generator, block: Block) -> bytes:
    """The same on a smaller scale: thousands of windows in 20 KB."""
    samples = rng.standard_normal((1, 10_000)).astype(np.float32)
    return encode(replace(block, rate_hz=float(rng.uniform(1, 30)), channels=("x",), samples=samples), dtype="i2")


def _an_hour_at_once(rng: np.random.Generator, block: Block) -> bytes:
    samples = rng.standard_normal((1, 64 * 3600)).astype(np.float32)
    return encode(replace(block, rate_hz=64.0, channels=("x",), samples=samples), dtype="i2")


def _channels_without_end(rng: np.random.Generator, block: Block) -> bytes:
    """Sixteen new channel names and one window: every such message asks for new columns."""
    names = tuple(f"q{rng.integers(2**62):x}" for _ in range(16))
    samples = rng.standard_normal((16, 600)).astype(np.float32)
    return encode(replace(block, index=0, rate_hz=500.0, channels=names, samples=samples), dtype="i2")


_KINDS: tuple[Kind, ...] = (
    _cut, _flipped, _noise, _not_a_number, _other_times, _absurd, _deep, _lying, _no_text, _compressed,
    _far_too_slow, _channels_without_end,
)  # fmt: skip
_RARE: tuple[Kind, ...] = (_huge, _a_million_windows, _an_hour_at_once)  # megabytes
