"""What small recordings say of themselves, and all samples of a stream."""

from __future__ import annotations

import numpy as np

from pipeline.edges.recordings.recording import RecordedStream

METADATA = {"sample_rate_hz": 1000, "dataset": "TEST", "recording": "7", "rpm": 1500, "units": "g"}


def joined(stream: RecordedStream, block_s: float = 10.0) -> np.ndarray:
    return np.concatenate([block.samples for block in stream.blocks(block_s)], axis=1)
