"""The five laws over the engine, on recordings with gaps, changing speed and several streams."""

from __future__ import annotations

from dataclasses import replace

import contract
import numpy as np
import pytest
import reference
from harness.streams import ENGINE, INPUTS, ORDERS, RATE_HZ, SPEC, TinyPredictor, recording, with_a_gap
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Engine
from pipeline.core.features.table import NAMES


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.lists(st.integers(1, 299), max_size=4), min_size=1, max_size=3))
def test_law_1_however_a_recording_is_cut_the_same_comes_out(seed: int, cuts: list[list[int]]) -> None:
    contract.law_cut(contract.block_by_block(ENGINE), recording(seed), cuts)
    contract.law_cut(contract.one_step(ENGINE), recording(seed), cuts)


def test_law_1_holds_sample_by_sample_and_for_the_recording_in_one_block() -> None:
    blocks = [replace(b, speed_rpm=1200.0, truth="healthy") for b in recording(3, n=700)]
    whole = replace(blocks[0], samples=np.concatenate([b.samples for b in blocks], axis=1))
    single = [piece for block in blocks for piece in contract.cut(block, range(block.samples.shape[1]))]
    drive = contract.block_by_block(ENGINE)
    contract.same(drive([whole]), drive(blocks))
    contract.same(drive([whole]), drive(single))


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_law_1_holds_across_a_gap(lost: int) -> None:
    blocks = with_a_gap(recording(11), lost)
    contract.law_cut(contract.block_by_block(ENGINE), blocks, [[1], [17, 50], range(299)])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lost=st.integers(0, 4))
def test_law_2_restoring_from_bytes_after_every_block_changes_nothing(seed: int, lost: int) -> None:
    blocks = with_a_gap(recording(seed), lost)
    contract.law_restart(contract.block_by_block(ENGINE), contract.block_by_block(ENGINE, SPEC), blocks)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lost=st.integers(0, 4))
def test_law_3_delivering_every_block_twice_changes_nothing_but_duplicates(seed: int, lost: int) -> None:
    contract.law_repeat(contract.block_by_block(ENGINE), with_a_gap(recording(seed), lost))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False))
def test_law_4_neighbours_and_batches_change_nothing(seed: int, order: object) -> None:
    streams = [recording(seed + i, machine=f"pump-{i:02d}", channels="xyz"[: 1 + i % 3]) for i in range(4)]
    pending = [list(blocks) for blocks in streams]
    interleaved = []
    while any(pending):
        interleaved.append(order.choice([p for p in pending if p]).pop(0))  # type: ignore[attr-defined]
    contract.law_neighbour(contract.block_by_block(ENGINE), streams, interleaved)
    contract.law_neighbour(contract.one_step(ENGINE), streams, interleaved)


@pytest.mark.parametrize("bandwidth_hz", [0.0, 150.0])
@pytest.mark.parametrize("lost", [None, 3])
def test_law_5_equals_the_reference(bandwidth_hz: float, lost: int | None) -> None:
    spec = replace(SPEC, features=replace(SPEC.features, bandwidth_hz=bandwidth_hz))
    blocks = [replace(b, speed_rpm=1234.0) for b in recording(5)]
    x = np.concatenate([b.samples for b in blocks], axis=1).astype(float)
    if lost is not None:
        x[:, blocks[lost].index : blocks[lost].end] = np.nan
        blocks = with_a_gap(blocks, lost)
    known = reference.Recording(
        x, RATE_HZ, blocks[0].t0_ns, "g", 1234.0, (ORDERS.bpfo, ORDERS.bpfi, 2 * ORDERS.bsf, ORDERS.ftf)
    )
    engine = Engine(lambda key: spec)
    step = engine.step({}, blocks)
    rows = [*step.features, *engine.flush(step.states).features]
    contract.law_reference(rows, known, reference.Settings(0.256, 0.128, bandwidth_hz, 20.0, 150.0, 0.02))


def test_law_5_predictions_equal_a_plain_loop_over_the_rows() -> None:
    blocks = recording(8)
    step = ENGINE.step({}, blocks)
    h = np.zeros((1, 1, 3), np.float32)
    predictor = TinyPredictor()
    for row, prediction in zip(step.features, step.predictions, strict=True):
        columns = {f"{c}.{n}": row.values[i, j] for i, c in enumerate(row.channels) for j, n in enumerate(NAMES)}
        x = np.array([[columns.get(name, np.nan) for name in INPUTS]], np.float32)
        p, h = predictor.step(x, h)
        np.testing.assert_allclose(prediction.probabilities, p[0], atol=1e-6)
