"""Order: what comes out of duplicates, reordering, gaps and new sessions."""

from __future__ import annotations

import random

import numpy as np
import pytest
import specs
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.order import REMEMBERED_GAPS, Finished, OrderState, flush, push, push_all
from pipeline.core.records import Block, Duplicate, Gap, Late, Rejected, StreamKey, Trouble
from pipeline.core.state import StreamState, from_bytes, to_bytes

SPEC = specs.order(max_wait_s=1.0)  # 100 samples at 100 Hz
KEY = StreamKey("fan-01", "de")


def block(index: int, n: int = 10, *, session: int = 1, rate_hz: float = 100.0, later_s: float = 0.0) -> Block:
    samples = np.arange(index, index + n, dtype=np.float32)[None]
    t0_ns = 10**18 + session * 10**13 + index * 10**7 + round(later_s * 1e9)
    return Block(KEY, session, index, t0_ns, rate_hz, ("x",), "g", samples)


def run(blocks: list[Block], state: OrderState | None = None) -> tuple[list[Block], list[Trouble], OrderState]:
    ready: list[Block] = []
    troubles: list[Trouble] = []
    state = state or OrderState()
    for b in blocks:
        state, some, trouble = push(SPEC, state, b)
        ready += some
        troubles += trouble
    return ready, troubles, state


def numbers(blocks: list[Block]) -> list[float]:
    return [v for b in blocks for v in b.samples[0].tolist()]


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_any_shuffle_within_the_bound_and_any_repetition_gives_every_sample_once(rnd: random.Random, n: int) -> None:
    blocks = [block(10 * i) for i in range(n)]
    copies = [b for b in blocks for _ in range(rnd.randint(1, 3))]
    jittered = sorted(copies, key=lambda b: b.index + rnd.uniform(0, 80))
    ready, troubles, state = run(jittered)
    _, rest, gave_up = flush(state)
    assert numbers(ready + rest) == list(range(10 * n))
    assert not gave_up
    assert all(isinstance(t, Duplicate) for t in troubles)
    assert len(troubles) == len(jittered) - n


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            block,
            st.integers(0, 12).map(lambda i: 10 * i),
            st.sampled_from([0, 5, 10, 20]),
            session=st.sampled_from([1, 1, 1, 2]),
            rate_hz=st.sampled_from([100.0, 100.0, 100.0, 100.2, 200.0]),
            later_s=st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.02, -0.1, 0.1, 5.0]),
        ),
        max_size=30,
    )
)
def test_several_blocks_at_once_are_what_they_are_one_after_the_other(blocks: list[Block]) -> None:
    ready, troubles, state = run(blocks)
    at_once, ready_at_once, troubles_at_once = push_all(SPEC, OrderState(), blocks)
    assert [(b.index, b.end, b.session) for b in ready_at_once] == [(b.index, b.end, b.session) for b in ready]
    assert troubles_at_once == troubles
    assert (at_once.session, at_once.form, at_once.next_index) == (state.session, state.form, state.next_index)
    for name in ("gaps", "finished", "record", "offset", "start_ns", "clock", "rate_seen", "beside_ns", "seen"):
        assert getattr(at_once, name) == getattr(state, name), name
    assert [b.index for b in at_once.held] == [b.index for b in state.held]


def test_blocks_wait_for_a_missing_one_and_then_come_in_order() -> None:
    ready, troubles, state = run([block(0), block(20), block(30)])
    assert numbers(ready) == list(range(10))
    assert len(state.held) == 2
    more, troubles, _ = run([block(10)], state)
    assert numbers(more) == list(range(10, 40))
    assert troubles == []


def test_a_missing_block_is_given_up_as_one_gap_when_the_stream_has_moved_on() -> None:
    blocks = [block(0), *(block(i) for i in range(20, 150, 10))]
    ready, troubles, _ = run(blocks)
    assert troubles == [Gap(KEY, 1, 10, 20)]
    assert numbers(ready) == [*range(10), *range(20, 150)]


def test_a_block_for_a_gap_that_was_given_up_is_late_and_a_repeated_one_is_a_duplicate() -> None:
    _, _, state = run([block(0), *(block(i) for i in range(20, 150, 10))])
    _, troubles, _ = run([block(10), block(30)], state)
    assert troubles == [Late(KEY, 1, 10, late_by_samples=140), Duplicate(KEY, 1, 30)]


def test_what_a_block_repeats_is_cut_off() -> None:
    ready, troubles, _ = run([block(0, 10), block(5, 10)])
    assert numbers(ready) == list(range(15))
    assert ready[1].t0_ns == block(10).t0_ns
    assert troubles == []


def test_another_session_starts_at_once_and_the_one_before_is_over() -> None:
    ready, troubles, state = run([block(0), block(20), block(0, session=2)])
    assert [b.session for b in ready] == [1, 1, 2]
    assert troubles == [Gap(KEY, 1, 10, 20)]
    _, troubles, _ = run([block(0), block(20), block(30)], state)
    assert troubles == [Duplicate(KEY, 1, 0), Duplicate(KEY, 1, 20), Late(KEY, 1, 30, late_by_samples=0)]


def test_joining_a_session_under_way_is_no_gap_but_a_lost_beginning_is() -> None:
    assert run([block(5000)])[1] == []
    ready, troubles, state = run([block(50)])
    assert (ready, troubles) == ([], [])
    assert flush(state)[2] == [Gap(KEY, 1, 0, 50)]


def test_a_repeated_block_of_another_form_is_rejected_and_changes_nothing() -> None:
    _, _, state = run([block(0)])
    after, ready, troubles = push(SPEC, state, block(0, rate_hz=200.0))
    assert after is state
    assert ready == []
    assert isinstance(troubles[0], Rejected)
    assert troubles[0].detail == "`rate_hz` 100 expected as before in the session, found: 200"


def test_sessions_that_are_counted_up_are_remembered_as_one_range() -> None:
    _, _, state = run([block(0, session=s) for s in range(100, 2000)])
    start_ns, end_ns = block(0, session=100).t0_ns, block(10, session=1998).t0_ns
    assert state.finished == (Finished(100, 1998, 10, start_ns, end_ns),)


def test_memory_of_gaps_is_bounded() -> None:
    _, troubles, state = run([block(1000 * i) for i in range(200)])
    assert sum(isinstance(t, Gap) for t in troubles) == 199
    assert len(state.gaps) == REMEMBERED_GAPS


def test_a_stream_that_comes_back_in_the_middle_of_another_session_has_lost_its_beginning() -> None:
    ready, troubles, _ = run([block(0), block(5000, session=2)])
    assert numbers(ready) == [*range(10), *range(5000, 5010)]
    assert troubles == [Gap(KEY, 2, 0, 5000)]


def test_blocks_that_overlap_by_all_but_a_sample_are_not_held_without_end() -> None:
    sliding = [block(first, 50) for first in range(1, 51)]  # sample 0 is missing
    state, held, ready, troubles = OrderState(), 0, [], []
    for one in sliding:
        state, some, trouble = push(SPEC, state, one)
        held = max(held, sum(h.samples.shape[1] for h in state.held))
        ready += some
        troubles += trouble
    assert held <= 2 * 100
    assert troubles == [Gap(KEY, 1, 0, 1)]
    assert numbers(ready) == list(range(1, 100))


FAR = st.sampled_from([0, 1, 1000, 2**40, 2**61, 2**62])


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]), FAR, FAR, st.sampled_from([1.0, 1e3, 1e6])), max_size=12
    )
)
def test_however_far_a_sender_counts_what_is_remembered_of_it_can_be_stored(
    messages: list[tuple[int, int, int, float]],
) -> None:
    spec = specs.order()
    state = OrderState()
    for session, index, time, rate_hz in messages:
        t0_ns = 10**18 + time % (2 * 10**18)
        block = Block(StreamKey("m", "p"), session, index, t0_ns, rate_hz, ("x",), "g", np.zeros((1, 8), np.float32))
        state, _, _ = push(spec, state, block)
        stored = to_bytes(specs.stream(), StreamState(order=state))
        assert to_bytes(specs.stream(), from_bytes(specs.stream(), stored)) == stored


def test_a_state_is_compared_by_identity_because_its_blocks_are_arrays_and_it_cannot_be_changed() -> None:
    state = OrderState()
    assert state == state
    assert state != OrderState()
    assert len({state, OrderState()}) == 2
    with pytest.raises(AttributeError):
        state.next_index = 1  # type: ignore[misc]
