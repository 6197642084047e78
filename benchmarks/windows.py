"""Order and windows: what a block costs between the decoder and the features, and how much a stream remembers."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from benchmarks.measure import Effort, interleaved
from benchmarks.report import Row, Section
from benchmarks.vibration import RATE_HZ, blocks
from models.settings import TrainSettings
from pipeline.config.specs import default_spec
from pipeline.core import stream
from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamSpec, StreamState, to_bytes
from pipeline.core.window import length_and_hop

BLOCKS = 64


def run(effort: Effort) -> Section:
    """A stream of blocks in order, with the default windows: 1 s, half of it shared with the next."""
    spec = default_spec()
    given = blocks(StreamKey("bench", "de"), BLOCKS)

    def advance() -> None:
        state = stream.initial(spec)
        for block in given:
            state, _, _ = stream.advance(spec, state, [block])

    def copy() -> None:
        for block in given:
            block.samples.copy()

    times = interleaved({"advance": advance, "copy": copy}, effort.samples)
    advance_us, copy_us = times["advance"].us / BLOCKS, times["copy"].us / BLOCKS
    length, hop = length_and_hop(spec.window, RATE_HZ)
    window_bytes = given[0].samples.itemsize * len(given[0].channels) * length
    state_bytes = largest_state_bytes(spec, given)
    rows = [
        Row(
            "order + window",
            advance_us,
            "us/block",
            f"one copy of the samples ({copy_us:.2g} us)",
            advance_us / copy_us,
            times["advance"].dirty or times["copy"].dirty,
        ),
        Row(
            "state of one stream, at most",
            state_bytes,
            "bytes",
            f"the samples of one window ({window_bytes:,} bytes)",
            state_bytes / window_bytes,
        ),
    ]
    document = {"windows_us_per_block": advance_us, "state_bytes_per_stream": state_bytes, "window_bytes": window_bytes}
    return Section(f"windows: {length} samples, hop {hop}, from blocks of 3 x 1024", rows, document)


def largest_state_bytes(spec: StreamSpec, given: list[Block]) -> int:
    """The most that is saved of a stream after any of these blocks, the network's hidden state included."""
    sizes = TrainSettings()
    hidden = np.zeros((sizes.layers, sizes.hidden), np.float32)
    state, largest = StreamState(), 0
    for block in given:
        state, _, _ = stream.advance(spec, state, [block])
        largest = max(largest, len(to_bytes(spec, replace(state, hidden=hidden, model="v0001"))))
    return largest
