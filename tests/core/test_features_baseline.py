"""The commissioning baseline: what it makes of healthy windows, when there is none, and that the laws hold with it."""

from __future__ import annotations

from dataclasses import replace

import contract
import numpy as np
import pytest
from harness.streams import SPEC, recording, with_a_gap

from pipeline.core import stream
from pipeline.core.engine import Engine
from pipeline.core.features import baseline
from pipeline.core.features.baseline import SIGMA_PER_MAD, Baseline, relate
from pipeline.core.features.table import COLUMN, NAMES, RELATIVE, stage_columns
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.core.state import from_bytes, to_bytes

HEALTHY = replace(SPEC, commissioning_windows=4, speed_min_rpm=600.0, speed_max_rpm=3000.0)
REL = stage_columns("baseline")


def row(values: dict[str, float], *, schema: str = "s", channels: tuple[str, ...] = ("x",)) -> FeatureRow:
    array = np.full((len(channels), len(NAMES)), np.nan, np.float32)
    for name, value in values.items():
        array[:, COLUMN[name]] = value
    key = StreamKey("m", "p")
    return FeatureRow(key, 1, 0, 0, 1, 1000.0, None, 1.0, 0, None, channels, array, schema)


def commissioned(rms: list[float]) -> Baseline | None:
    made = None
    for value in rms:
        made, _ = relate(len(rms), made, row({"rms": value}), good=True)
    return made


def test_the_distance_is_in_robust_sigmas_of_the_healthy_windows() -> None:
    levels_db = np.array([0.0, 1.0, 2.0, 3.0, 40.0])  # one window had a knock: it changes little
    made = commissioned(list(10 ** (levels_db / 20)))
    same, now = relate(5, made, row({"rms": 10 ** (8.0 / 20)}), good=True)
    assert same is made  # frozen
    assert now.values[0, COLUMN["rel_rms"]] == pytest.approx((8 - 2) / (SIGMA_PER_MAD * 1.0), rel=1e-4)
    assert np.isnan(now.values[0, COLUMN["rel_kurtosis"]])  # it had no value then


def test_until_there_are_enough_good_windows_there_is_none() -> None:
    made = None
    for good in (True, False, True):
        made, now = relate(3, made, row({"rms": 1.0}), good=good)
        assert np.isnan(now.values[:, REL]).all()
    assert made is not None
    assert made.centre is None
    assert made.collected is not None
    assert len(made.collected) == 2


@pytest.mark.parametrize("other", [{"schema": "t"}, {"channels": ("y",)}])
def test_a_baseline_of_other_numbers_says_nothing(other: dict[str, object]) -> None:
    made = commissioned([1.0, 1.1, 0.9])
    same, now = relate(3, made, row({"rms": 5.0}, **other), good=True)  # type: ignore[arg-type]
    assert same is made
    assert np.isnan(now.values[:, REL]).all()


def test_a_stream_that_is_not_declared_healthy_has_no_baseline() -> None:
    step = Engine(lambda key: SPEC).step({}, recording(1))
    assert all(np.isnan(r.values[:, REL]).all() for r in step.features)
    assert all(state.baseline is None for state in step.states.values())


def test_the_relative_columns_are_those_of_the_table() -> None:
    assert NAMES[REL] == tuple(f"rel_{name}" for name in RELATIVE)
    assert set(RELATIVE) <= set(NAMES)


def test_the_laws_hold_with_a_baseline_and_an_estimated_speed() -> None:
    engine = Engine(lambda key: HEALTHY)
    silent = [[replace(b, speed_rpm=None) for b in recording(i, machine=f"m{i}", n=2500)] for i in range(3)]
    drive, restarting = contract.block_by_block(engine), contract.block_by_block(engine, HEALTHY)
    for blocks in silent:
        found = [r for r in engine.step({}, blocks).features if np.isfinite(r.values[:, COLUMN["rel_rms"]]).all()]
        assert found
        contract.law_cut(drive, blocks, [[1], [17, 50], [100]])
        contract.law_cut(contract.one_step(engine), blocks, [[40]])
        contract.law_restart(drive, restarting, with_a_gap(blocks, 5))
        contract.law_repeat(drive, blocks)
    mixed = [b for group in zip(*(s[:9] for s in silent), strict=True) for b in group]
    contract.law_neighbour(drive, [s[:9] for s in silent], mixed)


def test_one_stream_alone_and_the_engine_agree_and_bytes_keep_the_baseline() -> None:
    state, rows = stream.initial(HEALTHY), []
    for block in recording(2, n=2500):
        state, events = stream.step(HEALTHY, state, block)
        rows += [e for e in events if isinstance(e, FeatureRow)]
        state = from_bytes(HEALTHY, to_bytes(HEALTHY, state))
    step = Engine(lambda key: HEALTHY).step({}, recording(2, n=2500))
    assert [contract.exact(r) for r in rows] == [contract.exact(r) for r in step.features]
    assert state.baseline is not None
    assert state.baseline.centre is not None
    assert state.baseline.version == baseline.VERSION
