"""Time-domain statistics: one pass over each quarter of a window, then the quarters are merged.

Windows that overlap by quarters share the sums of the quarters, so that the samples of a recording are read once and
not four times. Sums are central (about the quarter's own mean) and merged by Pebay's formulas (Sandia report
SAND2008-6212): raw power sums lose the kurtosis beside a sensor's bias. Quarters follow from the window alone, so
sharing changes no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import intrinsic, kernel
from pipeline.core.features.lanes import (
    LANES,
    absolute,
    arrayobj,
    cgutils,
    greater,
    load,
    splat,
    square_root,
    store,
    types,
)
from pipeline.core.features.table import AT
from pipeline.core.records import Float32

Float64 = NDArray[np.float64]

QUARTERS = 4
COUNT, MEAN, M2, M3, M4, ABSOLUTE, ROOT, CROSSINGS, BEGINS, ENDS, HIGH, LOW = range(12)
PSI = 12  # count, mean and moments of the energy operator follow
PARTIALS = PSI + 5


@intrinsic
def samples_at(typing: Any, address: Any, count: Any) -> Any:
    """The `count` float32 that stand at `address`, as an array; nothing is copied."""
    array = types.Array(types.float32, 1, "C")

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = arrayobj.make_array(array)(context, builder)
        size = context.get_constant(types.intp, 4)
        arrayobj.populate_array(
            found,
            data=builder.inttoptr(args[0], found.data.type),
            shape=cgutils.pack_array(builder, [args[1]]),
            strides=cgutils.pack_array(builder, [size]),
            itemsize=size,
            meminfo=None,
        )
        return found._getvalue()

    return array(types.int64, types.intp), emit


@kernel
def shared_quarters(address: NDArray[np.int64], row: int, n: int) -> int:
    """How many quarters of a row are the last ones of the row before, which lies so many quarters behind."""
    if row > 0 and n % QUARTERS == 0:
        behind = address[row] - address[row - 1]
        for shift in range(1, QUARTERS):
            if behind == shift * (n // QUARTERS) * 4:
                return QUARTERS - shift
    return 0


@kernel
def total(lane: Float32) -> float:
    """Sum of one vector's lanes, in double precision."""
    found = 0.0
    for i in range(LANES):
        found += lane[i]
    return found


@kernel
def quarter(x: Float32, energy: bool, psi: Float32, lane: Float32, out: Float64) -> None:
    """All partial sums of one quarter x (n,), if wanted of its energy operator too; psi (n,), lane (8,) are scratch."""
    centre = _mean(x, lane)
    _one_pass(x, centre, psi, lane, out)
    if not energy:
        return
    inner = x.shape[0] - 2
    even = inner - inner % LANES
    for i in range(even, inner):
        d = x[i + 1] - centre
        psi[i] = d * d - (x[i] - centre) * (x[i + 2] - centre)
    variance = out[M2] / x.shape[0]
    scale = 1.0 / variance if variance > 0 else 1.0  # fourth powers of squares would leave the range of float32
    _moments(psi[:inner], _mean(psi[:inner], lane), np.float32(scale), lane, out[PSI:])


@kernel
def _mean(x: Float32, lane: Float32) -> np.float32:
    """About the mean: good enough to take moments about, which then correct it."""
    n = x.shape[0]
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)  # four sums: additions overlap
    even = n - n % (4 * LANES)
    for i in range(0, even, 4 * LANES):
        a, b = a + load(x, i), b + load(x, i + LANES)
        c, d = c + load(x, i + 2 * LANES), d + load(x, i + 3 * LANES)
    store(lane, 0, (a + b) + (c + d))
    found = total(lane)
    for i in range(even, n):
        found += x[i]
    return np.float32(found / n)


@kernel
def _one_pass(x: Float32, centre: np.float32, psi: Float32, lane: Float32, out: Float64) -> None:
    """Moments of q = x - centre, sums of |q| and sqrt |q|, sign changes, extremes, and the energy operator -> psi."""
    n = x.shape[0]
    one, zero = splat(1.0), splat(0.0)
    v1, v2, v3, v4, sizes, roots, changes = zero, zero, zero, zero, zero, zero, zero
    high, low = splat(x[0]), splat(x[0])
    vectors = (n - 2) // LANES  # each looks at the two samples behind its own
    for i in range(0, vectors * LANES, LANES):
        value = load(x, i)
        d, after, second = value - centre, load(x, i + 1) - centre, load(x, i + 2) - centre
        square, size = d * d, absolute(d)
        v1, v2, v3, v4 = v1 + d, v2 + square, v3 + square * d, v4 + square * square
        sizes, roots = sizes + size, roots + square_root(size)
        high, low = greater(value, high, value, high), greater(low, value, value, low)
        changes = changes + absolute(greater(d, zero, one, zero) - greater(after, zero, one, zero))
        store(psi, i, after * after - d * second)
    store(lane, 0, v1)
    s1 = total(lane)
    store(lane, 0, v2)
    s2 = total(lane)
    store(lane, 0, v3)
    s3 = total(lane)
    store(lane, 0, v4)
    s4 = total(lane)
    store(lane, 0, sizes)
    absolutes = total(lane)
    store(lane, 0, roots)
    square_roots = total(lane)
    store(lane, 0, changes)
    crossings = total(lane)
    store(lane, 0, high)
    top = lane[0]
    for i in range(1, LANES):
        top = max(top, lane[i])
    store(lane, 0, low)
    bottom = lane[0]
    for i in range(1, LANES):
        bottom = min(bottom, lane[i])
    for i in range(vectors * LANES, n):
        q = np.float64(x[i] - centre)
        s1, s2, s3, s4 = s1 + q, s2 + q * q, s3 + q * q * q, s4 + q * q * q * q
        absolutes += abs(q)
        square_roots += np.sqrt(abs(q))
        top, bottom = max(top, x[i]), min(bottom, x[i])
        if i + 1 < n:
            crossings += (x[i] > centre) != (x[i + 1] > centre)
    _central(n, centre, 1.0, s1, s2, s3, s4, out)
    out[ABSOLUTE], out[ROOT], out[CROSSINGS], out[HIGH], out[LOW] = absolutes, square_roots, crossings, top, bottom
    out[BEGINS], out[ENDS] = x[0] > centre, x[n - 1] > centre


@kernel
def _moments(x: Float32, centre: np.float32, scale: np.float32, lane: Float32, out: Float64) -> None:
    """Count, mean and central moments (sums) of x; `centre` is near its mean, and the rest is corrected for."""
    n = x.shape[0]
    even = n - n % LANES
    v1, v2, v3, v4 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for i in range(0, even, LANES):
        d = (load(x, i) - centre) * scale
        square = d * d
        v1, v2, v3, v4 = v1 + d, v2 + square, v3 + square * d, v4 + square * square
    store(lane, 0, v1)
    s1 = total(lane)
    store(lane, 0, v2)
    s2 = total(lane)
    store(lane, 0, v3)
    s3 = total(lane)
    store(lane, 0, v4)
    s4 = total(lane)
    for i in range(even, n):
        d = np.float64((x[i] - centre) * scale)
        s1, s2, s3, s4 = s1 + d, s2 + d * d, s3 + d * d * d, s4 + d * d * d * d
    _central(n, centre, 1.0 / np.float64(scale), s1, s2, s3, s4, out)


@kernel
def _central(n: int, centre: float, unit: float, s1: float, s2: float, s3: float, s4: float, out: Float64) -> None:
    """Count, mean and central moments from the sums of powers of (x - centre) / unit."""
    rest = s1 / n
    out[COUNT], out[MEAN] = n, centre + rest * unit
    out[M2] = (s2 - n * rest**2) * unit**2
    out[M3] = (s3 - 3 * rest * s2 + 2 * n * rest**3) * unit**3
    out[M4] = (s4 - 4 * rest * s3 + 6 * rest**2 * s2 - 3 * n * rest**4) * unit**4


@kernel
def _merge(a: Float64, b: Float64) -> None:
    """Add the count, mean and moments of b to those of a (Pebay, 2008, 1.2)."""
    na, nb = a[COUNT], b[COUNT]
    n, d = na + nb, b[MEAN] - a[MEAN]
    a[M4] += (
        b[M4]
        + d**4 * na * nb * (na * na - na * nb + nb * nb) / n**3
        + 6 * d * d * (na * na * b[M2] + nb * nb * a[M2]) / (n * n)
        + 4 * d * (na * b[M3] - nb * a[M3]) / n
    )
    a[M3] += b[M3] + d**3 * na * nb * (na - nb) / (n * n) + 3 * d * (na * b[M2] - nb * a[M2]) / n
    a[M2] += b[M2] + d * d * na * nb / n
    a[MEAN] += d * nb / n
    a[COUNT] = n


@kernel
def time_domain(parts: Float64, rate_hz: float, energy: bool, merged: Float64, out: Float32) -> None:
    """All `time` features of a window from its quarters (4, PARTIALS) -> out (F,)."""
    for j in range(PARTIALS):  # element by element: an assignment of arrays compiles a page of error messages
        merged[j] = parts[0, j]
    for i in range(1, QUARTERS):
        _merge(merged, parts[i])
        if energy:
            _merge(merged[PSI:], parts[i, PSI:])
        merged[ABSOLUTE] += parts[i, ABSOLUTE]
        merged[ROOT] += parts[i, ROOT]
        merged[CROSSINGS] += parts[i, CROSSINGS] + abs(parts[i, BEGINS] - parts[i - 1, ENDS])
        merged[HIGH] = max(merged[HIGH], parts[i, HIGH])
        merged[LOW] = min(merged[LOW], parts[i, LOW])
    n, mean = merged[COUNT], merged[MEAN]
    if merged[HIGH] == merged[LOW]:  # nothing moves: no ratio has a meaning, and none is made of rounding errors
        if np.isfinite(mean):
            out[AT.mean], out[AT.rms], out[AT.peak], out[AT.p2p] = mean, 0.0, 0.0, 0.0
        return
    variance = merged[M2] / n
    rms = np.sqrt(variance)
    peak = max(merged[HIGH] - mean, mean - merged[LOW])
    size, root = merged[ABSOLUTE] / n, merged[ROOT] / n
    out[AT.mean], out[AT.rms], out[AT.peak], out[AT.p2p] = mean, rms, peak, merged[HIGH] - merged[LOW]
    out[AT.crest] = peak / rms
    out[AT.kurtosis] = merged[M4] / n / (variance * variance)
    out[AT.skewness] = merged[M3] / n / (variance * rms)
    out[AT.shape] = rms / size
    out[AT.impulse] = peak / size
    out[AT.clearance] = peak / (root * root)
    out[AT.zero_crossing] = merged[CROSSINGS] * rate_hz / (2 * (n - 1))
    if energy:
        psi = merged[PSI:]
        out[AT.tkeo_kurtosis] = psi[COUNT] * psi[M4] / (psi[M2] * psi[M2])
