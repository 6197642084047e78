"""Order: duplicates, bounded reordering, gaps, new sessions, and counters that contradict the clock.

Most blocks come in order. Some come twice, too late or not at all. `push` returns the blocks that can be used now: each
begins where the block before it ended, or after a `Gap`.

* A session counts its samples from 0. A block with another session id begins another session at once. Blocks of earlier
  sessions are then duplicates or late.
* A block that comes early is held back until the missing samples come or the stream has moved on by `max_wait_s`. Then
  the missing samples are given up as one `Gap`. The limit counts samples and not blocks, so it does not matter how a
  sender cuts its blocks.
* Samples that a block repeats are cut off. A block with nothing new is a `Duplicate`, or `Late` if it would have filled
  a gap that was given up.

A duplicate has the same index *and* the same time. So the state keeps a *clock*: at which time which sample came, as
marks with the slack that the times between two marks had. A block is at odds with the clock if its `t0` is more than
half its own length away from there. What the index calls repeated and the clock calls new is kept, and a
`Contradiction` names it:

    the time continues the record          the block is appended, and later indexes are shifted   index_contradicts_t0
    the time lies after a pause            a new record begins; its id is the block's t0           counter_restarted
    another rate, unit or set of channels  a new record begins; its id is the block's t0           form_changed
    an earlier record continues beside     the block is `Rejected`: two senders share the topic    two_senders
    this one

Ids and decisions follow from the blocks alone, so a restart, a repetition or a neighbour changes nothing. Where the
index goes on and the clock is stepped, the index counts, as NTP steps clocks, too; `clock_stepped` names the step.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import msgspec
import numpy as np
from msgspec.structs import replace

from pipeline.core.records import Block, Contradiction, Duplicate, Gap, Late, Rejected, Trouble

REMEMBERED_GAPS = 32  # per session, to tell late blocks from repeated ones
REMEMBERED_SESSIONS = 512  # ranges of finished sessions, to recognise what a broker delivers again after a crash
REMEMBERED_MARKS = 512  # of the clock; a steady clock needs one
REMEMBERED_BLOCKS = 32  # by their first samples, to tell a second sender that counts alike from a repetition
PRINTED_SAMPLES = 8  # per channel, in the fingerprint of a block
TAKE_OVER_S = 10.0  # how long, in its own time, a second sender must be alone on a topic before it is the stream
EXACT_NS = 1000  # times that follow from each other by the rate agree at least this well

Form = tuple[float, tuple[str, ...], str]
Seen = tuple[int, int, int]  # sample number and time of a block, and the checksum of its first samples
Mark = tuple[int, int, int]  # sample number, its time in ns, and how far the times after it were from it, in ns


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """How long to wait for a missing block, in event time, and by which share a rate may vary within a session."""

    max_wait_s: float
    rate_tolerance: float


class Finished(msgspec.Struct, frozen=True):
    """Sessions `first` to `last` are over; each had samples [0, end). Sessions that are counted up share one range."""

    first: int
    last: int
    end: int
    start_ns: int | None = None  # None: written by a version that did not keep times
    end_ns: int = 0
    shifted: bool = False  # its indexes meant nothing, its times count


class OrderState(msgspec.Struct, frozen=True, eq=False):
    """How far a stream has come in its session, and which blocks are held back."""

    session: int | None = None  # as the sender calls it
    form: Form | None = None  # rate_hz, channels, unit: the same for a whole record
    next_index: int = 0
    held: tuple[Block, ...] = ()  # sorted by index, all after next_index
    gaps: tuple[tuple[int, int], ...] = ()
    finished: tuple[Finished, ...] = ()
    record: int | None = None  # the session id that is given out; None: the sender's own
    offset: int = 0  # sample number in the record - the sender's index
    start_ns: int | None = None  # when the record began
    clock: tuple[Mark, ...] = ()
    rate_seen: float = 0.0  # the largest share by which the rate was off and that was reported
    beside_ns: int | None = None  # since when an earlier record has been alone on the topic, in its own time
    seen: tuple[Seen, ...] = ()  # the newest blocks
    before: OrderState | None = None  # the record that an unannounced one displaced; it may prove to be alive


def push(spec: OrderSpec, state: OrderState, block: Block) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Take one block. Return the blocks that are next in order, and what went wrong."""
    if block.session != state.session:
        return _other_session(spec, state, block)
    fitted, rate_off = _fitted(spec, state, block)
    if fitted is not None and not _at_odds(spec, state, fitted):
        state, troubles = _rate_noted(state, fitted, block, rate_off)
        return _take(spec, state, block, fitted, troubles)
    return _contradicts(spec, state, block, fitted)


def push_all(
    spec: OrderSpec, state: OrderState, blocks: Iterable[Block]
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Take several blocks of one stream, as `push` does one by one. A block that just follows costs almost nothing."""
    ready: list[Block] = []
    troubles: list[Trouble] = []
    next_index, clock, seen = state.next_index, state.clock, state.seen
    for block in blocks:
        follows = (
            block.index == next_index < block.end
            and block.session == state.session
            and not (state.held or state.offset)
            and state.record is None
            and state.beside_ns is None
        )
        if follows and _form(block) == state.form and (noted := _noted(clock, block))[-1][0] < block.index:
            ready.append(block)
            clock, next_index, seen = noted, block.end, _with_seen(seen, block)
        else:
            state, some, trouble = push(spec, replace(state, next_index=next_index, clock=clock, seen=seen), block)
            ready += some
            troubles += trouble
            next_index, clock, seen = state.next_index, state.clock, state.seen
    return replace(state, next_index=next_index, clock=clock, seen=seen), ready, troubles


def flush(state: OrderState) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Release all blocks that are held back; what is missing between them becomes gaps."""
    ready: list[Block] = []
    troubles: list[Trouble] = []
    while state.held:
        state = _give_up(state, ready, troubles)
    return state, ready, troubles


def after(block: Block, index: int) -> Block:
    """The part of a block from sample number `index` on."""
    skip = index - block.index
    if skip <= 0:
        return block
    t0_ns = block.t0_ns + round(skip * 1e9 / block.rate_hz)
    return dataclasses.replace(block, index=index, t0_ns=t0_ns, samples=block.samples[:, skip:])


# -- within a record -------------------------------------------------------------------------------------------------


def _take(
    spec: OrderSpec, state: OrderState, sent: Block, block: Block, troubles: list[Trouble]
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Put a block in its place. `block` is what was `sent`, with the session, index and form of the record."""
    ready: list[Block] = []
    if state.beside_ns is not None:
        state = replace(state, beside_ns=None)
    if block.end <= state.next_index or any(h.index <= block.index and block.end <= h.end for h in state.held):
        if _is_other(state, block):
            return _reject(state, sent, _alike_error(sent), troubles)
        filled = any(first < block.end and block.index < last for first, last in state.gaps)
        return state, ready, [*troubles, _repeated(block, state.next_index, known=not filled)]
    held = tuple(sorted((*state.held, block), key=lambda b: (b.index, b.end)))
    troubles = [*troubles, *_stepped(state, sent, block)]
    state = _drain(replace(state, held=held, seen=_with_seen(state.seen, block)), ready)
    max_wait = round(spec.max_wait_s * block.rate_hz)
    while state.held and _waited_enough(state, max_wait):
        state = _give_up(state, ready, troubles)
    return state, ready, troubles


def _waited_enough(state: OrderState, max_wait: int) -> bool:
    """Whether the stream has moved on far enough, or too many samples are held: blocks can overlap without end."""
    moved_on = max(h.end for h in state.held) - state.next_index
    return moved_on > max_wait or sum(h.samples.shape[1] for h in state.held) > 2 * max_wait


def _repeated(block: Block, next_index: int, *, known: bool) -> Duplicate | Late:
    if known:
        return Duplicate(block.key, block.session, block.index)
    return Late(block.key, block.session, block.index, late_by_samples=next_index - block.index)


def _drain(state: OrderState, ready: list[Block]) -> OrderState:
    """Append the held blocks that are next in order to `ready`."""
    held = list(state.held)
    next_index, clock = state.next_index, state.clock
    while held and held[0].index <= next_index:
        block = held.pop(0)
        if block.end > next_index:
            ready.append(after(block, next_index))
            clock = _noted(clock, ready[-1])
            next_index = block.end
    return replace(state, next_index=next_index, held=tuple(held), clock=clock)


def _give_up(state: OrderState, ready: list[Block], troubles: list[Trouble]) -> OrderState:
    """Give up what is missing before the first held block: it becomes a gap."""
    first = state.held[0]
    if first.index > state.next_index:
        gap = (state.next_index, first.index)
        troubles.append(Gap(first.key, first.session, *gap))
        state = replace(state, next_index=first.index, gaps=(*state.gaps, gap)[-REMEMBERED_GAPS:])
    return _drain(state, ready)


def _with_seen(seen: tuple[Seen, ...], block: Block) -> tuple[Seen, ...]:
    return (*seen[1 - REMEMBERED_BLOCKS :], (block.index, block.t0_ns, _print(block)))


def _print(block: Block) -> int:
    """A checksum of the first samples; 0 for a block that is too short for one."""
    if block.samples.shape[1] < PRINTED_SAMPLES:
        return 0
    return crc32(block.samples[:, :PRINTED_SAMPLES].tobytes()) or 1


def _is_other(state: OrderState, block: Block) -> bool:
    """Whether a block that seems repeated has other samples than the one that came with its index."""
    prints = {print_ for index, _, print_ in state.seen if index == block.index and print_}
    return bool(prints) and (found := _print(block)) != 0 and found not in prints


def _alike_error(sent: Block) -> str:
    return (
        f"one sender per topic expected, found two: `index` {sent.index} of session {sent.session} came twice for "
        "about the same time with different samples"
    )


def _reject(
    state: OrderState, sent: Block, detail: str, troubles: list[Trouble]
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """Keep the block of a second sender out."""
    told = Contradiction(sent.key, "two_senders", detail)
    return state, [], [*troubles, told, Rejected(sent, "two_senders", detail)]


# -- the form of a record --------------------------------------------------------------------------------------------


def _form(block: Block) -> Form:
    return block.rate_hz, block.channels, block.unit


def _fitted(spec: OrderSpec, state: OrderState, block: Block) -> tuple[Block | None, float]:
    """The block with the record's session, index, nominal rate and order of channels, and how far its rate is off.

    None if it has another unit, other channels, or a rate beyond the tolerance.
    """
    assert state.form is not None
    assert state.session is not None
    rate_hz, channels, unit = state.form
    off = block.rate_hz / rate_hz - 1
    if abs(off) > spec.rate_tolerance or block.unit != unit:
        return None, off
    samples = block.samples
    if block.channels != channels:
        if sorted(block.channels) != sorted(channels):
            return None, off
        samples = np.ascontiguousarray(samples[[block.channels.index(name) for name in channels]])
    elif block.rate_hz == rate_hz and not state.offset and state.record is None:
        return block, 0.0
    given = state.session if state.record is None else state.record
    index = block.index + state.offset
    fitted = dataclasses.replace(block, session=given, index=index, rate_hz=rate_hz, channels=channels, samples=samples)
    return fitted, off


def _rate_noted(state: OrderState, fitted: Block, block: Block, rate_off: float) -> tuple[OrderState, list[Trouble]]:
    """Report a rate that is off the nominal one the first time, and again when it is twice as far off."""
    if abs(rate_off) <= 2 * state.rate_seen:
        return state, []
    found = f"a rate_hz of {fitted.rate_hz:.12g} as at the start of the record, found: {block.rate_hz:.12g}"
    told = Contradiction(block.key, "rate_drift", f"expected {found} ({rate_off:+.3%}); the first one is used")
    return replace(state, rate_seen=abs(rate_off)), [told]


def _form_error(form: Form, block: Block) -> str:
    """Which key differs from the record's, as one sentence."""
    pairs = zip(("rate_hz", "channels", "unit"), form, _form(block), strict=True)
    shown = [(key, _text(expected), _text(found)) for key, expected, found in pairs if expected != found]
    return "; ".join(
        f"`{key}` {expected} expected as before in the session, found: {found}" for key, expected, found in shown
    )


def _text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else ",".join(value) if isinstance(value, tuple) else str(value)


# -- the clock of a record -------------------------------------------------------------------------------------------


def _noted(clock: tuple[Mark, ...], block: Block) -> tuple[Mark, ...]:
    """The clock after a block: the last mark gets slack up to a quarter of a block, beyond that there is a new one."""
    if clock:
        index, t0_ns, slack_ns = clock[-1]
        off_ns = abs(block.t0_ns - t0_ns - round((block.index - index) * 1e9 / block.rate_hz))
        if off_ns <= slack_ns:
            return clock
        if off_ns <= _tolerance_ns(block) // 2:
            return (*clock[:-1], (index, t0_ns, off_ns))
    return (*clock, (block.index, block.t0_ns, 0))[-REMEMBERED_MARKS:]


def _stepped(state: OrderState, sent: Block, block: Block) -> list[Trouble]:
    """Names a clock that stands still or was set while the index just went on. Jitter of half a block is none."""
    if block.index != state.next_index or not state.clock:
        return []
    mark = state.clock[-1]
    off_ns = block.t0_ns - _time_ns(mark, block.index, block.rate_hz)
    if block.t0_ns != mark[1] and abs(off_ns) <= mark[2] + 3 * _tolerance_ns(block):
        return []
    detail = f"`t0` expected as `index` goes on, found: {off_ns / 1e9:+.3f} s off; the samples follow each other"
    return [Contradiction(sent.key, "clock_stepped", detail)]


def _time_ns(mark: Mark, index: int, rate_hz: float) -> int:
    return _int64(mark[1] + round((index - mark[0]) * 1e9 / rate_hz))


def _int64(value: int) -> int:
    """A sender may count as far as it likes; what is remembered of it has 64 bits."""
    return min(max(value, -(2**63)), 2**63 - 1)


def _tolerance_ns(block: Block) -> int:
    """Half the length of a block."""
    return max(EXACT_NS, round(block.samples.shape[1] * 0.5e9 / block.rate_hz))


def _off_ns(state: OrderState, block: Block) -> int:
    """How far the block's time is from where the record's clock has its first sample, beyond the slack.

    Between two marks the nearer answer counts, because the clock was stepped somewhere there. When marks have been
    forgotten, it is only known of samples before the first one that they are older.
    """
    clock = state.clock
    place = bisect_right(clock, block.index, key=lambda mark: mark[0])
    if place == 0 and len(clock) in (0, REMEMBERED_MARKS):
        return max(0, block.t0_ns - clock[0][1]) if clock else 0
    near = clock[max(0, place - 1) : place + 1]
    return min(max(0, abs(block.t0_ns - _time_ns(mark, block.index, block.rate_hz)) - mark[2]) for mark in near)


def _at_odds(spec: OrderSpec, state: OrderState, block: Block) -> bool:
    """Whether index and time of a block say different things."""
    ahead = max(0, block.index - state.next_index)
    if state.held and ahead:  # the held blocks have a time, too
        ahead = min(ahead, min(abs(block.index - h.index) for h in state.held))
    behind = max(0, state.clock[0][0] - block.index) if state.clock else 0
    drift_ns = spec.rate_tolerance * (ahead + behind) * 1e9 / block.rate_hz
    return _off_ns(state, block) > _tolerance_ns(block) + drift_ns


def _end_ns(state: OrderState) -> int:
    """Time of the next sample of the record."""
    assert state.form is not None
    return _time_ns(state.clock[-1], state.next_index, state.form[0]) if state.clock else state.start_ns or 0


# -- contradictions --------------------------------------------------------------------------------------------------


def _contradicts(
    spec: OrderSpec, state: OrderState, block: Block, fitted: Block | None
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """A block of the session whose form, or whose index and time together, do not fit its record."""
    if verdict := _of_the_past(spec, state, block):
        return _as_of_the_past(spec, state, block, verdict)
    assert state.form is not None
    if fitted is None:
        here = dataclasses.replace(block, index=block.index + state.offset, rate_hz=state.form[0])
        is_old = block.t0_ns < _end_ns(state) - _tolerance_ns(block)  # neither index nor time says that it is new
        if here.end <= state.next_index and (is_old or not _at_odds(spec, state, here)):
            detail = _form_error(state.form, block)
            return state, [], [Rejected(block, "session", detail)]
        return _new_record(spec, state, block, "form_changed", _form_error(state.form, block))
    if fitted.index == state.next_index and not state.offset:  # the clock was stepped
        return _take(spec, state, block, fitted, [])
    ahead = fitted.index > state.next_index
    from_end_ns = block.t0_ns - _end_ns(state)
    tolerance_ns = _tolerance_ns(block)
    if abs(from_end_ns) <= (tolerance_ns // 2 if ahead else tolerance_ns):
        return _shifted(spec, state, block)
    wait_ns = spec.max_wait_s * 1e9
    if ahead and not state.offset and (abs(from_end_ns) > wait_ns or _off_ns(state, fitted) <= wait_ns):
        return _take(spec, state, block, fitted, [])  # a gap, and the clock was stepped
    if state.offset and (state.start_ns or 0) - tolerance_ns <= block.t0_ns and from_end_ns < 0:
        if state.seen[0][1] <= block.t0_ns and all(abs(at - block.t0_ns) > EXACT_NS for _, at, _ in state.seen):
            return _reject(state, block, _alike_error(block), [])
        return state, [], [Duplicate(block.key, fitted.session, fitted.index)]
    detail = (
        f"a new `session` whenever the count restarts expected, found session {block.session} again: `index` "
        f"{block.index} where {state.next_index - state.offset} is next, and `t0` {from_end_ns / 1e9:+.3f} s from "
        "the end of what came"
    )
    return _new_record(spec, state, block, "counter_restarted", detail)


def _shifted(spec: OrderSpec, state: OrderState, block: Block) -> tuple[OrderState, list[Block], list[Trouble]]:
    """The time says that the block is the next one: its index is moved there."""
    state, ready, troubles = flush(state)
    expected = state.next_index - state.offset
    detail = (
        f"`index` {expected} expected, because `t0` continues the block before, found: {block.index}; `index` must "
        "count samples per channel since the session began"
    )
    troubles.append(Contradiction(block.key, "index_contradicts_t0", detail))
    state = replace(state, offset=_int64(state.next_index - block.index))
    fitted, _ = _fitted(spec, state, block)
    assert fitted is not None
    state, more, troubles = _take(spec, state, block, fitted, troubles)
    return state, ready + more, troubles


def _other_session(spec: OrderSpec, state: OrderState, block: Block) -> tuple[OrderState, list[Block], list[Trouble]]:
    verdict = _of_the_past(spec, state, block)
    if verdict == "new":
        detail = f"a new `session` at each start expected, found session {block.session} again with another count"
        return _new_record(spec, state, block, "counter_restarted", detail)
    if verdict:
        return _as_of_the_past(spec, state, block, verdict)
    return _begin(spec, state, block, record=None)


def _of_the_past(spec: OrderSpec, state: OrderState, block: Block) -> str:
    """What a block is to the finished records of its session: "" none of it, repeated, late, beside, or new."""
    past = [f for f in reversed(state.finished) if f.first <= block.session <= f.last]
    tolerance_ns = _tolerance_ns(block)
    for one in past:
        if one.start_ns is None:
            return "repeated" if block.end <= one.end else "late"
        before_end_ns = one.end_ns - block.t0_ns
        away_ns = abs(before_end_ns - (one.end - block.index) * 1e9 / block.rate_hz)
        span_ns = abs(one.end - block.index) * 1e9 / block.rate_hz
        agrees = not one.shifted and away_ns <= tolerance_ns + spec.rate_tolerance * span_ns
        within = one.start_ns - tolerance_ns <= block.t0_ns and before_end_ns > tolerance_ns
        if within and (one.shifted or block.end <= one.end):
            return "repeated"
        if agrees and block.end <= one.end and before_end_ns > 0:
            return "repeated"
        if within or (agrees and state.start_ns is not None and block.t0_ns < state.start_ns):
            return "late"
        if (agrees and block.index >= one.end) or abs(before_end_ns) <= tolerance_ns:
            return "beside"
    return "new" if past and block.session != state.session else ""


def _as_of_the_past(
    spec: OrderSpec, state: OrderState, block: Block, verdict: str
) -> tuple[OrderState, list[Block], list[Trouble]]:
    if verdict in ("repeated", "late"):
        end = next(f.end for f in reversed(state.finished) if f.first <= block.session <= f.last)
        return state, [], [_repeated(block, end, known=verdict == "repeated")]
    if resumed := _resumed(spec, state, block):
        return resumed
    since_ns = block.t0_ns if state.beside_ns is None else state.beside_ns
    detail = _beside_error(state, block)
    if block.t0_ns - since_ns > TAKE_OVER_S * 1e9:
        return _new_record(spec, state, block, "two_senders", f"{detail}; the other one has stopped")
    finished = list(state.finished)
    at = max(i for i, f in enumerate(finished) if f.first <= block.session <= f.last)
    end_ns = block.t0_ns + round(block.samples.shape[1] * 1e9 / block.rate_hz)
    finished[at] = replace(finished[at], end=_int64(block.end), end_ns=_int64(end_ns))
    state = replace(state, beside_ns=since_ns, finished=tuple(finished))
    return _reject(state, block, detail, [])


def _resumed(spec: OrderSpec, state: OrderState, block: Block) -> tuple[OrderState, list[Block], list[Trouble]] | None:
    """Go on with the record that was displaced a moment ago, because it goes on. None if this is no such case."""
    before = state.before
    if before is None or before.session != block.session or _end_ns(state) - (state.start_ns or 0) > TAKE_OVER_S * 1e9:
        return None
    fitted, _ = _fitted(spec, before, block)
    if fitted is None or (fitted.index != before.next_index and _at_odds(spec, before, fitted)):
        return None
    detail = _beside_error(state, block)
    state, ready, troubles = flush(state)
    intruder = Finished(
        state.session or 0, state.session or 0, _int64(state.next_index - state.offset), state.start_ns, _end_ns(state)
    )
    before = replace(before, finished=(*before.finished, intruder)[-REMEMBERED_SESSIONS:])
    troubles.append(Contradiction(block.key, "two_senders", detail))
    state, more, troubles = _take(spec, before, block, fitted, troubles)
    return state, ready + more, troubles


def _beside_error(state: OrderState, block: Block) -> str:
    assert state.form is not None
    differs = f" ({_form_error(state.form, block)})" if _form(block) != state.form else ""
    return (
        f"one sender per topic expected, found two: session {block.session} goes on at index {block.index} beside "
        f"session {state.session}{differs}"
    )


# -- new records -----------------------------------------------------------------------------------------------------


def _new_record(
    spec: OrderSpec, state: OrderState, block: Block, kind: str, detail: str
) -> tuple[OrderState, list[Block], list[Trouble]]:
    """A record that the sender does not announce. Its id is the time of its first sample."""
    record = block.t0_ns
    while record in (state.session, state.record):
        record += 1
    before, _, _ = flush(state)
    state, ready, troubles = _begin(spec, state, block, record, goes_on=kind == "form_changed")
    state = replace(state, before=replace(before, before=None))
    return state, ready, [Contradiction(block.key, kind, detail), *troubles]


def _begin(
    spec: OrderSpec, state: OrderState, block: Block, record: int | None, *, goes_on: bool = False
) -> tuple[OrderState, list[Block], list[Trouble]]:
    # If the first block of a new stream is far from the start of its session, we joined late: nothing is missing.
    # Otherwise the beginning of the session is missing. It may still come, so it is waited for.
    far = block.index > round(spec.max_wait_s * block.rate_hz)
    joined_late = (far and (state.session is None or record is not None)) or goes_on
    state, ready, troubles = flush(state)
    begun = OrderState(
        session=block.session,
        form=_form(block),
        next_index=block.index if joined_late else 0,
        finished=_remember(state),
        record=record,
        start_ns=block.t0_ns if joined_late else _int64(block.t0_ns - round(block.index * 1e9 / block.rate_hz)),
    )
    fitted, _ = _fitted(spec, begun, block)
    assert fitted is not None
    begun, more, troubles = _take(spec, begun, block, fitted, troubles)
    return begun, ready + more, troubles


def _remember(state: OrderState) -> tuple[Finished, ...]:
    if state.session is None:
        return state.finished
    start_ns = state.start_ns if state.clock else None
    end = _int64(state.next_index - state.offset)
    shifted = state.offset != 0
    newest = state.finished[-1] if state.finished else None
    if newest is not None and newest.last + 1 == state.session and newest.end == end and state.record is None:
        merged = replace(newest, last=state.session, end_ns=_end_ns(state), shifted=newest.shifted or shifted)
        return (*state.finished[:-1], merged)
    one = Finished(state.session, state.session, end, start_ns, _end_ns(state), shifted)
    return (*state.finished, one)[-REMEMBERED_SESSIONS:]
