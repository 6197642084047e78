"""What the readers share: the options of a reading, what a file contains, and the door around every reader.

A reader turns one file into `Contents`: one entry per group of channels that share length, rate and unit. Whatever goes
wrong inside a reader leaves through `guarded` as a RecordingError that names the file.
"""

from __future__ import annotations

import contextlib
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import Float32
from pipeline.errors import RecordingError

CHUNK_ROWS = 65_536
LEAST_SAMPLES = 16  # shorter arrays of a MATLAB, HDF5 or NumPy file are parameters, not signals
MOST_BYTES = 4 << 30  # of arrays that a reader holds in memory, and of a file that is unpacked
READER_S = 300.0  # how long one call of a reader may take
UNEVEN = ("refuse", "resample", "ignore")
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Options:
    """How files are to be read. What is None is found in the file."""

    rate_hz: float | None = None  # of files that do not state their rate
    unit: str | None = None  # of files that do not state their unit
    separator: str | None = None
    decimal: str | None = None
    skip: int | None = None  # lines of text before the first row of numbers
    columns: tuple[str, ...] | None = None  # names of the columns of a table
    uneven: str = "refuse"  # what to do with an irregular time column
    preset: str | None = None  # name of a public data set
    machine_from: str = "recording"

    def words(self) -> str:
        """The options that change what is read, as text; empty if there are none. It is part of the input's id."""
        plain = Options()
        found = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if one.name != "rate_hz" and getattr(self, one.name) != getattr(plain, one.name)
        ]
        return ", ".join(found)


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """What a time column says: rate, start and gaps."""

    column: str
    rate_hz: float | None  # None: it only counts samples
    start_ns: int | None = None  # None: it has no date
    gaps: tuple[tuple[int, int], ...] = ()  # (row, number of samples that are missing before it)
    times_s: Float64 | None = None  # of an irregular series that is to be resampled
    jitter: float = 0.0  # standard deviation of a step, as a fraction of it
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Number of samples that were dropped."""
        return sum(count for _, count in self.gaps)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """Channels that share length, rate and unit: what a file states about them."""

    channels: tuple[str, ...]
    samples: int  # per channel
    rate_hz: float | None
    metadata: dict[str, Any]
    snapshots: bool = False  # whether it is a series of records that are not contiguous
    left_out: tuple[str, ...] = ()  # columns without numbers
    part: str = ""  # tells the groups of a file apart
    timing: Timing | None = None
    rate_from: str = ""  # where the rate stands
    notes: tuple[str, ...] = ()  # what a person should know about this reading
    dialect: Mapping[str, Any] = field(default_factory=dict)  # how a text was understood


@contextlib.contextmanager
def time_limit(seconds: float, path: Path) -> Iterator[None]:
    """Ends what takes longer than `seconds`. It works in the main thread of a process, elsewhere it does nothing.

    Raises:
        RecordingError: the time is over.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        msg = f"expected to read a part of {path} within {seconds:g} s, found: it takes longer"
        raise RecordingError(msg, hint="cut the file into smaller ones, or convert it to Parquet")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Calls `read`. Any failure becomes a RecordingError that names the file: other files can go on.

    Raises:
        RecordingError: the file is missing, is no regular file, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            msg = f"expected a regular file, found {_kind(mode)}: {path}"
            raise RecordingError(msg, hint="give files or folders; write a stream to a file first")
        with time_limit(READER_S, path):
            return read()
    except RecordingError:
        raise
    except FileNotFoundError as error:
        msg = f"expected a recording, found no such file: {path}"
        raise RecordingError(msg, hint="check the path") from error
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        msg = f"expected the library {name} to read {path}, found: it is not installed"
        raise RecordingError(msg, hint="pip install 'thrumcast[formats]'") from error
    except Exception as error:  # a library may raise anything on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        msg = f"expected a readable {path.suffix.lstrip('.') or 'recording'} file, found {path}: {reason}"
        raise RecordingError(msg, hint="check that the file is complete and has the right suffix") from error


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    )  # fmt: skip
    return next((words for test, words in kinds if test(mode)), "something else")


def check_memory(path: Path, size: int) -> None:
    """Refuses what would not fit into memory, before it is read.

    Raises:
        RecordingError: `size` bytes are too many.
    """
    if size > MOST_BYTES:
        msg = f"expected at most {MOST_BYTES >> 30} GiB of samples in one file of this format, found in {path}: "
        msg += f"{size / 2**30:.1f} GiB"
        raise RecordingError(msg, hint="convert it to Parquet or WAV, or cut it")


def stacked(columns: Sequence[NDArray[Any]]) -> Float32:
    """Columns (n,) -> (C, n) as float32."""
    return np.stack([np.asarray(column).astype(np.float32, copy=False) for column in columns])


def unique(names: Sequence[str], prefix: str = "ch") -> list[str]:
    """Names that differ: an empty one becomes ch1, ch2, ..., a repeated one gets _2, _3, ..."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        base = name.strip() or f"{prefix}{number}"
        candidate, count = base, 1
        while candidate in found:
            count += 1
            candidate = f"{base}_{count}"
        found.append(candidate)
    return found
