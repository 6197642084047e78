"""A model that always says the same is told why: every cause is provoked, and found by its name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_world import network_config, sequence

from models.bundle import Bundle, ModelSpec
from models.evaluation.diagnosis import Diagnosis, diagnose
from models.evaluation.diagnosis import evidence as evidence_of
from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.loop import fit
from models.training.objective import Example

SETTINGS = TrainSettings(
    hidden=8, members=1, dropout=0.0, batch=8, chunk=20, learning_rate=0.02, noise=0.0, drop_input=0.0, reset_p=0.0,
    label_smoothing=0.0, weight_decay=0.0, balance="none",
)  # fmt: skip


def plant(rng: np.random.Generator, *, sequences: int = 16, random_labels: bool = False):
    """Sequences whose level says the class; or levels that say nothing of it."""
    made = []
    for number in range(sequences):
        k = number % 2
        level = rng.normal(0, 1) if random_labels else 4.0 * k
        x = rng.normal(level, 0.5, (20, 3))
        made.append(sequence([k] * 20, machine=f"pump-{number:02d}", x=x))
    return made


def trained(sequences, *, epochs: int = 30, scaler: Scaler | None = None, **changes) -> tuple[Bundle, dict]:
    settings = replace(SETTINGS, **changes)
    scaler = scaler or Scaler.fit(np.concatenate([s.x for s in sequences]), "standard")
    examples = [Example(scaler.apply(s.x), s.y) for s in sequences]
    losses, norms = [], []

    def note(report, network):
        losses.append(report.loss)
        norms.append(report.gradient_norm)
        return True

    config = network_config(3, 2, 8, 1, 0.0, settings.cell)
    network = fit(examples, config, settings, epochs=epochs, after_epoch=note)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    spec = ModelSpec("v0001", ("a", "b"), ("x.a", "x.b", "x.c"), "test-1", 1.0, 0.5, 0.0, scaler, 8, 1,
                     1.0, settings.cell, 1, "window")  # fmt: skip
    return Bundle(spec, weights, {}, {}, {}, ""), {"losses": losses, "largest_gradient": max(norms)}


def causes(found: Diagnosis) -> list[str]:
    return [finding.cause for finding in found.findings]


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_tanh", "rnn_relu"])
def test_a_model_that_learned_has_no_symptom(rng, cell):
    world = plant(rng)
    model, evidence = trained(world, cell=cell)
    assert diagnose(model, world, **evidence, held_out=0.1) == Diagnosis()


def test_a_model_of_machines_that_begin_healthy_has_not_collapsed(rng):
    """All machines are healthy for longer than is looked at; what it says later is what tells a collapse."""
    lives = []
    for number in range(12):
        k = number % 2
        y = [0] * 60 + [1] * 40 if k else [0] * 100
        x = rng.normal(4.0 * np.array(y)[:, None], 0.5, (100, 3))
        lives.append(sequence(y, machine=f"pump-{number:02d}", x=x))
    model, evidence = trained(lives)
    assert diagnose(model, lives, **evidence, held_out=0.1) == Diagnosis()
    model.weights["head.bias"] = np.array([50.0, 0.0], np.float32)
    assert "it says one class only" in diagnose(model, lives).symptoms


def test_a_model_that_says_less_than_the_shares_of_the_modes_is_found(rng):
    """It speaks, its loss has fallen, nothing is dead; but held out it is worse than no model at all."""
    world = plant(rng)
    model, evidence = trained(world)
    model.weights["gru.weight_hh_l0"] *= 100 / model.weights["gru.weight_hh_l0"].std()
    found = diagnose(model, world, **evidence, held_out=0.75)
    assert "held out it is worse than knowing nothing but how frequent the modes are" in found.symptoms
    assert "learning rate" in causes(found)


def test_a_stored_version_brings_the_evidence_of_its_own_training(rng):
    world = plant(rng)
    model, seen = trained(world)
    train = {"losses": [*seen["losses"], None], "largest_gradient": None, "epochs": 30}
    stored = replace(model, train=train, metrics={"likelihood": [[20, 0.3], [30, 0.9]]})
    told = evidence_of(stored)
    assert (told["largest_gradient"], told["held_out"]) == (np.inf, 0.9)
    assert np.isnan(told["losses"][-1])
    symptoms = diagnose(stored, world, **told).symptoms
    assert "its gradients explode" in symptoms
    assert "its loss did not fall" in symptoms


def test_a_scaler_that_flattens_everything_is_found(rng):
    world = plant(rng)
    flat = Scaler("standard", np.zeros(3, np.float32), np.full(3, 1e6, np.float32))
    model, evidence = trained(world, scaler=flat)
    found = diagnose(model, world, **evidence)
    assert causes(found)[0] == "scaling"
    assert "all but 0" in found.findings[0].why


def test_windows_without_any_input_are_found(rng):
    world = plant(rng)
    model, evidence = trained(world, scaler=Scaler.fit(np.concatenate([s.x for s in world]), "standard"))
    for each in world:
        each.x[:] = np.nan
    found = diagnose(model, world, **evidence)
    assert "its outputs do not depend on the input" in found.symptoms[0]
    assert causes(found)[0] == "scaling"


def test_a_learning_rate_that_is_too_high_is_found(rng):
    world = plant(rng)
    model, evidence = trained(world, learning_rate=1.0, clip_norm=1e9, cell="rnn_tanh", epochs=60)
    found = diagnose(model, world, **evidence)
    assert found.symptoms
    assert causes(found)[0] == "learning rate"
    assert "too high" in found.findings[0].why


def test_a_learning_rate_that_is_too_low_is_found(rng):
    world = plant(rng)
    model, evidence = trained(world, learning_rate=1e-7)
    found = diagnose(model, world, **evidence)
    assert causes(found)[0] == "learning rate"
    assert "too low" in found.findings[0].why


def test_units_that_are_dead_or_saturated_are_found(rng):
    world = plant(rng)
    dead, evidence = trained(world, cell="rnn_relu")
    dead.weights["rnn.bias_ih_l0"] = np.full(8, -1000.0, np.float32)
    assert causes(diagnose(dead, world))[0] == "activation"
    saturated, evidence = trained(world, cell="rnn_tanh")
    saturated.weights["rnn.bias_ih_l0"] = np.full(8, 1000.0, np.float32)
    assert causes(diagnose(saturated, world))[0] == "activation"
    assert diagnose(saturated, world, **evidence).lines()[0].startswith("the model has collapsed")


def test_a_state_that_grows_without_bound_is_found(rng):
    world = plant(rng)
    model, _ = trained(world, cell="rnn_relu")
    model.weights["rnn.weight_hh_l0"] = (np.eye(8) * 9).astype(np.float32)
    assert "activation" in causes(diagnose(model, world))


def test_a_model_that_never_forgets_its_initial_state_is_found(rng):
    world = plant(rng)
    model, _ = trained(world)
    model.weights["gru.weight_ih_l0"][8:16] = 0
    model.weights["gru.weight_hh_l0"][8:16] = 0
    model.weights["gru.bias_ih_l0"][8:16] = 50.0  # the update gate keeps the old state for ever
    found = diagnose(model, world)
    assert causes(found)[0] == "initial state"


def test_redundant_data_are_found(rng):
    once = sequence([0] * 20, x=np.tile([[1.0, 2.0, 3.0]], (20, 1)))
    other = sequence([1] * 20, x=np.tile([[1.0, 2.0, 3.0]], (20, 1)))
    world = [once, other] * 4
    model, evidence = trained(world)
    found = diagnose(model, world, **evidence)
    assert "data" in causes(found)
    assert any("redundant" in finding.why for finding in found.findings)


def test_learning_by_heart_is_found(rng):
    world = plant(rng, sequences=6, random_labels=True)
    model, evidence = trained(world, epochs=200)
    assert evidence["losses"][-1] < 0.4, "labels without meaning were to be learned by heart"
    found = diagnose(model, world, **evidence, held_out=0.69)
    assert "its loss is low while held-out is at chance" in found.symptoms
    assert "data" in causes(found)
