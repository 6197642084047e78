"""The rules that look at the samples of one channel, in one compiled scan; see `pipeline.core.quality` for the bits.

Cheap by order: everything that every window pays for is a loop that vectorises (the samples' bits as integers that sort
as the numbers do, because float minima do not vectorise), windows that overlap by quarters share the quarters' counts,
and what takes longer is looked at only where a count says that there may be something.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from pipeline.core.features.compiled import entry, intrinsic, kernel
from pipeline.core.features.kernel import address_of
from pipeline.core.features.lanes import ir
from pipeline.core.features.time_domain import QUARTERS, samples_at, shared_quarters
from pipeline.core.records import Float32

FLAT_RATIO = 1e-6  # a channel whose peak-to-peak is below this share of its largest value carries no vibration
HELD_SHARE = 0.1  # of the window: one value for so long is a sensor, or a logger, that hangs
HELD_SAMPLES = 64  # ... but for at least so many samples
FEWEST_VALUES = 8  # a signal of fewer different values (3 bits) has lost its shape
ZEROS_S = 0.005  # so long a run of exact zeros inside a living signal is a drop-out ...
ZEROS_SAMPLES = 16  # ... but at least so many
REPEAT_SAMPLES = 64  # so many consecutive samples that come twice in a window, bit for bit, are a repeated block;
# looked for at four places, which finds every piece of an eighth of the window that comes twice in a row
HALF = REPEAT_SAMPLES // 2
RAIL_SHARE = 0.001  # of the samples at the two ends of the range: clipped ...
RAIL_SAMPLES = 8  # ... but at least so many
RAIL_PILE = 4.0  # ... and so many times more than just inside the range: peaks thin out, a pile is a rail
RAIL_BAND = 0.01  # "just inside": so much of the range
SATURATED_SHARE = 0.1  # of the samples at the two ends of the range: nothing is left to judge
BIAS_RATIO = 50.0  # |mean| / standard deviation; gravity beside a quiet machine stays below it
SLOW_BLOCK_S = 0.1  # means over so long hold what lies below about 5 Hz ...
SLOW_SHARE = 0.5  # ... and so much of the variance there is a drift, not a machine

_NON_FINITE, _FLATLINE, _DROPOUT, _SATURATED, _CLIPPED, _BIASED, _SKI_SLOPE = 2, 4, 16, 32, 64, 128, 512
HIGH, LOW, HIGHS, LOWS, EQUAL = range(5)  # of a quarter, see `_count`
PARTIALS = 5

_INFINITY_KEY = np.int32(0x7F800000)
_MAGNITUDE = np.int32(0x7FFFFFFF)

Int32 = NDArray[np.int32]


def scan(x: Float32, rate_hz: float) -> int:
    """Bits of `Quality` of one channel x (n,), C-contiguous."""
    found = np.zeros(1, np.int64)
    scan_rows(np.array([address_of(x)]), x.shape[0], rate_hz, found)
    return int(found[0])


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
