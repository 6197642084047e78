"""Fourier transforms of eight windows at once, on lanes.

Stockham's autosort algorithm (Van Loan, Computational Frameworks for the FFT, 1.7): every pass of radix r
reads x[q + s (p + m k)], k < r, and writes y[q + s (r p + k)], so that the spectrum comes out in order. Real
and imaginary parts are kept apart, flat arrays of n * LANES float32. Lengths are products of 2, 3 and 5.

The transforms of eight windows share one pass over the twiddles, and no result depends on which windows come together.
This is faster and simpler than a library's batched transform, whose remainders take another path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import kernel
from pipeline.core.features.lanes import LANES, load, store
from pipeline.core.records import Float32

RADICES = (8, 4, 2, 5, 3)
SQRT_HALF = np.float32(np.sqrt(0.5))
SIN_60 = np.float32(np.sin(np.pi / 3))
COS_72, SIN_72 = np.float32(np.cos(2 * np.pi / 5)), np.float32(np.sin(2 * np.pi / 5))
COS_144, SIN_144 = np.float32(np.cos(4 * np.pi / 5)), np.float32(np.sin(4 * np.pi / 5))


class FftPlan(NamedTuple):
    """Factors and twiddles of a complex transform of n points."""

    n: int
    radix: NDArray[np.int64]  # (passes,)
    twiddle_re: Float32  # pass after pass, (m, radix - 1)
    twiddle_im: Float32


def fft_plan(n: int) -> FftPlan:
    """Plan for n points, n a product of 2, 3 and 5."""
    radix, rest = [], n
    for r in RADICES:
        while rest % r == 0:
            radix.append(r)
            rest //= r
    if rest != 1:
        msg = f"expected a length that is a product of 2, 3 and 5, found: {n}"
        raise ValueError(msg)
    twiddles, length = [np.empty(0, np.complex128)], n
    for r in radix:
        power = np.arange(length // r)[:, None] * np.arange(1, r)
        twiddles.append(np.exp(-2j * np.pi * power / length).ravel())
        length //= r
    w = np.concatenate(twiddles)
    return FftPlan(n, np.array(radix, np.int64), w.real.astype(np.float32), w.imag.astype(np.float32))


@kernel
def fft(plan: FftPlan, re: Float32, im: Float32, re2: Float32, im2: Float32) -> int:
    """Forward transform of re + i im; both pairs are overwritten. Returns 0 if the result is in the first, else 1.

    For the inverse (without 1/n) exchange the roles of re and im, on the way in and on the way out.
    """
    n, s, first = plan.n, np.int64(1), 0  # typed: a literal 1 would compile every pass twice
    for i in range(plan.radix.shape[0]):
        r = plan.radix[i]
        m = n // r
        wr = plan.twiddle_re[first : first + m * (r - 1)]
        wi = plan.twiddle_im[first : first + m * (r - 1)]
        if r == 8:
            _pass8(re, im, re2, im2, wr, wi, m, s)
        elif r == 4:
            _pass4(re, im, re2, im2, wr, wi, m, s)
        elif r == 2:
            _pass2(re, im, re2, im2, wr, wi, m, s)
        elif r == 5:
            _pass5(re, im, re2, im2, wr, wi, m, s)
        else:
            _pass3(re, im, re2, im2, wr, wi, m, s)
        first += m * (r - 1)
        n, s = m, s * r
        re, im, re2, im2 = re2, im2, re, im
    return plan.radix.shape[0] % 2


@kernel
def _pass2(re: Float32, im: Float32, yr: Float32, yi: Float32, wr: Float32, wi: Float32, m: int, s: int) -> None:
    step, jump = s * m * LANES, s * LANES
    for p in range(m):
        for q in range(s):
            i, o = (q + s * p) * LANES, (q + s * 2 * p) * LANES
            ar, ai, br, bi = load(re, i), load(im, i), load(re, i + step), load(im, i + step)
            store(yr, o, ar + br)
            store(yi, o, ai + bi)
            ar, ai = ar - br, ai - bi
            store(yr, o + jump, ar * wr[p] - ai * wi[p])
            store(yi, o + jump, ar * wi[p] + ai * wr[p])


@kernel
def _pass3(re: Float32, im: Float32, yr: Float32, yi: Float32, wr: Float32, wi: Float32, m: int, s: int) -> None:
    step, jump = s * m * LANES, s * LANES
    for p in range(m):
        w = 2 * p
        for q in range(s):
            i, o = (q + s * p) * LANES, (q + s * 3 * p) * LANES
            ar, ai = load(re, i), load(im, i)
            br, bi = load(re, i + step), load(im, i + step)
            cr, ci = load(re, i + 2 * step), load(im, i + 2 * step)
            tr, ti = br + cr, bi + ci
            dr, di = (bi - ci) * SIN_60, (cr - br) * SIN_60
            store(yr, o, ar + tr)
            store(yi, o, ai + ti)
            ar, ai = ar - tr * np.float32(0.5), ai - ti * np.float32(0.5)
            br, bi, cr, ci = ar + dr, ai + di, ar - dr, ai - di
            store(yr, o + jump, br * wr[w] - bi * wi[w])
            store(yi, o + jump, br * wi[w] + bi * wr[w])
            store(yr, o + 2 * jump, cr * wr[w + 1] - ci * wi[w + 1])
            store(yi, o + 2 * jump, cr * wi[w + 1] + ci * wr[w + 1])


@kernel
def _pass4(re: Float32, im: Float32, yr: Float32, yi: Float32, wr: Float32, wi: Float32, m: int, s: int) -> None:
    step, jump = s * m * LANES, s * LANES
    for p in range(m):
        w = 3 * p
        for q in range(s):
            i, o = (q + s * p) * LANES, (q + s * 4 * p) * LANES
            ar, ai = load(re, i), load(im, i)
            br, bi = load(re, i + step), load(im, i + step)
            cr, ci = load(re, i + 2 * step), load(im, i + 2 * step)
            dr, di = load(re, i + 3 * step), load(im, i + 3 * step)
            ar, ai, cr, ci = ar + cr, ai + ci, ar - cr, ai - ci
            br, bi, dr, di = br + dr, bi + di, br - dr, bi - di
            store(yr, o, ar + br)
            store(yi, o, ai + bi)
            xr, xi = cr + di, ci - dr
            store(yr, o + jump, xr * wr[w] - xi * wi[w])
            store(yi, o + jump, xr * wi[w] + xi * wr[w])
            xr, xi = ar - br, ai - bi
            store(yr, o + 2 * jump, xr * wr[w + 1] - xi * wi[w + 1])
            store(yi, o + 2 * jump, xr * wi[w + 1] + xi * wr[w + 1])
            xr, xi = cr - di, ci + dr
            store(yr, o + 3 * jump, xr * wr[w + 2] - xi * wi[w + 2])
            store(yi, o + 3 * jump, xr * wi[w + 2] + xi * wr[w + 2])


@kernel
def _pass5(re: Float32, im: Float32, yr: Float32, yi: Float32, wr: Float32, wi: Float32, m: int, s: int) -> None:
    step, jump = s * m * LANES, s * LANES
    for p in range(m):
        w = 4 * p
        for q in range(s):
            i, o = (q + s * p) * LANES, (q + s * 5 * p) * LANES
            ar, ai = load(re, i), load(im, i)
            br, bi = load(re, i + step), load(im, i + step)
            cr, ci = load(re, i + 2 * step), load(im, i + 2 * step)
            dr, di = load(re, i + 3 * step), load(im, i + 3 * step)
            er, ei = load(re, i + 4 * step), load(im, i + 4 * step)
            br, bi, er, ei = br + er, bi + ei, br - er, bi - ei
            cr, ci, dr, di = cr + dr, ci + di, cr - dr, ci - di
            store(yr, o, ar + br + cr)
            store(yi, o, ai + bi + ci)
            ur, ui = ar + br * COS_72 + cr * COS_144, ai + bi * COS_72 + ci * COS_144
            vr, vi = ei * SIN_72 + di * SIN_144, er * SIN_72 + dr * SIN_144
            xr, xi = ur + vr, ui - vi
            store(yr, o + jump, xr * wr[w] - xi * wi[w])
            store(yi, o + jump, xr * wi[w] + xi * wr[w])
            xr, xi = ur - vr, ui + vi
            store(yr, o + 4 * jump, xr * wr[w + 3] - xi * wi[w + 3])
            store(yi, o + 4 * jump, xr * wi[w + 3] + xi * wr[w + 3])
            ur, ui = ar + br * COS_144 + cr * COS_72, ai + bi * COS_144 + ci * COS_72
            vr, vi = ei * SIN_144 - di * SIN_72, er * SIN_144 - dr * SIN_72
            xr, xi = ur + vr, ui - vi
            store(yr, o + 2 * jump, xr * wr[w + 1] - xi * wi[w + 1])
            store(yi, o + 2 * jump, xr * wi[w + 1] + xi * wr[w + 1])
            xr, xi = ur - vr, ui + vi
            store(yr, o + 3 * jump, xr * wr[w + 2] - xi * wi[w + 2])
            store(yi, o + 3 * jump, xr * wi[w + 2] + xi * wr[w + 2])


@kernel
def _pass8(re: Float32, im: Float32, yr: Float32, yi: Float32, wr: Float32, wi: Float32, m: int, s: int) -> None:
    step, jump = s * m * LANES, s * LANES
    for p in range(m):
        w = 7 * p
        for q in range(s):
            i, o = (q + s * p) * LANES, (q + s * 8 * p) * LANES
            # The even four of the eight, as a transform of four points.
            ar, ai = load(re, i), load(im, i)
            br, bi = load(re, i + 2 * step), load(im, i + 2 * step)
            cr, ci = load(re, i + 4 * step), load(im, i + 4 * step)
            dr, di = load(re, i + 6 * step), load(im, i + 6 * step)
            ar, ai, cr, ci = ar + cr, ai + ci, ar - cr, ai - ci
            br, bi, dr, di = br + dr, bi + di, br - dr, bi - di
            e0r, e0i, e2r, e2i = ar + br, ai + bi, ar - br, ai - bi
            e1r, e1i, e3r, e3i = cr + di, ci - dr, cr - di, ci + dr
            # The odd four, turned by the eighth roots of one.
            ar, ai = load(re, i + step), load(im, i + step)
            br, bi = load(re, i + 3 * step), load(im, i + 3 * step)
            cr, ci = load(re, i + 5 * step), load(im, i + 5 * step)
            dr, di = load(re, i + 7 * step), load(im, i + 7 * step)
            ar, ai, cr, ci = ar + cr, ai + ci, ar - cr, ai - ci
            br, bi, dr, di = br + dr, bi + di, br - dr, bi - di
            o0r, o0i, o2r, o2i = ar + br, ai + bi, ai - bi, br - ar
            ur, ui, vr, vi = cr + di, ci - dr, cr - di, ci + dr
            o1r, o1i = (ur + ui) * SQRT_HALF, (ui - ur) * SQRT_HALF
            o3r, o3i = (vi - vr) * SQRT_HALF, (vr + vi) * -SQRT_HALF
            store(yr, o, e0r + o0r)
            store(yi, o, e0i + o0i)
            xr, xi = e1r + o1r, e1i + o1i
            store(yr, o + jump, xr * wr[w] - xi * wi[w])
            store(yi, o + jump, xr * wi[w] + xi * wr[w])
            xr, xi = e2r + o2r, e2i + o2i
            store(yr, o + 2 * jump, xr * wr[w + 1] - xi * wi[w + 1])
            store(yi, o + 2 * jump, xr * wi[w + 1] + xi * wr[w + 1])
            xr, xi = e3r + o3r, e3i + o3i
            store(yr, o + 3 * jump, xr * wr[w + 2] - xi * wi[w + 2])
            store(yi, o + 3 * jump, xr * wi[w + 2] + xi * wr[w + 2])
            xr, xi = e0r - o0r, e0i - o0i
            store(yr, o + 4 * jump, xr * wr[w + 3] - xi * wi[w + 3])
            store(yi, o + 4 * jump, xr * wi[w + 3] + xi * wr[w + 3])
            xr, xi = e1r - o1r, e1i - o1i
            store(yr, o + 5 * jump, xr * wr[w + 4] - xi * wi[w + 4])
            store(yi, o + 5 * jump, xr * wi[w + 4] + xi * wr[w + 4])
            xr, xi = e2r - o2r, e2i - o2i
            store(yr, o + 6 * jump, xr * wr[w + 5] - xi * wi[w + 5])
            store(yi, o + 6 * jump, xr * wi[w + 5] + xi * wr[w + 5])
            xr, xi = e3r - o3r, e3i - o3i
            store(yr, o + 7 * jump, xr * wr[w + 6] - xi * wi[w + 6])
            store(yi, o + 7 * jump, xr * wi[w + 6] + xi * wr[w + 6])
