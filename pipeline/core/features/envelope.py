"""Envelope analysis: how strongly the lines of a damaged bearing modulate the structure's resonances.

band of X_k -> whitened -> back to time, one-sided (band-pass and Hilbert transform in one) -> squared -> spectrum

Whitening divides every stretch of bins by the geometric mean of its amplitudes, so that no resonance drowns the
others and the whole band takes part. This is cepstrum pre-whitening (Borghesani et al., MSSP 36 (2013) 370, the most
successful method of Smith & Randall, MSSP 64-65 (2015) 100) with a local cepstrum. The spectrum of the squared
envelope is that of Randall & Antoni, MSSP 25 (2011) 485; what its mean leaks under the window is subtracted.

Where the shaft speed changes within a window, the envelope is resampled to constant steps of shaft angle (Randall,
3.6): the resonances of the structure stand still in time, the lines of the bearing stand still in angle. Speed is
constant between two statements of it, so the angle is linear between them.

With `envelope_band = "kurtogram"` the sharpest band is tried too, the one in which impacts stand out most: of halves,
thirds, quarters and sixths of the band (after Antoni, MSSP 21 (2007) 108) the one whose complex envelope has the
largest kurtosis. A single knock can win, so the winner counts only where a family of lines stands in it: see
`lines.coherent`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features.compiled import kernel
from pipeline.core.features.fft import FftPlan, fft, fft_plan
from pipeline.core.features.lanes import LANES, exp2, load, splat, store
from pipeline.core.features.lengths import next_fast_length
from pipeline.core.features.spectrum import BLOCK, RATE_PER_BANDWIDTH, Spectra, SpectrumPlan, log_sums, unpack
from pipeline.core.features.time_domain import Float64
from pipeline.core.records import Float32

LEAST_BINS = 16  # of the band
WHITE_HZ = 64.0  # stretches of about this width are whitened, of at least BLOCK bins
TAPER_KURTOSIS = 35 / 18  # mean hann^4 / (mean hann^2)^2: what the window adds to the kurtosis of the envelope
TAPER_SUM = 3 / 8  # mean hann^2
USABLE = 0.5  # share of a band's width: lines further apart have too few pairs of bins


class EnvelopePlan(NamedTuple):
    """What all windows of one length and rate share."""

    low: int  # bins [low, high) are the demodulated band
    high: int
    length: int  # of the complex envelope; even
    bins: int  # of its spectrum
    white: int  # blocks of BLOCK bins that are whitened together
    fft: FftPlan  # of `length`
    half_fft: FftPlan  # of `length` / 2, for the real spectrum
    turn_re: Float32
    turn_im: Float32
    bands: NDArray[np.int64]  # (candidates, 2) of the kurtogram; none where the band is fixed


def envelope_plan(spectrum: SpectrumPlan, low_hz: float, high_hz: float, *, kurtogram: bool) -> EnvelopePlan | None:
    """Plan, or None where the rate does not carry the band's lower half."""
    delta_f_hz = spectrum.delta_f_hz
    low = max(2, round(low_hz / delta_f_hz))
    high = min(round(min(high_hz, spectrum.rate_hz / RATE_PER_BANDWIDTH) / delta_f_hz), spectrum.bins)
    if (high - low) * delta_f_hz < (high_hz - low_hz) / 2 or high - low < LEAST_BINS:
        return None
    length = 2 * next_fast_length(-(-(high - low) // 2))
    turn = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    bands = [
        (low + (high - low) * i // parts, low + (high - low) * (i + 1) // parts)
        for parts in (2, 3, 4, 6)
        for i in range(parts)
        if (high - low) // parts >= 2 * BLOCK
    ]
    return EnvelopePlan(
        low=low,
        high=high,
        length=length,
        bins=length // 2,
        white=max(1, round(WHITE_HZ / (BLOCK * delta_f_hz))),
        fft=fft_plan(length),
        half_fft=fft_plan(length // 2),
        turn_re=turn.real.astype(np.float32),
        turn_im=turn.imag.astype(np.float32),
        bands=np.array(bands if kurtogram else [], np.int64).reshape(-1, 2),
    )


def no_envelope() -> EnvelopePlan:
    """A placeholder for windows whose rate does not carry the band: compiled code wants a plan."""
    nothing = np.zeros(2, np.float32)
    return EnvelopePlan(2, 2, 2, 1, 1, fft_plan(2), fft_plan(1), nothing, nothing, np.zeros((0, 2), np.int64))


class Envelopes(NamedTuple):
    """Eight envelopes side by side: buffers, and the result in power, logs and log_blocks."""

    re: Float32
    im: Float32
    re2: Float32
    im2: Float32
    power: Float32  # |spectrum of the squared envelope|^2
    logs: Float32
    log_blocks: Float32
    gains: Float32  # whitening, one per bin of the band
    sums: Float32  # (2 * LANES,) sum of e^2 and of e^4


@kernel
def whiten(plan: EnvelopePlan, bins: int, s: Spectra, gains: Float32) -> None:
    """Fill the gains: 1 / geometric mean of the amplitudes of the stretch in which a bin lies."""
    width = plan.white * BLOCK
    count = max(1, bins // width)
    for stretch in range(count):
        begin = stretch * width
        end = begin + width if stretch < count - 1 else bins
        if end <= plan.low or begin >= plan.high:
            continue
        running, first = splat(0.0), 0
        if stretch == 0:
            running, first = running - load(s.logs, 2 * LANES), 2
        for block in range(begin // BLOCK, (end + BLOCK - 1) // BLOCK):
            running = running + load(s.log_blocks, block * LANES)
        gain = exp2(running * np.float32(-0.5 / (end - begin - first)))
        for k in range(max(begin, plan.low), min(end, plan.high)):
            store(gains, (k - plan.low) * LANES, gain)


@kernel
def squared(plan: EnvelopePlan, e: Envelopes) -> int:
    """Squared envelope of the band in the first pair of buffers, even samples and odd ones apart, and its sums.

    Returns: 0 if they stand in the first pair of buffers, else 1.
    """
    where = fft(plan.fft, e.re, e.im, e.re2, e.im2)
    zr, zi, yr, yi = (e.re, e.im, e.re2, e.im2) if where == 0 else (e.re2, e.im2, e.re, e.im)
    squares, fourths = splat(0.0), splat(0.0)
    for m in range(plan.length // 2):
        i = 2 * m * LANES
        ar, ai, br, bi = load(zr, i), load(zi, i), load(zr, i + LANES), load(zi, i + LANES)
        even, odd = ar * ar + ai * ai, br * br + bi * bi
        store(yr, m * LANES, even)
        store(yi, m * LANES, odd)
        squares = squares + (even + odd)
        fourths = fourths + (even * even + odd * odd)
    store(e.sums, 0, squares)
    store(e.sums, LANES, fourths)
    return 1 - where


@kernel
def demodulate(plan: EnvelopePlan, s: Spectra, e: Envelopes, low: int, high: int) -> int:
    """Squared envelope of bins [low, high): see `squared`."""
    for k in range(low, high):
        i, gain = (k - low) * LANES, load(e.gains, (k - plan.low) * LANES)
        store(e.re, i, load(s.im, k * LANES) * gain)  # exchanged: this makes the transform an inverse one
        store(e.im, i, load(s.re, k * LANES) * gain)
    e.re[(high - low) * LANES : plan.length * LANES] = 0.0
    e.im[(high - low) * LANES : plan.length * LANES] = 0.0
    return squared(plan, e)


@kernel
def envelope_spectrum(plan: EnvelopePlan, e: Envelopes, where: int) -> None:
    """Power, and sums of its logarithms, of the squared envelopes that `demodulate` left in pair `where`.

    Under the window, hann^2 of the envelope's mean stands in bins 0 to 2: 1/6 of the mean in bin 2 is taken out.
    """
    zr, zi, yr, yi = (e.re, e.im, e.re2, e.im2) if where == 0 else (e.re2, e.im2, e.re, e.im)
    moved = fft(plan.half_fft, zr, zi, yr, yi)
    if moved == 1:
        zr, zi, yr, yi = yr, yi, zr, zi
    unpack(plan.length, plan.turn_re, plan.turn_im, zr, zi, yr, yi)
    store(yr, 2 * LANES, load(yr, 2 * LANES) - load(e.sums, 0) * np.float32(2.0 / 6.0))
    for k in range(plan.bins):
        re, im = load(yr, k * LANES), load(yi, k * LANES)
        store(e.power, k * LANES, re * re + im * im)
    log_sums(e.power, plan.bins, e.logs, e.log_blocks)


@kernel
def envelope_kurtosis(plan: EnvelopePlan, e: Envelopes, lane: int) -> float:
    """Of the complex envelope; 2 for Gaussian noise."""
    squares = np.float64(e.sums[lane])
    return plan.length * np.float64(e.sums[LANES + lane]) / (squares * squares) / TAPER_KURTOSIS


@kernel
def resample_to_angle(
    even: Float32, odd: Float32, count: int, lane: int, square_sum: float, at: Float64, turns: Float64, x: Float32
) -> None:
    """Replace one lane's squared envelope over time by that over angle, its mean under the window taken out.

    even, odd: [m, lane], the samples 2m and 2m + 1 of `count`; at, turns: (pieces,) where in the window, 0 to 1,
    a piece of constant speed ends and how many turns the shaft has made by then; x: (count + 2,) scratch.
    Interpolated linearly: the lines stand far below the envelope's own bandwidth.
    """
    mean = square_sum / (count * TAPER_SUM)
    for m in range(count):
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * m / count)
        side = even if m % 2 == 0 else odd
        x[m] = side[m // 2 * LANES + lane] - mean * hann * hann
    x[count] = x[count + 1] = 0.0
    piece, begin_at, begin_turns = 0, 0.0, 0.0
    for m in range(count):
        turned = turns[-1] * m / count
        while piece < at.shape[0] - 1 and turns[piece] <= turned:
            begin_at, begin_turns = at[piece], turns[piece]
            piece += 1
        span = turns[piece] - begin_turns
        share = (turned - begin_turns) / span if span > 0 else 0.0
        place = (begin_at + share * (at[piece] - begin_at)) * count
        i = min(int(place), count)
        value = x[i] + (x[i + 1] - x[i]) * (place - i)
        side = even if m % 2 == 0 else odd
        side[m // 2 * LANES + lane] = value


@kernel
def sharpest_bands(plan: EnvelopePlan, s: Spectra, e: Envelopes, best: Float32) -> None:
    """For each lane the number of the band with the largest kurtosis -> best [0, lane]; best [1] holds the kurtosis."""
    store(best, 0, splat(0.0))
    store(best, LANES, splat(-1.0))
    for b in range(plan.bands.shape[0]):
        demodulate(plan, s, e, plan.bands[b, 0], plan.bands[b, 1])
        for lane in range(LANES):
            kurtosis = envelope_kurtosis(plan, e, lane)
            if kurtosis > best[LANES + lane]:
                best[lane], best[LANES + lane] = b, kurtosis


@kernel
def sharpest_spectrum(plan: EnvelopePlan, s: Spectra, e: Envelopes, best: Float32) -> None:
    """Envelope spectra, each lane of its own band; best [0] becomes the number of bins that are of use."""
    e.re[: plan.length * LANES] = 0.0
    e.im[: plan.length * LANES] = 0.0
    for lane in range(LANES):
        low, high = plan.bands[int(best[lane])]
        for k in range(low, high):
            gain = e.gains[(k - plan.low) * LANES + lane]
            e.re[(k - low) * LANES + lane] = s.im[k * LANES + lane] * gain
            e.im[(k - low) * LANES + lane] = s.re[k * LANES + lane] * gain
        best[lane] = min(plan.bins, int(USABLE * (high - low)))
    envelope_spectrum(plan, e, squared(plan, e))
