"""Files that are trees of arrays (MATLAB, HDF5, NumPy): which arrays are signals, and which of them belong together.

Arrays of one container and one length, or of one CWRU number, are sampled together; others are streams of their own.
In a matrix the long side is time. Scalars give rate and speed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.edges.recordings import clock, columns
from pipeline.edges.recordings.contents import LEAST_SAMPLES, Contents, Options, Timing, unique
from pipeline.errors import RecordingError

Held = tuple[Contents, dict[str, NDArray[Any]]]
_Key = tuple[str, str, int, float | None, str | None]  # container, CWRU number, length, rate, unit
_RATES = {
    "fs",
    "sr",
    "fsamp",
    "fsample",
    "fsampling",
    "samplerate",
    "samplingrate",
    "sampfreq",
    "samplefreq",
    "samplefrequency",
    "samplingfreq",
    "samplingfrequency",
    "sfreq",
    "sampleratehz",
    "samplingratehz",
    "fshz",
    "srate",
    "ratehz",
    "samplespersecond",
}
_STEPS = {
    "dt",
    "deltat",
    "tstep",
    "timestep",
    "samplingperiod",
    "sampleperiod",
    "samplinginterval",
    "sampleinterval",
    "increment",
    "wfincrement",
}
_CWRU = re.compile(r"X(\d+)_?(\w*?)_?(?:time|RPM)$", re.IGNORECASE)
_CWRU_NAMES = {"DE": "drive_end", "FE": "fan_end", "BA": "base"}
_MOST_CHANNELS = 256  # a matrix with two longer sides is a picture
_MANY_TIMES = 1000  # an array that is so many times shorter than the longest is a parameter
_SURELY = 64  # samples of a signal beside a longer one


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array or scalar of a file."""

    name: str
    value: Any  # array, number or text
    parent: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # attributes: rate, unit


def _word(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _number(value: Any) -> float | None:
    try:
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "iuf":
            found = float(array.ravel()[0])
            return found if np.isfinite(found) else None
    except (TypeError, ValueError):
        return None
    return None


def rate_in(facts: Mapping[str, Any], channels: Sequence[str] = ()) -> tuple[float, str] | None:
    """The rate among named scalars, and the name: `fs`, `sr`, `dt`, or `vib_fs` for the channel `vib`."""
    beside = [_word(channel) for channel in channels]
    words = {_word(name): (name, value) for name, value in facts.items()}
    for own in (*beside, ""):
        for known, inverse in ((_RATES, False), (_STEPS, True)):
            for word, (name, value) in words.items():
                if own and not (own in word and len(word) > len(own)):
                    continue
                rest = word.replace(own, "", 1) if own else word
                found = _number(value)
                if rest in known and found is not None and found > 0:
                    return (1 / found if inverse else found), name
    return None


def assemble(path: Path, leaves: Sequence[Leaf], options: Options, unread: Sequence[str] = ()) -> list[Held]:
    """The signals of a file, the longest group first.

    Args:
        path: of the file, for errors.
        leaves: everything that was found.
        options: of the reading.
        unread: what cannot be read, in words.

    Raises:
        RecordingError: nothing in the file is a signal; the message lists what there is.
    """
    scalars: dict[str, dict[str, Any]] = {}
    metadata: dict[str, Any] = {}
    signals: list[tuple[Leaf, NDArray[Any]]] = []
    passed: list[str] = [*unread]
    for leaf in leaves:
        value = leaf.value
        if isinstance(value, str):
            if len(value) <= 200 and len(metadata) < 64:
                metadata[leaf.name] = value
            continue
        array = np.asarray(value)
        scalar = _number(array)
        if scalar is not None:
            scalars.setdefault(leaf.parent, {})[leaf.name] = scalar
            continue
        if array.dtype.kind not in "iuf" or array.ndim > 2 or array.size < LEAST_SAMPLES:
            if array.size:
                passed.append(f"{leaf.name} ({array.dtype}, {'x'.join(map(str, array.shape))})")
            continue
        columns = _columns(leaf.name, array)
        if columns is None:
            passed.append(f"{leaf.name} ({array.dtype}, {'x'.join(map(str, array.shape))})")
        else:
            signals += [(Leaf(name, None, leaf.parent, leaf.facts), column) for name, column in columns]
    longest = max((len(array) for _, array in signals), default=0)
    short = [leaf.name for leaf, array in signals if _is_parameter(array, longest)]
    signals = [(leaf, array) for leaf, array in signals if not _is_parameter(array, longest)]
    if not signals:
        msg = f"expected numeric arrays of at least {LEAST_SAMPLES} samples in {path}, found: "
        msg += ", ".join([*passed, *short][:12]) or "nothing"
        raise RecordingError(msg, hint="arrays of 1 or 2 dimensions are read, also in structs and cells")
    groups: dict[_Key, list[tuple[Leaf, NDArray[Any]]]] = {}
    for leaf, array in signals:
        number = _CWRU.match(leaf.name)
        own_rate = rate_in(leaf.facts)
        key = (leaf.parent, number[1] if number else "", len(array), own_rate[0] if own_rate else None, _unit(leaf))
        groups.setdefault(key, []).append((leaf, array))
    everything = {name: value for inner in scalars.values() for name, value in inner.items()}
    plain = {name: value for name, value in everything.items() if len(everything) <= 64}
    held = [
        _group(path, key, members, scalars, metadata | plain, options, len(groups), short, passed)
        for key, members in sorted(groups.items(), key=lambda item: -item[0][2])
    ]
    held = [one for one in held if one[0].channels]
    if not held:
        msg = f"expected signals beside the time in {path}, found: {', '.join(leaf.name for leaf, _ in signals)}"
        raise RecordingError(msg, hint="one array per channel")
    return _apart(held)


def _is_parameter(array: NDArray[Any], longest: int) -> bool:
    return len(array) < longest and len(array) < max(_SURELY, longest / _MANY_TIMES)


def _unit(leaf: Leaf) -> str | None:
    names = ("units", "unit", "unit_string", "NI_UnitDescription")
    return next((str(leaf.facts[name]) for name in names if leaf.facts.get(name)), None)


def _columns(name: str, array: NDArray[Any]) -> list[tuple[str, NDArray[Any]]] | None:
    if array.ndim == 1:
        return [(name, array)]
    array = array if array.shape[0] >= array.shape[1] else array.T
    if array.shape[1] > _MOST_CHANNELS or array.shape[1] * 2 > array.shape[0]:
        return None
    if array.shape[1] == 1:
        return [(name, array[:, 0])]
    return [(f"{name}_{i + 1}", array[:, i]) for i in range(array.shape[1])]


def _group(
    path: Path,
    key: _Key,
    members: Sequence[tuple[Leaf, NDArray[Any]]],
    scalars: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
    options: Options,
    count: int,
    short: Sequence[str],
    passed: Sequence[str],
) -> Held:
    parent, number, length, _, unit = key
    names = unique([leaf.name.removeprefix(f"{parent}.") for leaf, _ in members])
    arrays = dict(zip(names, [array for _, array in members], strict=True))
    time = clock.find_time(arrays)
    about = {*time.chosen, *time.others}
    channels, told_rpm, apart = columns.set_apart([name for name in names if name not in about], arrays)
    near = {**scalars.get("", {}), **scalars.get(parent, {})}
    facts = {name: value for leaf, _ in members for name, value in leaf.facts.items()}
    found = rate_in(facts) or rate_in({**near, **{n.rpartition(".")[2]: v for n, v in near.items()}}, channels)
    rate, rate_from = (found[0], f"{found[1]} in the file") if found else (None, "")
    timing: Timing | None = None
    notes: list[str] = []
    if about:
        notes.append(f"{', '.join(sorted(about))} is time, not a channel")
    notes += apart
    if time.chosen:
        stated, by = (rate, f"{rate_from},") if rate else (options.rate_hz, "--rate")
        timing = clock.judge(
            path, time.chosen[0], arrays[time.chosen[0]], stated_hz=stated, stated_by=by, uneven=options.uneven
        )
        if timing.rate_hz is not None:
            rate, rate_from = timing.rate_hz, f"the time column {time.chosen[0]}"
    speed = {name: value for name, value in near.items() if name.upper().endswith("RPM")}
    own = {name: value for name, value in speed.items() if number and re.match(rf"X{number}\D", name)}
    others = {name for name in speed if _CWRU.match(name)} - own.keys()
    rpm = next(iter(own.values() if number and others | own.keys() else speed.values()), None)
    known = {name: value for name, value in metadata.items()}
    rpm = told_rpm if rpm is None else rpm
    if rpm is not None:
        known["rpm"] = rpm
    if short:
        known["skipped_variables"] = ", ".join(sorted(short))
        notes.append(f"too short for a signal: {', '.join(sorted(short)[:8])}")
    if passed:
        notes.append(f"not read: {', '.join(passed[:8])}")
    shared = {columns.unit_in(name) for name in channels}
    if unit is None and len(shared) == 1:
        unit = shared.pop()
    if unit is not None:
        known["units"] = unit
    start = facts.get("start_time_ns")
    if timing is not None and timing.start_ns is not None:
        start = timing.start_ns
    if isinstance(start, int):
        known["start_time_ns"] = start
    nice = {name: _cwru_name(name) for name in channels}
    if len(set(nice.values())) == len(nice):
        arrays = {nice.get(name, name): array for name, array in arrays.items()}
        channels = [nice[name] for name in channels]
    spare = channels[0] if len(channels) == 1 else f"{length}_samples"
    part = "" if count == 1 else f"X{number}" if number else parent or spare
    contents = Contents(
        tuple(channels), length, rate, known, part=part, timing=timing, rate_from=rate_from, notes=tuple(notes)
    )
    return contents, {name: arrays[name] for name in channels}


def _apart(held: Sequence[Held]) -> list[Held]:
    """Parts with names that differ."""
    from dataclasses import replace

    names = unique([one[0].part or "main" for one in held]) if len(held) > 1 else [held[0][0].part]
    return [(replace(contents, part=name), arrays) for name, (contents, arrays) in zip(names, held, strict=True)]


def _cwru_name(name: str) -> str:
    """`X105_DE_time` -> `drive_end`: the names of CWRU without the file number."""
    match = re.fullmatch(r"X\d+_(\w+?)_time", name)
    return name if match is None else _CWRU_NAMES.get(match[1], match[1])
