"""False alarms by budget: the probability from which a stream may raise an alarm, learned while the stream is sound.

The score of a window is the log odds of its most probable failure mode. An alarm takes a score that holds for
`enter_s`, so what counts is the lowest score of the last `enter_s`, and of that the highest of every minute: its
*peak*. A minute is about as far as alarms of one episode are merged. The largest peaks of a stream that began sound
(`commissioning_windows` above 0) are kept, and a generalised Pareto distribution is fitted to them (peaks over
threshold: Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, chapter 4):

    P(peak > z) = zeta (1 + xi (z - u) / sigma) ** (-1 / xi)       zeta = share of the minutes with a peak above u

The uncertainty is that of xi and sigma, on a grid, with a prior of xi around 0. The highest peaks are trimmed: they
count as "at least as high as the next", so that one event during commissioning does not decide. The threshold is the z
at which the budget is kept with 90 %. Until the history allows that, it is `enter_p`, or the best estimate of z where
that is higher: a noisy stream gets a higher threshold early, and no stream gets a lower one before a day has passed.

The history grows while no alarm is open, belongs to one model version, and is final once the budget is met. Scores are
rounded, so that the last bit of a probability changes nothing. `NEVER_P` bounds the threshold: a certain fault always
raises an alarm, whatever was learned.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from msgspec.structs import replace

VERSION = 1  # of the way a history is made; one of another version begins again
BLOCK_S = 60.0
YEAR_S = 365.25 * 86_400.0
LEAST_H = 24.0  # before the budget can be met: a day has seen a day's routine
FIRST_FIT = 30  # blocks
REFIT = 1.15  # after so many times the blocks of the last fit
PEAKS = 50  # most peaks above u
CONFIDENCE = 0.9
NEVER_P = 0.998
LEAST_P = 0.5
_STEP = 64  # scores are multiples of 1/64
_LARGEST = 16.0  # float32 probabilities say no more
_SIGMA_XI = 0.12  # of the prior


class SoundHistory(msgspec.Struct, frozen=True):
    """What a stream scored while it was sound. Small: at most `PEAKS` + 1 numbers and the windows of one `enter_s`."""

    version: int = VERSION
    model: str | None = None
    recent: tuple[tuple[int, float], ...] = ()  # start and score of the windows of the last enter_s
    to_ns: int = 0  # end of the last window
    block_s: float = 0.0  # how much of the present block has passed
    block_peak: float | None = None
    blocks: int = 0
    peaks: tuple[float, ...] = ()  # the largest, largest first
    fitted: int = 0  # blocks at the last fit
    estimate: float | None = None  # score at which the budget is kept: median
    upper: float | None = None  # with 90 %
    met: bool = False

    @property
    def hours(self) -> float:
        """How long the history is."""
        return self.blocks * BLOCK_S / 3600


class Verdict(msgspec.Struct, frozen=True):
    """Whether a stream keeps its budget. `state` is off, undeclared, collecting, met or exceeded."""

    state: str
    enter_p: float
    hours: float
    needs_h: float | None
    text: str


def score(p: float) -> float:
    """Log odds, rounded and bounded."""
    odds = p / (1.0 - p) if p < 1.0 else math.inf
    value = math.log(odds) if 0.0 < odds < math.inf else math.copysign(math.inf, odds - 1.0)
    return round(min(max(value, -_LARGEST), _LARGEST) * _STEP) / _STEP


def probability(value: float) -> float:
    """The inverse of `score`."""
    return 1.0 / (1.0 + math.exp(-value))


_NEVER = score(NEVER_P)


def learn(
    history: SoundHistory, per_year: float, enter_s: float, model: str, fault_p: float, start_ns: int, end_ns: int
) -> SoundHistory:
    """Take the probability of the most probable failure mode in the window [start_ns, end_ns) of a sound machine."""
    if (history.version, history.model) != (VERSION, model):
        history = SoundHistory(model=model)
    if history.met:
        return history
    recent = (*history.recent, (start_ns, score(fault_p)))
    while len(recent) > 1 and end_ns - recent[1][0] >= enter_s * 1e9:
        recent = recent[1:]
    peak = history.block_peak
    if end_ns - recent[0][0] >= enter_s * 1e9:
        held = min(value for _, value in recent)
        peak = held if peak is None else max(peak, held)
    block_s = history.block_s + max(0, end_ns - max(start_ns, history.to_ns)) / 1e9
    history = replace(history, recent=recent, to_ns=end_ns, block_s=block_s, block_peak=peak)
    if block_s < BLOCK_S or peak is None:
        return history
    peaks = tuple(sorted((*history.peaks, peak), reverse=True)[: PEAKS + 1])
    history = replace(history, block_s=0.0, block_peak=None, blocks=history.blocks + 1, peaks=peaks)
    if history.blocks < max(FIRST_FIT, REFIT * history.fitted):
        return history
    estimate, upper = fitted(history.peaks, history.blocks, per_year * BLOCK_S / YEAR_S)
    met = history.hours >= LEAST_H and upper <= _NEVER
    return replace(history, fitted=history.blocks, estimate=estimate, upper=upper, met=met)


def fitted(peaks: tuple[float, ...], blocks: int, q: float) -> tuple[float, float]:
    """The score that a block exceeds with probability q: its median and its upper limit of `CONFIDENCE`.

    `peaks` are the largest of `blocks` peaks, largest first. The largest fifth of them, at most `PEAKS`, is used.
    """
    k = min(PEAKS, len(peaks) - 1, max(10, blocks // 5))
    y = np.array(peaks[:k]) - peaks[k]  # (k,) above u, largest first
    trimmed = max(1, k // 20)
    kept, censored = y[trimmed:], y[trimmed]
    sigma = max(float(kept.mean()), 1 / _STEP) * np.exp(np.linspace(-1.5, 1.5, 31))[:, None]
    xi = np.linspace(-0.6, 0.6, 24)[None, :]  # 0 is not among them
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = np.log1p(xi * kept[:, None, None] / sigma)  # (k - trimmed, S, X); NaN: beyond the end of the tail
        log_p = -len(kept) * np.log(sigma) - (1 + 1 / xi) * inside.sum(axis=0)
        log_p = log_p - trimmed / xi * np.log1p(xi * censored / sigma) - 0.5 * (xi / _SIGMA_XI) ** 2
    weight = np.exp(np.where(np.isfinite(log_p), log_p - np.nanmax(log_p), -np.inf))
    over = max(k / blocks / q, 1.0)
    z = (peaks[k] + sigma / xi * (over**xi - 1)).ravel()
    order = np.argsort(z, kind="stable")
    share = np.cumsum(weight.ravel()[order])
    median, upper = (float(z[order][np.searchsorted(share, part * share[-1])]) for part in (0.5, CONFIDENCE))
    return round(median * _STEP) / _STEP, round(upper * _STEP) / _STEP


def threshold(history: SoundHistory, model: str, enter_p: float, leave_p: float) -> float:
    """The probability from which a failure mode counts towards an alarm of this stream."""
    if history.estimate is None or history.upper is None or (history.version, history.model) != (VERSION, model):
        return enter_p
    if history.met:
        return max(min(probability(history.upper), NEVER_P), LEAST_P, leave_p)
    return max(enter_p, min(probability(history.estimate), NEVER_P))


def verdict(history: SoundHistory, per_year: float, *, declared: bool, enter_p: float, leave_p: float) -> Verdict:
    """What to tell people. `declared`: the stream began sound."""
    if per_year == 0:
        return Verdict("off", enter_p, 0.0, None, f"no budget: alarm from p {enter_p:.3g}")
    if not declared:
        text = f"not declared sound at its beginning (commissioning_windows): alarm from p {enter_p:.3g}"
        return Verdict("undeclared", enter_p, 0.0, None, text)
    p, hours = threshold(history, history.model or "", enter_p, leave_p), history.hours
    end = f"alarm from p {p:.3g}"
    if history.met:
        text = f"budget met: at most {per_year:g} false alarms a year with {CONFIDENCE:.0%}, from {hours:.0f} h; {end}"
        return Verdict("met", p, hours, None, text)
    needs_h: float | None = LEAST_H
    if history.estimate is not None and history.upper is not None and history.upper > _NEVER:
        if history.estimate >= _NEVER:
            text = f"budget not kept: {hours:.1f} h of sound history say that this model raises more alarms here; {end}"
            return Verdict("exceeded", p, hours, None, text)
        narrower = (history.upper - history.estimate) / (_NEVER - history.estimate)
        needs_h = max(LEAST_H, hours * narrower**2)  # an uncertainty falls with the root of the length
    text = f"not enough sound history yet: {hours:.1f} h, needs about {needs_h:.0f} h; {end}"
    return Verdict("collecting", p, hours, needs_h, text)
