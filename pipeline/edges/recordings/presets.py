"""Public data sets by name: rate, channels, bearing and truth from the layout of each set.

The table `PRESETS` holds the facts and their sources. A file that does not fit the layout of its set is refused by
name, so that no fact is invented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core import bearings
from pipeline.edges.recordings import text
from pipeline.edges.recordings.contents import Contents, Options
from pipeline.errors import RecordingError, UsageError

NOMINAL_START_NS = 946_684_800_000_000_000  # 2000-01-01T00:00:00Z, for recordings that do not state their time
_Complete = Callable[[Path, list[Contents]], list[Contents]]


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known of a public data set."""

    name: str
    title: str
    source: str
    rate_hz: float | None  # None: it differs, see `complete`
    complete: _Complete  # facts by file
    columns: Mapping[int, tuple[str, ...]]  # names of nameless columns, by their number
    files: str = r".*"  # names of files that are recordings; others of the folder are passed over
    is_run: bool = False  # whether the files of a folder are snapshots of one run, in the order of their names


def of(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    found = PRESETS.get(name)
    if found is None:
        msg = f"expected --preset {', '.join(sorted(PRESETS))}, found: {name}"
        raise UsageError(msg, hint="leave it away for other recordings")
    return found


def prepared(path: Path, options: Options) -> Options:
    """The options with the column names of the set."""
    preset = of(str(options.preset))
    if not preset.columns or options.columns is not None:
        return options
    dialect = text.dialect_of(path, options)
    names = preset.columns.get(dialect.width)
    if names is None and dialect.headless:
        msg = f"expected {' or '.join(map(str, preset.columns))} columns in a file of {preset.name}, found in {path}: "
        msg += str(dialect.width)
        raise RecordingError(msg, hint="leave --preset away for other recordings")
    return replace(options, columns=names) if dialect.headless and names else options


def completed(path: Path, contents: list[Contents], name: str) -> list[Contents]:
    """The contents with the facts of the set.

    Raises:
        RecordingError: the file does not fit the layout of the set.
    """
    preset = of(name)
    result = []
    for one in preset.complete(path, contents):
        facts = {"dataset": preset.name.upper(), "source": preset.source} | one.metadata
        rate = one.rate_hz if preset.rate_hz is None else preset.rate_hz
        stated = one.rate_hz if preset.rate_hz is not None else None
        if stated is not None and abs(stated - preset.rate_hz) > 0.01 * preset.rate_hz:  # type: ignore[operator]
            msg = f"expected {preset.rate_hz:g} Hz in a file of {preset.name}, found in {path}: {stated:g} Hz"
            raise RecordingError(msg, hint="leave --preset away for other recordings")
        result.append(
            replace(one, rate_hz=rate, metadata=facts, rate_from=f"preset {name}" if preset.rate_hz else one.rate_from)
        )
    return result


def _misfit(path: Path, what: str) -> RecordingError:
    return RecordingError(
        f"expected {what}, found: {path}",
        hint="keep the names of files and folders as published, or leave --preset away",
    )


def _folder(path: Path, pattern: str, what: str) -> re.Match[str]:
    for part in reversed(path.absolute().parts):
        found = re.fullmatch(pattern, part, re.IGNORECASE)
        if found is not None:
            return found
    raise _misfit(path, what)


def _bearing(name: str) -> dict[str, Any]:
    return {"bearing": bearings.find(name).what, "fault_orders_of_shaft": asdict(bearings.find(name).geometry.orders())}


# -- runs to failure ---------------------------------------------------------------------------------------------------

_IMS_FAILED = {
    "1st_test": {3: "bearing_inner", 4: "bearing_ball"},
    "2nd_test": {1: "bearing_outer"},
    "3rd_test": {3: "bearing_outer"},
}
_IMS_NAMES = {"1": "1st_test", "2": "2nd_test", "3": "3rd_test", "4": "3rd_test"}


def _ims(path: Path, contents: list[Contents]) -> list[Contents]:
    moment = re.match(r"(\d{4})\.(\d\d)\.(\d\d)\.(\d\d)\.(\d\d)\.(\d\d)", path.name)
    if moment is None:
        raise _misfit(path, "a file named YYYY.MM.DD.HH.MM.SS")
    start = round(datetime(*map(int, moment.groups()), tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc, arg-type]
    (whole,) = contents
    digit = next(
        (
            named[1]
            for part in reversed(path.absolute().parts)
            if (named := re.match(r"([1-4])(?:st|nd|rd|th)_test", part))
        ),
        None,
    )
    test = (
        _IMS_NAMES[digit]
        if digit
        else {8: "1st_test"}.get(
            len(whole.channels), "2nd_test" if moment[1] == "2004" and moment[2] == "02" else "3rd_test"
        )
    )
    per = len(whole.channels) // 4
    found = []
    for number in range(1, 5):
        channels = whole.channels[(number - 1) * per : number * per]
        end = _IMS_FAILED[test].get(number)
        facts = {
            "recording": test,
            "bearing_id": f"IMS/{test}/bearing{number}",
            "rpm": 2000.0,
            "rpm_source": "nominal",
            "load_n": 26_690,
            "units": "g",
            "run_to_failure": end is not None,
            "fault_class": "run_to_failure",
            "start_time_ns": start,
            "snapshot_period_s": 600,
            **_bearing("za-2115"),
        }
        if end is not None:
            facts["fault_at_end"] = end
        found.append(replace(whole, channels=channels, part=f"bearing{number}", metadata=whole.metadata | facts))
    return found


_XJTU_FAILED = {
    "1_1": "bearing_outer",
    "1_2": "bearing_outer",
    "1_3": "bearing_outer",
    "1_4": "bearing_cage",
    "1_5": "bearing_inner and bearing_outer",
    "2_1": "bearing_inner",
    "2_2": "bearing_outer",
    "2_3": "bearing_cage",
    "2_4": "bearing_outer",
    "2_5": "bearing_outer",
    "3_1": "bearing_outer",
    "3_2": "bearing_inner, bearing_outer, bearing_ball and bearing_cage",
    "3_3": "bearing_inner",
    "3_4": "bearing_inner",
    "3_5": "bearing_outer",
}
_XJTU_CONDITIONS = {"1": (2100.0, 12_000), "2": (2250.0, 11_000), "3": (2400.0, 10_000)}


def _xjtu(path: Path, contents: list[Contents]) -> list[Contents]:
    bearing = _folder(path, r"Bearing(([123])_([1-5]))", "a file in a folder named Bearing1_1 to Bearing3_5")
    if not path.stem.isdigit():
        raise _misfit(path, "a file named by its minute, such as 1.csv")
    rpm, load_n = _XJTU_CONDITIONS[bearing[2]]
    facts = {
        "recording": f"Bearing{bearing[1]}",
        "bearing_id": f"XJTU/Bearing{bearing[1]}",
        "rpm": rpm,
        "rpm_source": "nominal",
        "load_n": load_n,
        "units": "g",
        "run_to_failure": True,
        "fault_class": "run_to_failure",
        "fault_at_end": _XJTU_FAILED[bearing[1]],
        "start_time_ns": NOMINAL_START_NS + (int(path.stem) - 1) * 60 * 10**9,
        "snapshot_period_s": 60,
        **_bearing("uer204"),
    }
    return [replace(one, metadata=one.metadata | facts) for one in contents]


_FEMTO_CONDITIONS = {"1": (1800.0, 4000), "2": (1650.0, 4200), "3": (1500.0, 5000)}


def _femto(path: Path, contents: list[Contents]) -> list[Contents]:
    bearing = _folder(path, r"Bearing(([123])_([1-7]))", "a file in a folder named Bearing1_1 to Bearing3_3")
    number = re.fullmatch(r"acc_(\d+)", path.stem, re.IGNORECASE)
    if number is None:
        raise _misfit(path, "a file named acc_00001.csv")
    rpm, load_n = _FEMTO_CONDITIONS[bearing[2]]
    facts = {
        "recording": f"Bearing{bearing[1]}",
        "bearing_id": f"Bearing{bearing[1]}",
        "rpm": rpm,
        "rpm_source": "nominal",
        "load_n": load_n,
        "units": "g",
        "run_to_failure": True,
        "fault_class": "run_to_failure",
        "snapshot_period_s": 10,
        "start_time_ns": NOMINAL_START_NS + (int(number[1]) - 1) * 10 * 10**9,
        **_bearing("pronostia"),
    }
    keep = ("horiz", "vert")
    return [
        replace(one, channels=tuple(n for n in one.channels if n in keep), metadata=one.metadata | facts, timing=None)
        for one in contents
    ]


# -- seeded and artificial faults --------------------------------------------------------------------------------------

# (first number, last number, rate, class, place, size in mil): file numbers of the data center's tables.
_CWRU = (
    (97, 100, 48_000, "normal", None, None),
    (105, 108, 12_000, "inner_race", "drive_end", 7),
    (118, 121, 12_000, "ball", "drive_end", 7),
    (130, 160, 12_000, "outer_race", "drive_end", 7),
    (169, 172, 12_000, "inner_race", "drive_end", 14),
    (185, 188, 12_000, "ball", "drive_end", 14),
    (197, 200, 12_000, "outer_race", "drive_end", 14),
    (209, 212, 12_000, "inner_race", "drive_end", 21),
    (222, 225, 12_000, "ball", "drive_end", 21),
    (234, 261, 12_000, "outer_race", "drive_end", 21),
    (3001, 3004, 12_000, "inner_race", "drive_end", 28),
    (3005, 3008, 12_000, "ball", "drive_end", 28),
    (278, 281, 12_000, "inner_race", "fan_end", 7),
    (282, 285, 12_000, "ball", "fan_end", 7),
    (274, 277, 12_000, "inner_race", "fan_end", 14),
    (286, 289, 12_000, "ball", "fan_end", 14),
    (270, 273, 12_000, "inner_race", "fan_end", 21),
    (290, 293, 12_000, "ball", "fan_end", 21),
    (294, 318, 12_000, "outer_race", "fan_end", None),
)
# Between those above: the same faults at 48 kHz.
_CWRU_48K = (
    (109, 112, "inner_race", 7),
    (122, 125, "ball", 7),
    (135, 138, "outer_race", 7),
    (148, 151, "outer_race", 7),
    (161, 164, "outer_race", 7),
    (174, 177, "inner_race", 14),
    (189, 192, "ball", 14),
    (201, 204, "outer_race", 14),
    (213, 217, "inner_race", 21),
    (226, 229, "ball", 21),
    (238, 241, "outer_race", 21),
    (250, 253, "outer_race", 21),
    (262, 265, "outer_race", 21),
)


def _cwru(path: Path, contents: list[Contents]) -> list[Contents]:
    found = []
    for one in contents:
        part = re.fullmatch(r"X(\d+)", one.part)
        stem = re.search(r"(?:^|_)(\d{2,4})$", path.stem)
        number = int(part[1]) if part else int(stem[1]) if stem else None
        entry: tuple[int, str, str | None, int | None] | None = None
        if number is not None:
            entry = next(
                ((48_000, kind, "drive_end", size) for a, b, kind, size in _CWRU_48K if a <= number <= b), None
            )
            entry = entry or next((one[2:] for one in _CWRU if one[0] <= number <= one[1]), None)
        if number is None or entry is None:
            raise _misfit(path, "a file named by its number in the data center, such as 105.mat")
        rate, kind, where, size = entry
        facts: dict[str, Any] = {
            "recording": str(number),
            "fault_class": kind,
            "units": "g",
            "units_note": "g is the unit commonly assumed; CWRU states none",
            "fault_orders_of_shaft": {
                "drive_end": asdict(bearings.find("6205").geometry.orders()),
                "fan_end": asdict(bearings.find("6203").geometry.orders()),
            },
        }
        facts |= {
            key: value for key, value in (("fault_location", where), ("fault_size_mil", size)) if value is not None
        }
        found.append(replace(one, rate_hz=float(rate), rate_from="preset cwru", metadata=one.metadata | facts))
    return found


def _mfpt(path: Path, contents: list[Contents]) -> list[Contents]:
    lower = path.stem.lower()
    kind = next(
        (
            kind
            for word, kind in (("baseline", "normal"), ("outer", "outer_race"), ("inner", "inner_race"))
            if word in lower
        ),
        None,
    )
    if kind is None:
        raise _misfit(path, "a file named baseline..., OuterRace... or InnerRace...")
    rate = contents[0].rate_hz or (48_828.0 if "vload" in lower else 97_656.0)
    facts = {
        "recording": path.stem,
        "fault_class": kind,
        "rpm": 1500.0,
        "rpm_source": "nominal",
        "units": "g",
        "bearing_id": f"MFPT/{kind}",
        **_bearing("mfpt-nice"),
    }
    return [
        replace(one, rate_hz=rate, metadata=one.metadata | facts)
        for one in contents
        if any("gs" in name for name in one.channels)
    ] or [replace(one, rate_hz=rate, metadata=one.metadata | facts) for one in contents]


_PADERBORN_BOTH = {"KB23", "KB24", "KB27"}


def _paderborn(path: Path, contents: list[Contents]) -> list[Contents]:
    name = re.fullmatch(r"N(\d\d)_M(\d\d)_F(\d\d)_((K[0AIB])\d+)_(\d+)", path.stem, re.IGNORECASE)
    if name is None:
        raise _misfit(path, "a file named like N15_M07_F10_KA01_1.mat")
    code = name[4].upper()
    kind = {"K0": "normal", "KA": "outer_race", "KI": "inner_race", "KB": "other"}[name[5].upper()]
    facts = {
        "recording": path.stem,
        "bearing_id": f"PADERBORN/{code}",
        "fault_class": kind,
        "rpm": float(name[1]) * 100,
        "rpm_source": "nominal",
        "torque_nm": int(name[2]) / 10,
        "radial_force_n": int(name[3]) * 100,
        **_bearing("6203-fag"),
    }
    if code in _PADERBORN_BOTH:
        facts["fault_detail"] = "inner and outer ring"
    found = []
    for one in contents:
        channels = tuple(name for name in one.channels if "vibration" in name.lower())
        if channels:
            found.append(
                replace(one, channels=channels, part="", metadata=one.metadata | facts, timing=None)
                if one.part == ""
                else replace(one, channels=channels, metadata=one.metadata | facts, timing=None)
            )
    if not found:
        raise _misfit(path, "a signal named vibration_1")
    return found


_UORED = {"H": "normal", "I": "inner_race", "O": "outer_race", "B": "ball", "C": "cage"}


def _uored(path: Path, contents: list[Contents]) -> list[Contents]:
    name = re.fullmatch(r"([HIOBC])[_-](\d+)[_-]([012])", path.stem, re.IGNORECASE)
    if name is None:
        raise _misfit(path, "a file named like I_1_2.csv: class, bearing, stage 0 to 2")
    healthy = name[3] == "0"
    facts = {
        "recording": path.stem,
        "bearing_id": f"UORED/{name[2]}",
        "rpm": 1750.0,
        "rpm_source": "nominal",
        "fault_class": "normal" if healthy else _UORED[name[1].upper()],
        "fault_stage": ("healthy", "developing", "faulty")[int(name[3])],
    }
    found = []
    for one in contents:
        wanted = [n for n in one.channels if re.search("acc|vib", n, re.IGNORECASE)] or list(one.channels[:1])
        found.append(replace(one, channels=tuple(wanted), metadata=one.metadata | facts))
    return found[:1]


_HUST = {"N": "normal", "I": "inner_race", "O": "outer_race", "B": "ball", "IB": "other", "IO": "other", "OB": "other"}


def _hust(path: Path, contents: list[Contents]) -> list[Contents]:
    name = re.fullmatch(r"(IB|IO|OB|[NIOB])([4-8])0([0-4])", path.stem, re.IGNORECASE)
    if name is None:
        raise _misfit(path, "a file named like IB702.mat: fault, bearing 4 to 8 (6204 to 6208), load")
    facts = {
        "recording": path.stem,
        "bearing_id": f"HUST/{name[1].upper()}{name[2]}",
        "bearing": f"620{name[2]}",
        "load_w": int(name[3]) * 100,
        "fault_class": _HUST[name[1].upper()],
    }
    return [replace(one, metadata=one.metadata | facts) for one in contents[:1]]


PRESETS: dict[str, Preset] = {
    one.name: one
    for one in (
        Preset(
            "ims",
            "IMS, University of Cincinnati: four bearings on one shaft, run to failure",
            "Lee, Qiu, Yu, Lin, Rexnord Technical Services (2007), NASA Prognostics Data Repository, readme: 20 kHz, "
            "2000 rpm, "
            "6000 lb, Rexnord ZA-2115, failures of sets 1 to 3",
            20_000.0,
            _ims,
            {4: ("b1", "b2", "b3", "b4"), 8: ("b1_x", "b1_y", "b2_x", "b2_y", "b3_x", "b3_y", "b4_x", "b4_y")},
            r"\d{4}(\.\d\d){5}(\.txt)?",
            is_run=True,
        ),
        Preset(
            "xjtu",
            "XJTU-SY: 15 bearings, run to failure",
            "Wang, Lei, Li, Li, IEEE Trans. Reliability 69 (2020) 401: 25.6 kHz, 32,768 samples every minute, LDK "
            "UER204, table of "
            "conditions and failures",
            25_600.0,
            _xjtu,
            {2: ("horiz", "vert")},
            r"\d+\.csv",
            is_run=True,
        ),
        Preset(
            "femto",
            "FEMTO-ST PRONOSTIA, IEEE PHM 2012: run to failure",
            "Nectoux et al., IEEE PHM 2012: 25.6 kHz, 2560 samples every 10 s, columns hour, minute, second, "
            "microsecond, "
            "horizontal, vertical",
            25_600.0,
            _femto,
            {6: ("hour", "minute", "second", "microsecond", "horiz", "vert")},
            r"acc_\d+\.csv",
            is_run=True,
        ),
        Preset(
            "cwru",
            "CWRU: seeded faults in a 2 hp motor",
            "Case Western Reserve University Bearing Data Center, tables of the data center: numbers, rates, faults",
            None,
            _cwru,
            {},
            r".*\.mat",
        ),
        Preset(
            "mfpt",
            "MFPT fault data sets",
            "Bechhoefer (2013), MFPT condition based maintenance fault database: 25 Hz shaft, 97,656 "
            "and 48,828 Hz, NICE bearing",
            None,
            _mfpt,
            {},
            r".*\.mat",
        ),
        Preset(
            "paderborn",
            "Paderborn KAt: real and artificial damage",
            "Lessmeier et al., PHM Society European Conference 2016: 64 kHz, file names, bearing codes",
            64_000.0,
            _paderborn,
            {},
            r".*\.mat",
        ),
        Preset(
            "uored",
            "UORED-VAFCLS, University of Ottawa: faults that develop",
            "Sehri, Dumond, Bouchard, Data in Brief 49 (2023) 109327: 42 kHz, 10 s, nominally 1750 rpm, file names",
            42_000.0,
            _uored,
            {},
            r".*\.(csv|mat)",
        ),
        Preset(
            "hust",
            "HUST bearing, Hanoi University of Science and Technology",
            "Thuan, Hong, BMC Research Notes 16 (2023) 138: 51.2 kHz, 10 s, file names",
            51_200.0,
            _hust,
            {},
            r".*\.mat",
        ),
    )
}


def unfit(path: Path, name: str) -> str | None:
    """Why a file of a folder is no recording of the set; None if it may be one."""
    if re.fullmatch(of(name).files, path.name, re.IGNORECASE):
        return None
    return f"no file of the set {name}, by its name"


def runs(paths: Sequence[Path], name: str | None) -> list[tuple[Path, ...]]:
    """The files that belong together: those of one folder in a set of runs to failure, else each alone."""
    if name is None or not of(name).is_run:
        return [(path,) for path in paths]
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.absolute().parent, []).append(path)
    return [tuple(files) for files in folders.values()]
