"""Augmentation keeps the physics: what a gain, a speed, a structure or a missing baseline may change, and what not."""

from __future__ import annotations

import numpy as np
import torch

from models.scaling import Scaler
from models.settings import TrainSettings
from models.training.augment import Augmentation

NAMES = ("rms", "zero_crossing", "velocity_rms", *(f"band_{k:02d}" for k in range(14)), "env_bpfo")
INPUTS = [f"{channel}.{name}" for channel in "xy" for name in NAMES]


def augmented(rng, x: np.ndarray, inputs=INPUTS, **changes) -> np.ndarray:
    off = {"noise": 0.0, "drop_input": 0.0, "gain": 0.0, "channel_drop": 0.0, "structure_offset": 0.0}
    off["baseline_drop"] = 0.0
    settings = TrainSettings(**(off | {"structure_drop": 0.0} | changes))
    scaler = Scaler("standard", np.full(len(inputs), 2.0, np.float32), np.full(len(inputs), 0.5, np.float32))
    augmentation = Augmentation.of(inputs, scaler, settings)
    z = torch.from_numpy(scaler.apply(x.astype(np.float32)))[:, None, :]
    return scaler.invert(augmentation.apply(z, augmentation.draw(len(x), rng), rng)[:, 0].numpy())


def test_another_gain_multiplies_amplitudes_and_nothing_else(rng):
    x = rng.uniform(1, 3, (20, len(INPUTS)))
    louder = augmented(rng, x, gain=0.3)
    ratio = louder / x
    amplitude = [name.split(".")[1] in {"rms", "velocity_rms"} for name in INPUTS]
    np.testing.assert_allclose(ratio[:, ~np.array(amplitude)], 1, rtol=1e-5)
    np.testing.assert_allclose(ratio[:, amplitude], ratio[:, :1].repeat(4, 1), rtol=1e-4)
    assert np.ptp(ratio[:, 0]) > 0.1


def test_another_speed_moves_frequencies_and_bands_and_leaves_orders_of_the_shaft(rng):
    x = rng.uniform(1, 3, (20, len(INPUTS)))
    x[:, 3:17] = np.arange(14) / 7 + 1  # a spectrum that rises along its bands
    faster = augmented(rng, x, speed=0.1)
    factor = faster[:, 1] / x[:, 1]
    assert np.ptp(factor) > 0.05
    np.testing.assert_allclose(faster[:, 2] / x[:, 2], 1 / factor, rtol=1e-4)  # velocity = acceleration / frequency
    np.testing.assert_allclose(faster[:, 17], x[:, 17], rtol=1e-5)
    shift = 14 / np.log(5000 / 10) * np.log(factor) / 7
    np.testing.assert_allclose(faster[:, 10] - x[:, 10], -shift, atol=1e-4)


def test_the_structure_moves_spectra_and_as_far_as_told_shaft_orders_but_no_envelope_line_and_no_baseline(rng):
    inputs = ["x.band_03", "x.ord_2", "x.env_bpfo", "x.rel_rms"]
    x = np.full((500, 4), 2.0)
    for share in (0.0, 0.5, 1.0):
        moved = augmented(rng, x, inputs, structure_offset=1.0, order_structure=share)
        np.testing.assert_allclose(moved.std(axis=0), [0.5, 0.5 * share, 0, 0], atol=0.05)
    lost = np.isnan(augmented(rng, x, inputs, structure_drop=0.6, order_structure=0.5, baseline_drop=0.0))
    np.testing.assert_allclose(lost.mean(axis=0), [0.6, 0.3, 0, 0], atol=0.08)
    assert not (lost[:, 1] & ~lost[:, 0]).any()  # orders go only where the spectrum goes


def test_what_is_relative_to_a_baseline_is_there_together_or_not_at_all(rng):
    inputs = ["x.rel_rms", "x.rel_kurtosis", "x.env_bpfo"]
    lost = np.isnan(augmented(rng, np.full((400, 3), 2.0), inputs, baseline_drop=0.5))
    assert 0.4 < lost[:, 0].mean() < 0.6
    assert (lost[:, 0] == lost[:, 1]).all()
    assert not lost[:, 2].any()


def test_channels_change_places_or_are_missing_as_a_whole(rng):
    x = rng.uniform(1, 3, (40, len(INPUTS)))
    half = len(NAMES)
    turned = augmented(rng, x, channel_swap=1.0)
    swapped = np.isclose(turned[:, :half], x[:, half:], rtol=1e-4).all(axis=1)
    kept = np.isclose(turned[:, :half], x[:, :half], rtol=1e-4).all(axis=1)
    assert swapped.any()
    assert kept.any()
    assert (swapped | kept).all()
    lost = np.isnan(augmented(rng, x, channel_drop=0.5))
    per_channel = lost.reshape(40, 2, half)
    assert (per_channel.all(axis=2) | ~per_channel.any(axis=2)).all()
    assert 5 < lost[:, ::half].any(axis=1).sum() < 35
