"""Order: duplicates, bounded reordering, gaps and new sessions.

Most blocks come in order. Some come twice, too late or not at all. `push` returns the blocks that can be used now: each
begins where the block before it ended, or after a `Gap`.

* A session counts its samples from 0. A block with another session id begins another session at once. Blocks of earlier
  sessions are then duplicates or late.
* A block that comes early is held back until the missing samples come or the stream has moved on by `max_wait_s`. Then
  the missing samples are given up as one `Gap`. The limit counts samples and not blocks, so it does not matter how a
  sender cuts its blocks.
* Samples that a block repeats are cut off. A block with nothing new is a `Duplicate`, or `Late` if it would have filled
  a gap that was given up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from pipeline.core.records import Block, Duplicate, Gap, Late, Rejected, Trouble

REMEMBERED_GAPS = 32  # per session, to tell late blocks from repeated ones
REMEMBERED_SESSIONS = 512  # ranges of finished sessions, to recognise what a broker delivers again after a crash


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """How long to wait for a missing block, in event time."""

    max_wait_s: float


class Finished(msgspec.Struct, frozen=True):
    """Sessions `first` to `last` are over; each had samples [0, end). Sessions that are counted up share one range."""

    first: int
    last: int
    end: int


class OrderState(msgspec.Struct, frozen=True, eq=False):
    """How far a stream has come in its session, and which blocks are held back."""

    session: int | None = None
    form: tuple[float, tuple[str, ...], str] | None = None  # rate_hz, channels, unit: the same for a whole session
    next_index: int = 0
    held: tuple[Block, ...] = ()  # sorted by index, all after next_index
    gaps: tuple[tuple[int, int], ...] = ()
    finished: tuple[Finished, ...] = ()


def push(spec: OrderSpec, state: OrderState, block: Block) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Take one block. Return the blocks that are next in order, and what went wrong."""
    ready: list[Block] = []
    troubles: list[Trouble] = []
    if block.session != state.session:
        end = _end_of_finished(state, block.session)
        if end is not None:
            return state, [], [_repeated(block, end, known=block.end <= end)]
        state, ready, troubles = flush(state)
        state = _begin(spec, state, block)
    if _form(block) != state.form:
        reason = f"{_form(block)} in a session of {state.form}"
        return state, ready, [*troubles, Rejected(block, reason)]
    if block.end <= state.next_index or any(h.index <= block.index and block.end <= h.end for h in state.held):
        filled = any(first < block.end and block.index < last for first, last in state.gaps)
        return state, ready, [*troubles, _repeated(block, state.next_index, known=not filled)]

    held = tuple(sorted((*state.held, block), key=lambda b: (b.index, b.end)))
    state = _drain(replace(state, held=held), ready)
    max_wait = round(spec.max_wait_s * block.rate_hz)
    while state.held and _waited_enough(state, max_wait):
        state = _give_up(state, ready, troubles)
    return state, ready, troubles


def _waited_enough(state: OrderState, max_wait: int) -> bool:
    """Whether the stream has moved on far enough, or too many samples are held: blocks can overlap without end."""
    moved_on = max(h.end for h in state.held) - state.next_index
    return moved_on > max_wait or sum(h.samples.shape[1] for h in state.held) > 2 * max_wait


def push_all(
    spec: OrderSpec, state: OrderState, blocks: Iterable[Block]
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Take several blocks of one stream, as `push` does one by one. A block that just follows costs almost nothing."""
    ready: list[Block] = []
    troubles: list[Trouble] = []
    next_index = state.next_index
    for block in blocks:
        end = block.end
        follows = block.index == next_index < end and block.session == state.session and not state.held
        if follows and _form(block) == state.form:
            ready.append(block)
            next_index = end
        else:
            state, some, trouble = push(spec, replace(state, next_index=next_index), block)
            ready += some
            troubles += trouble
            next_index = state.next_index
    return replace(state, next_index=next_index), ready, troubles


def flush(state: OrderState) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Release all blocks that are held back; what is missing between them becomes gaps."""
    ready: list[Block] = []
    troubles: list[Trouble] = []
    while state.held:
        state = _give_up(state, ready, troubles)
    return state, ready, troubles


def _form(block: Block) -> tuple[float, tuple[str, ...], str]:
    return block.rate_hz, block.channels, block.unit


def _begin(spec: OrderSpec, state: OrderState, block: Block) -> OrderState:
    # If the first block of a new stream is far from the start of its session, we joined late: nothing is missing.
    # Otherwise the beginning of the session is missing. It may still come, so it is waited for.
    joined_late = state.session is None and block.index > round(spec.max_wait_s * block.rate_hz)
    return OrderState(
        session=block.session,
        form=_form(block),
        next_index=block.index if joined_late else 0,
        finished=_remember(state),
    )


def _remember(state: OrderState) -> tuple[Finished, ...]:
    if state.session is None:
        return state.finished
    newest = state.finished[-1] if state.finished else None
    if newest is not None and newest.last + 1 == state.session and newest.end == state.next_index:
        return (*state.finished[:-1], replace(newest, last=state.session))
    return (*state.finished, Finished(state.session, state.session, state.next_index))[-REMEMBERED_SESSIONS:]


def _end_of_finished(state: OrderState, session: int) -> int | None:
    return next((f.end for f in reversed(state.finished) if f.first <= session <= f.last), None)


def _repeated(block: Block, next_index: int, *, known: bool) -> Duplicate | Late:
    if known:
        return Duplicate(block.key, block.session, block.index)
    return Late(block.key, block.session, block.index, late_by_samples=next_index - block.index)


def _drain(state: OrderState, ready: list[Block]) -> OrderState:
    """Append the held blocks that are next in order to `ready`."""
    held = list(state.held)
    next_index = state.next_index
    while held and held[0].index <= next_index:
        block = held.pop(0)
        if block.end > next_index:
            ready.append(after(block, next_index))
            next_index = block.end
    return replace(state, next_index=next_index, held=tuple(held))


def _give_up(state: OrderState, ready: list[Block], troubles: list[Trouble]) -> OrderState:
    """Give up what is missing before the first held block: it becomes a gap."""
    first = state.held[0]
    if first.index > state.next_index:
        gap = (state.next_index, first.index)
        troubles.append(Gap(first.key, first.session, *gap))
        state = replace(state, next_index=first.index, gaps=(*state.gaps, gap)[-REMEMBERED_GAPS:])
    return _drain(state, ready)


def after(block: Block, index: int) -> Block:
    """The part of a block from sample number `index` on."""
    skip = index - block.index
    if skip <= 0:
        return block
    t0_ns = block.t0_ns + round(skip * 1e9 / block.rate_hz)
    return dataclasses.replace(block, index=index, t0_ns=t0_ns, samples=block.samples[:, skip:])
