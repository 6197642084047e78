"""Time columns: which column of a table is time, and what it says about rate, start and gaps.

A column is time if its name says so and it rises, or if it rises evenly over the whole head of the table. Numbers may
be s, ms, us or ns, seconds or their parts since 1970, or days as a spreadsheet counts them. Text may be ISO 8601, dates
of several orders, and a time of day. A time column is never a channel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.edges.recordings.contents import Float64, Timing
from pipeline.errors import RecordingError

TOLERANCE = 0.01  # by which two statements of a rate may differ
_LEAST_ROWS = 16  # fewer rows rise by chance
_LEAST_JUDGED = 4  # with fewer rows a time column is left out, and gives no rate
_MISSING = 0.01  # a larger fraction of dropped samples is refused
_DAY_S = 86_400.0
_EXCEL_DAYS = 25_569  # 1970-01-01 as a spreadsheet counts days
_SCALES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": _DAY_S}
_UNIT_WORDS = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "sek": "s", "sekunden": "s", "с": "s",
    "ms": "ms", "msec": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms", "мс": "ms",
    "us": "us", "µs": "us", "μs": "us", "usec": "us", "micros": "us", "microsecond": "us", "microseconds": "us",
    "ns": "ns", "nsec": "ns", "nanos": "ns", "nanosecond": "ns", "nanoseconds": "ns",
    "min": "min", "minutes": "min", "h": "h", "hours": "h", "days": "d",
}  # fmt: skip
_TIME_WORDS = {
    "time", "times", "timestamp", "timestamps", "datetime", "date", "clock", "elapsed", "epoch", "t", "ts", "tstamp",
    "zeit", "datum", "uhrzeit", "zeitstempel", "temps", "tiempo", "tempo", "hora", "fecha", "heure",
    "tijd", "czas", "tid", "aika",
    "utc",
    "время", "дата", "时间", "時間", "시간", "x_value", "xvalue",
    "seconds", "second", "sec", "secs", "millis", "milliseconds", "micros", "microseconds", "nanos", "nanoseconds",
    "ms", "us", "µs", "ns", "msec", "usec",
}  # fmt: skip
_COUNTER_WORDS = {
    "", "index", "idx", "sample", "samples", "samplenumber", "sampleno", "count", "counter", "n", "no", "nr", "number",
    "row", "frame", "seq", "id", "point", "#", "unnamed",
}  # fmt: skip
# Names of signals: a ramp under such a name is a signal.
_AXIS = re.compile(
    r"(?:[xyz]|[ag]_?[xyz]|acc?\w*|vib\w*|vel\w*|h|v|(?:ch|channel|kanal|canal|sensor|signal|response|data|value|de|fe|ba|drive|fan|horiz|vert|axial|radial|tang|temp|press|torque|current|load|speed|rpm|level)"
    r"\w*)\b",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"^(.*?)[\s_]*[\[(<{]\s*(.+?)\s*[\])>}]\s*$")
_PARTS = re.compile(r"[\s_.:/-]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_DATE_ORDERS = ("%d.%m.%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d-%m-%Y", "%d.%m.%y")
_ISO = re.compile(r"^\s*\d{4}-\d\d?-\d\d?([T ]|$)")
_DATE = re.compile(r"^\s*(\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{8}(?=[T ]))([T ,]+|$)")
_CLOCK = re.compile(
    r"^\s*(\d{1,3}):(\d{2})(?::(\d{2})(?:[.,:](\d{1,9}))?)?\s*([AaPp]\.?[Mm]\.?)?\s*(Z|[+-]\d\d:?\d\d)?\s*$"
)


def split_unit(name: str) -> tuple[str, str | None]:
    """`Accel [m/s^2]` -> (`Accel`, `m/s^2`); None without a unit in brackets at the end."""
    found = _BRACKETS.match(name.strip())
    return (found[1], found[2]) if found is not None and found[1] else (name.strip(), None)


def is_moment(text: str) -> bool:
    """Whether a cell is a date, a time of day or both."""
    return bool(_CLOCK.match(text)) or (bool(_DATE.match(text)) and _is_dated(text))


def _is_dated(text: str) -> bool:
    head = _DATE.match(text)
    rest = text[head.end() :] if head else text
    return not rest.strip() or bool(_CLOCK.match(rest))


def name_says(name: str) -> tuple[bool, bool, str | None]:
    """Whether a name means time, whether it means a counter of samples, and the unit of time in it."""
    plain, unit = split_unit(name.strip().strip('"').lstrip("#%").strip())
    spaced = _CAMEL.sub("_", plain)
    words = [word for word in _PARTS.split(spaced.lower()) if word]
    known = _UNIT_WORDS.get(unit.strip().lower()) if unit else None
    if len(words) > 1 and known is None and words[-1] in _UNIT_WORDS:
        known = _UNIT_WORDS[words[-1]]
    if len(words) == 1 and known is None and words[0] in _UNIT_WORDS and words[0] in _TIME_WORDS:
        known = _UNIT_WORDS[words[0]]
    joined = "".join(words)
    means = bool(words) and (words[0] in _TIME_WORDS or words[-1] in _TIME_WORDS or joined in _TIME_WORDS)
    means = means or (len(words) > 1 and any(word in _TIME_WORDS and len(word) > 2 for word in words))
    if unit is not None and known is None and means and unit.strip() not in ("-", ""):
        means = words[0] in _TIME_WORDS and len(words[0]) > 2  # `T [°C]` is a temperature
    counts = joined in _COUNTER_WORDS or (bool(words) and words[0] == "unnamed")
    return means, counts, known


@dataclass(frozen=True, slots=True)
class TimeColumns:
    """The columns of a table that are about time."""

    chosen: tuple[str, ...] = ()  # one column, or a date and a time of day
    others: tuple[str, ...] = ()  # further ones: counters, and times of another form
    dated: bool = False  # whether the chosen ones are text


def find_time(head: Mapping[str, NDArray[Any] | Sequence[str]], *, trusted: bool = False) -> TimeColumns:
    """Finds the time columns.

    Args:
        head: the first values of each column by name: numbers, or text.
        trusted: whether the file has metadata of its own, so that only names count.
    """
    texts: list[str] = []
    named: list[str] = []
    shaped: list[str] = []
    counters: list[str] = []
    for name, values in head.items():
        means, counts, unit = name_says(name)
        if not isinstance(values, np.ndarray):
            cells = [cell for cell in values if cell]
            if cells and (means or len(cells) >= _LEAST_JUDGED) and all(map(is_moment, cells)):
                texts.append(name)
            continue
        known = values[np.isfinite(values)].astype(np.float64)
        known = unwrapped(known)[0] if means or unit is not None else known
        step = np.diff(known)
        rises = len(known) > 1 and bool(np.mean(step >= 0) > 0.9) and known[-1] > known[0]
        if (means or unit is not None) and (rises or len(known) < 2):
            (counters if _is_counter(known, name) else named).append(name)
        elif counts and rises and bool((step > 0).all()):
            counters.append(name)
        elif (
            not trusted
            and not _AXIS.match(name.strip())
            and len(known) >= _LEAST_ROWS
            and len(known) == len(values)
            and _rises_evenly(known)
        ):
            (counters if _is_counter(known, name) else shaped).append(name)
    chosen: tuple[str, ...] = ()
    if texts:
        dates = [name for name in texts if _DATE.match(_first(head[name]))]
        clocks = [name for name in texts if name not in dates]
        whole = [name for name in dates if not _is_bare_date(_first(head[name]))]
        if whole:
            chosen = (whole[0],)
        elif dates and clocks:
            chosen = (dates[0], clocks[0])
        else:
            chosen = ((clocks or dates)[0],)
    elif named or shaped or counters:
        with_unit = [name for name in named if name_says(name)[2]]
        chosen = ((with_unit or named or shaped or counters)[0],)
    if len(chosen) == 1 and texts and _is_bare_date(_first(head[chosen[0]])):
        numbers = named or shaped or counters
        if numbers:  # a date alone says nothing about the rate
            chosen = (numbers[0],)
    every = [*texts, *named, *shaped, *counters]
    channels = [name for name, values in head.items() if isinstance(values, np.ndarray) and name not in every]
    if not channels and not texts:  # a signal that happens to rise: something has to be the channel
        keep = shaped or [name for name in counters if not name_says(name)[1] and not name_says(name)[0]]
        every = [name for name in every if name not in keep]
        chosen = tuple(name for name in chosen if name in every) or tuple((named or counters)[:1])
        chosen = tuple(name for name in chosen if name in every)
    dated = bool(chosen) and not isinstance(head[chosen[0]], np.ndarray)
    return TimeColumns(chosen, tuple(name for name in every if name not in chosen), dated)


def unwrapped(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Values of a counter of 16 or 32 bits that starts again at 0, and the number of its bits; 0 if it does not."""
    step = np.diff(values)
    back = np.flatnonzero(step < 0)
    usual = float(np.median(step[step > 0])) if (step > 0).any() else 0.0
    if not len(back) or not usual or values.min() < 0:
        return values, 0
    for bits in (16, 32):
        over = step[back] + float(1 << bits)
        if values.max() < 1 << bits and bool(((over > 0) & (over <= max(100 * usual, 1.0))).all()):
            turns = np.zeros(len(values), values.dtype)
            turns[back + 1] = 1 << bits
            return values + np.cumsum(turns, dtype=values.dtype), bits
    return values, 0


def _first(values: Any) -> str:
    return next((str(cell) for cell in values if str(cell)), "")


def _is_bare_date(text: str) -> bool:
    head = _DATE.match(text)
    return head is not None and not text[head.end() :].strip()


def _is_counter(values: Float64, name: str) -> bool:
    """Whether the values count samples: 0, 1, 2, ... without a unit of time."""
    unit = name_says(name)[2]
    if unit is not None or len(values) < 2 or np.any(values != np.round(values)):
        return False
    step = np.diff(values)
    return bool(np.median(step) == 1 and abs(values[0]) < 1e8)


def _rises_evenly(values: Float64) -> bool:
    step = np.diff(values)
    if not bool((step > 0).all()):
        return False
    usual = float(np.median(step))
    ratio = step / usual
    whole = np.maximum(1, np.round(ratio))
    quantum = _resolution(step)
    return bool(np.mean(np.abs(ratio - whole) <= max(0.1, 1.01 * quantum / usual)) > 0.98 and np.mean(whole == 1) > 0.7)


def _resolution(step: Float64) -> float:
    """The smallest difference between two different steps, which is the resolution of the stamps."""
    tidy = np.unique(np.round(step[step > 0], 12))
    if len(tidy) < 2:
        return float(tidy[0]) if len(tidy) and bool((step == 0).any()) else 0.0
    between = np.diff(tidy)
    coarse = between[between > 1e-6 * float(np.median(tidy))]
    return float(min(tidy[0], coarse.min())) if len(coarse) else 0.0


# -- text -> numbers ---------------------------------------------------------------------------------------------------


def moments_ns(cells: Sequence[str], path: Path, name: str) -> tuple[NDArray[np.int64], bool]:
    """Dates or times of day -> ns since 1970 (or since midnight), and whether they have a date.

    Raises:
        RecordingError: a cell is no date of the form of the others.
    """
    import pandas as pd

    first = _first(cells)
    try:
        if _CLOCK.match(first):
            return _clock_ns(cells), False
        texts = pd.Series([cell.strip().replace(",", ".") for cell in cells])
        if _ISO.match(first):
            found = pd.to_datetime(texts, format="ISO8601", utc=True).dt.tz_localize(None)
        else:
            found = pd.to_datetime(texts, format=_order(texts, first), utc=True).dt.tz_localize(None)
        if bool(found.isna().any()):
            row = int(np.flatnonzero(found.isna().to_numpy())[0]) + 1
            msg = f"expected a time in every row of column {name} of {path}, found none in data row {row}"
            raise RecordingError(msg, hint="correct that row, or --uneven ignore with --rate")
        return found.to_numpy().astype("datetime64[ns]").astype(np.int64), True
    except (ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        msg = f"expected times of one form in column {name} of {path}, found: {reason[:200]}"
        raise RecordingError(msg, hint="correct that cell, or --uneven ignore with --rate") from error


def _clock_ns(cells: Sequence[str]) -> NDArray[np.int64]:
    found = np.empty(len(cells), np.int64)
    for row, cell in enumerate(cells):
        parts = _CLOCK.match(cell)
        if parts is None:
            msg = f"{cell!r} in data row {row + 1} is no time of day"
            raise ValueError(msg)
        hour = int(parts[1])
        if parts[5]:
            hour = hour % 12 + (12 if parts[5][0] in "pP" else 0)
        fraction = int((parts[4] or "0").ljust(9, "0"))
        found[row] = ((hour * 60 + int(parts[2])) * 60 + int(parts[3] or 0)) * 10**9 + fraction
    day = int(_DAY_S) * 10**9
    return found + day * np.cumsum(np.diff(found, prepend=found[:1]) < -day // 2)


def _order(texts: Any, first: str) -> str:
    """The order of day, month and year: by the separator, and with slashes by which number passes 12."""
    date = str(_DATE.match(first)[1])  # type: ignore[index]
    if "/" in date and not re.match(r"\d{4}", date):
        numbers = texts.str.extract(r"^\s*(\d+)/(\d+)/")
        form = "%d/%m/%Y" if int(numbers[0].astype(int).max()) > 12 else "%m/%d/%Y"
        form = form if re.search(r"\d{4}$", date) else form.replace("%Y", "%y")
    elif re.match(r"\d{4}-", date):
        form = "%Y-%m-%d"
    else:
        signs = re.sub(r"\d+", "#", date)
        year_first = bool(re.match(r"\d{4}", date))
        form = next(
            one for one in _DATE_ORDERS
            if re.sub(r"%\w", "#", one) == signs and one.startswith("%Y") == year_first
            and (one.endswith("%y")) == bool(re.search(r"\D\d\d$", date) and not year_first)
        )  # fmt: skip
    rest = first[_DATE.match(first).end(1) :]  # type: ignore[union-attr]
    if not rest.strip():
        return form
    clock = "%I:%M" if re.search(r"[AaPp][Mm]", rest) else "%H:%M"
    clock += ":%S" if rest.count(":") > 1 else ""
    clock += ".%f" if re.search(r"[.,]\d", rest) else ""
    clock += " %p" if re.search(r"[AaPp][Mm]", rest) else ""
    return f"{form}{'T' if rest.startswith('T') else ' '}{clock}"


# -- numbers -> rate, start, gaps --------------------------------------------------------------------------------------


def judge(
    path: Path,
    name: str,
    values: NDArray[Any],
    *,
    dated: bool = False,
    text: bool = False,
    stated_hz: float | None = None,
    stated_by: str = "--rate",
    uneven: str = "refuse",
) -> Timing:
    """What the values (n,) of a time column say.

    Args:
        path: of the file, for errors.
        name: of the column.
        values: numbers, or ns if `text`.
        dated: whether ns count from 1970.
        text: whether the column was text; `values` are then int64 ns.
        stated_hz: the rate by another statement, None without one.
        stated_by: where that statement stands.
        uneven: what to do with an irregular series.

    Raises:
        RecordingError: the series is irregular, or contradicts the stated rate.
    """
    values = np.asarray(values)
    if len(values) < _LEAST_JUDGED or uneven == "ignore":
        return Timing(name, None)
    if not text and not np.isfinite(values.astype(np.float64)).all():
        row = int(np.flatnonzero(~np.isfinite(values.astype(np.float64)))[0]) + 1
        msg = f"expected a time in every row of column {name} of {path}, found none in data row {row}"
        raise RecordingError(msg, hint="correct that row, or --uneven ignore with --rate")
    values, bits = (values, 0) if text else unwrapped(values)
    origin = values[0]
    relative = (values - origin).astype(np.float64)  # exact for integers, also for large ones
    start_ns: int | None = None
    counts = False
    if text:
        scale, unit, start_ns = 1e-9, "text", int(origin) if dated else None
    else:
        scale, unit, start_ns, counts = _meaning(path, name, values, relative, stated_hz)
    if counts:
        even = _even(path, name, relative, uneven, None)
        return Timing(name, None, gaps=even.gaps, times_s=even.times, notes=(f"{name} counts samples", *even.notes))
    even = _even(path, name, relative * scale, uneven, stated_hz)
    rate, spread = even.rate_hz, even.spread
    if stated_hz is not None:
        if abs(rate - stated_hz) > max(TOLERANCE, spread) * stated_hz:
            msg = f"expected the rate of the time column {name} of {path}, {rate:.6g} Hz, "
            msg += f"found: {stated_by} {stated_hz:.6g} Hz"
            raise RecordingError(msg, hint=f"leave the rate away, or --uneven ignore if the column is wrong ({unit})")
        rate = stated_hz
    else:
        rate = roundest(rate, spread)
    notes = list(even.notes)
    if bits:
        notes.append(f"{name} is a counter of {bits} bits that starts again at 0")
    if abs(even.rate_hz - rate) > 1e-6 * rate:
        notes.append(f"{name} runs at {even.rate_hz:.6g} Hz, {rate:.6g} Hz is used")
    if even.jitter > 0.1:
        notes.append(f"steps of {name} vary by {even.jitter:.0%} (jitter)")
    if not math.isfinite(rate) or rate <= 0:
        msg = f"expected a time column that rises, found in {name} of {path}: {values[0]} to {values[-1]}"
        raise RecordingError(msg, hint="--uneven ignore with --rate")
    return Timing(name, rate, start_ns, even.gaps, even.times, even.jitter, tuple(notes))


def _meaning(
    path: Path, name: str, values: NDArray[Any], relative: Float64, stated_hz: float | None
) -> tuple[float, str, int | None, bool]:
    """Seconds per unit, the unit, the start if the numbers count from 1970, and whether they only count samples."""
    unit = name_says(name)[2]
    first, last = float(values[0]), float(values[-1])
    steps = np.diff(relative)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if _is_counter(values.astype(np.float64), name):
        return 1.0, "samples", None, True
    for known, factor in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if unit in (None, known) and 6.3e8 <= first * factor <= 4.2e9:  # 1990 to 2100
            ns = int(values[0]) * round(factor * 1e9) if values.dtype.kind in "iu" else round(first * factor * 1e9)
            return factor, f"{known} since 1970", ns, False
    slowest = abs(last - first) / max(1, len(values) - 1)
    if (
        unit is None
        and 25_569 <= first <= 73_050
        and (slowest < 1.2e-6 or re.search("date|excel|serial|datum", name, re.I))
    ):
        return _DAY_S, "days of a spreadsheet", round((first - _EXCEL_DAYS) * _DAY_S * 1e9), False
    if unit == "d" and first >= 25_569:
        return _DAY_S, "days of a spreadsheet", round((first - _EXCEL_DAYS) * _DAY_S * 1e9), False
    if unit is not None:
        return _SCALES[unit], unit, None, False
    if usual != round(usual) or usual == 0:
        whole = 1.0 / usual if usual else 0.0
        if stated_hz is not None and usual:
            fit = _fits(whole, stated_hz)
            if fit is not None:
                return fit[1], fit[0], None, False
        return 1.0, "s", None, False
    fit = _fits(1.0 / usual, stated_hz) if stated_hz is not None else None
    if fit is not None:
        return fit[1], fit[0], None, False
    if stated_hz is None:
        msg = f"expected a unit of the time column {name} of {path}, found none: steps of {usual:g}"
        hint = (
            f"give the rate in Hz (--rate {1e6 / usual:g} if they are us), or name the unit in the header: {name} [us]"
        )
        raise RecordingError(msg, hint=hint)
    return 1.0, "s", None, False


def _fits(per_unit: float, stated_hz: float) -> tuple[str, float] | None:
    """The unit in which a column of `per_unit` samples per unit runs at the stated rate."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if abs(per_unit / scale - stated_hz) <= TOLERANCE * stated_hz:
            return unit, scale
    return None


@dataclass(frozen=True, slots=True)
class _Even:
    rate_hz: float
    spread: float  # relative uncertainty of the rate
    gaps: tuple[tuple[int, int], ...]
    times: Float64 | None
    jitter: float
    notes: tuple[str, ...]


def _even(path: Path, name: str, times: Float64, uneven: str, stated_hz: float | None) -> _Even:
    """Rate and gaps of times (n,) in s that start at 0.

    Coarse stamps and dropped samples can look the same: steps of 1 and 2 ms. Stamps count as coarse if some repeat, if
    their resolution is far below a step, or if the stated rate is their average.
    """
    steps = np.diff(times)
    length = float(times[-1])
    if (steps < 0).any() or length <= 0:
        row = int(np.flatnonzero(steps < 0)[0]) + 2 if (steps < 0).any() else 2
        msg = f"expected times that rise in column {name} of {path}, found a step back in data row {row}"
        raise RecordingError(msg, hint="cut the file there, or --uneven ignore with --rate")
    quantum = _resolution(steps)
    overall = len(steps) / length
    off = np.abs(times - np.arange(len(times)) / overall)
    coarse = bool((steps == 0).any()) or quantum * overall < 0.25
    coarse = coarse or (stated_hz is not None and abs(overall - stated_hz) <= TOLERANCE * stated_hz)
    if (
        coarse
        and float(off.max()) <= max(0.75 / overall, 1.01 * quantum)
        and float(off.max()) < 0.02 * length + 1 / overall
    ):
        jitter = float(np.std(steps) * overall)
        jitter = jitter if quantum <= 0 or quantum * overall < 0.05 else max(0.0, jitter - quantum * overall)
        return _Even(overall, min(0.5, 1.01 * quantum / length + 1e-9), (), None, jitter, ())
    usual = float(np.median(steps[steps > 0]))
    ratio = steps / usual
    whole = np.round(ratio)
    even = whole >= 1
    good = float(np.mean(even & (np.abs(ratio - whole) <= 0.3)))
    if good > 0.98 and np.isfinite(whole).all():
        near = whole == 1
        usual = float(np.mean(steps[near])) if near.any() else usual
        whole = np.maximum(1, np.round(steps / usual))
        rows = np.flatnonzero(whole > 1)
        gaps = tuple((int(row) + 1, int(whole[row]) - 1) for row in rows)
        missing = sum(count for _, count in gaps)
        sudden = len(gaps)
        rate = float(whole.sum()) / length
        jitter = float(np.std(steps[near]) / usual) if near.any() else 0.0
        if sudden <= max(1, _MISSING * len(times)) or uneven == "resample":
            note = f"{missing} samples are missing in {sudden} gaps of {name}"
            resampled = times if uneven == "resample" and sudden > max(1, _MISSING * len(times)) else None
            said = (f"{note}; resampled",) if resampled is not None else (note,) if sudden else ()
            kept = () if resampled is not None else gaps
            return _Even(rate, min(0.5, quantum / length + 1e-9), kept, resampled, jitter, said)
        what = f"{missing} of {len(times) + missing} samples missing in {sudden} gaps "
        what += f"at {roundest(rate, 1e-6):.6g} Hz"
        what += f" ({overall:.6g} Hz on average: give this as --rate if only the stamps are coarse)"
    else:
        what = f"steps from {steps.min():.6g} to {steps.max():.6g} s, {overall:.6g} Hz on average"
        if uneven == "resample":
            return _Even(
                overall, 1e-9, (), times, float(np.std(steps) * overall), (f"{name} is uneven ({what}); resampled",)
            )
    msg = f"expected an even time column {name} in {path}, found {what}"
    raise RecordingError(
        msg, hint="--uneven resample interpolates, --uneven ignore with --rate takes the rows as they are"
    )


def roundest(rate: float, spread: float) -> float:
    """The roundest number within the uncertainty of a rate."""
    if not math.isfinite(rate) or rate <= 0:
        return rate
    for digits in range(1, 12):
        rounded = float(f"{rate:.{digits - 1}e}")
        if abs(rounded - rate) <= max(spread, 2e-9) * rate:
            return rounded
    return rate
