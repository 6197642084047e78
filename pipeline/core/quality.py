"""Quality: what keeps a window from being judged, and what else is worth knowing about its signal.

The result is the bits of the `quality` column; 0 is a good window without remarks. The bits in `STOPS` keep a window
from the network. The other bits are notes: machines near the end of their life do clip their sensors, and a healthy
machine in a noisy plant picks up mains hum. All rules look at one window alone. Every threshold is a named constant.

The rules about the samples of a channel are one compiled scan. It reads the bits of the samples as integers that sort
as the numbers do, because float minima do not vectorise. Every window pays for the loops that vectorise only; a slower
rule runs where a count says that it may find something. Windows that overlap by quarters share the counts of quarters.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from pipeline.core.features.baseline import Baseline
from pipeline.core.features.compiled import entry, intrinsic, kernel
from pipeline.core.features.lanes import ir
from pipeline.core.features.table import COLUMN, RELATIVE
from pipeline.core.features.time_domain import QUARTERS, samples_at, shared_quarters
from pipeline.core.records import FeatureRow, Float32, Window


class Quality(IntFlag):
    """What can be said about a window. New bits may be added; a bit never changes its meaning."""

    GOOD = 0
    INCOMPLETE = 1  # stops: samples are missing
    NON_FINITE = 2  # stops, sensor: NaN or infinity among the samples
    FLATLINE = 4  # stops, sensor: a channel does not move, hangs at a value, or knows fewer than 8 values
    NOT_RUNNING = 8  # stops: the shaft stands still, or the level is far below the usual one
    DROPOUT = 16  # stops, sensor: a run of zeros, or a piece of the signal that comes twice
    SATURATED = 32  # stops, sensor: too many samples lie at the ends of the range: the shape is lost
    CLIPPED = 64  # note: peaks are cut off
    BIASED = 128  # note: the mean is many times the vibration
    MAINS_HUM = 256  # note: most of the power lies at the mains frequency and its harmonics
    SKI_SLOPE = 512  # note: slow drift outweighs the vibration; an integrated velocity means nothing

    @property
    def stops(self) -> bool:
        """Whether the network is not stepped."""
        return bool(self & STOPS)

    @property
    def sensor_fault(self) -> bool:
        """Whether the sensor, and not the machine, is to be looked at."""
        return bool(self & SENSOR)

    def words(self) -> list[str]:
        """The bits that are set, in words, lowest first."""
        return [str(bit.name).lower() for bit in Quality if bit & self]


SENSOR = Quality.NON_FINITE | Quality.FLATLINE | Quality.DROPOUT | Quality.SATURATED
STOPS = SENSOR | Quality.INCOMPLETE | Quality.NOT_RUNNING
NO_VELOCITY = Quality.SKI_SLOPE | Quality.SATURATED | Quality.CLIPPED  # bits that make a velocity RMS meaningless

FLAT_RATIO = 1e-6  # a channel whose peak-to-peak is below this share of its largest value carries no vibration
HELD_SHARE = 0.1  # of the window: a sensor or logger that keeps one value for so long hangs ...
HELD_SAMPLES = 64  # ... if these are at least so many samples
FEWEST_VALUES = 8  # a signal of fewer different values (3 bits) has lost its shape
ZEROS_S = 0.005  # a longer run of exact zeros inside a living signal is a drop-out ...
ZEROS_SAMPLES = 16  # ... if it has at least this many samples
# This many consecutive samples that come twice in a window, bit for bit, are a repeated block. Four places are probed,
# which finds every piece of an eighth of the window that comes twice in a row.
REPEAT_SAMPLES = 64
HALF = REPEAT_SAMPLES // 2
RAIL_SHARE = 0.001  # of the samples at the two ends of the range: clipped ...
RAIL_SAMPLES = 8  # ... if these are at least this many samples
RAIL_PILE = 4.0  # ... and this many times more than just inside the range, because peaks thin out
RAIL_BAND = 0.01  # "just inside": so much of the range
SATURATED_SHARE = 0.1  # of the samples at the two ends of the range: nothing is left to judge
BIAS_RATIO = 50.0  # |mean| / standard deviation; gravity beside a quiet machine stays below it
SLOW_BLOCK_S = 0.1  # means over this time keep what lies below about 5 Hz ...
SLOW_SHARE = 0.5  # ... and this share of the variance there is a drift, not a machine

STANDSTILL_RPM = 30.0  # below this a shaft counts as stopped ...
STANDSTILL_SHARE = 0.1  # ... and below this share of its nominal speed
STANDSTILL_LEVEL = 0.05  # all channels below this share of their usual RMS (-26 dB): the machine is off
MAINS_SHARE = 0.5  # of the power at the mains frequency and its harmonics

# Plain numbers: an operation on a flag costs more than the scan of a short window.
_STOPS, _INCOMPLETE, _NOT_RUNNING, _MAINS_HUM = map(
    int, (STOPS, Quality.INCOMPLETE, Quality.NOT_RUNNING, Quality.MAINS_HUM)
)
_NON_FINITE, _FLATLINE, _DROPOUT = int(Quality.NON_FINITE), int(Quality.FLATLINE), int(Quality.DROPOUT)
_SATURATED, _CLIPPED = int(Quality.SATURATED), int(Quality.CLIPPED)
_BIASED, _SKI_SLOPE = int(Quality.BIASED), int(Quality.SKI_SLOPE)
_RMS = RELATIVE.index("rms")
HIGH, LOW, HIGHS, LOWS, EQUAL = range(5)  # of a quarter, see `_count`
PARTIALS = 5

_INFINITY_KEY = np.int32(0x7F800000)
_MAGNITUDE = np.int32(0x7FFFFFFF)

Int32 = NDArray[np.int32]


@entry
def scan_rows(address: NDArray[np.int64], n: int, rate_hz: float, found: NDArray[np.int64]) -> None:
    """Bits of the n samples at each address, channel by channel; those of a window's channels are put together.

    address (channels * windows,) -> found (windows,), which is added to.
    """
    parts = np.empty((2, QUARTERS, PARTIALS), np.int32)
    seen = np.empty(FEWEST_VALUES, np.int32)
    for row in range(address.shape[0]):
        x = samples_at(address[row], n)
        bits = x.view(np.int32)
        current, before = row % 2, (row + 1) % 2
        shared = shared_quarters(address, row, n)
        for i in range(QUARTERS):
            if i < shared:
                for j in range(PARTIALS):
                    parts[current, i, j] = parts[before, i + QUARTERS - shared, j]
            else:
                _count(bits[i * n // QUARTERS : (i + 1) * n // QUARTERS], parts[current, i])
        found[row % found.shape[0]] |= _scan(x, bits, parts[current], seen, rate_hz)


@kernel
def _scan(x: Float32, bits: Int32, parts: Int32, seen: Int32, rate_hz: float) -> int:
    n = x.shape[0]
    high, low, equal = parts[0, HIGH], parts[0, LOW], parts[0, EQUAL]
    for i in range(1, QUARTERS):
        high, low = max(high, parts[i, HIGH]), min(low, parts[i, LOW])
        begin = i * n // QUARTERS
        equal += parts[i, EQUAL] + np.int32(bits[begin] == bits[begin - 1])
    if high >= _INFINITY_KEY or low < -_INFINITY_KEY:  # NaN sorts outside the infinities
        return _NON_FINITE
    largest, smallest = np.float64(_number(_sorted(high))), np.float64(_number(_sorted(low)))
    if largest - smallest <= FLAT_RATIO * max(abs(largest), abs(smallest)):
        return _FLATLINE

    found = _steady(x, bits, int(equal), seen, rate_hz)
    ends = 0
    for i in range(QUARTERS):
        ends += parts[i, HIGHS] * (parts[i, HIGH] == high) + parts[i, LOWS] * (parts[i, LOW] == low)
    if ends >= max(RAIL_SAMPLES, RAIL_SHARE * n):
        found |= _rails(x, largest, smallest)
    if found & (_FLATLINE | _SATURATED) == 0 and _twice(bits) and _again(bits) and _repeats(bits):
        found |= _DROPOUT
    return found | _slow(x, rate_hz)


@kernel
def _sorted(bits: np.int32) -> np.int32:
    """From the bits of a number to an integer that sorts as the number does, and back."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@kernel
def _count(bits: Int32, out: Int32) -> None:
    """Of a quarter -> out: its extremes as sort keys, how often they come, how many samples equal the one before."""
    high = low = _sorted(bits[0])
    equal = highs = lows = np.int32(0)
    for i in range(1, bits.shape[0]):
        key = _sorted(bits[i])
        high = max(high, key)
        low = min(low, key)
        equal += np.int32(bits[i] == bits[i - 1])
    top, bottom = _sorted(high), _sorted(low)
    for i in range(bits.shape[0]):
        highs += np.int32(bits[i] == top)
        lows += np.int32(bits[i] == bottom)
    out[HIGH], out[LOW], out[HIGHS], out[LOWS], out[EQUAL] = high, low, highs, lows, equal


@kernel
def _twice(bits: Int32) -> bool:
    """Whether a value of the four probes of `_repeats` comes twice: said of nearly no window of 24 bits or more."""
    eighth = bits.shape[0] // 8
    one, two, three, four = bits[eighth], bits[3 * eighth], bits[5 * eighth], bits[7 * eighth]
    probes = np.int32(0)
    for i in range(bits.shape[0]):
        value = bits[i]
        probes += np.int32((value == one) | (value == two) | (value == three) | (value == four))
    alike = one in (two, three, four) or two in (three, four) or three == four
    return bool(probes > 4) or alike


@kernel
def _mixed(bits: Int32, at: int) -> np.int32:
    """One number from four samples of the REPEAT_SAMPLES / 2 behind `at`."""
    one, two = np.int32(bits[at + HALF // 3] << 3), np.int32(bits[at + 2 * HALF // 3] << 6)
    return np.int32(bits[at] ^ one ^ two ^ np.int32(bits[at + HALF] << 9))


@kernel
def _again(bits: Int32) -> bool:
    """Whether four samples before or behind a probe of `_repeats` may come a second time.

    Of a repeated piece around a probe at least one half stands before or behind it. Signals of 16 bits have every value
    many times, but hardly ever these four.
    """
    eighth = bits.shape[0] // 8
    if eighth <= REPEAT_SAMPLES:
        return True
    a, b, c, d = _mixed(bits, eighth), _mixed(bits, 3 * eighth), _mixed(bits, 5 * eighth), _mixed(bits, 7 * eighth)
    e, f = _mixed(bits, eighth - HALF), _mixed(bits, 3 * eighth - HALF)
    g, h = _mixed(bits, 5 * eighth - HALF), _mixed(bits, 7 * eighth - HALF)
    same = np.int32(0)
    for i in range(bits.shape[0] - HALF):
        m = _mixed(bits, i)
        ahead = np.int32((m == a) + (m == b) + (m == c) + (m == d))
        same = np.int32(same + ahead + np.int32((m == e) + (m == f) + (m == g) + (m == h)))
    return bool(same > 8)  # more than these eight themselves


@intrinsic
def _number(typing: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@kernel
def _steady(x: Float32, bits: Int32, equal: int, seen: Int32, rate_hz: float) -> int:
    """Values that hold, and too few different ones; `equal` neighbours bound the longest run, seen (8,) is scratch."""
    n = x.shape[0]
    zeros = max(ZEROS_SAMPLES, int(ZEROS_S * rate_hz))
    held = max(HELD_SAMPLES, int(HELD_SHARE * n))
    if equal + 1 < min(zeros, held):
        return 0
    found = 0
    run = 1
    for i in range(1, n + 1):
        if i < n and bits[i] == bits[i - 1]:
            run += 1
            continue
        if x[i - 1] == 0.0 and run >= zeros:
            found |= _DROPOUT
        elif run >= held:
            found |= _FLATLINE
        run = 1
    count = 0
    for i in range(n):
        known = False
        for k in range(count):
            known |= seen[k] == bits[i]
        if not known:
            if count == FEWEST_VALUES - 1:
                return found
            seen[count] = bits[i]
            count += 1
    return found | _FLATLINE


@kernel
def _rails(x: Float32, largest: float, smallest: float) -> int:
    """Clipping: far more samples at an end of the range than in a band just inside it.

    The band holds the next value at least, so that coarse steps do not look like a rail.
    """
    n = x.shape[0]
    below, above = smallest, largest
    for i in range(n):
        if x[i] < largest and x[i] > below:
            below = x[i]
        if x[i] > smallest and x[i] < above:
            above = x[i]
    band = RAIL_BAND * (largest - smallest)
    inner_top = min(largest - band, below)
    inner_bottom = max(smallest + band, above)
    top = bottom = near_top = near_bottom = 0
    for i in range(n):
        top += x[i] == largest
        bottom += x[i] == smallest
        near_top += inner_top <= x[i] < largest
        near_bottom += smallest < x[i] <= inner_bottom
    piled = 0
    if top > RAIL_PILE * near_top:
        piled += top
    if bottom > RAIL_PILE * near_bottom:
        piled += bottom
    if piled >= SATURATED_SHARE * n:
        return _SATURATED | _CLIPPED
    return _CLIPPED if piled >= max(RAIL_SAMPLES, RAIL_SHARE * n) else 0


@kernel
def _repeats(bits: Int32) -> bool:
    """Whether a piece of REPEAT_SAMPLES around one of four probes comes a second time."""
    n = bits.shape[0]
    eighth = n // 8
    for at in (eighth, 3 * eighth, 5 * eighth, 7 * eighth):
        for i in range(n):
            if bits[i] == bits[at] and i != at and _same_around(bits, at, i) >= REPEAT_SAMPLES:
                return True
    return False


@kernel
def _same_around(bits: Int32, a: int, b: int) -> int:
    """Length of the piece around `a` that equals the one around `b`; 0 if it is constant."""
    n = bits.shape[0]
    after = before = 0
    moves = False
    while after < REPEAT_SAMPLES and max(a, b) + after + 1 < n and bits[a + after + 1] == bits[b + after + 1]:
        after += 1
        moves |= bits[a + after] != bits[a]
    while before < REPEAT_SAMPLES and min(a, b) - before > 0 and bits[a - before - 1] == bits[b - before - 1]:
        before += 1
        moves |= bits[a - before] != bits[a]
    return after + before + 1 if moves else 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _slow(x: Float32, rate_hz: float) -> int:
    """Bias and drift, from the mean, the variance and the variance of the means of short blocks."""
    n = x.shape[0]
    block = min(n, max(1, int(SLOW_BLOCK_S * rate_hz)))
    blocks = n // block
    origin = x[0]  # squares about a sample of the signal, so that a bias costs no digits
    total = squares = slow = 0.0
    for b in range(blocks):
        piece = x[b * block : (b + 1) * block]
        part = 0.0
        for i in range(block):
            d = np.float64(piece[i] - origin)
            part += d
            squares += d * d
        total += part
        slow += (part / block) ** 2
    mean = total / (blocks * block)
    variance = squares / (blocks * block) - mean * mean
    found = 0
    if (mean + origin) ** 2 > BIAS_RATIO * BIAS_RATIO * variance:
        found |= _BIASED
    if blocks > 2 and slow / blocks - mean * mean > SLOW_SHARE * variance:
        found |= _SKI_SLOPE
    return found


def incomplete(window: Window) -> int:
    """The bits of a window that has no samples."""
    return _INCOMPLETE | _stopped(window)


def judge_alike(windows: Sequence[Window], length: int, address: NDArray[np.int64], values: Float32) -> list[int]:
    """The bits of windows of one rate and shape, in one scan; address and values as in `features.batch.Alike`."""
    found = np.zeros(len(windows), np.int64)
    scan_rows(address, length, windows[0].rate_hz, found)
    hums = (values[:, :, COLUMN["mains_hum"]] > MAINS_SHARE).any(axis=1)  # NaN is not
    found |= np.array([_stopped(window) for window in windows])
    return np.where(hums & (found & _STOPS == 0), found | _MAINS_HUM, found).tolist()


def _stopped(window: Window) -> int:
    return _NOT_RUNNING if window.speed_rpm is not None and window.speed_rpm < STANDSTILL_RPM else 0


def stands_still(row: FeatureRow, nominal_rpm: float | None, baseline: Baseline | None) -> bool:
    """Whether the machine is off, judged by the nominal speed of its stream and by the RMS of its baseline."""
    if nominal_rpm is not None and row.speed_rpm is not None and row.speed_rpm < STANDSTILL_SHARE * nominal_rpm:
        return True
    if baseline is None or baseline.centre is None or row.quality & _STOPS:
        return False
    if (baseline.schema, baseline.channels) != (row.schema, row.channels):
        return False  # made of other numbers
    usual = 10.0 ** (baseline.centre[:, _RMS] / 20)  # the baseline is in dB
    return bool((row.values[:, COLUMN["rms"]] < STANDSTILL_LEVEL * usual).all())
