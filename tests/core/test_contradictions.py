"""Senders whose index and clock disagree: every sample is kept once or refused by name, and the laws hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import contract
import numpy as np
import pytest
import reference
import specs
from harness.streams import ENGINE, SPEC
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.order import REMEMBERED_BLOCKS, REMEMBERED_MARKS, Finished, OrderState, flush, push
from pipeline.core.records import Block, Contradiction, Duplicate, Gap, Late, Rejected, StreamKey, Trouble

KEY = StreamKey("pump-01", "de")
ORDER = specs.order(max_wait_s=2.0)
T0_NS = 1_700_000_000 * 10**9
N = 250  # samples of a block, a quarter of a second
SAMPLES = np.random.default_rng(0).standard_normal((2, 400 * N)).astype(np.float32)


def block(session: int, index: int, at_s: float, number: int = 0, *, device: int = 0, **changes: object) -> Block:
    """The block whose time is `at_s`; its samples are those of the device at `number`."""
    samples = SAMPLES[device : device + 1, number * N : (number + 1) * N]
    one = Block(KEY, session, index, T0_NS + round(at_s * 1e9), 1000.0, ("x",), "g", samples)
    return replace(one, **changes)  # type: ignore[arg-type]


def reboots(index_of: Callable[[int], int] = lambda i: N * i, sessions: Sequence[int] = (1, 1, 1)) -> list[Block]:
    """Boots of ten seconds, half a minute apart."""
    return [
        block(session, index_of(i), 30 * boot + i / 4, 40 * boot + i)
        for boot, session in enumerate(sessions)
        for i in range(40)
    ]


def counted(index_of: Callable[[int], int], count: int = 40) -> list[Block]:
    """Blocks without a pause; only the index is wrong."""
    return [block(1, index_of(i), i / 4, i) for i in range(count)]


KEPT: dict[str, tuple[list[Block], str, int, int]] = {  # blocks, kind, how often, records
    "session constant over reboots": (reboots(), "counter_restarted", 2, 3),
    "an old session returns": (reboots(sessions=(1, 2, 1, 1, 2)), "counter_restarted", 3, 5),
    "index always 0": (counted(lambda i: 0), "index_contradicts_t0", 39, 1),
    "index counts messages": (counted(lambda i: i), "index_contradicts_t0", 39, 1),
    "index counts bytes": (counted(lambda i: 4 * N * i), "index_contradicts_t0", 39, 1),
    "index of 16 bits": (counted(lambda i: N * i % 2**16, 300), "index_contradicts_t0", 1, 1),
    "index of 12 bits": (counted(lambda i: N * i % 2**12, 100), "index_contradicts_t0", 6, 1),
}


def run(blocks: Sequence[Block]) -> tuple[list[Block], list[Trouble], OrderState]:
    state, ready, troubles = OrderState(), [], []
    for one in blocks:
        state, some, trouble = push(ORDER, state, one)
        ready += some
        troubles += trouble
    state, some, trouble = flush(state)
    return [*ready, *some], [*troubles, *trouble], state


def kinds(troubles: Sequence[Trouble]) -> Counter[str]:
    return Counter(t.kind if isinstance(t, Contradiction) else type(t).__name__ for t in troubles)


# -- kept ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEPT)
def test_every_sample_is_kept_and_the_contradiction_is_named(name: str) -> None:
    blocks, kind, often, records = KEPT[name]
    ready, troubles, _ = run(blocks)
    assert np.array_equal(
        np.concatenate([b.samples for b in ready], axis=1), np.concatenate([b.samples for b in blocks], axis=1)
    )
    assert kinds(troubles) == {kind: often}
    assert len({b.session for b in ready}) == records


@pytest.mark.parametrize("name", KEPT)
def test_what_is_delivered_again_is_a_duplicate_at_once_and_after_a_crash(name: str) -> None:
    blocks, kind, often, _ = KEPT[name]
    once, _, _ = run(blocks)
    for again in ([b for b in blocks for _ in range(2)], [*blocks, *blocks], [*blocks, *blocks[-17:], *blocks[-3:]]):
        ready, troubles, _ = run(again)
        assert [(b.session, b.index, b.t0_ns) for b in ready] == [(b.session, b.index, b.t0_ns) for b in once]
        assert kinds(troubles) == {kind: often, "Duplicate": len(again) - len(blocks)}


@pytest.mark.parametrize("name", KEPT)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.lists(st.integers(1, N - 1), max_size=3), min_size=1, max_size=2))
def test_the_laws_of_cut_and_restart_hold(name: str, cuts: list[list[int]]) -> None:
    blocks = KEPT[name][0]
    contract.law_cut(contract.block_by_block(ENGINE), blocks, cuts)
    contract.law_restart(contract.block_by_block(ENGINE), contract.block_by_block(ENGINE, SPEC), blocks)


@pytest.mark.parametrize("name", KEPT)
def test_the_laws_of_repetition_and_neighbours_hold(name: str) -> None:
    blocks = KEPT[name][0]
    contract.law_repeat(contract.block_by_block(ENGINE), blocks)
    others = [replace(b, key=StreamKey("fan-02", "de")) for b in KEPT["index always 0"][0]]
    mixed = [b for pair in zip(blocks, others, strict=False) for b in pair]
    mixed += blocks[len(others) :] or others[len(blocks) :]
    contract.law_neighbour(contract.one_step(ENGINE), [blocks, others], mixed)


@pytest.mark.parametrize("name", KEPT)
def test_windows_are_those_of_a_plain_reading_of_the_clock(name: str) -> None:
    blocks = KEPT[name][0]
    step = ENGINE.step({}, blocks)
    names = reference.Settings(SPEC.window.length_s, SPEC.window.hop_s, 0.0, 20.0, 150.0, 0.02)
    expected = [
        (record.t0_ns + round(number * 1e9 * round(names.hop_s * record.rate_hz) / record.rate_hz), coverage)
        for record in reference.records(blocks)
        for number, coverage, _ in reference.windows(record, names)
    ]
    assert [(row.start_ns, row.coverage) for row in step.features] == expected


# -- no contradiction ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(jitter=st.floats(0, 0.6), seed=st.integers(0, 99), ppm=st.floats(-3000, 3000))
def test_jitter_and_drift_of_a_clock_make_no_record_and_repetitions_stay_duplicates(
    jitter: float, seed: int, ppm: float
) -> None:
    rnd = np.random.default_rng(seed)
    times_s = [i / 4 * (1 + ppm / 1e6) + rnd.uniform(-jitter, jitter) / 4 for i in range(300)]
    blocks = [block(1, N * i, at_s, i) for i, at_s in enumerate(times_s)]
    ready, troubles, state = run([*blocks, *blocks])
    assert kinds(troubles) == {"Duplicate": 300}
    assert {b.session for b in ready} == {1}
    assert len(state.clock) <= REMEMBERED_MARKS
    assert len(state.seen) <= REMEMBERED_BLOCKS


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, -2.0, 0.2, -0.2])
def test_a_clock_that_is_stepped_begins_no_record(step_s: float) -> None:
    blocks = [block(1, N * i, i / 4 + step_s * (i >= 20), i) for i in range(40)]
    ready, troubles, _ = run([*blocks, *blocks])
    assert kinds(troubles) == {"Duplicate": 40} | ({"clock_stepped": 1} if abs(step_s) > 0.5 else {})
    assert {b.session for b in ready} == {1}


def test_a_clock_that_stands_still_is_named_and_no_sample_is_lost() -> None:
    ready, troubles, _ = run([block(1, N * i, 0.0, i) for i in range(8)])
    assert kinds(troubles) == {"clock_stepped": 7}
    assert [one.index for one in ready] == [N * i for i in range(8)]


def test_a_gap_in_which_the_clock_was_stepped_stays_a_gap() -> None:
    blocks = [block(1, N * i, i / 4 + 100 * (i >= 20), i) for i in range(40) if i != 19]
    _, troubles, _ = run(blocks)
    assert kinds(troubles) == {"Gap": 1}


def test_the_tail_of_an_earlier_session_is_late_and_not_a_second_sender() -> None:
    blocks = [*(block(1, N * i, i / 4, i) for i in range(10)), block(2, 0, 30, 20), block(1, N * 10, 2.5, 10)]
    assert kinds(run(blocks)[1]) == {"Late": 1}


# -- two senders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sessions", "indexes", "shift_s"),
    [((5, 6), (0, 0), 0.0), ((5, 6), (0, 70_000), 0.1), ((1, 1), (0, 0), 0.05), ((1, 1), (0, 0), 0.15),
     ((1, 1), (0, 100_000), 0.0), ((1, 1), (100_000, 0), 0.0)],
)  # fmt: skip
def test_one_of_two_senders_on_a_topic_is_kept_whole_and_the_other_one_refused_by_name(
    sessions: tuple[int, int], indexes: tuple[int, int], shift_s: float
) -> None:
    blocks = [
        block(sessions[device], indexes[device] + N * i, i / 4 + device * shift_s, i, device=device)
        for i in range(40)
        for device in (0, 1)
    ]
    ready, troubles, _ = run(blocks)
    found = kinds(troubles)
    assert not found["Duplicate"] + found["Late"]
    assert len(ready) + found["Rejected"] == len(blocks)
    assert {t.reason for t in troubles if isinstance(t, Rejected)} == {"two_senders"}
    rows = [b.samples for b in ready]
    assert max(sum(any(np.array_equal(r, b.samples) for r in rows) for b in blocks[d::2]) for d in (0, 1)) == 40
    assert found["two_senders"] >= found["Rejected"] > 30


def test_the_second_sender_becomes_the_stream_when_the_first_has_stopped() -> None:
    first = [block(1, N * i, i / 4, i) for i in range(20)]
    both = [b for i in range(20, 40) for b in (block(2, N * (i - 20), i / 4, i), block(1, N * i, i / 4, i))]
    alone = [block(1, N * i, i / 4, i) for i in range(40, 140)]
    ready, troubles, _ = run([*first, *both, *alone])
    assert kinds(troubles)["Late"] == 0
    assert ready[-1].t0_ns == alone[-1].t0_ns
    assert 10 < sum(b.t0_ns >= alone[0].t0_ns for b in ready) < len(alone)


# -- the form of a record --------------------------------------------------------------------------------------------


def test_a_measured_rate_is_the_nominal_one_within_the_tolerance_and_its_drift_is_told() -> None:
    rates = [1000.0, 1000.02, 999.5, 1004.9]
    ready, troubles, _ = run([block(1, N * i, i / 4, i, rate_hz=rate) for i, rate in enumerate(rates)])
    assert [(b.session, b.rate_hz) for b in ready] == [(1, 1000.0)] * 4
    assert kinds(troubles) == {"rate_drift": 3}
    told = [t.detail for t in troubles if isinstance(t, Contradiction)]
    assert told[-1] == (
        "expected a rate_hz of 1000 as at the start of the record, found: 1004.9 (+0.490%); the first one is used"
    )


@pytest.mark.parametrize(
    ("changes", "detail"),
    [({"rate_hz": 1010.0}, "`rate_hz` 1000 expected as before in the session, found: 1010"),
     ({"unit": "m/s2"}, "`unit` g expected as before in the session, found: m/s2"),
     ({"channels": ("z",)}, "`channels` x expected as before in the session, found: z")],
)  # fmt: skip
def test_another_rate_unit_or_channel_begins_a_record_that_names_key_expected_and_found(
    changes: dict[str, object], detail: str
) -> None:
    blocks = [block(1, N * i, i / 4, i, **(changes if i >= 20 else {})) for i in range(40)]
    ready, troubles, _ = run([*blocks, *blocks])
    assert kinds(troubles) == {"form_changed": 1, "Duplicate": 40}
    assert detail in {t.detail for t in troubles if isinstance(t, Contradiction)}
    assert [b.session for b in ready] == [1] * 20 + [blocks[20].t0_ns] * 20
    assert len(ready) == 40


def test_a_repeated_block_of_another_form_is_rejected_wherever_it_lies() -> None:
    blocks = [block(1, N * i, i / 4, i) for i in range(40)]
    wrong = [replace(blocks[9], rate_hz=2000.0), replace(blocks[20], channels=("z",)), replace(blocks[30], unit="V")]
    ready, troubles, _ = run([*blocks, *wrong])
    assert kinds(troubles) == {"Rejected": 3}
    assert len(ready) == 40


def test_a_state_without_a_clock_is_continued() -> None:
    ready, _, state = run([block(1, N * i, i / 4, i) for i in range(4)])
    old = OrderState(state.session, state.form, state.next_index, finished=(Finished(9, 9, 500),))
    more: list[Block] = []
    troubles: list[Trouble] = []
    for one in [ready[3], block(9, 0, -50), block(1, N * 4, 1, 4), block(1, 0, 60, 5)]:
        old, some, trouble = push(ORDER, old, one)
        more += some
        troubles += trouble
    assert kinds(troubles) == {"Duplicate": 2, "counter_restarted": 1}
    assert [b.index for b in more] == [N * 4, 0]


def test_forms_that_alternate_are_two_senders_and_the_first_goes_on() -> None:
    blocks = [block(1, N * i, i / 4, i, unit="g" if i % 2 else "m/s2") for i in range(40)]
    ready, troubles, _ = run(blocks)
    found = kinds(troubles)
    assert found["Rejected"] == 19
    assert found["Duplicate"] + found["Late"] == 0
    assert len([b for b in ready if b.session == 1]) == 20


def test_the_order_of_channels_may_change() -> None:
    wide = SAMPLES[:, : 40 * N].reshape(2, 40, N)
    blocks = [
        block(1, N * i, i / 4, channels=("x", "y") if i % 2 else ("y", "x"), samples=wide[:: 1 if i % 2 else -1, i])
        for i in range(40)
    ]
    ready, troubles, _ = run(blocks)
    assert not troubles
    assert {b.channels for b in ready} == {("y", "x")}
    assert all(np.array_equal(b.samples, wide[::-1, i]) for i, b in enumerate(ready))


def test_nothing_else_is_called_a_contradiction() -> None:
    blocks = [block(1, N * i, i / 4, i) for i in range(40)]
    del blocks[10]
    ready, troubles, _ = run([*blocks[:30], block(1, N * 10, 2.5, 10), *blocks[30:], blocks[5]])
    assert [type(t) for t in troubles] == [Gap, Late, Duplicate]
    assert len(ready) == 39
