"""Features: windows -> one row of numbers per channel, the same numbers however the windows came together.

window -> common bandwidth -> its quarters -> one FFT -> spectrum, orders, cepstrum -> squared envelope -> (C, F)
"""

from pipeline.core.features.batch import compute, compute_alike, no_features
from pipeline.core.features.table import FeatureSpec

__all__ = ["FeatureSpec", "compute", "compute_alike", "no_features"]
