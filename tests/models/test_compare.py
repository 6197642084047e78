"""The comparison with other libraries, without them: what is left out is said, and the ratios are of one table."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.fft import rfft

from benchmarks.compare import lines, measure, text
from benchmarks.features import HOP, LENGTH, RATE_HZ, windows_of
from benchmarks.measure import Effort, Timing
from benchmarks.peers import Case
from benchmarks.transform import bare_transform, wrapped_transform
from benchmarks.vibration import vibration
from pipeline.core.features.lanes import LANES

OTHERS = ("tsflex.features", "tsfresh", "tsfel", "tsfx", "aeon.transformations.collection.feature_based", "mkl_fft")


def test_a_library_that_is_not_there_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHERS:
        monkeypatch.setitem(sys.modules, name, None)
    missing: list[str] = []
    bare, vectors = measure(Effort(samples=1), missing)
    assert [reason.split(":")[0] for reason in missing] == ["tsflex", "tsfresh", "tsfel", "tsfx", "aeon", "mkl"]
    assert all("import" in reason for reason in missing)
    assert [line.features for line in bare] == [76, 0, 0]
    assert [line.features for line in vectors] == [0, 76, 39]
    assert all(0 < line.us < 1e4 for line in (*bare, *vectors))
    assert bare[0].to_ours == vectors[0].to_rfft == 1


def test_ratios_are_to_our_complete_vector_and_to_the_bare_transform_of_the_same_run() -> None:
    names = (("ours", 2, 76), ("rfft", 4, 0), ("peer", 1, 10))
    seconds = (4e-6, 4e-6, 2e-4)
    times = {name: Timing(s, s, 9, False) for (name, _, _), s in zip(names, seconds, strict=True)}
    table = lines([Case(*name, lambda: None) for name in names], times)
    assert [line.us for line in table] == pytest.approx([2.0, 1.0, 200.0])
    assert [line.to_ours for line in table] == pytest.approx([1.0, 0.5, 100.0])
    assert [line.to_rfft for line in table] == pytest.approx([2.0, 1.0, 200.0])
    assert [row.split()[1:3] for row in text(table).splitlines()[1:]] == [["76", "2.0"], ["-", "1.0"], ["10", "200.0"]]


def test_the_transforms_that_are_timed_alone_are_the_spectra_of_the_windows() -> None:
    signal = vibration(1, LENGTH + (LANES - 1) * HOP, RATE_HZ)
    windows = windows_of(signal, RATE_HZ, LENGTH, HOP)
    bare = bare_transform(windows)
    bare()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(LENGTH) / LENGTH)
    expected = np.stack([rfft(w.samples[0] * hann) for w in windows if w.samples is not None], axis=1)
    spectra = [
        (bare.buffers[i] + 1j * bare.buffers[i + 1]).reshape(-1, LANES)[: len(expected)] for i in (0, 2)
    ]  # in one of the two pairs
    scale = abs(expected).max()
    fits = [np.abs(s / np.abs(s).max() - expected / scale).max() for s in spectra]
    assert min(fits) < 1e-5

    def with_out(x: np.ndarray, out: np.ndarray) -> None:
        out[:] = rfft(x, axis=1)

    wrapped = wrapped_transform(with_out, signal[0], LENGTH, HOP, LANES)
    wrapped()
    found = (wrapped.buffers[0] + 1j * wrapped.buffers[1]).reshape(-1, LANES)
    assert np.abs(found - expected).max() < 1e-5 * scale
