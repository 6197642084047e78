"""Bearing lines speak for themselves: the family that stands highest names the place before anything is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_world import network_config, network_step

from models.network import RecurrentNetwork
from models.places import DB_PER_UNIT, FLOOR_DB, direct_weights
from models.scaling import Scaler

INPUTS = ("x.kurtosis", "x.env_bpfo", "x.env_bpfi", "y.kurtosis", "y.env_bpfo", "y.env_bpfi")
CLASSES = ("healthy", "bearing_outer", "bearing_inner")
SCALER = Scaler("standard", np.array([3, 9, 7, 3, 8, 6], np.float32), np.array([2, 5, 4, 2, 6, 3], np.float32))


@pytest.fixture
def network():
    """One that has learned nothing: its head is zero, so that what it says comes from the lines alone."""
    direct = direct_weights(INPUTS, CLASSES, SCALER)
    made = RecurrentNetwork(network_config(len(INPUTS), len(CLASSES), 4, direct=direct)).eval()
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias.zero_()
    return made


def said(network, *decibels):
    z = torch.from_numpy(SCALER.apply(np.array([decibels], np.float32)))
    return network_step(network, z, network.initial(1))[0].detach().numpy()[0]


def test_the_logit_of_a_place_is_the_strength_of_its_lines(network):
    outputs = said(network, 3.0, 20.0, 8.0, 3.0, 26.0, 10.0)
    np.testing.assert_allclose(outputs, [0, (23 - FLOOR_DB) / DB_PER_UNIT, (9 - FLOOR_DB) / DB_PER_UNIT], atol=1e-5)


def test_lines_that_are_not_there_say_nothing(network):
    np.testing.assert_allclose(said(network, 3.0, np.nan, np.nan, 3.0, np.nan, np.nan), 0, atol=1e-6)


def test_training_does_not_change_what_the_lines_say(network):
    assert "direct_weight" in network.state_dict()
    assert all(parameter.shape != (3, 12) for parameter in network.parameters())


def test_one_place_alone_is_no_choice_and_gets_no_weights():
    assert direct_weights(INPUTS, ("healthy", "bearing_outer", "unbalance"), SCALER) is None
    assert direct_weights(("x.kurtosis",), CLASSES, Scaler("standard", *np.ones((2, 1), np.float32))) is None
