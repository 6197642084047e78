"""Windows: addresses, coverage, runs and marks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import specs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.records import Block, StreamKey, Window
from pipeline.core.window import Run, WindowState, length_and_hop, push

SPEC = specs.window(length_s=1.0, hop_s=0.5)
RATE_HZ = 100.0  # length 100, hop 50
T0_NS = 10**18


def block(index: int, n: int, **changes: object) -> Block:
    samples = np.arange(index, index + n, dtype=np.float32)[None]
    made = Block(StreamKey("m", "p"), 1, index, T0_NS + index * 10**7, RATE_HZ, ("x",), "g", samples)
    return replace(made, **changes)  # type: ignore[arg-type]


def run(*blocks: Block) -> tuple[list[Window], WindowState]:
    windows: list[Window] = []
    state = WindowState()
    for b in blocks:
        state, complete = push(SPEC, state, [b], specs.stream())
        windows += complete
    return windows, state


def test_window_k_holds_the_samples_from_k_hops_on() -> None:
    windows, _ = run(block(0, 130), block(130, 170))
    assert [w.number for w in windows] == [0, 1, 2, 3, 4]
    for w in windows:
        assert w.samples is not None
        assert w.samples[0].tolist() == list(range(50 * w.number, 50 * w.number + 100))
        assert (w.start_ns, w.end_ns) == (T0_NS + w.number * 5 * 10**8, T0_NS + w.number * 5 * 10**8 + 10**9)


def test_a_stream_joined_under_way_starts_with_the_first_window_that_can_be_whole() -> None:
    windows, _ = run(block(1234, 300))
    assert windows[0].number == 25
    assert all(w.coverage == 1.0 for w in windows)


def test_windows_that_miss_samples_say_how_much_came() -> None:
    windows, _ = run(block(0, 120), block(130, 170))
    assert [(w.number, w.coverage, w.samples is None) for w in windows] == [
        (0, 1.0, False),
        (1, 0.9, True),
        (2, 0.9, True),
        (3, 1.0, False),
        (4, 1.0, False),
    ]


def test_a_gap_of_a_century_costs_no_time_and_no_rows() -> None:
    far = 10**12
    windows, state = run(block(0, 100), block(far, 200))
    assert [w.number for w in windows] == [0, 1, far // 50 - 1, far // 50, far // 50 + 1, far // 50 + 2]
    assert len(state.runs) == 1


def test_only_what_a_later_window_needs_is_kept() -> None:
    _, state = run(*(block(i * 10, 10) for i in range(1000)))
    assert sum(run.end - run.start for run in state.runs) <= 100
    assert len(state.marks) == 1


def test_no_window_spans_a_jump_of_the_clock() -> None:
    later = block(150, 200, t0_ns=T0_NS + 150 * 10**7 + 2 * 10**9)
    windows, _ = run(block(0, 150), later)
    assert [w.number for w in windows if w.samples is None] == [2]  # 100..199 holds samples of both sides
    assert windows[-1].start_ns == T0_NS + 250 * 10**7 + 2 * 10**9


def test_a_slowly_drifting_clock_is_followed_without_losing_a_window() -> None:
    blocks = [block(i * 50, 50, t0_ns=T0_NS + i * 5 * 10**8 + i * 25_000) for i in range(400)]  # 50 ppm fast
    windows, _ = run(*blocks)
    assert all(w.samples is not None for w in windows)
    drift_ns = windows[-1].start_ns - (T0_NS + windows[-1].number * 5 * 10**8)
    assert abs(drift_ns - windows[-1].number * 25_000) <= 1_000_000


def test_speed_is_averaged_over_the_window_and_truth_is_what_covers_most_of_it() -> None:
    windows, _ = run(
        block(0, 70, speed_rpm=1000.0, truth="healthy"), block(70, 80, speed_rpm=2000.0, truth="unbalance")
    )
    assert [w.speed_rpm for w in windows] == [pytest.approx(1300.0), pytest.approx(1800.0)]
    assert [w.truth for w in windows] == ["healthy", "unbalance"]


@given(st.lists(st.tuples(st.integers(1, 130), st.sampled_from([0, 0, 0, 30, 400]), st.booleans()), max_size=25))
def test_several_blocks_at_once_make_the_windows_that_they_make_one_by_one(pieces: list[tuple[int, int, bool]]) -> None:
    blocks, index, session = [], 0, 1
    for n, gap, reboot in pieces:
        session, index = (session + 1, 0) if reboot and n % 5 == 0 else (session, index + gap)
        jump_ns = 10**10 if n == 100 else 0  # the sender's clock was set
        blocks.append(block(index, n, session=session, speed_rpm=float(n // 50), t0_ns=T0_NS + index * 10**7 + jump_ns))
        index += n
    state, one_by_one = WindowState(), []
    for b in blocks:
        state, some = push(SPEC, state, [b], specs.stream())
        one_by_one += some
    after, at_once = push(SPEC, WindowState(), blocks, specs.stream())
    assert [_said(w) for w in at_once] == [_said(w) for w in one_by_one]
    assert (after.session, after.position, after.next_number) == (state.session, state.position, state.next_number)
    assert after.marks == state.marks
    assert [_joined(run) for run in after.runs] == [_joined(run) for run in state.runs]


def _said(w: Window) -> tuple[object, ...]:
    samples = None if w.samples is None else w.samples.tobytes()
    return (w.session, w.number, w.start_ns, w.end_ns, w.coverage, w.speed_rpm, w.speed_trace, samples)


def _joined(run: Run) -> tuple[int, int, bytes]:
    return run.start, run.end, np.concatenate(run.pieces, axis=1).tobytes()


@pytest.mark.parametrize(
    ("rate_hz", "length"), [(12_000, 12_000), (25_600, 25_600), (48_000, 48_000), (97_656, 98_304)]
)
def test_lengths_are_rounded_up_to_a_fast_transform(rate_hz: float, length: int) -> None:
    found = length_and_hop(SPEC, float(rate_hz))[0]
    assert rate_hz <= found <= length
