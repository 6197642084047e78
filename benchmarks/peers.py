"""What `make compare` times: our vectors, those of other libraries where they are installed, and bare transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.fft import rfft

from benchmarks.features import CHUNK, COUNT, HOP, LENGTH, RATE_HZ, windows_of
from benchmarks.transform import bare_transform, wrapped_transform
from benchmarks.vibration import vibration
from pipeline.config.specs import default_spec
from pipeline.core import features
from pipeline.core.features.table import FEATURES
from pipeline.core.records import Float32


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed."""

    name: str
    count: int  # windows per call
    features: int  # per window; 0: a bare transform
    call: Callable[[], object]


def cases(missing: list[str]) -> Iterator[Case]:
    """Everything that can be timed here; what cannot is told in `missing`."""
    signal = vibration(1, LENGTH + (COUNT - 1) * HOP, RATE_HZ)
    yield from _ours(signal)
    for peer in (_tsflex, _tsfresh, _tsfel, _tsfx, _aeon, _mkl):
        try:
            yield from peer(signal[0])
        except ImportError as error:
            missing.append(f"{peer.__name__[1:]}: {error}")


def _windows(x: Float32, count: int) -> Float32:
    """The first windows (count, LENGTH), each in one piece."""
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(x, LENGTH)[::HOP][:count])


def _chunked(call: Callable[..., object], whole: Float32) -> Callable[[], None]:
    """Of 16 windows at a time: they stay in the cache."""

    def run() -> None:
        for i in range(0, len(whole), CHUNK):
            call(whole[i : i + CHUNK], axis=1)

    return run


def _ours(signal: Float32) -> Iterator[Case]:
    windows = windows_of(signal, RATE_HZ, LENGTH, HOP)
    for title, vector in (("thrumcast, complete vector", "complete"), ("thrumcast, core vector", "core")):
        spec = replace(default_spec().features, bandwidth_hz=0.0, vector=vector)
        count = sum(f.core for f in FEATURES) if vector == "core" else len(FEATURES)
        yield Case(title, COUNT, count, lambda spec=spec: features.compute(spec, windows))
    yield Case("scipy.fft.rfft, chunks of 16", COUNT, 0, _chunked(rfft, _windows(signal[0], COUNT)))
    yield Case("the transform inside thrumcast, window and layout", COUNT, 0, bare_transform(windows))


def _mkl(x: Float32) -> Iterator[Case]:
    import mkl_fft

    whole = _windows(x, COUNT)
    yield Case("mkl_fft.rfft, chunks of 16", COUNT, 0, _chunked(mkl_fft.rfft, whole))
    wrapped = wrapped_transform(mkl_fft.rfft, np.ascontiguousarray(x), LENGTH, HOP, CHUNK)
    yield Case("mkl_fft.rfft between our window and our layout", COUNT, 0, wrapped)


def _tsflex(x: Float32) -> Iterator[Case]:
    import pandas as pd
    import scipy.stats as st
    from tsflex.features import FeatureCollection, FuncWrapper, MultipleFeatureDescriptors

    functions: list[Callable[..., Any]] = [
        np.mean, np.std, np.var, np.min, np.max, np.ptp, np.median, st.skew, st.kurtosis, _rms, _crest, _mean_abs, _zcr,
    ]  # fmt: skip
    count = 32
    series = pd.Series(x[: LENGTH + (count - 1) * HOP], name="x")
    for title, wrapped in (
        ("tsflex, 13 NumPy and SciPy functions", functions),
        ("tsflex, the same 13 on all windows at once", [FuncWrapper(f, vectorized=True, axis=1) for f in functions]),
    ):
        descriptors = MultipleFeatureDescriptors(wrapped, series_names="x", windows=LENGTH, strides=HOP)
        collection = FeatureCollection(descriptors)
        yield Case(
            title,
            count,
            len(functions),
            lambda collection=collection: collection.calculate(series, n_jobs=1, include_final_window=True),
        )


def _rms(x: Float32, axis: int = -1) -> Any:
    return np.sqrt(np.mean(x * x, axis=axis))


def _crest(x: Float32, axis: int = -1) -> Any:
    return np.max(np.abs(x), axis=axis) / _rms(x, axis)


def _mean_abs(x: Float32, axis: int = -1) -> Any:
    return np.mean(np.abs(x), axis=axis)


def _zcr(x: Float32, axis: int = -1) -> Any:
    return np.mean(np.diff(np.signbit(x), axis=axis), axis=axis)


def _tsfresh(x: Float32) -> Iterator[Case]:
    import pandas as pd
    from tsfresh import extract_features
    from tsfresh.feature_extraction import EfficientFCParameters, MinimalFCParameters

    for title, settings, count in (
        ("tsfresh, MinimalFCParameters", MinimalFCParameters(), 32),
        ("tsfresh, EfficientFCParameters", EfficientFCParameters(), 1),
    ):
        windows = _windows(x, count)
        frame = pd.DataFrame({"id": np.repeat(np.arange(count), windows.shape[1]), "x": windows.ravel()})

        def call(frame: Any = frame, settings: Any = settings) -> Any:
            return extract_features(
                frame, column_id="id", default_fc_parameters=settings, n_jobs=0, disable_progressbar=True
            )

        yield Case(title, count, call().shape[1], call)


def _tsfel(x: Float32) -> Iterator[Case]:
    import tsfel
    from tsfel.feature_extraction.calc_features import calc_window_features

    window = _windows(x, 1)[0].astype(np.float64)
    for domain in ("temporal", "statistical", "spectral"):
        settings = tsfel.get_features_by_domain(domain)

        def call(settings: Any = settings) -> Any:
            return calc_window_features(settings, window, RATE_HZ)

        yield Case(f"tsfel, {domain}", 1, call().shape[1], call)


def _tsfx(x: Float32) -> Iterator[Case]:
    import polars as pl
    import tsfx

    for name, count in (("Minimal", 32), ("Efficient", 4)):
        windows = _windows(x, count)
        frame = pl.DataFrame({"id": np.repeat(np.arange(count), windows.shape[1]), "x": windows.ravel()}).lazy()
        settings = tsfx.ExtractionSettings(["id"], ["x"], getattr(tsfx.FeatureSetting, name))

        def call(frame: Any = frame, settings: Any = settings) -> Any:
            return tsfx.extract_features(frame, settings)

        yield Case(f"tsfx, {name}", count, call().shape[1] - 1, call)


def _aeon(x: Float32) -> Iterator[Case]:
    from aeon.transformations.collection.feature_based import Catch22

    count = 16
    windows = _windows(x, count)[:, None].astype(np.float64)
    catch = Catch22(use_pycatch22=False, n_jobs=1)
    yield Case("aeon, Catch22", count, catch.fit_transform(windows).shape[1], lambda: catch.fit_transform(windows))
