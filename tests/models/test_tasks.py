"""Every recurrent system learns a small task of its own in seconds, to a stated accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_world import archive_of_plant, network_config, sequence

from models.cells import CELLS
from models.data.dataset import UNKNOWN, DataFacts, Dataset
from models.data.splits import leaky_split, make_split
from models.data.tasks import Targets, ValueSequence, one_mode_per_sequence, remaining_life
from models.jobs.evaluate import EvaluateRequest, evaluate
from models.jobs.train import TrainRequest, train
from models.jobs.values import train_values
from models.predictor import NumpyPredictor, ValuePredictor
from models.registry import Registry
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation
from models.training.folds import member_settings
from models.training.loop import fit, predict
from models.training.objective import Example, objective_of
from models.training.values import fit_values, pooled, value_metrics, values_text
from pipeline.config.tables import Config
from pipeline.core.records import StreamKey
from pipeline.edges.machines import MachinesFile
from pipeline.errors import ConfigError, ModelError, ThrumcastError

PLAIN = TrainSettings(
    hidden=16, members=1, dropout=0.0, epochs=60, batch=8, chunk=40, learning_rate=0.02, noise=0.0, drop_input=0.0,
    structure_offset=0.0, structure_drop=0.0, label_smoothing=0.0, weight_decay=0.0, reset_p=0.0, scaler="standard",
)  # fmt: skip


def quiet(*_):
    return None


def counting(rng: np.random.Generator, count: int, length: int = 30) -> list[Example]:
    """An arithmetic sequence modulo 5 that is shown: the class is the number that comes next."""
    made = []
    for _ in range(count):
        start, step = int(rng.integers(5)), int(rng.integers(1, 3))
        numbers = (start + step * np.arange(length + 1)) % 5
        z = np.eye(5, dtype=np.float32)[numbers[:-1]]
        y = numbers[1:].astype(np.int64)
        y[0] = UNKNOWN  # nobody knows the step after one number
        made.append(Example(z, y))
    return made


def right(network, examples: list[Example]) -> float:
    pairs = zip(predict(network, examples), examples, strict=True)
    hits = [(said.argmax(1) == example.y)[example.y != UNKNOWN] for said, example in pairs]
    return float(np.concatenate(hits).mean())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns_to_go_on_with_arithmetic_numbers_to_95_percent(rng, cell, layers):
    settings = replace(PLAIN, cell=cell, learning_rate=0.005 if cell == "rnn_relu" else 0.02)
    network = fit(counting(rng, 32), network_config(5, 5, 24, layers, 0.0, cell), settings, epochs=40)
    assert right(network, counting(rng, 12)) > 0.95


@pytest.mark.parametrize("cell", CELLS)
def test_one_mode_per_sequence_is_known_at_the_last_valid_state_of_any_length(rng, cell):
    """The class is whether more positive or more negative windows came: only the whole sequence knows."""

    def majority(count: int) -> list[Example]:
        made = []
        for _ in range(count):
            length = 2 * int(rng.integers(3, 15)) + 1
            z = rng.choice([-1.0, 1.0], (length, 1)).astype(np.float32)
            y = np.full(length, UNKNOWN)
            y[-1] = int(z.sum() > 0)
            made.append(Example(z, y))
        return made

    settings = replace(PLAIN, cell=cell, task="sequence", learning_rate=0.01, crop=0.0)  # a crop changes the majority
    network = fit(majority(96), network_config(1, 2, 16, 1, 0.0, cell), settings, epochs=40)
    test = majority(60)
    hits = [said[-1].argmax() == e.y[-1] for said, e in zip(predict(network, test), test, strict=True)]
    assert np.mean(hits) > 0.8


def test_sequences_are_cut_where_the_mode_changes_and_their_last_window_keeps_it():
    whole = sequence([UNKNOWN, 0, 0, UNKNOWN, 1, 1, UNKNOWN])
    facts = DataFacts(7, 4, ("pump-01",), 1, 1, {}, {}, 1)
    pieces = one_mode_per_sequence(Dataset((whole,), ("x.a",), ("a", "b"), "test-1", facts)).sequences
    assert [piece.y.tolist() for piece in pieces] == [
        [UNKNOWN, UNKNOWN, 0],
        [UNKNOWN, 1],
    ]


def waves(rng: np.random.Generator, count: int) -> list[ValueSequence]:
    made = []
    for number in range(count):
        phase = rng.uniform(0, 6)
        wave = 50 + 20 * np.sin(phase + 0.4 * np.arange(41))
        windows = sequence([0] * 40, machine=f"pump-{number:02d}", x=wave[:40, None])
        made.append(ValueSequence(windows, wave[1:, None].astype(np.float32), wave[:40, None].astype(np.float32)))
    return made


@pytest.mark.parametrize("cell", CELLS)
def test_the_next_value_is_foretold_in_units_twice_as_well_as_by_the_present_one(rng, cell):
    settings = replace(PLAIN, cell=cell, task="next", learning_rate=0.01)
    train_side, test_side = waves(rng, 24), waves(rng, 6)
    model = fit_values(train_side, ["x.a"], settings, quiet, None)
    targets = Targets(("x.a",), ("mm/s",))
    numbers = pooled([value_metrics("next", targets, train_side, test_side, model.predict(test_side))], targets)
    errors = numbers["x.a"]["errors"]
    assert numbers["x.a"]["better_than_naive"]
    assert errors["model"]["rmse"] < 0.5 * errors["as it is"]["rmse"]
    assert errors["as it is"]["rmse"] == pytest.approx(20 * 2 * np.sin(0.2) / np.sqrt(2), rel=0.1)


def test_the_next_value_of_a_machine_at_a_level_that_no_other_had_is_near_the_present_one(rng):
    """A network that must say levels is at home only where it has been: it would say one of the levels it has seen."""
    known, foreign = waves(rng, 24), []
    for each in waves(rng, 6):
        shifted = replace(each.windows, x=each.windows.x + 300)
        foreign.append(ValueSequence(shifted, each.target + 300, each.now + 300))
    model = fit_values(known, ["x.a"], replace(PLAIN, task="next"), quiet, None)
    targets = Targets(("x.a",), ("mm/s",))
    (numbers,) = pooled([value_metrics("next", targets, known, foreign, model.predict(foreign))], targets).values()
    assert numbers["errors"]["model"]["rmse"] < 0.1 * numbers["errors"]["mean"]["rmse"]


def test_remaining_life_counts_down_to_the_end_of_the_stream_and_only_where_it_was_seen():
    windows = sequence([UNKNOWN] * 4)
    cut = sequence([UNKNOWN] * 4, machine="pump-02")
    facts = DataFacts(8, 0, (), 2, 2, {}, {}, 1)
    dataset = Dataset((windows, cut), ("x.a",), (), "test-1", facts)
    known = {windows.key: {"run_to_failure": True}, cut.key: {"run_to_failure": True, "truncated": True}}
    made, targets = remaining_life(dataset, known)
    assert len(made) == 1
    assert made[0].target[:, 0].tolist() == [1.5, 1.0, 0.5, 0.0]
    assert made[0].now[:, 0].tolist() == [1.0, 1.5, 2.0, 2.5]
    assert targets.units == ("s",)
    with pytest.raises(ThrumcastError, match="ran to their failure"):
        remaining_life(dataset, {})


def test_remaining_life_is_always_told_beside_naive_guesses_and_is_no_promise(rng):
    made, targets = remaining_life_plant(rng)
    model = fit_values(made[:6], ["x.a"], replace(PLAIN, task="life", epochs=40), quiet, None)
    sums = value_metrics("life", targets, made[:6], made[6:], model.predict(made[6:]))
    numbers = pooled([sums], targets)
    assert set(numbers["remaining_life"]["errors"]) == {"model", "mean", "mean - age"}
    text = values_text("life", numbers)
    assert "mean - age" in text
    assert "not a promise" in text


def remaining_life_plant(rng):
    """Machines that live between 20 and 60 windows; the feature rises with the share of the life that is over."""
    sequences, facts = [], {}
    for number in range(10):
        count = int(rng.integers(20, 60))
        x = np.linspace(0, 1, count)[:, None] + rng.normal(0, 0.02, (count, 1))
        sequences.append(sequence([UNKNOWN] * count, machine=f"pump-{number:02d}", x=x))
        facts[sequences[-1].key] = {"run_to_failure": True}
    dataset = Dataset(tuple(sequences), ("x.a",), (), "test-1", DataFacts(1, 0, (), 10, 10, {}, {}, 1))
    return remaining_life(dataset, facts)


@pytest.mark.parametrize("task", ["next", "life"])
def test_a_version_that_says_values_is_registered_under_its_task_and_cannot_serve(tmp_path, rng, task):
    archive_of_plant(tmp_path, rng)
    keys = [StreamKey(f"pump-{number:02d}", "de") for number in range(6)]
    MachinesFile(tmp_path / "machines.jsonl").update_all({key: {"run_to_failure": True} for key in keys})
    targets = "rms" if task == "next" else ""
    settings = replace(PLAIN, task=task, targets=targets, epochs=6, hidden=6, members=2, folds=2)
    result = train_values(TrainRequest(tmp_path, Config(), settings), say=quiet, warn=quiet)
    registry = Registry(tmp_path)
    assert registry.aliases() == {task: result.version}
    model = registry.load(task)
    assert model.spec.members == 2
    with pytest.raises(ModelError, match=f"found: one for {task}"):
        NumpyPredictor(model)
    predictor = ValuePredictor(model)
    values, h = predictor.step(np.full((3, len(model.spec.inputs)), 3.0, np.float32), predictor.initial(3))
    assert values.shape == (3, 1)
    assert h.shape == (3, 2, 6)


def test_one_mode_per_sequence_goes_the_whole_way_to_a_version(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    settings = replace(PLAIN, task="sequence", hidden=12, epochs=30, folds=3)
    result = train(TrainRequest(tmp_path, Config(), settings), say=quiet, warn=quiet)
    assert result.document["metrics"]["windows"] == 6  # one verdict per recording
    assert result.document["metrics"]["accuracy"] == 1.0
    assert Registry(tmp_path).predictor().classes == ("healthy", "bearing_outer")


def test_half_precision_trains_and_carries_a_state_in_full_precision(rng):
    settings = replace(PLAIN, precision="bfloat16", device="cpu")
    network = fit(counting(rng, 24), network_config(5, 5, 24, 1, 0.0), settings, epochs=40)
    assert network.head.weight.dtype == torch.float32
    assert right(network, counting(rng, 8)) > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_said_to_be_missing(rng):
    with pytest.raises(ConfigError, match="expected a GPU"):
        fit(counting(rng, 4), network_config(5, 5, 4), replace(PLAIN, device="cuda"), epochs=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_the_same_task_and_says_the_same_as_a_cpu(rng, precision):
    examples = counting(rng, 32)
    settings = replace(PLAIN, device="cuda", precision=precision)
    network = fit(examples, network_config(5, 5, 24, dropout=0.0), settings, epochs=40)
    assert network.head.weight.is_cuda
    assert right(network, examples) > 0.95
    there = predict(network, examples)
    for here, said in zip(predict(network.cpu(), examples), there, strict=True):
        np.testing.assert_allclose(here, said, atol=1e-3)


def test_logit_adjustment_helps_the_rare_class(rng):
    """Two overlapping classes, one of them nine times as frequent."""

    def rare(count: int, share: float) -> list[Example]:
        y = (rng.random((count, 20)) < share).astype(np.int64)
        return [Example(rng.normal(k[:, None] * 1.5, 1.0).astype(np.float32), k) for k in y]

    data, test = rare(40, 0.1), rare(20, 0.5)
    config = network_config(1, 2, 8, dropout=0.0)

    def balanced_accuracy(balance: str) -> float:
        network = fit(data, config, replace(PLAIN, balance=balance), epochs=15)
        said, y = np.concatenate([p.argmax(1) for p in predict(network, test)]), np.concatenate([e.y for e in test])
        return float(np.mean([(said == y)[y == k].mean() for k in (0, 1)]))

    assert balanced_accuracy("logit") > balanced_accuracy("none") + 0.05
    objective = objective_of(data, 2, replace(PLAIN, balance="logit"))
    prior = np.exp(objective.log_prior.numpy())
    assert prior.sum() == pytest.approx(1, abs=1e-5)


def test_a_split_that_leaks_shares_machines_and_an_honest_one_does_not(rng):
    sequences = [sequence([number % 2] * 30, machine=f"pump-{number:02d}") for number in range(6)]
    leaky = leaky_split(sequences, 3, 0)
    honest = make_split(sequences, ("a", "b"), {}, "machine", 3)
    for split, shares in ((leaky, True), (honest, False)):
        fold = split.folds[0]
        both = {s.key for s in fold.train} & {s.key for s in fold.test}
        assert bool(both) is shares
    assert leaky.name == "leaky"
    tested = sum(len(part) for fold in leaky.folds for part in fold.test)
    assert tested == 180


def test_members_of_an_ensemble_have_seeds_of_their_own():
    assert len({member_settings(PLAIN, member).seed for member in range(5)}) == 5
    assert member_settings(PLAIN, 0) == PLAIN


def test_a_network_that_learned_with_a_baseline_works_with_it_and_without(rng):
    inputs = ["x.rel_rms", "x.env_bpfo"]
    examples = []
    for row in range(40):
        y = np.full(12, row % 2)
        # A missing value counts as 0, which looks healthier than anything healthy.
        z = np.stack([8.0 * y + 4, 2.0 * y - 1], axis=1) + rng.normal(0, 0.3, (12, 2))
        examples.append(Example(z.astype(np.float32), y))
    scaler = Scaler("standard", np.zeros(2, np.float32), np.ones(2, np.float32))

    def learned(baseline_drop):
        settings = replace(PLAIN, epochs=15, baseline_drop=baseline_drop)
        augmentation = Augmentation.of(inputs, scaler, settings)
        return fit(examples, network_config(2, 2, 8, dropout=0.0), settings, epochs=15, augmentation=augmentation)

    network = learned(0.5)
    without = [
        Example(np.where([True, False], np.nan, example.z).astype(np.float32), example.y) for example in examples
    ]
    assert right(network, examples) > 0.98
    assert right(network, without) > 0.98
    assert right(learned(0.0), without) < 0.8  # who has always had a baseline relies on it


@pytest.mark.pictures
def test_one_mode_per_sequence_has_no_events_in_its_numbers_its_card_its_pictures_and_its_evaluation(tmp_path, rng):
    archive_of_plant(tmp_path, rng)
    quick = TrainSettings(epochs=4, hidden=6, members=1, folds=2, task="sequence")
    trained = train(TrainRequest(tmp_path, Config(), quick), say=quiet, warn=quiet)
    model = Registry(tmp_path).load(trained.version)
    events = model.metrics["events"]
    assert [events[name] for name in ("episodes", "too_short", "healthy_machine_days")] == [0, 0, 0.0]
    assert "no alarm could be judged" in model.card
    assert "detected" not in model.card
    version = tmp_path / "registry" / trained.version
    assert (version / "curves.png").exists()  # pictures are drawn here, this one is not
    assert not (version / "delay.png").exists()
    for split in ("none", "specimen"):
        again = evaluate(EvaluateRequest(tmp_path, Config(), split=split), say=quiet, warn=quiet).document
        assert (again["windows"], again["events"]) == (model.metrics["windows"], events)
