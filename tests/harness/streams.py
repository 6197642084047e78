"""Streams to test with: an engine with a tiny model, and recordings with speeds that change and gaps."""

from __future__ import annotations

import numpy as np
import specs

from pipeline.core.engine import Engine
from pipeline.core.records import BearingOrders, Block, Float32, StreamKey

RATE_HZ = 1000.0
ORDERS = BearingOrders(ftf=0.4, bpfo=3.6, bpfi=5.4, bsf=2.4)
SPEC = specs.stream(
    order=specs.order(max_wait_s=0.3),
    window=specs.window(length_s=0.256, hop_s=0.128),
    features=specs.features(bandwidth_hz=150.0, envelope_low_hz=20.0, envelope_high_hz=150.0),
    alarm=specs.alarm(merge_s=0.0),
    orders=ORDERS,
    warm_up_windows=2,
)
INPUTS = ("x.rms", "x.kurtosis", "y.centroid", "z.crest")


class TinyPredictor:
    """A recurrent network of three units, written so that its rows do not depend on the batch."""

    version = "tiny"
    classes = ("healthy", "bearing_outer", "unbalance")
    inputs = INPUTS
    hidden_shape = (1, 3)

    def step(self, x: Float32, h: Float32) -> tuple[Float32, Float32]:
        drive = np.nan_to_num(x).sum(axis=1, keepdims=True) * np.array([0.3, -0.2, 0.1], np.float32)
        h = np.tanh(drive[:, None, :] + 0.5 * np.roll(h, 1, axis=2)).astype(np.float32)
        e = np.exp(4 * h[:, 0])
        return e / e.sum(axis=1, keepdims=True), h


ENGINE = Engine(lambda key: SPEC, TinyPredictor())


def recording(seed: int, *, machine: str = "pump-01", n: int = 1500, channels: str = "xy") -> list[Block]:
    """Blocks of 100 to 300 samples of noise and a few lines, with a speed that changes now and then."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / RATE_HZ
    x = rng.standard_normal((len(channels), n)) + np.sin(2 * np.pi * 20 * t) + 3.0
    blocks, index, speed_rpm = [], 0, 1200.0
    while index < n:
        size = int(rng.integers(100, 300))
        if rng.random() < 0.3:
            speed_rpm += 10.0
        blocks.append(
            Block(
                key=StreamKey(machine, "de"),
                session=7,
                index=index,
                t0_ns=1_700_000_000_000_000_000 + round(index * 1e9 / RATE_HZ),
                rate_hz=RATE_HZ,
                channels=tuple(channels),
                unit="g",
                samples=np.ascontiguousarray(x[:, index : index + size], np.float32),
                speed_rpm=speed_rpm,
                truth="healthy" if index < n // 2 else "unbalance",
            )
        )
        index = blocks[-1].end
    return blocks


def with_a_gap(blocks: list[Block], lost: int) -> list[Block]:
    return blocks[:lost] + blocks[lost + 1 :]
