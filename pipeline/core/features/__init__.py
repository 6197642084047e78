"""Features: windows -> one row of numbers per channel. A window's numbers never depend on which windows come with it.

    window -> common bandwidth -> its quarters -> one FFT -> spectrum, orders, cepstrum -> squared envelope -> (C, F)

Read in this order:

* `table`: the one list of features, and the settings that they depend on.
* `batch`: windows -> rows of the kernel and back. `kernel`: the whole vector of many rows in one compiled call.
* `bandwidth`: resampling to one rate. `time_domain`: statistics of the samples. `spectrum`: power spectra.
* `spectral`: the shape of a spectrum. `cepstrum`. `envelope`: demodulation. `lines`: how far lines stand out.
* `baseline`: a stream beside its own healthy windows.
* Tools: `lanes` (eight windows in one vector), `fft`, `lengths` (fast ones), `compiled` (how kernels are kept on disk).
"""

from pipeline.core.features.batch import compute, compute_alike, no_features
from pipeline.core.features.table import FeatureSpec

__all__ = ["FeatureSpec", "compute", "compute_alike", "no_features"]
