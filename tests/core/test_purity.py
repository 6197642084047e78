"""Pure means pure: no step writes into what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import contract
import msgspec
import numpy as np
import pytest
from harness.streams import ENGINE, SPEC, recording, with_a_gap
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import stream
from pipeline.core.engine import Engine
from pipeline.core.records import Block, FeatureRow, StreamKey
from pipeline.core.state import StreamSpec, StreamState, to_bytes

# Few windows make the baseline, so rows get relative features. At so high a nominal speed all machines stand still.
COMMISSIONED = replace(SPEC, commissioning_windows=3)
STANDING = replace(COMMISSIONED, speed_rpm=20_000.0)


def locked(value: object) -> object:
    """The value, with every array in it made read-only: a write raises ValueError."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, dict):
        for part in value.values():
            locked(part)
    elif isinstance(value, list | tuple):
        for part in value:
            locked(part)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            locked(getattr(value, name))
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            locked(getattr(value, name))
    return value


def content(blocks: Sequence[Block]) -> list[bytes]:
    return [block.samples.tobytes() for block in blocks]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lost=st.integers(0, 4),
    spec=st.sampled_from([SPEC, COMMISSIONED, STANDING]),
)
def test_a_step_changes_none_of_its_arguments(seed: int, lost: int, spec: StreamSpec) -> None:
    engine = Engine(lambda key: spec, ENGINE.predictor)
    blocks = with_a_gap(recording(seed), lost)
    states: dict[StreamKey, StreamState] = {}
    for block in blocks:
        before = {key: to_bytes(spec, state) for key, state in states.items()}
        samples = content([block])
        given_states = dict(states)
        locked([states, block])
        step = engine.step(states, [block])
        assert states == given_states
        assert {key: to_bytes(spec, state) for key, state in states.items()} == before
        assert content([block]) == samples
        states = {**states, **step.states}
    before = {key: to_bytes(spec, state) for key, state in states.items()}
    locked(states)
    engine.flush(states)
    assert {key: to_bytes(spec, state) for key, state in states.items()} == before


def exact(rows: Sequence[FeatureRow]) -> list[tuple[object, ...]]:
    return [contract.exact(row) for row in rows]


@pytest.mark.parametrize("spec", [COMMISSIONED, STANDING], ids=["baseline", "standing still"])
def test_rows_are_related_in_copies(spec: StreamSpec) -> None:
    state: StreamState = stream.initial(spec)
    state, windows, _ = stream.advance(spec, state, recording(2))
    rows = stream.feature_rows(spec, windows)
    before = exact(rows)
    given_rows = list(rows)
    locked(rows)
    _, related = stream.related(spec, state, rows)
    assert exact(rows) == before
    assert all(a is b for a, b in zip(rows, given_rows, strict=True))
    assert exact(related) != before  # they did get something new


def test_the_network_and_the_alarms_change_no_row() -> None:
    rows = ENGINE.step({}, recording(4)).features
    before = exact(rows)
    locked(rows)
    ENGINE.predict({}, {rows[0].key: rows})
    assert exact(rows) == before
