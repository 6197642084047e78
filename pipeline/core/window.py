"""Windows: overlapping pieces of a session, addressed by sample number.

Window k covers samples [k*hop, k*hop + length) of its session. Only the samples that later windows need are kept. They
are kept as *runs*: samples without a hole in count or time. A window within one run is whole. Any other window is
reported with its coverage and without samples. A window of which nothing came is not reported, because the gap was.

What a block says beside its samples (time, speed, truth, bearing) is kept as *marks*: one wherever something changes.
So it does not matter how the samples were cut into blocks. Slow drift of the sender's clock moves the marks. A jump of
more than `max_time_step_s` begins a new run.

The last functions bound what one block may ask for. A valid block can still be absurd, and it must not cost as much as
a thousand others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np

from pipeline.core.features.lengths import next_fast_length
from pipeline.core.records import BearingOrders, Block, Float32, Window

DRIFT_NS = 1_000_000  # block times may drift this far from the sample count before a new mark follows them
SAMPLES_AT_ONCE = 1 << 15  # per channel: more would not fit in the cache


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Length and hop of the windows, and the largest time step between blocks of one run."""

    length_s: float
    hop_s: float
    max_time_step_s: float


@lru_cache(maxsize=256)
def length_and_hop(spec: WindowSpec, rate_hz: float) -> tuple[int, int]:
    """Window length, rounded up to a fast FFT length, and hop; both in samples."""
    return next_fast_length(max(16, round(spec.length_s * rate_hz))), max(1, round(spec.hop_s * rate_hz))


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What holds from sample `start` until the next mark."""

    start: int
    t0_ns: int  # time of sample `start`
    speed_rpm: float | None
    orders: BearingOrders | None
    truth: str | None
    speed_source: str | None = None

    def time_ns(self, index: int, rate_hz: float) -> int:
        """Time of sample number `index`."""
        return self.t0_ns + round((index - self.start) * 1e9 / rate_hz)


class Run(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples [start, end) without a hole, in pieces that are joined when a window needs them."""

    start: int
    end: int
    pieces: tuple[Float32, ...]  # each (C, n)


class _GrowingRun(msgspec.Struct, gc=False):
    """A run that pieces are being added to."""

    start: int
    end: int
    pieces: list[Float32]


class WindowState(msgspec.Struct, frozen=True, eq=False):
    """The end of a session, as far as later windows need it."""

    session: int | None = None
    position: int = 0  # number of the next sample
    next_number: int = 0
    runs: tuple[Run, ...] = ()
    marks: tuple[Mark, ...] = ()


class Context(Protocol):
    """What is known about a stream beside its blocks. `unit` overrules them; the rest fills in what they leave out."""

    @property
    def speed_rpm(self) -> float | None: ...
    @property
    def speed_source(self) -> str | None: ...
    @property
    def speed_range_rpm(self) -> tuple[float, float] | None: ...
    @property
    def orders(self) -> BearingOrders | None: ...
    @property
    def gear_teeth(self) -> tuple[int, ...]: ...
    @property
    def unit(self) -> str | None: ...


def push(
    spec: WindowSpec, state: WindowState, blocks: Sequence[Block], context: Context
) -> tuple[WindowState, list[Window]]:
    """Take the next blocks in order. Return the windows that are complete with them."""
    windows: list[Window] = []
    for some in _at_once(blocks):
        state, complete = _cut(spec, _taken(spec, state, some), some[-1], context)
        windows += complete
    return state, windows


def _at_once(blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
    """Groups of blocks of one session. The samples of a group are joined by one copy that fits in the cache."""
    first, samples = 0, 0
    for i, block in enumerate(blocks):
        if i > first and (samples >= SAMPLES_AT_ONCE or block.session != blocks[first].session):
            yield blocks[first:i]
            first, samples = i, 0
        samples += block.samples.shape[1]
    if blocks:
        yield blocks[first:]


def _taken(spec: WindowSpec, state: WindowState, blocks: Sequence[Block]) -> WindowState:
    """The state with these blocks of one session, before any window is cut."""
    first = blocks[0]
    if first.session != state.session:
        _, hop = length_and_hop(spec, first.rate_hz)
        state = WindowState(first.session, first.index, next_number=-(-first.index // hop))
    position, marks = state.position, state.marks
    runs = [_GrowingRun(run.start, run.end, list(run.pieces)) for run in state.runs]
    for block in blocks:
        marks, time_step_ns = _mark(marks, block)
        if not runs or block.index != position or time_step_ns > spec.max_time_step_s * 1e9:
            runs.append(_GrowingRun(block.index, block.index, []))
        runs[-1].pieces.append(block.samples)
        runs[-1].end = position = block.index + block.samples.shape[1]
    grown = tuple(Run(run.start, run.end, tuple(run.pieces)) for run in runs)
    return WindowState(state.session, position, state.next_number, grown, marks)


def _cut(spec: WindowSpec, state: WindowState, block: Block, context: Context) -> tuple[WindowState, list[Window]]:
    """All windows that are complete; `block` is the newest of the session."""
    length, hop = length_and_hop(spec, block.rate_hz)
    windows: list[Window] = []
    runs, marks, number = state.runs, state.marks, state.next_number
    while number * hop + length <= state.position:
        start, end = number * hop, number * hop + length
        if runs[0].end <= start:
            runs = tuple(run for run in runs if run.end > start)
        if runs[0].start >= end:  # nothing of this window came: go on to the next of which something did
            number = max(number + 1, (runs[0].start - length) // hop + 1)
            continue
        if runs[0].start <= start and end <= runs[0].end and len(runs[0].pieces) > 1:
            runs = (_joined(runs[0]), *runs[1:])
        windows.append(_window(context, block, number, start, end, runs, marks))
        number += 1
    keep = number * hop
    return (
        WindowState(state.session, state.position, number, _pruned_runs(runs, keep), _pruned_marks(marks, keep)),
        windows,
    )


def _mark(marks: tuple[Mark, ...], block: Block) -> tuple[tuple[Mark, ...], int]:
    """The marks, with one for this block if it says anything new; and how far its time is from the expected time."""
    t0_ns = block.t0_ns
    step_ns = 0
    if marks:
        last = marks[-1]
        expected_ns = last.time_ns(block.index, block.rate_hz)
        step_ns = abs(t0_ns - expected_ns)
        if step_ns <= DRIFT_NS:
            said = (block.speed_rpm, block.orders, block.truth, block.speed_source)
            if (last.speed_rpm, last.orders, last.truth, last.speed_source) == said:
                return marks, step_ns
            t0_ns = expected_ns
    mark = Mark(block.index, t0_ns, block.speed_rpm, block.orders, block.truth, block.speed_source)
    return (*marks, mark), step_ns


def _joined(run: Run) -> Run:
    return Run(run.start, run.end, (np.concatenate(run.pieces, axis=1),))


def _window(
    context: Context, block: Block, number: int, start: int, end: int, runs: tuple[Run, ...], marks: tuple[Mark, ...]
) -> Window:
    first = runs[0]
    whole = first.start <= start and end <= first.end
    first_mark, last_mark = marks[0], marks[-1]
    speed_rpm, trace, truth = last_mark.speed_rpm, None, last_mark.truth
    if len(marks) > 1:
        first_mark, last_mark = _mark_at(marks, start), _mark_at(marks, end - 1)
        spans = _spans(marks, start, end)
        speed_rpm, trace, truth = _mean_speed_rpm(spans), _speed_trace(spans), _main_truth(spans)
    received = end - start if whole else sum(max(0, min(run.end, end) - max(run.start, start)) for run in runs)
    return Window(
        key=block.key,
        session=block.session,
        number=number,
        start_ns=first_mark.time_ns(start, block.rate_hz),
        end_ns=last_mark.time_ns(end, block.rate_hz),
        rate_hz=block.rate_hz,
        channels=block.channels,
        unit=context.unit or block.unit,
        samples=first.pieces[0][:, start - first.start : end - first.start] if whole else None,
        coverage=received / (end - start),
        speed_rpm=context.speed_rpm if speed_rpm is None else speed_rpm,
        speed_source=_speed_source(speed_rpm, last_mark, context),
        orders=last_mark.orders or context.orders,
        truth=truth,
        speed_trace=trace,
        speed_range_rpm=context.speed_range_rpm,
        gear_teeth=context.gear_teeth,
    )


def _speed_source(speed_rpm: float | None, last_mark: Mark, context: Context) -> str:
    """Of the speed in the blocks, else of the configured one, which is nominal unless it says otherwise."""
    if speed_rpm is None:
        return context.speed_source or "nominal"
    return last_mark.speed_source or context.speed_source or "measured"


def _mark_at(marks: tuple[Mark, ...], index: int) -> Mark:
    return next((mark for mark in reversed(marks) if mark.start <= index), marks[0])


def _spans(marks: tuple[Mark, ...], start: int, end: int) -> list[tuple[int, Mark]]:
    """The marks that hold within [start, end), each with its number of samples."""
    edges = [*(mark.start for mark in marks[1:]), end]
    spans = ((min(after, end) - max(mark.start, start), mark) for mark, after in zip(marks, edges, strict=True))
    return [(n, mark) for n, mark in spans if n > 0]


def _mean_speed_rpm(spans: list[tuple[int, Mark]]) -> float | None:
    known = [(n, mark.speed_rpm) for n, mark in spans if mark.speed_rpm is not None]
    if len({speed for _, speed in known}) < 2:
        return known[0][1] if known else None  # the weighted mean of equal numbers can differ from them in the last bit
    return sum(n * speed for n, speed in known) / sum(n for n, _ in known)


def _speed_trace(spans: list[tuple[int, Mark]]) -> tuple[tuple[int, float], ...] | None:
    """(first sample, rpm) of each piece of constant speed; None if the speed is constant or not known throughout."""
    trace: list[tuple[int, float]] = []
    start = 0
    for n, mark in spans:
        if mark.speed_rpm is None:
            return None
        if not trace or trace[-1][1] != mark.speed_rpm:
            trace.append((start, mark.speed_rpm))
        start += n
    return tuple(trace) if len(trace) > 1 else None


def _main_truth(spans: list[tuple[int, Mark]]) -> str | None:
    """The truth of most samples; the later of two that are equally long."""
    lengths: dict[str | None, int] = {}
    for n, mark in spans:
        lengths[mark.truth] = lengths.pop(mark.truth, 0) + n
    longest = max(lengths.values())
    return [truth for truth, n in lengths.items() if n == longest][-1]


def _pruned_runs(runs: tuple[Run, ...], keep: int) -> tuple[Run, ...]:
    """Drop every sample before number `keep`."""
    kept = []
    for run in runs:
        start, pieces = run.start, run.pieces
        while pieces and start + pieces[0].shape[1] <= keep:
            start += pieces[0].shape[1]
            pieces = pieces[1:]
        if pieces and start < keep:
            pieces = (pieces[0][:, keep - start :], *pieces[1:])
            start = keep
        if pieces:
            kept.append(Run(start, run.end, pieces))
    return tuple(kept)


def _pruned_marks(marks: tuple[Mark, ...], keep: int) -> tuple[Mark, ...]:
    first = max((i for i, mark in enumerate(marks) if mark.start <= keep), default=0)
    return marks[first:]


LEAST_SAMPLES = 32  # of a window, which gives 16 spectral lines: fewer are no spectrum
# The most windows of one block, counted per channel, and of one commit. A sensor's block holds seconds. At the default
# hop this is half an hour of one channel, or eleven minutes of three. Their features take a second or two, and the
# loop must not be away for much longer.
MOST_WINDOWS = 4096


def is_too_slow(spec: WindowSpec, rate_hz: float) -> bool:
    """Whether a window holds too few samples at this rate."""
    return round(spec.length_s * rate_hz) < LEAST_SAMPLES


def most_windows(spec: WindowSpec, block: Block) -> int:
    """The most windows that the block can complete, counted per channel."""
    channels, n = block.samples.shape
    _, hop = length_and_hop(spec, block.rate_hz)
    return channels * -(-n // hop)


def longest_block_s(spec: WindowSpec, rate_hz: float, channels: int) -> float:
    """The longest block, in seconds, that does not complete too many windows."""
    _, hop = length_and_hop(spec, rate_hz)
    return max(1, MOST_WINDOWS // channels) * hop / rate_hz
