"""Simulated machines join what a network learns from, and what is left out is said."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from model_world import dataset_spec

from models.data import prior
from models.data.dataset import Dataset, build
from models.settings import TrainSettings
from pipeline.config.tables import ModesConfig


@pytest.fixture(scope="module")
def recorded() -> Dataset:
    """A few of the shipped windows stand for recordings."""
    table = pq.read_table(prior.PLACE).slice(0, 2000)
    return build(table, dataset_spec(ModesConfig().names, inputs="kurtosis,crest"))


def test_the_shipped_simulated_machines_join_the_training_side(recorded):
    said: list[str] = []
    joined = prior.with_simulated(recorded, TrainSettings(), said.append)
    assert len(joined.prior) > 100
    assert joined.sequences == recorded.sequences
    assert said == [f"simulated machines beside the data: {len(joined.prior)} sequences"]
    half = prior.with_simulated(recorded, TrainSettings(simulated=0.5), said.append)
    assert len(half.prior) == round(len(joined.prior) / 2)
    assert not prior.with_simulated(recorded, TrainSettings(simulated=0), said.append).prior


def test_simulated_machines_that_are_missing_or_of_another_schema_are_left_out_and_that_is_said(
    recorded, tmp_path, monkeypatch
):
    said: list[str] = []
    other = replace(recorded, feature_schema="test-1")
    assert prior.with_simulated(other, TrainSettings(), said.append) is other
    monkeypatch.setattr(prior, "PLACE", tmp_path / "simulated.parquet")
    assert prior.with_simulated(recorded, TrainSettings(), said.append) is recorded
    assert "test-1" in said[0]
    assert "missing" in said[1]
