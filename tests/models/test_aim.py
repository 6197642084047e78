"""What is held out says whom a network is for: machines that are new, or those that it knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_world import sequence

from models.data.dataset import DataFacts, Dataset
from models.data.splits import make_split
from models.settings import TrainSettings
from models.training.folds import choose_aim, fold_losses
from pipeline.core.records import StreamKey

SETTINGS = TrainSettings(epochs=16, hidden=8, members=1, learning_rate=0.02, patience=100)
LOADS = 3
SHAPE = ("x.kurtosis", "x.crest", "x.skewness", "x.flatness")


@pytest.fixture
def dataset(rng):
    """Every machine has a shape of its own, which tells nothing of its mode; the line that does is faint."""
    sequences = []
    for machine in range(12):
        y, own = machine % 2, rng.normal(0, 5, len(SHAPE))
        for load in range(LOADS):
            line = rng.normal(10 + 3 * y, 3, 20)
            x = np.column_stack([own + 0.1 * rng.standard_normal((20, len(SHAPE))), line, rng.normal(8, 1, 20)])
            sequences.append(sequence([y] * 20, machine=f"m{machine:02d}-{load}", x=x))
    facts = DataFacts(720, 720, (), 36, 36, {}, {}, 6)
    inputs = (*SHAPE, "x.env_bpfo", "x.env_bpfi")
    return Dataset(tuple(sequences), inputs, ("healthy", "bearing_outer"), "test-1", facts)


def validated(dataset, field, *, folds=LOADS, **settings):
    facts = {
        StreamKey(s.key.machine, s.key.point): {"load": s.key.machine[4:], "specimen": s.key.machine[:3]}
        for s in dataset.sequences
    }
    split = make_split(dataset.sequences, dataset.classes, facts, field, folds)
    said = []
    aimed = choose_aim(dataset, split, replace(SETTINGS, **settings), lambda *_: None, say=said.append)
    return aimed, said


def test_held_out_by_load_the_machines_are_known_and_may_be_learned_by_heart(dataset):
    aimed, said = validated(dataset, "load")
    assert aimed.settings.aim == "known"
    assert said == ["aim: known machines, since that is better in all 3 folds of load"]
    assert (fold_losses(aimed.held_out) < fold_losses(validated(dataset, "load", aim="new")[0].held_out)).all()


def test_held_out_by_machine_what_tells_machines_apart_is_no_help(dataset):
    aimed, said = validated(dataset, "specimen")
    assert aimed.settings.aim == "new"
    assert said == ["aim: new machines"]
    np.testing.assert_array_equal(
        fold_losses(aimed.held_out), fold_losses(validated(dataset, "specimen", aim="new")[0].held_out)
    )


def test_two_folds_convince_nobody(dataset):
    aimed, said = validated(dataset, "load", folds=2)
    assert aimed.settings.aim == "new"
    assert said == []


def test_for_known_machines_nothing_simulated_joins_in(dataset):
    simulated = replace(dataset, prior=dataset.sequences[:2])
    aimed, _ = validated(simulated, "load", aim="known")
    assert aimed.dataset.prior == ()
    assert aimed.settings.simulated == 0
