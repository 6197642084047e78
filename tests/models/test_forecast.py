"""Which modes come next: tokens, decoding, the live state, and what is learned of a small world."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import bundle, sequence

from models.bundle import ModelSpec, check_weights, decoder_shapes, load
from models.data.dataset import UNKNOWN
from models.forecast import Forecaster
from models.settings import TrainSettings
from models.training.forecast import (
    MASKED,
    STEPS,
    Decoder,
    FutureWindows,
    fit_decoder,
    future_windows,
    next_modes,
)
from pipeline.core.records import StreamKey
from pipeline.errors import ModelError

OLD_NETWORK = {"cell": "gru", "hidden": 4, "layers": 1, "members": 1, "decoder": 8, "horizon": 2}
SMALL = TrainSettings(hidden=16, members=1, batch=16, learning_rate=0.01, decoder=16, weight_decay=0.0, forecast=3)


def forecasting(rng, *, members: int = 2, layers: int = 1, cell: str = "gru"):
    """A version with random weights and a decoder."""
    model = bundle(rng, layers=layers)
    spec = replace(model.spec, members=members, decoder=8, cell=cell)
    weights = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in spec.shapes().items()}
    return replace(model, spec=spec, weights=weights)


def futures_of(rng, tokens: np.ndarray) -> FutureWindows:
    """Windows of one machine each, with the modes ahead of them given."""
    count = len(tokens)
    drawn = rng.normal(0, 1, (count, 6)).astype(np.float32)
    one = np.full((count, 3), 1 / 3, np.float32)
    return FutureWindows(drawn, np.zeros(count, np.int64), tokens, one, np.arange(count), np.arange(count))


def states(rng, model, count: int = 4) -> np.ndarray:
    return rng.uniform(-1, 1, (count, *model.spec.state_shape)).astype(np.float32)


def test_tokens_are_the_modes_that_follow_each_once():
    y = np.array([0, 0, UNKNOWN, 1, 1, 2])
    ahead = next_modes(y, 3, 9, ended=True)
    assert ahead.tolist() == [
        [1, 2, 9], [1, 2, 9], [MASKED] * 3, [2, 9, MASKED], [2, 9, MASKED], [9, MASKED, MASKED],
    ]  # fmt: skip
    assert next_modes(y, 2, 9, ended=False)[-1].tolist() == [MASKED, MASKED]
    assert next_modes(y, 2, 9, ended=False)[0].tolist() == [1, 2]


@settings(max_examples=30, deadline=None)
@given(y=st.lists(st.integers(-1, 2), min_size=1, max_size=25), ended=st.booleans())
def test_the_first_token_is_the_next_different_mode_whatever_the_sequence(y, ended):
    ahead = next_modes(np.array(y), 4, 3, ended=ended)
    for t, mode in enumerate(y):
        if mode == UNKNOWN:
            assert (ahead[t] == MASKED).all()
            continue
        later = [k for k in y[t:] if k not in (UNKNOWN, mode)]
        expected = later[0] if later else 3 if ended else MASKED
        assert ahead[t, 0] == expected


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_tanh"])
def test_the_decoder_without_torch_is_the_decoder(rng, cell):
    model = forecasting(rng, layers=2, cell=cell)
    forecaster, h = Forecaster(model), states(rng, model)
    decoder = Decoder(h[0].size, len(model.spec.classes), 8)
    named = {
        name.removeprefix("decoder."): torch.from_numpy(w) for name, w in model.weights.items() if "decoder." in name
    }
    assert {f"decoder.{name}": tuple(w.shape) for name, w in decoder.state_dict().items()} == decoder_shapes(
        model.spec.state_shape, len(model.spec.classes), 8
    )
    decoder.load_state_dict(named)
    tokens = rng.integers(0, 4, (4, 5))
    with torch.no_grad():
        whole = torch.softmax(decoder(torch.from_numpy(h.reshape(4, -1)), torch.from_numpy(tokens)), -1).numpy()
    s, token = forecaster.begin(h), np.full(4, forecaster.start)
    for step in range(5):
        p, s = forecaster.step(token, s)
        np.testing.assert_allclose(p, whole[:, step], rtol=0, atol=1e-6)
        token = tokens[:, step]


def test_sampling_is_repeatable_and_close_to_greedy_when_cold(rng):
    model = forecasting(rng)
    forecaster, h = Forecaster(model), states(rng, model, 50)
    assert forecaster.sampled(h, 4, seed=3) == forecaster.sampled(h, 4, seed=3)
    assert forecaster.sampled(h, 4, seed=3) != forecaster.sampled(h, 4, seed=4)
    assert forecaster.sampled(h, 4, temperature=1e-4) == forecaster.greedy(h, 4)
    with pytest.raises(ModelError, match="temperature above 0"):
        forecaster.sampled(h, 4, temperature=0.0)


def test_sampling_at_temperature_one_draws_with_the_probabilities(rng):
    model = forecasting(rng)
    forecaster, h = Forecaster(model), states(rng, model, 1)
    p, _ = forecaster.step(np.array([forecaster.start]), forecaster.begin(h))
    drawn = forecaster.sampled(h.repeat(4000, axis=0), 1, seed=0)
    names = [(*forecaster.classes, "end").index(future.modes[0] if future.modes else "end") for future in drawn]
    np.testing.assert_allclose(np.bincount(names, minlength=4) / 4000, p[0], atol=0.04)


def test_a_wide_beam_finds_the_most_probable_future_and_its_probabilities_are_those_of_the_tokens(rng):
    model = forecasting(rng)
    forecaster, h = Forecaster(model), states(rng, model, 3)
    for found, greedy in zip(forecaster.beam(h, 3, width=100), forecaster.greedy(h, 3), strict=True):
        assert [future.p for future in found] == sorted((future.p for future in found), reverse=True)
        assert sum(future.p for future in found) == pytest.approx(1, abs=1e-4)  # all futures of up to 3 tokens
        assert found[0].p >= greedy.p - 1e-6
        assert all(future.p == pytest.approx(np.prod(future.step_p)) for future in found)
    narrow = forecaster.beam(h, 3, width=1)
    assert [paths[0].modes for paths in narrow] == [future.modes for future in forecaster.greedy(h, 3)]


def test_no_mode_follows_itself_and_no_future_is_longer_than_those_of_the_training_data(rng):
    model = forecasting(rng)
    h = states(rng, model, 100)
    for future in [*Forecaster(model).greedy(h, 6), *Forecaster(model).sampled(h, 6, seed=1)]:
        assert all(one != other for one, other in itertools.pairwise(future.modes))
    short = Forecaster(replace(model, spec=replace(model.spec, horizon=2)))
    assert {len(future.step_p) for future in short.greedy(h, 6)} <= {1, 2}
    assert all(len(future.step_p) <= 2 for futures in short.beam(h, 6) for future in futures)


def test_what_was_never_ahead_is_never_foretold(rng):
    tokens = np.full((80, 3), MASKED, np.int64)
    tokens[:, 0] = rng.integers(0, 2, 80)  # of three modes and the end
    known = futures_of(rng, tokens)
    assert known.horizon == 1
    for weights in fit_decoder(known, 3, SMALL).values():
        assert (weights["decoder.out.bias"][2:] < -20).all()
        assert (weights["decoder.out.bias"][:2] > -20).all()


def test_all_windows_ahead_of_one_change_weigh_as_much_as_one(rng):
    tokens = np.array([[0, MASKED, MASKED]] * 9 + [[1, 2, MASKED]])
    known = replace(futures_of(rng, tokens), change=np.array([0] * 9 + [1]))
    assert known.weight.tolist() == [1 / 9] * 9 + [1]
    np.testing.assert_allclose(known.usual(3), np.array([2, 2, 1, 0]) / 5)  # came next, and once more for having come


def test_what_a_decoder_never_saw_ahead_is_no_question_to_it(rng):
    learned = futures_of(rng, np.array([[0, 1, MASKED], [1, MASKED, MASKED]]))
    asked = futures_of(rng, np.array([[1, 0, 1], [0, 2, 1], [2, 0, MASKED]]))
    assert asked.foreseeable(learned).tokens.tolist() == [[1, 0, MASKED], [0, MASKED, MASKED]]


def test_a_forecast_is_the_decoder_as_far_as_it_is_trusted_and_else_what_is_usual(rng):
    plain = forecasting(rng)
    usual = np.array([0.1, 0.2, 0.3, 0.4])
    h = states(rng, plain, 30)

    def trusting(trust: float) -> Forecaster:
        return Forecaster(replace(plain, spec=replace(plain.spec, trust=trust, usual=tuple(usual.tolist()))))

    start = np.full(30, trusting(1.0).start)
    alone, _ = trusting(1.0).step(start, trusting(1.0).begin(h))
    for row, future in enumerate(trusting(0.25).greedy(h, 1)):
        assert future.p == pytest.approx(np.max(0.25 * alone[row] + 0.75 * usual), abs=1e-6)
    told = trusting(0.0).greedy(h, 3)
    assert all(future == told[0] for future in told)  # the end is what comes most often, whatever the state
    assert told[0].ends
    drawn = trusting(0.0).sampled(h, 3, seed=5)
    assert len({future.modes for future in drawn}) > 3


def test_a_mixture_without_what_is_usual_is_refused(rng):
    model = forecasting(rng)
    check_weights(model.spec, model.weights)
    for trust, usual in ((0.5, ()), (1.5, ()), (0.5, (0.5, 0.5))):
        with pytest.raises(ModelError, match=r"trust in the decoder|is ahead"):
            check_weights(replace(model.spec, trust=trust, usual=usual), model.weights)


def test_a_version_keeps_how_far_its_decoder_is_trusted(rng, tmp_path):
    model = forecasting(rng)
    model = replace(model, spec=replace(model.spec, trust=0.3, usual=(0.1, 0.2, 0.3, 0.4)))
    model.save(tmp_path / "v")
    read = load(tmp_path / "v").spec
    assert (read.trust, read.usual) == (0.3, (0.1, 0.2, 0.3, 0.4))
    before = ModelSpec.from_document({**forecasting(rng).spec.document(), "network": OLD_NETWORK})
    assert (before.trust, before.usual) == (1.0, ())  # versions of earlier releases say what their decoder says


def test_a_change_that_two_points_of_a_machine_see_is_one_change_and_another_machine_has_its_own(rng):
    one, other = sequence([0, 0, 1], machine="a"), sequence([0, 1, 1], machine="b")
    nde = replace(sequence([0, 0, 0, 1], machine="a"), key=StreamKey("a", "nde"))  # it tells a window later
    known = future_windows(bundle(rng, features=1), [one, nde, other], {}, 2)
    assert known.machine.tolist() == [0, 0, 0, 0, 0, 1]
    assert known.change.tolist() == [0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(known.weight, [1 / 5] * 5 + [1])
    np.testing.assert_allclose(known.usual(3), np.array([0, 2 + 1, 0, 0]) / 3)  # 2 changes, and once for having come


def test_the_same_change_at_another_time_or_to_another_mode_is_another_change(rng):
    y = [0, 0, 1, 0, 0, 1, 1]  # windows of 1 s every 0.5 s: those before and after the first change overlap
    de, nde = (replace(sequence(y, machine="a"), key=StreamKey("a", point)) for point in ("de", "nde"))
    elsewhere = replace(sequence([0, 0, 2], machine="a"), key=StreamKey("a", "gear"))
    known = future_windows(bundle(rng, features=1), [de, nde, elsewhere], {}, 1)
    assert known.change.tolist() == [*[0, 0, 1, 2, 2], *[0, 0, 1, 2, 2], *[3, 3]]


def test_other_states_have_other_futures(rng):
    model = forecasting(rng)
    forecaster = Forecaster(model)
    p, _ = forecaster.step(np.full(200, forecaster.start), forecaster.begin(states(rng, model, 200)))
    assert len(np.unique(p, axis=0)) == 200


def test_a_version_without_a_decoder_and_a_state_of_another_are_refused(rng):
    with pytest.raises(ModelError, match="expected a decoder"):
        Forecaster(bundle(rng))
    with pytest.raises(ModelError, match="expected a state of shape"):
        Forecaster(forecasting(rng)).begin(np.zeros((2, 1, 7), np.float32))


@pytest.mark.parametrize("teacher", [1.0, 0.5])
def test_the_next_three_arithmetic_numbers_are_foretold_from_the_states_alone(rng, teacher):
    """Numbers modulo 5 go up by 1 or 2. A state holds number and step; the decoder learns what follows."""
    numbers, steps = np.divmod(np.arange(10).repeat(40), 2)
    ahead = (numbers[:, None] + (steps[:, None] + 1) * np.arange(1, 4)) % 5
    model = forecasting(rng, members=1)
    known = replace(futures_of(rng, ahead), states=np.eye(10, dtype=np.float32)[2 * numbers + steps])
    spec = replace(
        model.spec, classes=tuple("01234"), hidden=10, decoder=SMALL.decoder, horizon=3, usual=tuple(known.usual(5))
    )
    weights = fit_decoder(known, 5, replace(SMALL, teacher=teacher))[STEPS]
    served = Forecaster(replace(model, spec=spec, weights=weights)).greedy(known.states[:, None], 3)
    assert np.mean([future.modes == tuple(map(str, row)) for future, row in zip(served, ahead, strict=True)]) > 0.95
