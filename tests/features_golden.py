"""Golden values: the features of one short recording. `python tests/features_golden.py` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import specs

from pipeline.core import features
from pipeline.core.features.table import NAMES
from pipeline.core.records import BearingOrders, StreamKey, Window

PATH = Path(__file__).parent / "golden" / "features.json"
RATE_HZ = 25_600.0


def recording() -> np.ndarray:
    """Half a second of an unbalanced shaft with a damaged outer race, two channels: arithmetic only, no generator."""
    k = np.arange(round(0.5 * RATE_HZ), dtype=np.int64)
    t = k / RATE_HZ
    noise = ((k * 1_103_515_245 + 12_345) * (k + 7) % 65_537 / 65_537 - 0.5) * 0.4
    since_s = t % (1 / (29.95 * 3.5848))
    knocks = 1.5 * np.exp(-900 * since_s) * np.sin(2 * np.pi * 3100 * since_s)
    x = 0.8 * np.sin(2 * np.pi * 29.95 * t) + knocks + noise
    return np.stack([x, 0.5 * x + 0.3 * np.sin(2 * np.pi * 689.0 * t) + 0.1]).astype(np.float32)


def compute() -> dict[str, list[float | None]]:
    """Name -> value of each channel; None = cannot be computed."""
    x = recording()
    orders = BearingOrders(ftf=0.39828, bpfo=3.5848, bpfi=5.4152, bsf=2.35675)
    window = Window(
        key=StreamKey("golden", "de"),
        session=1,
        number=0,
        start_ns=0,
        end_ns=500_000_000,
        rate_hz=RATE_HZ,
        channels=("x", "y"),
        unit="g",
        samples=x,
        coverage=1.0,
        speed_rpm=1797.0,
        orders=orders,
        truth=None,
        gear_teeth=(23,),
    )
    values = features.compute(specs.features(), [window])[0]
    return {name: [None if np.isnan(v) else float(f"{v:.6g}") for v in values[:, i]] for i, name in enumerate(NAMES)}


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
