"""The recurrent network learns what needs memory, and its step is its forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_world import network_config, network_step

from models.data.dataset import UNKNOWN
from models.network import RecurrentNetwork
from models.settings import TrainSettings
from models.training.loop import epochs_for, fit, predict
from models.training.objective import Example, class_weights

PLAIN = TrainSettings(
    hidden=16, dropout=0.0, epochs=60, batch=8, chunk=12, learning_rate=0.02, noise=0.0, drop_input=0.0,
    structure_offset=0.0, structure_drop=0.0, label_smoothing=0.0, weight_decay=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def delayed_sign(rng: np.random.Generator, count: int, length: int) -> list[Example]:
    """The class of a window is the sign of the input of the window before: nothing without memory knows it."""
    examples = []
    for _ in range(count):
        z = rng.normal(0, 1, (length, 1)).astype(np.float32)
        y = np.concatenate([[UNKNOWN], (z[:-1, 0] > 0).astype(np.int64)])
        examples.append(Example(z, y))
    return examples


def accuracy(network: RecurrentNetwork, examples: list[Example]) -> float:
    logits = predict(network, examples)
    y, predicted = (
        np.concatenate([example.y for example in examples]),
        np.concatenate([part.argmax(axis=1) for part in logits]),
    )
    return float((y == predicted)[y != UNKNOWN].mean())


def test_a_task_that_needs_memory_is_learned_to_95_percent(rng):
    network = fit(delayed_sign(rng, 24, 40), network_config(1, 2, 16, dropout=0.0), PLAIN, epochs=60)
    assert accuracy(network, delayed_sign(rng, 8, 40)) > 0.95


def test_whether_numbers_rise_or_fall_is_learned_to_95_percent(rng):
    def numbers(count: int) -> list[Example]:
        examples = []
        for _ in range(count):
            step = rng.choice([-0.3, 0.3], 30)
            z = np.cumsum(step)[:, None].astype(np.float32)
            examples.append(Example(z, np.concatenate([[UNKNOWN], (step[1:] > 0).astype(np.int64)])))
        return examples

    network = fit(numbers(24), network_config(1, 2, 16, dropout=0.0), PLAIN, epochs=60)
    assert accuracy(network, numbers(8)) > 0.95


def test_the_state_that_is_carried_over_chunks_remembers_what_came_chunks_before(rng):
    """The class is told once, in the first window; with chunks of 5 only a carried state still knows it at the end."""

    def told_once(count: int) -> list[Example]:
        examples = []
        for _ in range(count):
            k = int(rng.integers(2))
            z = rng.normal(0, 0.1, (25, 2)).astype(np.float32)
            z[:, 1] = 0.0
            z[:4, 1] = 2.0 * k - 1.0
            examples.append(Example(z, np.full(25, k, np.int64)))
        return examples

    settings = TrainSettings(**{**PLAIN.document(), "chunk": 5, "reset_p": 0.0, "burn_in": 0, "epochs": 80})
    network = fit(told_once(32), network_config(2, 2, 16, dropout=0.0), settings, epochs=80)
    test = told_once(16)
    last = [part[-1].argmax() for part in predict(network, test)]
    assert np.mean([k == example.y[-1] for k, example in zip(last, test, strict=True)]) > 0.9


@pytest.mark.parametrize("layers", [1, 2])
def test_stepping_window_by_window_is_the_forward_pass(rng, layers):
    network = RecurrentNetwork(network_config(4, 3, 8, layers)).eval()
    z = torch.from_numpy(rng.normal(0, 1, (5, 30, 4)).astype(np.float32))
    z[rng.random((5, 30, 4)) < 0.2] = torch.nan
    with torch.no_grad():
        whole, h_whole = network(z, network.initial(5))
        h = network.initial(5)
        for t in range(30):
            logits, h = network_step(network, z[:, t], h)
            torch.testing.assert_close(logits, whole[:, t], rtol=0, atol=1e-6)
    torch.testing.assert_close(h, h_whole, rtol=0, atol=1e-6)


def test_the_forward_pass_may_be_cut_anywhere(rng):
    network = RecurrentNetwork(network_config(3, 3, 8)).eval()
    z = torch.from_numpy(rng.normal(0, 1, (2, 20, 3)).astype(np.float32))
    with torch.no_grad():
        whole, _ = network(z, network.initial(2))
        for cut in range(1, 20):
            first, h = network(z[:, :cut], network.initial(2))
            second, _ = network(z[:, cut:], h)
            torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=1e-6)


def test_a_missing_feature_is_not_the_same_as_an_average_one(rng):
    network = RecurrentNetwork(network_config(3, 3, 8)).eval()
    z = torch.from_numpy(rng.normal(0, 1, (1, 3)).astype(np.float32))
    z[0, 1] = 0.0
    missing = z.clone()
    missing[0, 1] = torch.nan
    with torch.no_grad():
        present, absent = (network_step(network, each, network.initial(1))[0] for each in (z, missing))
        assert not torch.equal(present, absent)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(rng):
    examples = delayed_sign(rng, 10, 20)
    config = network_config(1, 2, 8)
    noisy = TrainSettings(hidden=8, batch=4, chunk=8)
    first, again = (fit(examples, config, noisy, epochs=3).state_dict() for _ in range(2))
    other = fit(examples, config, TrainSettings(hidden=8, batch=4, chunk=8, seed=1), epochs=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_leaves_the_global_random_state_alone(rng):
    before = torch.random.get_rng_state()
    fit(delayed_sign(rng, 4, 10), network_config(1, 2, 4), TrainSettings(hidden=4), epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_predicting_does_not_depend_on_the_company_or_the_padding(rng):
    network = RecurrentNetwork(network_config(1, 2, 8)).eval()
    examples = [Example(rng.normal(0, 1, (n, 1)).astype(np.float32), np.zeros(n, np.int64)) for n in (3, 17, 1, 8)]
    together = predict(network, examples)
    for example, logits in zip(examples, together, strict=True):
        alone = predict(network, [example])[0]
        assert logits.shape == (len(example.y), 2)
        np.testing.assert_allclose(logits, alone, atol=1e-6)


def test_masked_windows_do_not_change_what_is_learned(rng):
    """Windows without truth at the end of a sequence carry no loss: their inputs cannot matter to it."""
    z = rng.normal(0, 1, (12, 1)).astype(np.float32)
    y = np.array([0, 1] * 3 + [UNKNOWN] * 6)
    other = z.copy()
    other[6:] += 3.0
    settings = TrainSettings(**{**PLAIN.document(), "chunk": 12})
    config = network_config(1, 2, 4, dropout=0.0)
    first = fit([Example(z, y)], config, settings, epochs=3).state_dict()
    second = fit([Example(other, y)], config, settings, epochs=3).state_dict()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6)


def test_rare_classes_weigh_more_and_absent_ones_nothing():
    examples = [Example(np.zeros((10, 1), np.float32), np.array([0] * 8 + [1, UNKNOWN]))]
    for balance, ratio in (("none", 1.0), ("sqrt", 8**0.5), ("full", 8.0)):
        weights = class_weights(examples, 3, balance)
        assert float(weights[1] / weights[0]) == pytest.approx(ratio)
        assert float(weights[2]) == 0.0
        assert float(weights[0] * 8 + weights[1]) == pytest.approx(9.0)


def test_more_data_needs_fewer_passes():
    def data(count: int, length: int) -> list[Example]:
        return [Example(np.zeros((length, 1), np.float32), np.zeros(length, np.int64))] * count

    assert epochs_for(data(20, 20), TrainSettings()) > epochs_for(data(20, 5000), TrainSettings())
    assert epochs_for(data(20, 20), TrainSettings(epochs=3)) == 3
