"""Drift of the inputs, and windows that fit no mode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_world import bundle, sequence

from models import drift, unknown
from models.dataset import Dataset, WindowSequence
from models.drift import distribution, pooled, psi, psi_against, shifts, speed_regimes, verdict
from models.facts import DataFacts
from models.reference import reference_document
from models.scaling import Scaler
from models.splits import make_split


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


def plant(rng: np.random.Generator, apart: float) -> Dataset:
    """Four machines per mode; a mode moves its own three of twelve inputs by `apart`."""
    classes = ("healthy", "unbalance", "looseness", "gear_wear")
    sequences = []
    for k in range(len(classes)):
        for machine in range(4):
            x = rng.normal(0, 1, (60, 12)).astype(np.float32)
            if k:
                x[:, 3 * k - 3 : 3 * k] += apart
            sequences.append(sequence([k] * 60, machine=f"{classes[k]}-{machine}", x=x))
    facts = DataFacts(960, 960, tuple(s.key.machine for s in sequences), 16, 16, dict.fromkeys(classes, 240), {}, 12)
    return Dataset(tuple(sequences), tuple(f"x.f{i}" for i in range(12)), classes, "test-1", facts)


def test_a_fault_that_is_unlike_all_others_is_found_unknown_and_held_out_known_ones_are_not(
    rng: np.random.Generator,
) -> None:
    dataset = plant(rng, 4.0)
    split = make_split(dataset.sequences, dataset.classes, {}, "machine", 4)
    scaler = Scaler.fit(np.concatenate([s.x for s in dataset.sequences]), "standard")
    said: list[str] = []
    document = reference_document(dataset, split, scaler, said.append)
    found = document["unknown"]
    assert set(found["leave_one_fault_out_auroc"]) == {"unbalance", "looseness", "gear_wear"}
    assert min(found["leave_one_fault_out_auroc"].values()) > 0.95
    assert found["used"]
    assert "leave-one-fault-out AUROC" in said[0]
    made = bundle(rng, features=12, classes=4)
    spec = dataclasses.replace(made.spec, inputs=dataset.inputs, scaler=scaler)
    is_unknown = unknown.detector(dataclasses.replace(made, spec=spec, data={**made.data, **document}))
    fresh = plant(np.random.default_rng(7), 4.0)
    known = np.concatenate([s.x for s in fresh.sequences])
    strange = rng.normal(0, 1, (300, 12)).astype(np.float32)
    strange[:, ::2] -= 5.0
    p = np.full((len(known), 4), 0.25, np.float32)
    assert is_unknown(known, p).mean() < 0.06
    assert is_unknown(strange, p[:300]).mean() > 0.95
    missing = known.copy()
    missing[:, 9:] = np.nan
    assert is_unknown(missing, p).mean() < 0.06


def test_the_distance_is_that_of_its_definition_whatever_is_missing(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(200, 6)).astype(np.float32), rng.integers(0, 3, 200)
    known = unknown.Directions.fit(z, y, healthy=1)

    def direction(row: np.ndarray) -> np.ndarray:
        moved = np.where(np.isfinite(row), row - known.centre, 0.0) @ known.whitening
        return moved / np.sqrt(known.size + moved @ moved)

    np.testing.assert_allclose(known.centre, z[y == 1].mean(axis=0), atol=1e-6)
    modes = [np.mean([direction(row) for row in z[y == k]], axis=0) for k in range(3)]
    asked = np.where(rng.random((50, 6)) < 0.3, np.float32(np.nan), z[:50])
    asked[0] = np.nan
    for row, found in zip(asked, known.of(asked), strict=True):
        assert found == pytest.approx(min(((direction(row) - mode) ** 2).sum() for mode in modes), abs=1e-6)


def test_a_fault_that_has_grown_is_no_more_unknown_than_it_was(rng: np.random.Generator) -> None:
    dataset = plant(rng, 4.0)
    z, y = (np.concatenate([getattr(s, name) for s in dataset.sequences]) for name in ("x", "y"))
    known = unknown.Directions.fit(z, y, healthy=0)
    moved, grown = np.zeros((2, 1, 12), np.float32)
    moved[:, :3], grown[:, :3] = 4.0, 40.0  # as unbalance does
    assert known.of(grown)[0] < known.of(moved)[0] + 0.05
    grown[:, 3:] = -40.0
    assert known.of(grown)[0] > 0.5


def test_a_detector_of_an_earlier_release_counts_as_none(rng: np.random.Generator) -> None:
    made = bundle(rng)
    found = {"used": True, "kind": "mahalanobis", "centres": [[0.0]], "whitening": [[1.0]], "threshold": 1.0}
    assert unknown.detector(dataclasses.replace(made, data={**made.data, "unknown": found})) is None


def test_a_detector_that_tells_nothing_is_stored_with_its_numbers_and_not_used(rng: np.random.Generator) -> None:
    dataset = plant(rng, 0.0)
    split = make_split(dataset.sequences, dataset.classes, {}, "machine", 4)
    scaler = Scaler.fit(np.concatenate([s.x for s in dataset.sequences]), "standard")
    found = reference_document(dataset, split, scaler)["unknown"]
    assert found["mean_auroc"] == pytest.approx(0.5, abs=0.1)
    assert not found["used"]
    assert "modes" not in found
    made = bundle(rng)
    assert unknown.detector(dataclasses.replace(made, data={**made.data, "unknown": found})) is None
    assert unknown.detector(made) is None


def test_without_a_split_only_the_distribution_is_kept(rng: np.random.Generator) -> None:
    dataset = plant(rng, 1.0)
    scaler = Scaler.fit(np.concatenate([s.x for s in dataset.sequences]), "standard")
    document = reference_document(dataset, None, scaler)
    assert set(document) == {"distribution"}
    assert document["distribution"]["of"] == "healthy"
    assert document["distribution"]["windows"] == 240
    few = dataclasses.replace(dataset, sequences=tuple(s for s in dataset.sequences if s.key.machine != "healthy-0"))
    assert reference_document(few, None, scaler)["distribution"]["of"] == "all"
    assert isinstance(few.sequences[0], WindowSequence)
