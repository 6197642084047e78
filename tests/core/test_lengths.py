"""Lengths with a quick Fourier transform, beside those that scipy names."""

from __future__ import annotations

import pytest
from scipy.fft import next_fast_len, prev_fast_len

from pipeline.core.features.lengths import next_fast_length, previous_fast_length


@pytest.mark.parametrize("n", [*range(1, 400), 1023, 12_000, 12_345, 48_001, 65_537, 1_000_003])
def test_fast_lengths_are_those_of_scipy(n: int) -> None:
    assert next_fast_length(n) == next_fast_len(n, real=True)
    assert previous_fast_length(n) == prev_fast_len(n, real=True)


@pytest.mark.parametrize("n", [0, -1])
def test_of_nothing_no_length_is_fast(n: int) -> None:
    for length in (next_fast_length, previous_fast_length):
        with pytest.raises(ValueError, match=f"at least 1, found: {n}"):
            length(n)
