"""Drift of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import drift
from models.drift import distribution, pooled, psi, psi_against, shifts, speed_regimes, verdict


def windows(rng: np.random.Generator, count: int = 1000, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return rng.normal(mean, spread, (count, 2))


INPUTS = ("x.kurtosis", "x.crest")


def test_psi_is_nothing_for_the_same_and_grows_with_the_move(rng: np.random.Generator) -> None:
    before = rng.normal(size=5000)
    found = [psi(before, rng.normal(move, 1, 5000)) for move in (0.0, 0.3, 0.6, 1.2)]
    assert found[0] < 0.02
    assert found == sorted(found)
    assert found[1] < drift.DRIFT < found[2]


@given(st.floats(-3, 3), st.floats(0.2, 4))
def test_psi_against_stored_deciles_is_psi_against_the_sample(move: float, spread: float) -> None:
    rng = np.random.default_rng(1)
    before, now = rng.normal(size=4000), rng.normal(move, spread, 4000)
    exact = psi(before, now)
    assert psi_against(distribution(before[:, None], ["x"]), "x", now) == pytest.approx(exact, rel=0.02, abs=0.01)


def test_psi_against_deciles_that_are_equal_is_finite_and_small_for_the_same(rng: np.random.Generator) -> None:
    before = np.where(rng.random(4000) < 0.2, rng.normal(size=4000), 0.0)
    reference = distribution(before[:, None], ["x"])
    assert psi_against(reference, "x", np.roll(before, 7)) < 0.001
    assert psi_against(reference, "x", np.full(1000, 5.0)) > 1


def test_a_fleet_that_moves_is_told_from_a_machine_that_moves_alone(rng: np.random.Generator) -> None:
    names = [f"pump-{i}" for i in range(6)]
    offsets = {name: rng.normal(0, 3) for name in names}  # machines differ, which is no drift
    own = {name: windows(rng, mean=offsets[name]) for name in names}
    reference = distribution(np.concatenate(list(own.values())), INPUTS)

    def judged(move: dict[str, float]) -> dict[str, object]:
        now = {name: windows(rng, mean=offsets[name] + move.get(name, 0.0)) for name in names}
        return verdict(shifts(reference, now, own, INPUTS), len(names))

    assert judged({}) == {"fleet": [], "machines": {}, "suggestion": None}
    season = judged(dict.fromkeys(names, 1.5))
    assert season["fleet"] == list(INPUTS)
    assert "train again" in season["suggestion"]
    single = judged({"pump-3": 1.5})
    assert single["fleet"] == []
    assert single["machines"] == {"pump-3": list(INPUTS)}
    assert "look at the machine" in single["suggestion"]
    both_ways = judged({"pump-1": 1.5, "pump-2": -1.5, "pump-3": 1.5})
    assert both_ways["fleet"] == []


def test_a_machine_that_was_not_trained_on_is_judged_by_what_lies_outside(rng: np.random.Generator) -> None:
    population = np.concatenate([windows(rng, 300, mean) for mean in rng.normal(0, 3, 20)])
    reference = distribution(population, INPUTS)
    inside, outside = windows(rng, 500, 1.0), windows(rng, 500, 15.0)
    found = shifts(reference, {"new": inside, "far": outside}, {}, INPUTS)
    assert {shift.machine: (shift.psi, shift.drifted) for shift in found} == {"new": (None, False), "far": (None, True)}


def test_few_windows_say_nothing_and_pooling_gives_every_machine_the_same_weight(rng: np.random.Generator) -> None:
    reference = distribution(windows(rng, 5000), INPUTS)
    assert shifts(reference, {"pump": windows(rng, drift.FEWEST_WINDOWS - 1, 9.0)}, {}, INPUTS) == []
    now = {"loud": windows(rng, 9000, 3.0), **{f"pump-{i}": windows(rng, 300) for i in range(19)}}
    assert all(shift.windows == 20 * 300 for shift in pooled(reference, now, INPUTS))
    assert all(shift.psi < drift.DRIFT for shift in pooled(reference, now, INPUTS))


def test_regimes_are_thirds_of_a_speed_that_varies() -> None:
    speed = np.linspace(600, 1800, 900)
    regimes = speed_regimes(speed)
    assert [regime.holds(speed).sum() for regime in regimes] == [300, 300, 300]
    for steady in (np.full(900, 1480.0), np.full(900, np.nan)):
        (only,) = speed_regimes(steady)
        assert only.holds(steady).all()
