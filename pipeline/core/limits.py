"""What one block may ask for. A valid block can still be absurd, and it must not cost what a thousand others do."""

from __future__ import annotations

from pipeline.core.records import Block
from pipeline.core.window import WindowSpec, length_and_hop

LEAST_SAMPLES = 32  # of a window: half as many spectral lines; with fewer there is no spectrum to speak of
# Of a block, counted per channel, and of one commit. A sensor's block holds seconds; at the default hop this is half an
# hour of one channel, or eleven minutes of three. Their features take a second or two, and the loop must not be away
# for much longer.
MOST_WINDOWS = 4096


def is_too_slow(spec: WindowSpec, rate_hz: float) -> bool:
    """Whether a window of `length_s` holds too few samples at this rate."""
    return round(spec.length_s * rate_hz) < LEAST_SAMPLES


def most_windows(spec: WindowSpec, block: Block) -> int:
    """How many windows the block can complete, counted per channel."""
    channels, n = block.samples.shape
    _, hop = length_and_hop(spec, block.rate_hz)
    return channels * -(-n // hop)


def longest_block_s(spec: WindowSpec, rate_hz: float, channels: int) -> float:
    """Seconds of signal in the longest block that does not complete too many windows."""
    _, hop = length_and_hop(spec, rate_hz)
    return max(1, MOST_WINDOWS // channels) * hop / rate_hz
