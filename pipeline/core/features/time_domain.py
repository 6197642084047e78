"""Time-domain statistics of a window: the first stage of the table."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.core.records import Float32


def time_domain(x: Float32, rate_hz: float) -> Float32:
    """All `time` features.

    x: (B, n) samples. Mean removed for all but `mean` itself; sums are in double precision, so a bias
    of many times the vibration costs nothing. A constant window gives NaN for every ratio.
    Returns: (B, 10) in table order.
    """
    out = np.empty((x.shape[0], 10), np.float32)
    for row in range(x.shape[0]):
        _statistics(x[row], rate_hz, out[row])
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _statistics(x: Float32, rate_hz: float, out: Float32) -> None:
    n = x.shape[0]
    total = 0.0
    for i in range(n):
        total += x[i]
    mean = total / n
    m2 = m3 = m4 = absolute = root = 0.0
    crossings = 0
    peak = 0.0
    for i in range(n):
        d = x[i] - mean
        square = d * d
        size = abs(d)
        m2 += square
        m3 += square * d
        m4 += square * square
        absolute += size
        root += np.sqrt(size)
        peak = max(peak, size)
    for i in range(1, n):
        crossings += (x[i] > mean) != (x[i - 1] > mean)
    m2, m3, m4, absolute, root = m2 / n, m3 / n, m4 / n, absolute / n, root / n
    rms = np.sqrt(m2)
    out[0] = mean
    out[1] = rms
    out[2] = peak
    out[3] = peak / rms
    out[4] = m4 / (m2 * m2)
    out[5] = m3 / (m2 * rms)
    out[6] = rms / absolute
    out[7] = peak / absolute
    out[8] = peak / (root * root)
    out[9] = crossings * rate_hz / (2 * (n - 1))
