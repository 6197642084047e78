"""Numbering: session and index of readings whose sender does not count, from their times.

A block begins where the block before it ended, if its time is within half a block of that (at least `LEAST_SLACK_S`).
So neither a clock in whole milliseconds nor a rate that is one per cent from the nominal one makes gaps. A block that
begins later leaves a gap of as many samples as are missing. A block that ends before was delivered again: it gets the
numbers that it had, and `core.order` calls it a duplicate.

A session is the time of its first sample in ns. A new one begins where the channels, the unit or the rate change, after
a pause of more than a day, and where the clock was set back: a time before the end of the stream that this
process has not seen. After a start, times before the end are repeated ones until the first that is not, for at most ten
minutes back.

The place of a stream follows from its committed state (`place_of`), so redelivery after a crash changes nothing.
A time of arrival is not the sender's: the broker's redelivery after a crash counts such samples twice.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Final

from pipeline.core.records import Block, StreamKey
from pipeline.core.state import StreamState
from pipeline.edges.payloads.mapping import Reading, counted

LEAST_SLACK_S: Final = 0.002  # of a block's time: clocks are read in whole milliseconds
ARRIVAL_SLACK_S: Final = 5.0  # of an arrival: messages come in bursts
ARRIVAL_PULL: Final = 0.05  # share of its distance by which the clock of a stream follows the arrivals
LONGEST_GAP_S: Final = 86_400.0  # after a longer pause a new session begins
RATE_TOLERANCE: Final = 0.005  # a measured rate within this of the session's is the same rate
LONGEST_REPEAT_S: Final = 600.0  # how far back a broker's redelivery after a crash may reach
REMEMBERED: Final = 4096  # messages of a stream whose redelivery is recognised by content


@dataclass(frozen=True, slots=True)
class Place:
    """How far a stream has come."""

    session: int
    end: int  # number of the next sample
    end_ns: int  # its time
    rate_hz: float
    channels: tuple[str, ...]
    unit: str


@dataclass(slots=True)
class _Stream:
    place: Place | None
    is_ahead: bool = False  # whether this process has brought the stream forward
    seen: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # time, checksum -> session, index
    order: deque[tuple[int, int]] = field(default_factory=deque)


@dataclass(slots=True)
class Numbering:
    """Counts the samples of every stream whose sender does not."""

    resume: Callable[[StreamKey], Place | None] = lambda key: None  # how far a stream had come when the process began
    _streams: dict[StreamKey, _Stream] = field(default_factory=dict)

    def number(self, reading: Reading) -> Block:
        """The block with its session and index; readings with a counter of their own are left as they are."""
        block = reading.block
        if reading.clock == "counter":
            return block
        stream = self._streams.get(block.key)
        if stream is None:
            stream = self._streams[block.key] = _Stream(self.resume(block.key))
        if reading.clock == "arrival":
            return _arrived(stream, block)
        mark = (block.t0_ns, zlib.crc32(block.samples.data))
        if mark in stream.seen:
            session, index = stream.seen[mark]
            return counted(block, session, index, block.t0_ns, _rate(stream.place, block))
        numbered = _timed(stream, block)
        stream.seen[mark] = (numbered.session, numbered.index)
        stream.order.append(mark)
        if len(stream.order) > REMEMBERED:
            del stream.seen[stream.order.popleft()]
        return numbered


def _timed(stream: _Stream, block: Block) -> Block:
    place = stream.place
    if place is None or not _fits(place, block):
        return _begin(stream, block)
    n, rate_hz = block.samples.shape[1], place.rate_hz
    off_s = (block.t0_ns - place.end_ns) / 1e9
    slack_s = max(n / rate_hz / 2, LEAST_SLACK_S)
    if off_s < 0 and not stream.is_ahead and off_s > -LONGEST_REPEAT_S:
        slack_s = min(slack_s, n / rate_hz / 2)  # the block before this one must not be taken for the next
    if abs(off_s) <= slack_s:
        return _continue(stream, block, place.end, block.t0_ns)
    if off_s > LONGEST_GAP_S:
        return _begin(stream, block)
    if off_s > 0:
        return _continue(stream, block, place.end + round(off_s * rate_hz), block.t0_ns)
    if stream.is_ahead or off_s < -LONGEST_REPEAT_S:  # the clock was set back
        return _begin(stream, block)
    index = max(0, min(place.end + round(off_s * rate_hz), place.end - n))
    return counted(block, place.session, index, block.t0_ns, rate_hz)


def _arrived(stream: _Stream, block: Block) -> Block:
    place = stream.place
    if place is None or not _fits(place, block):
        return _begin(stream, block)
    off_ns = block.t0_ns - place.end_ns
    if off_ns > ARRIVAL_SLACK_S * 1e9:
        if off_ns > LONGEST_GAP_S * 1e9:
            return _begin(stream, block)
        return _continue(stream, block, place.end + round(off_ns * place.rate_hz / 1e9), block.t0_ns)
    if off_ns < -ARRIVAL_SLACK_S * 1e9:
        return _begin(stream, block)
    return _continue(stream, block, place.end, place.end_ns + round(ARRIVAL_PULL * off_ns))


def _begin(stream: _Stream, block: Block) -> Block:
    stream.place = Place(block.t0_ns, 0, block.t0_ns, block.rate_hz, block.channels, block.unit)
    return _continue(stream, block, 0, block.t0_ns)


def _continue(stream: _Stream, block: Block, index: int, t0_ns: int) -> Block:
    assert stream.place is not None
    place = stream.place
    n = block.samples.shape[1]
    stream.is_ahead = True
    stream.place = changed(place, end=index + n, end_ns=t0_ns + round(n * 1e9 / place.rate_hz))
    return counted(block, place.session, index, t0_ns, place.rate_hz)


def _fits(place: Place, block: Block) -> bool:
    same_rate = abs(block.rate_hz / place.rate_hz - 1) <= RATE_TOLERANCE
    return same_rate and (block.channels, block.unit) == (place.channels, place.unit)


def _rate(place: Place | None, block: Block) -> float:
    return place.rate_hz if place is not None and _fits(place, block) else block.rate_hz


def place_of(state: StreamState) -> Place | None:
    """How far a stream has come by its committed state; None for one that has not begun."""
    order, window = state.order, state.window
    if order.session is None or order.form is None or window.session != order.session or not window.marks:
        return None
    rate_hz, channels, unit = order.form
    last = max((block.end for block in order.held), default=order.next_index)
    newest = max(order.held, key=lambda block: block.end, default=None)
    if newest is not None:
        end_ns = newest.t0_ns + round(newest.samples.shape[1] * 1e9 / rate_hz)
    else:
        end_ns = window.marks[-1].time_ns(last, rate_hz)
    return Place(order.session, last, end_ns, rate_hz, channels, unit)
