"""Windows that fit no mode: what tells them, how good it is, what a version keeps of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from model_world import bundle, sequence

from models import unknown
from models.data.dataset import DataFacts, Dataset
from models.data.splits import make_split
from models.jobs.registration import reference_document
from models.scaling import Scaler
from models.unknown import Quantities


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


def test_a_fault_that_is_left_out_leaves_no_trace_in_what_it_is_measured_with(rng: np.random.Generator) -> None:
    dataset = plant(rng, 1.0)
    split = make_split(dataset.sequences, dataset.classes, {}, "machine", 4)
    found = []
    for loud in (1.0, 30.0):  # of the machines to learn from that have the first fault
        train = tuple(
            dataclasses.replace(s, x=s.x * np.float32(loud)) if s.y[0] == 1 else s for s in split.folds[0].train
        )
        fold = dataclasses.replace(split.folds[0], train=train)
        found.append(unknown.assess(dataset, dataclasses.replace(split, folds=(fold,)), "standard").auroc)
    assert found[0]["unbalance"] == found[1]["unbalance"]
    assert found[0]["looseness"] != found[1]["looseness"]


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


@pytest.mark.parametrize("kind", ["mahalanobis", "direction"])
def test_a_detector_of_an_earlier_release_counts_as_none(rng: np.random.Generator, kind: str) -> None:
    made = bundle(rng)
    found = {"used": True, "kind": kind, "centres": [[0.0]], "whitening": [[1.0]], "threshold": 1.0}
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


def test_many_neighbours_that_say_the_same_do_not_outvote_the_one_line_of_a_new_fault() -> None:
    names = [*(f"band_{k:02d}" for k in range(14)), *(f"ord_{k}" for k in range(1, 11)), "gmf", "mains_hum"]
    inputs = [f"{channel}.{name}" for channel in "xyz" for name in names]

    def windows(seed: int, fault: str | None, count: int = 400) -> np.ndarray:
        rng = np.random.default_rng(seed)
        structure = np.repeat(rng.normal(0, 2, (count // 20, 14)), 20, axis=0)  # each machine rings in its own way
        x = np.concatenate([structure, np.zeros((count, 12))], axis=1) + rng.normal(0, 1, (count, 26))
        if fault:
            x[:, names.index(fault)] += rng.uniform(2, 6, count)
        return (np.tile(x, 3) + rng.normal(0, 1, (count, 78))).astype(np.float32)

    x = np.concatenate([windows(1, None, 800), windows(2, "ord_1"), windows(3, "ord_2"), windows(4, "gmf")])
    y = np.repeat([0, 1, 2, 3], [800, 400, 400, 400])
    scaler = Scaler.fit(x, "standard")
    usual = np.concatenate([windows(5, None), windows(6, "ord_1"), windows(7, "ord_2"), windows(8, "gmf")])
    strange = windows(9, "mains_hum")

    def told(read: Callable[[np.ndarray], np.ndarray]) -> float:
        known = unknown.Directions.fit(read(scaler.apply(x)), y, healthy=0)
        far, near = (known.of(read(scaler.apply(some))) for some in (strange, usual))
        return float((far[:, None] > near).mean())  # AUROC

    once = told(Quantities.of(inputs).read)
    assert once > 0.9
    assert once > told(lambda z: z.astype(np.float64)) + 0.05


def test_simulated_machines_beside_the_data_are_known(rng: np.random.Generator) -> None:
    dataset, beside = plant(rng, 4.0), plant(np.random.default_rng(7), 4.0)
    loose = [s for s in beside.sequences if s.y[0] == 2]
    for s in loose:
        s.x[:, 9:] += 6.0  # looseness shows there otherwise than in the plant
    split = make_split(dataset.sequences, dataset.classes, {}, "machine", 4)
    scaler = Scaler.fit(np.concatenate([s.x for s in (*dataset.sequences, *beside.sequences)]), "standard")
    made = bundle(rng, features=12, classes=4)
    spec = dataclasses.replace(made.spec, inputs=dataset.inputs, scaler=scaler)
    x = np.concatenate([s.x for s in loose])
    called = []
    for data in (dataset, dataclasses.replace(dataset, prior=beside.sequences)):
        found = reference_document(data, split, scaler)
        is_unknown = unknown.detector(dataclasses.replace(made, spec=spec, data={**made.data, **found}))
        called.append(is_unknown(x, np.full((len(x), 4), 0.25, np.float32)).mean())
    assert called[0] > 0.5
    assert called[1] < 0.1


def test_an_explanation_names_the_quantities_in_which_a_window_is_strange(rng: np.random.Generator) -> None:
    dataset = plant(rng, 4.0)
    split = make_split(dataset.sequences, dataset.classes, {}, "machine", 4)
    scaler = Scaler.fit(np.concatenate([s.x for s in dataset.sequences]), "standard")
    made = bundle(rng, features=12, classes=4)
    spec = dataclasses.replace(made.spec, inputs=dataset.inputs, scaler=scaler)
    data = {**made.data, **reference_document(dataset, split, scaler)}
    detector = unknown.detector(dataclasses.replace(made, spec=spec, data=data))
    strange = np.zeros(12, np.float32)
    strange[10] = 9.0
    distance, adds = detector.explain(strange)
    assert distance > detector.threshold
    assert max(adds, key=lambda name: adds[name]) == "f10"
    without = strange.copy()
    without[10] = np.nan
    assert adds["f10"] == pytest.approx(distance - detector.explain(without)[0])


def test_the_card_says_how_many_windows_of_a_fault_never_seen_are_called_unknown() -> None:
    called = {"unbalance": 0.5, "looseness": 0.2}
    found = {"used": True, "leave_one_fault_out_called_unknown": called, "mean_auroc": 0.912}
    assert "35% of the windows are called unknown" in unknown.limits(found)
    for none in (None, {}, {**found, "used": False}):
        assert "any other fault gets one of these names" in unknown.limits(none)


def test_without_a_split_only_the_distribution_is_kept(rng: np.random.Generator) -> None:
    dataset = plant(rng, 1.0)
    scaler = Scaler.fit(np.concatenate([s.x for s in dataset.sequences]), "standard")
    document = reference_document(dataset, None, scaler)
    assert set(document) == {"distribution"}
    assert document["distribution"]["of"] == "healthy"
    assert document["distribution"]["windows"] == 240
    few = dataclasses.replace(dataset, sequences=tuple(s for s in dataset.sequences if s.key.machine != "healthy-0"))
    assert reference_document(few, None, scaler)["distribution"]["of"] == "all"
