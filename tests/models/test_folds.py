"""What is reported was not chosen on what it is reported of."""

from __future__ import annotations

import numpy as np
import pytest
from model_world import sequence

from models.data.dataset import DataFacts, Dataset
from models.data.splits import make_split
from models.settings import TrainSettings
from models.training import folds
from pipeline.core.records import StreamKey

FACTS = DataFacts(1, 1, (), 1, 1, {}, {}, 1)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_passes_of_a_fold_are_those_that_the_other_folds_prefer(monkeypatch, odd):
    """The odd fold, the largest, is right after the late passes only, the others after the middle ones only."""
    made = [sequence([n % 2] * (200 if n // 2 == odd else 20), machine=f"pump-{n}") for n in range(6)]
    dataset = Dataset(tuple(made), ("x.rms",), ("healthy", "worn"), "test-1", FACTS)
    facts = {StreamKey(f"pump-{n}", "de"): {"pair": n // 2} for n in range(6)}
    split = make_split(dataset.sequences, dataset.classes, facts, "pair", 3)

    def one_fold(training, watch):
        late = len(training.fold.test[0]) > 20
        at = {}
        for epoch in training.checks:
            right = epoch > 9 if late else 4 <= epoch <= 8
            says = [part.y if right else 1 - part.y for part in training.fold.test]
            at[epoch] = [np.eye(2, dtype=np.float32)[y] for y in says]
        return folds._FoldLogits(training.fold.test, at)

    monkeypatch.setattr(folds, "_one_fold", one_fold)
    held_out = folds.cross_validate(dataset, split, TrainSettings(epochs=12), lambda *_: None)
    assert held_out.epochs > 9  # of the version: all folds together, and most windows are the odd fold's
    for track in held_out.tracks:
        assert (track.p.argmax(1) != track.sequence.y).all(), "a fold was scored after the passes that suit itself"
