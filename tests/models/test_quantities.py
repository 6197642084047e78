"""Every physical quantity once, whatever the channels, the neighbours and what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from models.unknown import ALIKE, Quantities
from pipeline.core.features.table import NAMES

INPUTS = ("x.ord_4", "x.ord_5", "x.mains_hum", "y.ord_4", "y.ord_5", "y.mains_hum")


def read(*row: float) -> dict[str, float]:
    some = Quantities.of(INPUTS)
    return dict(zip(some.names, some.read(np.array([row], np.float32))[0].tolist(), strict=True))


def test_neighbours_are_one_number_and_the_channel_that_shows_most_has_a_say_of_its_own() -> None:
    # high orders: 2 on x, 4 on y; hum: 0 on x, -6 on y
    assert read(1, 3, 0, 4, 4, -6) == {"high orders": (3 + 4) / 2, "mains_hum": (-3 + 0) / 2}


def test_what_is_missing_counts_for_nothing_and_what_is_missing_everywhere_is_said_to_be() -> None:
    nan = float("nan")
    assert read(nan, 3, 5, nan, nan, nan) == {"high orders": 3, "mains_hum": 5}
    found = read(nan, nan, nan, nan, nan, -2)
    assert found["mains_hum"] == -2
    assert np.isnan(found["high orders"])


def test_a_single_channel_says_the_same_as_three_that_agree(rng: np.random.Generator) -> None:
    features = ("ord_4", "mains_hum", "env_bpfo")
    z = rng.normal(size=(9, 3)).astype(np.float32)
    one = Quantities.of([f"x.{name}" for name in features]).read(z)
    three = Quantities.of([f"{c}.{name}" for c in "xyz" for name in features]).read(np.tile(z, 3))
    np.testing.assert_allclose(one, three, rtol=1e-12)


def test_inputs_that_are_not_used_say_nothing() -> None:
    some = Quantities.of(INPUTS, ("y.mains_hum", "x.mains_hum"))
    z = np.array([[9, 9, 1, 9, 9, 3], [np.nan, np.nan, 1, 9, -9, 3]], np.float32)
    assert some.names == ("mains_hum",)
    assert some.read(z).tolist() == [[2.5], [2.5]]


def test_a_row_is_read_the_same_alone_and_among_others(rng: np.random.Generator) -> None:
    some = Quantities.of(INPUTS)
    z = np.where(rng.random((40, 6)) < 0.3, np.nan, rng.normal(size=(40, 6))).astype(np.float32)
    alone = np.concatenate([some.read(row[None]) for row in z])
    np.testing.assert_array_equal(some.read(z), alone)


@pytest.mark.parametrize("name", [name for names in ALIKE.values() for name in names])
def test_what_is_alike_is_in_the_feature_table(name: str) -> None:
    assert name in NAMES
    assert sum(name in names for names in ALIKE.values()) == 1
