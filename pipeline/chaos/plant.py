"""A plant whose samples are known in advance, so that the archive can be compared with the expected one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.core.codec import encode
from pipeline.core.records import Block, Float32, StreamKey

RATE_HZ = 10_240.0
SAMPLES = 1024  # per channel and message: ten messages per second of event time
CHANNELS = ("x", "y", "z")
TOPIC = "plant/main/{machine}/de/vibration"
_POOL = 67  # number of sample arrays; coprime to the number of streams, so that neighbours differ
_T0_NS = 1_760_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class Plant:
    """Streams that send in turn: message i is block i // streams of stream i % streams."""

    streams: int = 8
    messages: int = 1600
    seed: int = 5
    session: int = 1
    first_block: int = 0  # index of the first block within its session
    extra: tuple[str, ...] = ()  # further channels
    _pool: list[Float32] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Makes the sample arrays: noise with a line at the shaft speed."""
        rng = np.random.default_rng(self.seed)
        turns = 2 * np.pi * 25 * np.arange(SAMPLES) / RATE_HZ
        for _ in range(_POOL):
            noise = rng.standard_normal((len(CHANNELS), SAMPLES))
            self._pool.append((0.1 * noise + 0.2 * np.sin(turns)).astype(np.float32))

    def block(self, number: int) -> Block:
        """Message `number` as a block."""
        stream, i = number % self.streams, self.first_block + number // self.streams
        samples = self._pool[(stream * 31 + i) % _POOL]
        if self.extra:
            samples = np.concatenate([samples, samples[: len(self.extra)]])
        return Block(
            key=StreamKey(f"pump-{stream:02d}", "de"),
            session=self.session,
            index=i * SAMPLES,
            t0_ns=_T0_NS + (self.session - 1) * 3_600_000_000_000 + round(i * SAMPLES * 1e9 / RATE_HZ),
            rate_hz=RATE_HZ,
            channels=(*CHANNELS, *self.extra),
            unit="g",
            samples=samples,
            speed_rpm=1500.0,
        )

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order of sending."""
        return (self.block(number) for number in range(self.messages))

    def message(self, number: int) -> tuple[str, bytes]:
        """Topic and payload."""
        block = self.block(number)
        return topic_of(block.key), encode(block)

    def after(self, messages: int) -> Plant:
        """The continuation of this plant for `messages` more messages."""
        return replace(self, messages=messages, first_block=self.first_block + self.messages // self.streams, _pool=[])


def topic_of(key: StreamKey) -> str:
    """The topic of a stream."""
    return TOPIC.format(machine=key.machine)
