"""The signal that everything is measured on: a shaft, an outer-race fault, coloured noise; always the same numbers.

It does not use `sim`, because a better simulator must not change the benchmarks.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.records import BearingOrders, Block, Float32, StreamKey

SPEED_RPM = 1480.0
ORDERS = BearingOrders(ftf=0.398, bpfo=3.585, bpfi=5.415, bsf=2.357)  # of a 6205, as in the CWRU recordings
RATE_HZ = 10_240.0
BLOCK = 1024  # samples: ten blocks a second
CHANNELS = ("x", "y", "z")  # 12 KiB a block
T0_NS = 1_760_000_000_000_000_000
_RING_HZ = 3200.0
_RING_S = 0.001


def vibration(channels: int, n: int, rate_hz: float, seed: int = 1) -> Float32:
    """Acceleration (channels, n) in g: orders 1 to 3, ringing impacts at BPFO with 1 % slip, noise, a small bias."""
    rng = np.random.default_rng(seed)
    t_s = np.arange(n) / rate_hz
    shaft_hz = SPEED_RPM / 60
    steady = sum(a * np.sin(2 * np.pi * k * shaft_hz * t_s) for k, a in ((1, 0.2), (2, 0.08), (3, 0.04)))
    period_s = 1 / (ORDERS.bpfo * shaft_hz)
    at_s = np.cumsum(period_s * rng.normal(1.0, 0.01, int(n / rate_hz / period_s) + 1))
    strikes = np.zeros(n)
    strikes[(at_s[at_s * rate_hz < n - 1] * rate_hz).astype(np.int64)] = 0.8
    ring_s = np.arange(round(8 * _RING_S * rate_hz)) / rate_hz
    ringing = np.convolve(strikes, np.exp(-ring_s / _RING_S) * np.sin(2 * np.pi * _RING_HZ * ring_s))[:n]
    white = rng.standard_normal((channels, n + 1))
    noise = 0.05 * (white[:, 1:] + 0.6 * white[:, :-1])
    gain = 1.0 - 0.2 * np.arange(channels)[:, None]
    return np.ascontiguousarray(gain * (steady + ringing) + noise + 0.03, dtype=np.float32)


def blocks(key: StreamKey, count: int, *, seed: int = 1) -> list[Block]:
    """The first `count` blocks of a stream, BLOCK samples of three channels each."""
    signal = vibration(len(CHANNELS), count * BLOCK, RATE_HZ, seed)
    return [block(key, i, np.ascontiguousarray(signal[:, i * BLOCK : (i + 1) * BLOCK])) for i in range(count)]


def block(key: StreamKey, number: int, samples: Float32) -> Block:
    """Block `number` of a stream's only session, with these samples (C, BLOCK)."""
    return Block(
        key=key,
        session=1,
        index=number * BLOCK,
        t0_ns=T0_NS + round(number * BLOCK * 1e9 / RATE_HZ),
        rate_hz=RATE_HZ,
        channels=CHANNELS,
        unit="g",
        samples=samples,
        speed_rpm=SPEED_RPM,
        orders=ORDERS,
    )
