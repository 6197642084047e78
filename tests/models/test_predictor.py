"""Serving without torch: the same numbers, no memory of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import bundle, network_config, network_step

from models.cells import CELLS
from models.network import RecurrentNetwork
from models.predictor import NumpyPredictor
from pipeline.errors import ModelError


def raw(rng: np.random.Generator, predictor: NumpyPredictor, batch: int) -> np.ndarray:
    """Features that look like the training data, some of them missing."""
    scaler = predictor._spec.scaler
    x = scaler.invert(rng.normal(0, 1.5, (batch, len(predictor.inputs))).astype(np.float32))
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("hidden", [7, 64])
def test_it_equals_torch_within_1e_6_over_200_carried_steps(rng, layers, hidden):
    model = bundle(rng, features=9, hidden=hidden, layers=layers, classes=5)
    scale = 1.0 if hidden == 7 else 0.4  # as trained networks have it
    for weight in model.weights.values():
        weight *= scale
    predictor = NumpyPredictor(model)
    network = RecurrentNetwork(network_config(9, 5, hidden, layers)).eval()
    network.load_state_dict({name: torch.from_numpy(weight) for name, weight in model.weights.items()})
    h = predictor.initial(6)
    h_torch = network.initial(6)
    for _ in range(200):
        x = raw(rng, predictor, 6)
        p, h = predictor.step(x, h)
        with torch.no_grad():
            logits, h_torch = network_step(network, torch.from_numpy(model.spec.scaler.apply(x)), h_torch)
            p_torch = torch.softmax(logits / model.spec.temperature, dim=1).numpy()
        np.testing.assert_allclose(p, p_torch, rtol=0, atol=1e-6)
        np.testing.assert_allclose(h, h_torch.numpy().transpose(1, 0, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_ensemble_equals_torch_within_1e_6_over_200_carried_steps(rng, cell, layers, members, direct):
    model = bundle(rng, features=9, classes=5)
    spec = replace(model.spec, cell=cell, layers=layers, members=members, hidden=16, direct=direct)
    scale = 0.1 if cell == "rnn_relu" else 0.2  # as trained networks have it: chaos would blow up the last bit
    weights = {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    predictor = NumpyPredictor(replace(model, spec=spec, weights=weights))
    networks = []
    for member in range(members):
        other = np.zeros((5, 18), np.float32) if direct else None  # what counts is what was saved
        networks.append(RecurrentNetwork(network_config(9, 5, 16, layers, cell=cell, direct=other)).eval())
        own = {name: torch.from_numpy(w if members == 1 else w[member]) for name, w in weights.items()}
        networks[-1].load_state_dict(own)
    h = predictor.initial(4)
    states = [network.initial(4) for network in networks]
    for _ in range(200):
        x = raw(rng, predictor, 4)
        p, h = predictor.step(x, h)
        logits = []
        with torch.no_grad():
            for member, network in enumerate(networks):
                said, states[member] = network_step(network, torch.from_numpy(spec.scaler.apply(x)), states[member])
                logits.append(said)
            p_torch = torch.softmax(torch.stack(logits).mean(0) / spec.temperature, dim=1).numpy()
        np.testing.assert_allclose(p, p_torch, rtol=0, atol=1e-6)
        np.testing.assert_allclose(h, torch.cat(states).numpy().transpose(1, 0, 2), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 9))
def test_a_stream_does_not_notice_its_company(seed, batch):
    rng = np.random.default_rng(seed)
    predictor = NumpyPredictor(bundle(rng, layers=2))
    x, h = raw(rng, predictor, batch), rng.uniform(-1, 1, (batch, *predictor.hidden_shape)).astype(np.float32)
    p, h_next = predictor.step(x, h)
    for row in range(batch):
        p_alone, h_alone = predictor.step(x[row : row + 1], h[row : row + 1])
        np.testing.assert_allclose(p[row], p_alone[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(h_next[row], h_alone[0], rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_probabilities_are_probabilities_whatever_comes_in(seed):
    rng = np.random.default_rng(seed)
    predictor = NumpyPredictor(bundle(rng))
    x = rng.choice([0, 1e30, -1e30, np.inf, -np.inf, np.nan, 3.4e38], (8, 5)).astype(np.float32)
    p, h = predictor.step(x, predictor.initial(8))
    assert np.isfinite(h).all()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


def test_a_zeroed_state_equals_a_fresh_sequence(rng):
    predictor = NumpyPredictor(bundle(rng))
    first = raw(rng, predictor, 3)
    fresh, _ = predictor.step(first, predictor.initial(3))
    h = predictor.initial(3)
    for _ in range(20):
        _, h = predictor.step(raw(rng, predictor, 3), h)
    carried, _ = predictor.step(first, h)
    again, _ = predictor.step(first, np.zeros_like(h))
    assert np.array_equal(again, fresh)
    assert not np.array_equal(carried, fresh)


def test_two_different_inputs_never_give_the_same_output(rng):
    predictor = NumpyPredictor(bundle(rng, classes=4))
    x = predictor._spec.scaler.invert(rng.uniform(-7, 7, (300, 5)).astype(np.float32))
    p, h = predictor.step(x, predictor.initial(300))
    assert len(np.unique(h, axis=0)) == 300
    assert len(np.unique(p, axis=0)) == 300


def test_step_changes_neither_its_arguments_nor_itself(rng):
    predictor = NumpyPredictor(bundle(rng))
    x, h = raw(rng, predictor, 4), rng.uniform(-1, 1, (4, 1, 7)).astype(np.float32)
    x_before, h_before = x.copy(), h.copy()
    first = predictor.step(x, h)
    second = predictor.step(x, h)
    assert np.array_equal(x, x_before, equal_nan=True)
    assert np.array_equal(h, h_before)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_higher_temperature_is_less_sure_of_the_same_class(rng):
    model = bundle(rng)
    sharp, flat = (NumpyPredictor(replace(model, spec=replace(model.spec, temperature=t))) for t in (0.5, 5.0))
    x = raw(rng, sharp, 50)
    p_sharp, p_flat = (predictor.step(x, predictor.initial(50))[0] for predictor in (sharp, flat))
    assert np.array_equal(p_sharp.argmax(1), p_flat.argmax(1))
    assert (p_sharp.max(1) > p_flat.max(1)).all()


def test_a_missing_feature_is_masked_and_says_so(rng):
    predictor = NumpyPredictor(bundle(rng))
    x = predictor._spec.scaler.center[None, :].copy()  # scaled: zero
    missing = x.copy()
    missing[0, 2] = np.nan
    average, _ = predictor.step(x, predictor.initial(1))
    masked, _ = predictor.step(missing, predictor.initial(1))
    assert not np.array_equal(average, masked)


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (5,)])
def test_features_of_another_shape_are_refused(rng, shape):
    predictor = NumpyPredictor(bundle(rng))
    with pytest.raises(ModelError, match="expected features of shape"):
        predictor.step(np.zeros(shape, np.float32), predictor.initial(2))


def test_a_state_of_another_model_is_refused(rng):
    predictor = NumpyPredictor(bundle(rng))
    with pytest.raises(ModelError, match="expected a state of shape"):
        predictor.step(np.zeros((2, 5), np.float32), np.zeros((2, 2, 7), np.float32))


def test_serving_imports_no_torch():
    code = "import sys, models.predictor, models.registry, models.evaluation.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
