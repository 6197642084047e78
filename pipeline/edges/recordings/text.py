"""Text of any dialect: CSV, tab, space or semicolon, decimal comma, preamble, units, comments, and lines at the end.

The head of the file shows where its block of numbers begins, how its rows are cut, and what stands above it: names,
units, and statements such as `Sampling Frequency 5120`. The block is then read in pieces, so a file may be larger than
the memory. A cell that is no number is an error with its row and column.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from pipeline.core.records import Float32
from pipeline.core.units import is_unit
from pipeline.edges.recordings import clock, columns
from pipeline.edges.recordings.contents import Contents, Options, stacked, unique
from pipeline.errors import RecordingError

_HEAD = 1 << 16  # bytes in which the block of numbers has to begin
_SAMPLE = 100  # lines that decide between dialects
_TAIL = 1 << 14  # bytes at the end in which lines that are no rows are looked for
_BLOCK = 1 << 20  # of the reader
_MOST_COLUMNS = 4096
_SPACE = "space"
_SEPARATORS = ("\t", ";", ",", _SPACE, "|")
_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": _SPACE, " ": _SPACE, "pipe": "|"}
_COMMENTS = ("#", "%", "//", "!")
_NUMBER = {
    ".": re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?$"),
    # `1.234,5` is recognised and then refused, row and column named: its points could also be decimal ones.
    ",": re.compile(r"[+-]?(?:\d+(?:,\d+)?|,\d+|\d{1,3}(?:\.\d{3})+,\d+)(?:[eEdD][+-]?\d+)?$"),
}
_NOT_FINITE = {
    "nan",
    "inf",
    "-inf",
    "+inf",
    "na",
    "null",
    "none",
    "n/a",
    "#n/a",
    "-nan",
    "nan(ind)",
    "-nan(ind)",
    "infinity",
    "-",
}
_SUMMARY = re.compile(  # how a row below the numbers begins that is none of them
    r"\W*(?:mean|average|avg|min|max|minimum|maximum|rms|std|stdev|sum|total|count|median|mittel\w*|summe|moyenne|media|"
    r"promedio|średnia|среднее|平均\w*)\b", re.IGNORECASE,
)  # fmt: skip
_PADDED = re.compile(r"0\d+$")  # `0123`: the part behind a decimal comma, not an integer
# Arrow's message about a bad cell: it counts columns from 0, and rows as lines of what it reads from 1.
_BAD_CELL = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?.* invalid value (?P<cell>.*)", re.DOTALL
)
_VALUE = r"[\s:=;,\t\"]*\s*(?P<value>[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*(?P<after>[a-zA-Z/]*)"
_RATE = re.compile(
    r"(?:sampl\w*[\s_.-]*(?:rate|freq\w*)|(?:abtast|mess)(?:rate|frequenz)|\bfs\b|\bf_s\b|^\W*rate\b|\bdata[\s_]*rate\b|"
    r"\bscan[\s_]*rate\b|\bfrequency\b|частота)[^\d\n:=;,\t\[(]*(?:[\[(](?P<inside>[a-zA-Z/]+)[\])])?" + _VALUE,
    re.IGNORECASE,
)
_STEP = re.compile(
    r"(?:\bdelta[\s_-]*[xt]\b|\bdt\b|sampl\w*[\s_-]*(?:interval|period|time)|\btime[\s_]*(?:step|interval)\b|\bx[\s_-]*increment\b)"
    r"[^\d\n:=;,\t\[(]*(?:[\[(](?P<inside>[a-zA-Zµμ]+)[\])])?" + _VALUE.replace("a-zA-Z/", "a-zA-Zµμ"),
    re.IGNORECASE,
)
_UNIT_LINE = re.compile(r"^\W*(?:y[\s_-]*)?units?(?:[\s_-]*labels?)?\b\W*[:=;,\t ]\s*(?P<rest>\S.*)$", re.IGNORECASE)
_DATE_LINE = re.compile(
    r"\b(?:start|date|datum|begin|recorded|acquired|created)[^\d\n]*(?P<date>\d{1,4}[-./]\d{1,2}[-./]\d{1,4})"
    r"(?:[T ,;\t]+(?:time\W*)?(?P<clock>\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?))?",
    re.IGNORECASE,
)
_CLOCK_LINE = re.compile(
    r"^\W*(?:start[\s_]*)?(?:time|zeit)\W*[:=;,\t ]\s*(?P<clock>\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?)", re.I
)
_HZ = {
    "": 1.0,
    "hz": 1.0,
    "khz": 1e3,
    "mhz": 1e6,
    "sps": 1.0,
    "ksps": 1e3,
    "s/s": 1.0,
    "samples/s": 1.0,
    "sa/s": 1.0,
    "samples": 1.0,
}
_STEP_S = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text is cut into rows and columns."""

    encoding: str
    separator: str  # or `space`: any number of spaces and tabs
    decimal: str
    skipped: int  # lines above the first row of numbers
    begin: int  # where the block begins, in bytes of UTF-8
    names: tuple[str, ...]
    units: tuple[str | None, ...]
    headless: bool
    width: int  # columns of a row, without an empty one at its end
    ending: bool = False  # whether rows end with a separator
    preamble: tuple[str, ...] = ()


# -- bytes -> lines ----------------------------------------------------------------------------------------------------


def encoding_of(head: bytes) -> str:
    """The encoding, by its mark or by where the zeros are."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if len(head) > 3 and head[1:200:2].count(0) > 0.8 * len(head[1:200:2]):
        return "utf-16-le"
    if len(head) > 3 and head[0:200:2].count(0) > 0.8 * len(head[0:200:2]):
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


class _Recoded(io.RawIOBase):
    """A file as UTF-8 with lines that end in a line feed, from a place on."""

    def __init__(self, path: Path, encoding: str, begin: int = 0, spaces: bool = False, separator: str = "") -> None:
        self._file = path.open("rb")
        self._plain = encoding in ("utf-8", "utf-8-sig")
        self._spaces, self._separator = spaces, separator.encode()
        errors = "replace"
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._held, self._skip = b"", begin
        self._ends = False
        if self._plain:
            mark = 3 if encoding == "utf-8-sig" else 0
            self._file.seek(begin + mark)
            self._skip = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        while not self._held and not self._ends:
            raw = self._file.read(max(size, 1 << 16))
            self._ends = not raw
            data = raw if self._plain else self._decoder.decode(raw, final=self._ends).encode()
            if self._skip:
                cut = min(self._skip, len(data))
                data, self._skip = data[cut:], self._skip - cut
            self._held = self._tidy(data)
        out, self._held = self._held[:size], self._held[size:]
        return out

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _tidy(self, data: bytes) -> bytes:
        if not self._spaces or not data:
            return data
        # Whole lines only: a run of spaces must not be cut in two.
        rest = getattr(self, "_rest", b"")
        data = rest + data
        cut = len(data) if self._ends else data.rfind(b"\n") + 1
        self._rest, data = data[cut:], data[:cut]
        if self._ends and self._rest:
            data, self._rest = data + self._rest, b""
        data = re.sub(rb"[ \t]*\r?\n[ \t]*", b"\n", data)
        return re.sub(rb"[ \t]+", b"\t", data.lstrip(b" \t"))


def _open(path: Path, dialect: Dialect) -> io.BufferedReader:
    spaces = dialect.separator == _SPACE
    return io.BufferedReader(_Recoded(path, dialect.encoding, dialect.begin, spaces), _BLOCK)


def _ends(path: Path, dialect: Dialect) -> tuple[int, list[str]]:
    """Bytes of the numeric block, and the lines below it that are no rows."""
    total, tail = 0, b""
    with _open(path, dialect) as file:
        if dialect.encoding.startswith("utf-8") and dialect.separator != _SPACE:
            mark = 3 if dialect.encoding == "utf-8-sig" else 0
            total = max(0, path.stat().st_size - dialect.begin - mark)
            with path.open("rb") as plain:
                plain.seek(dialect.begin + mark + max(0, total - _TAIL))
                tail = plain.read()
        else:
            while piece := file.read(_BLOCK):
                total += len(piece)
                tail = (tail + piece)[-_TAIL:]
    lines = tail.splitlines(keepends=True)
    first = 0 if len(tail) == total else 1  # the first one may be cut
    footer: list[str] = []
    for line in reversed(lines[first:]):
        text = line.decode("utf-8", "replace")
        cells = _cells(text, dialect.separator if dialect.separator != _SPACE else "\t")
        cells = _without_end(cells) if dialect.ending else cells
        kinds = "".join(_kind(cell, dialect.decimal) for cell in cells)
        fits = len(cells) == dialect.width and ("n" in kinds or not text.strip()) and not _SUMMARY.match(cells[0])
        bare = not text.strip() or text.strip() in ("\x1a", "\x00")
        if fits and not bare:
            break
        total -= len(line)
        if not bare:
            footer.append(text.strip())
        if len(footer) > 50:
            return total + sum(map(len, lines)), []  # not a footer: the rows are reported where they are read
    return total, footer[::-1]


# -- the dialect -------------------------------------------------------------------------------------------------------


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line."""
    line = line.strip("\r\n").lstrip("\ufeff")
    if separator == _SPACE:
        return line.split()
    if '"' in line:
        cells = [cell.strip() for cell in re.split(f'{re.escape(separator)}(?=(?:[^"]*"[^"]*")*[^"]*$)', line)]
        cells = [cell[1:-1].strip() if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell for cell in cells]
    else:
        cells = [cell.strip() for cell in line.split(separator)]
    return cells


def _without_end(cells: list[str]) -> list[str]:
    """The cells without an empty one at the end."""
    return cells[:-1] if len(cells) > 1 and not cells[-1] else cells


def _kind(cell: str, decimal: str) -> str:
    """N number, d date or time of day, e empty, t text."""
    if not cell:
        return "e"
    if _NUMBER[decimal].match(cell):
        return "n"
    if cell.lower() in _NOT_FINITE:
        return "x"
    return "d" if clock.is_moment(cell) else "t"


@dataclass(frozen=True, slots=True)
class _Shape:
    score: tuple[float, ...]
    separator: str
    decimal: str
    start: int
    width: int
    ending: bool  # whether rows end with a separator


def _shape(lines: Sequence[str], separator: str, decimal: str) -> _Shape | None:
    """How well the lines fit a dialect, and where their block of numbers begins."""
    rows = [_cells(line, separator) if line.strip() else [] for line in lines]
    kinds = ["".join(_kind(cell, decimal) for cell in row) for row in rows]
    if separator == "," and decimal == ".":  # `0,0123` is one number, not two
        padded = sum(1 for row in rows for cell in row if _PADDED.match(cell))
        if padded > 0.05 * sum(len(row) for row in rows):
            return None
    full = [row for row, kind in zip(rows, kinds, strict=True) if "n" in kind]
    ending = bool(full) and sum(len(row) > 1 and not row[-1] for row in full) > 0.95 * len(full)
    if ending:  # a separator at the end of each row makes no further cell
        rows = [_without_end(row) for row in rows]
        kinds = ["".join(_kind(cell, decimal) for cell in row) for row in rows]
    widths = Counter(len(row) for row, kind in zip(rows, kinds, strict=True) if "n" in kind)
    if not widths:
        return None
    (width, _), *_ = sorted(widths.items(), key=lambda item: (-item[1], -item[0]))
    if width > _MOST_COLUMNS:
        return None
    shaped = [kind for kind in kinds if len(kind) == width and "n" in kind]
    numeric = [
        column for column in range(width)
        if sum(kind[column] in "nd" for kind in shaped) > 0.5 * sum(kind[column] not in "ex" for kind in shaped)
        and any(kind[column] in "nd" for kind in shaped)
    ]  # fmt: skip
    if not numeric:
        return None
    start = _start(kinds, width, numeric)
    if start is None:
        return None
    block = kinds[start:]
    texts = width - len(numeric)
    good = sum(len(kind) == width and all(kind[c] in "ndex" for c in numeric) for kind in block)
    quality = len(numeric) / width
    score = (
        round(good / max(1, sum(1 for kind in block if kind)), 1),
        quality,
        float(good),
        float(width),
        -float(texts),
    )
    return _Shape(score, separator, decimal, start, width, ending)


def _best(lines: Sequence[str], separators: Sequence[str], decimals: Sequence[str]) -> _Shape | None:
    """The dialect that fits best. Some lines of the middle decide, then all lines say where the block begins.

    On equal terms the earlier separator wins, and a point before a comma.
    """
    middle = len(lines) // 2
    some = lines if len(lines) <= 2 * _SAMPLE else lines[middle : middle + _SAMPLE]
    found = []
    for separator in separators:
        for decimal in decimals:
            if decimal == separator == ",":
                continue
            shape = _shape(some, separator, decimal)
            if shape is not None:
                found.append(shape)
    for shape in sorted(found, key=lambda one: one.score, reverse=True):
        whole = shape if some is lines else _shape(lines, shape.separator, shape.decimal)
        if whole is not None:
            return whole
    return None


def _start(kinds: Sequence[str], width: int, numeric: Sequence[int]) -> int | None:
    """The first row of the block: whole, and followed by others."""

    def whole(at: int) -> bool:
        kind = kinds[at]
        return len(kind) == width and all(kind[column] in "ndex" for column in numeric) and "n" in kind

    for at in range(len(kinds)):
        if not whole(at):
            continue
        after = [i for i in range(at + 1, min(len(kinds), at + 9)) if kinds[i]][:4]
        if len(after) and sum(whole(i) for i in after) < min(2, len(after)):
            continue
        above = [i for i in range(at) if kinds[i]][-2:]
        if len(above) == 2:  # a bad cell in the first row, right under the names
            names, row = kinds[above[0]], kinds[above[1]]
            mixed = len(row) == width and any(row[c] == "n" for c in numeric) and any(row[c] == "t" for c in numeric)
            if mixed and len(names) == width and set(names) <= {"t"}:
                return above[1]
        return at
    return None


def dialect_of(path: Path, options: Options) -> Dialect:
    """How the text of a file is to be cut.

    Raises:
        RecordingError: there is no block of numbers.
    """
    with path.open("rb") as file:
        raw = file.read(_HEAD)
    encoding = encoding_of(raw)
    if encoding == "utf-8" and b"\0" in raw:
        msg = f"expected a text with rows of numbers, found bytes that are no text: {path}"
        raise RecordingError(msg, hint="name the file with the suffix of its format")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(raw, final=len(raw) < _HEAD)
    lines = text.splitlines(keepends=True) if "\v" not in text else text.split("\n")
    lines = re.split(r"(?<=\n)", text) if "\n" in text else lines
    lines = [line for line in lines if line]
    if len(raw) == _HEAD and len(lines) > 1:
        lines.pop()  # it may be cut
    separators = _SEPARATORS if options.separator is None else (_NAMES.get(options.separator, options.separator),)
    skip = options.skip or 0
    best = _best(lines[skip:], separators, (".", ",") if options.decimal is None else (options.decimal,))
    if best is None:
        return _without_numbers(path, options, encoding, lines)
    start = skip if options.skip is not None else best.start
    separator = best.separator
    names, units, headless = _names(lines[:start], best.separator, best.decimal, best.width, lines[start])
    if names is None and options.columns is None and _numbered(lines, start, best):
        names = _cells(lines[start], separator)
        start, headless = start + 1, False
    if options.columns is not None:
        if len(options.columns) != best.width:
            msg = f"expected --columns for {best.width} columns of {path}, found: {len(options.columns)}"
            raise RecordingError(msg, hint="name every column, the time too")
        names = list(options.columns)
    if names and not names[0]:
        names[0] = "index"  # what pandas and R write
    preamble = tuple(line.strip() for line in lines[:start] if line.strip())
    shown = names if names is not None else [f"ch{i + 1}" for i in range(best.width)]
    plain = [clock.split_unit(name) for name in shown]
    given = [
        units[i]
        if i < len(units) and units[i]
        else (unit if unit and (is_unit(unit) or clock.name_says(name)[2]) else None)
        for i, ((_, unit), name) in enumerate(zip(plain, shown, strict=True))
    ]
    begin = len("".join(lines[:start]).encode())
    if encoding == "utf-8-sig" or encoding == "utf-16":
        begin = len("".join(lines[:start]).lstrip("\ufeff").encode())
    return Dialect(
        encoding, separator, best.decimal, start, begin, tuple(unique(shown)), tuple(given), headless and names is None,
        best.width, best.ending, preamble,
    )  # fmt: skip


def _without_numbers(path: Path, options: Options, encoding: str, lines: Sequence[str]) -> Dialect:
    seen = next((line.strip() for line in lines if line.strip()), "")
    if not seen:
        msg = "the file is empty"
        raise ValueError(msg)
    msg = f"expected rows of numbers, one column per channel and one row per sample, found none: {path}"
    if seen:
        msg += f" (it begins with {seen[:40]!r})"
    raise RecordingError(msg, hint="--separator, --decimal and --skip say how a text is cut")


def _numbered(lines: Sequence[str], start: int, shape: _Shape) -> bool:
    """Whether the first row holds the names 0, 1, 2, ... that pandas writes for nameless columns."""
    cells = _cells(lines[start], shape.separator)
    if shape.separator == "," and lines[start].startswith(",") and len(cells) == shape.width:
        rest = cells[1:]
    elif len(cells) >= 3:
        rest = cells
    else:
        return False
    counted = [str(i) for i in range(len(rest))], [str(i + 1) for i in range(len(rest))]
    second = _cells(lines[start + 1], shape.separator) if start + 1 < len(lines) else []
    return rest in counted and any("." in cell or "," in cell for cell in second)


def _names(
    above: Sequence[str], separator: str, decimal: str, width: int, first: str
) -> tuple[list[str] | None, list[str | None], bool]:
    """Names and units from the lines right above the block."""
    candidates: list[list[str]] = []
    for line in reversed(above):
        stripped = line.strip()
        if not stripped:
            if candidates:
                break
            continue
        bare = stripped
        for sign in _COMMENTS:
            if bare.startswith(sign):
                bare = bare[len(sign) :].strip() if separator == _SPACE else bare.lstrip(sign).strip()
                break
        cells = _cells(bare if bare != stripped else line, separator)
        cells = cells if len(cells) == width else _without_end(cells)
        kinds = "".join(_kind(cell, decimal) for cell in cells)
        fits = len(cells) == width or (len(cells) == width + 1 and cells[-1].lower() in ("comment", "comments", "note"))
        row_names = len(cells) == width - 1 and width > 2  # R writes no name over the row numbers
        if not fits and not row_names:
            break
        if any(kind in "nd" for kind in kinds[:1]) or kinds.count("n") > len(kinds) / 2:
            break
        if row_names:
            cells = ["", *cells]
        candidates.append(cells[:width])
        if len(candidates) == 3:
            break
    if not candidates:
        return None, [], True
    units: list[str | None] = []
    if len(candidates) > 1 and _is_units_row(candidates[0]):
        units = [cell.strip("[]() ") or None for cell in candidates[0]]
        names = candidates[1]
    elif len(candidates) > 2 and _is_units_row(candidates[1]):
        units, names = [cell.strip("[]() ") or None for cell in candidates[1]], candidates[2]
    elif (
        _is_units_row(candidates[0], whole=True)
        and not any(clock.name_says(cell)[0] for cell in candidates[0][1:])
        and any(is_unit(cell.strip("[]() ")) and len(cell) > 1 for cell in candidates[0])
    ):
        return None, [cell.strip("[]() ") or None for cell in candidates[0]], True
    else:
        names = candidates[0]
        units = _units_between(candidates[1]) if len(candidates) > 1 and _is_units_row(candidates[1]) else []
    return [name.lstrip("#%").strip() for name in names], units, False


def _units_between(cells: Sequence[str]) -> list[str | None]:
    return [cell.strip("[]() ") or None for cell in cells]


def _is_units_row(cells: Sequence[str], *, whole: bool = False) -> bool:
    """Whether half of the cells are units, or all of them: `x,rpm` are two names."""
    plain = [cell.strip("[]() ").strip() for cell in cells]
    said = [cell for cell in plain if cell and cell not in ("-", "_")]
    known = [cell for cell in said if is_unit(cell) or clock.name_says(f"time [{cell}]")[2]]
    least = len(said) if whole else (len(said) + 1) // 2
    return bool(said) and len(known) >= least and all(len(cell) < 16 for cell in said)


@dataclass(frozen=True, slots=True)
class Stated:
    """What the lines above the numbers say."""

    rate_hz: float | None = None
    rate_line: str = ""
    unit: str | None = None
    start_ns: int | None = None
    date_only: bool = False


def statements(lines: Sequence[str]) -> Stated:
    """Rate, unit and date from the lines above the numbers."""
    rate, where, unit, date, hour = None, "", None, None, None
    for line in lines:
        for pattern, table, inverse in ((_RATE, _HZ, False), (_STEP, _STEP_S, True)):
            found = pattern.search(line)
            if rate is None and found is not None:
                text = found["value"]
                value = float(text.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", text) else text)
                scale = table.get((found["inside"] or found["after"] or "").lower())
                if scale is not None and value > 0:
                    rate, where = (1 / (value * scale) if inverse else value * scale), line.strip()[:80]
        found = _UNIT_LINE.match(line)
        if unit is None and found is not None:
            words = [word for word in re.split(r"[\t;,]+", found["rest"]) if word.strip()]
            known = [word.strip().strip('"') for word in words if is_unit(word.strip().strip('"'))]
            unit = known[0] if known and len(set(known)) == 1 else unit
        found = _DATE_LINE.search(line)
        if date is None and found is not None:
            date, hour = found["date"], found["clock"] or hour
        found = _CLOCK_LINE.match(line)
        if hour is None and found is not None:
            hour = found["clock"]
    start_ns, only = None, False
    if date is not None:
        try:
            moment = f"{date} {hour}" if hour else date
            values, _ = clock.moments_ns([moment], Path("preamble"), "date")
            start_ns, only = int(values[0]), hour is None
        except (RecordingError, StopIteration, ValueError):
            start_ns = None
    return Stated(rate, where, unit, start_ns, only)


# -- reading -----------------------------------------------------------------------------------------------------------


class _Cut(io.RawIOBase):
    """The first `left` bytes of a stream."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        want = self._left if size is None or size < 0 else min(size, self._left)
        data = self._file.read(want) if want else b""
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _batches(path: Path, dialect: Dialect, types: dict[str, pa.DataType], length: int) -> Iterator[pa.RecordBatch]:
    """The columns of `types`, block by block."""
    names = list(dialect.names)
    space = dialect.separator == _SPACE
    # A separator at the end of each row makes one more column.
    odd: list[tuple[int | None, str]] = []

    def handler(row: Any) -> str:
        if row.text.lstrip().startswith(_COMMENTS):
            return "skip"
        odd.append((row.number, row.text[:60]))
        return "error"

    ending = [*names, "\0end"] if dialect.ending else names
    read = pa_csv.ReadOptions(column_names=ending, use_threads=False, block_size=_BLOCK)
    parse = pa_csv.ParseOptions(delimiter="\t" if space else dialect.separator, invalid_row_handler=handler)
    nulls = [
        "",
        "nan",
        "NaN",
        "NAN",
        "NA",
        "N/A",
        "#N/A",
        "null",
        "NULL",
        "None",
        "-NaN",
        "-nan",
        "nan(ind)",
        "-nan(ind)",
        "-",
    ]
    convert = pa_csv.ConvertOptions(
        decimal_point=dialect.decimal, include_columns=list(types), column_types=types, null_values=nulls,
        strings_can_be_null=False,
    )  # fmt: skip
    try:
        with _open(path, dialect) as file:
            source = pa.PythonFile(_Cut(file, length), mode="r")
            with pa_csv.open_csv(source, read, parse, convert) as reader:
                yield from reader
    except pa.ArrowInvalid as error:
        bad = _BAD_CELL.search(str(error))
        if odd and bad is None:
            number, seen = odd[0]
            where = f"row {number + dialect.skipped}" if number else "a row"
            msg = f"expected {dialect.width} columns in every row of {path}, found in {where}: {seen!r}"
            raise RecordingError(
                msg, hint="correct that row; --separator and --decimal say how rows are cut"
            ) from error
        if bad is None:
            raise
        where = f"row {int(bad['row']) + dialect.skipped}" if bad["row"] else "a row"
        name = names[int(bad["column"])]
        msg = f"expected numbers in column {name} of {path}, found in {where}: {bad['cell']}"
        hint = "correct that cell or leave it empty, or take other channels with --channels"
        raise RecordingError(msg, hint=hint) from error


def describe(path: Path, options: Options) -> list[Contents]:
    """A column is a channel if the head of the block contains a number in it. A later word in it is then an error."""
    dialect = dialect_of(path, options)
    length, footer = _ends(path, dialect)
    texts = dict.fromkeys(dialect.names, pa.string())
    first = next(_batches(path, dialect, texts, length), None) if length else None
    head: dict[str, Any] = {}
    left_out: list[str] = []
    for name in dialect.names:
        cells = [] if first is None else [str(cell or "").strip() for cell in first[name].to_pylist()]
        kinds = {_kind(cell, dialect.decimal) for cell in cells}
        if "n" in kinds and not ("d" in kinds and "n" not in kinds):
            head[name] = np.array([_float(cell, dialect.decimal) for cell in cells])
        elif "d" in kinds:
            head[name] = cells
        else:
            left_out.append(name)
    shown = {_timed_name(dialect, name): values for name, values in head.items()}
    back = {_timed_name(dialect, name): name for name in head}
    time = clock.find_time(shown)
    about_time = [back[name] for name in (*time.chosen, *time.others)]
    channels = [name for name, values in head.items() if isinstance(values, np.ndarray) and name not in about_time]
    left_out += [name for name, values in head.items() if not isinstance(values, np.ndarray) and name not in about_time]
    left_out = [name for name in dialect.names if name in left_out]
    beside = [name for name in channels if name.lower() in ("speed_rpm", "session")]
    channels, speed_rpm, apart = columns.set_apart([name for name in channels if name not in beside], head)
    said = statements(dialect.preamble)
    notes: list[str] = []
    rows, values, has_date = _rows(path, dialect, length, [back[name] for name in time.chosen], channels, time.dated)
    if footer:
        notes.append(f"{len(footer)} lines below the numbers are ignored: {footer[0][:60]!r}")
    others = [back[name] for name in time.others]
    if time.chosen or others:
        words = " + ".join(back[name] for name in time.chosen)
        notes.append(f"{', '.join([words, *others] if words else others)} is time, not a channel")
    if beside:
        notes.append(f"{', '.join(beside)} is no channel")
    notes += apart
    timing = None
    rate, rate_from = said.rate_hz, f"the line {said.rate_line!r}" if said.rate_hz else ""
    metadata: dict[str, Any] = {} if speed_rpm is None else {"rpm": speed_rpm}
    if values is not None:
        stated, by = (
            (said.rate_hz, f"the line {said.rate_line!r} says") if said.rate_hz else (options.rate_hz, "--rate")
        )
        timing = clock.judge(
            path, " + ".join(time.chosen), values, text=time.dated, dated=has_date, stated_hz=stated, stated_by=by,
            uneven=options.uneven,
        )  # fmt: skip
        if timing.rate_hz is not None:
            rate, rate_from = timing.rate_hz, f"the time column {' + '.join(back[name] for name in time.chosen)}"
    start = timing.start_ns if timing is not None else None
    if start is not None and said.start_ns is not None and abs(start - said.start_ns) > 2 * 86_400 * 10**9:
        a, b = (np.datetime64(one, "ns").astype("datetime64[s]") for one in (start, said.start_ns))
        msg = f"expected the date of the time column of {path}, {a}, found above the numbers: {b}"
        raise RecordingError(msg, hint="correct one of them, or --uneven ignore with --rate")
    start = start if start is not None else said.start_ns
    if start is not None:
        metadata["start_time_ns"] = start
    units = {name: dialect.units[dialect.names.index(name)] or columns.unit_in(name) or said.unit for name in channels}
    understood = {
        "separator": {"\t": "tab", _SPACE: "space"}.get(dialect.separator, dialect.separator),
        "decimal": dialect.decimal,
        "encoding": dialect.encoding,
        "lines_above": dialect.skipped,
        "lines_below": len(footer),
    }
    whole = Contents(
        tuple(channels), rows, rate, metadata, left_out=tuple(left_out), timing=timing, rate_from=rate_from,
        notes=tuple(notes), dialect=understood,
    )  # fmt: skip
    return by_unit(whole, units)


def by_unit(whole: Contents, units: dict[str, str | None]) -> list[Contents]:
    """Contents per unit: a stream has one unit."""
    groups: dict[str | None, list[str]] = {}
    for name in whole.channels:
        groups.setdefault(units.get(name), []).append(name)
    if len(groups) < 2:
        unit = next(iter(groups), None)
        return [replace(whole, metadata=whole.metadata | ({} if unit is None else {"units": unit}))]
    return [
        replace(
            whole, channels=tuple(names), part=unit or "", metadata=whole.metadata | ({"units": unit} if unit else {})
        )
        for unit, names in groups.items()
    ]


def _timed_name(dialect: Dialect, name: str) -> str:
    """The name with its unit, which says how time counts. A nameless column says nothing."""
    if dialect.headless:
        return f"column {dialect.names.index(name) + 1} without a name"
    unit = dialect.units[dialect.names.index(name)]
    return name if unit is None or clock.split_unit(name)[1] else f"{name} [{unit}]"


def _float(cell: str, decimal: str) -> float:
    try:
        return float(cell.replace(decimal, ".").replace("D", "e").replace("d", "e"))
    except ValueError:
        return np.nan


def _rows(
    path: Path, dialect: Dialect, length: int, times: Sequence[str], channels: Sequence[str], dated: bool
) -> tuple[int, NDArray[Any] | None, bool]:
    """The number of rows, the values of the time columns, and whether these have a date.

    Cells are counted as text: one that is no number matters only when its channel is read.
    """
    names = [*times] or [*channels[:1]]
    if not names or not length:
        return 0, None, False
    rows = 0
    texts: list[str] = []
    pieces: list[NDArray[Any]] = []
    for batch in _batches(path, dialect, dict.fromkeys(names, pa.string()), length):
        rows += batch.num_rows
        if dated:
            columns = [batch[name].to_pylist() for name in names]
            texts += [" ".join(str(cell or "").strip() for cell in cells) for cells in zip(*columns, strict=True)]
        elif times:
            pieces.append(_numbers(batch[names[0]], dialect.decimal, path, names[0]))
    if texts:
        return rows, *clock.moments_ns(texts, path, names[0])
    return rows, np.concatenate(pieces) if pieces else None, False


def _numbers(column: pa.Array, decimal: str, path: Path, name: str) -> NDArray[Any]:
    texts = pc.utf8_trim_whitespace(column)
    if decimal == ",":
        texts = pc.replace_substring(texts, ",", ".")
    try:
        return pc.cast(texts, pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        pass
    texts = pc.if_else(pc.match_substring_regex(texts, r"^[+-]?[\d.]"), texts, pa.scalar(None, pa.string()))
    try:
        return pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        msg = f"expected numbers in the time column {name} of {path}, found: {str(error)[:100]}"
        raise RecordingError(msg, hint="correct that cell") from error


def chunks(path: Path, part: str, channels: Sequence[str], rows: int, options: Options) -> Iterator[Float32]:
    """Chunks of the block size of the reader; `rows` is ignored."""
    dialect = dialect_of(path, options)
    length, _ = _ends(path, dialect)
    if not length:
        return
    types = dict.fromkeys(channels, pa.float64())  # the first lines may look like integers
    for batch in _batches(path, dialect, types, length):
        yield stacked([column.to_numpy(zero_copy_only=False) for column in batch.columns])


def is_table_of_text(path: Path) -> str | None:
    """Why a text in a folder is no recording; None if it is one."""
    options = Options()
    try:
        dialect = dialect_of(path, options)
    except RecordingError:
        return "text without rows of numbers"
    with _open(path, dialect) as file:
        lines = [line for line in (file.readline().decode("utf-8", "replace") for _ in range(5)) if line.strip()]
    separator = "\t" if dialect.separator == _SPACE else dialect.separator
    kinds = "".join(_kind(cell, dialect.decimal) for line in lines for cell in _cells(line, separator))
    if kinds.count("t") >= kinds.count("n") + kinds.count("d"):
        return "a table of text, not of samples"
    return None
