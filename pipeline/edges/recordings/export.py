"""Stored readings for other programs: a file per stretch without a gap, as CSV, Parquet, UFF58 or WAV.

What is exported can be read again by `thrumcast backfill`, with the same samples. WAV has no place for a unit: say it
with --unit. A stretch longer than `MOST_SAMPLES` goes on in another file, which bounds the memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from pipeline.core.records import Block, Float32
from pipeline.edges.recordings.files import write_recording
from pipeline.edges.recordings.readings import continues, find_readings, place_of, read_readings
from pipeline.errors import RecordingError

FORMATS = ("csv", "parquet", "uff", "wav")
MOST_SAMPLES = 1 << 24  # of all channels of a file: 64 MiB


@dataclass(slots=True)
class Exported:
    """What an export wrote."""

    files: list[Path] = field(default_factory=list)
    samples: int = 0  # per channel


def export_readings(
    readings: Path,
    folder: Path,
    kind: str,
    *,
    machines: Collection[str] | None = None,
    points: Collection[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    on_file: Callable[[Path], None] = lambda path: None,
) -> Exported:
    """Write the readings of a time as files `machine~point~start.kind`.

    Args:
        readings: Folder of stored readings.
        folder: Where to write.
        kind: One of FORMATS.
        machines: Only these machines.
        points: Only these points.
        start: Only samples from this time on.
        end: Only samples before this time.
        on_file: Called with each file that is complete.

    Raises:
        RecordingError: a part cannot be read, a rate does not fit into the format, or a file cannot be written.
    """
    done = Exported()
    span_ns = (_ns(start, 0), _ns(end, 1 << 62))
    for stretch in _stretches(_blocks(readings, machines, points, span_ns)):
        first = stretch[0]
        stamp = datetime.fromtimestamp(first.t0_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{first.key.machine}~{first.key.point}~{stamp}{first.t0_ns % 10**9:09d}.{kind}"
        samples = np.concatenate([block.samples for block in stretch], axis=1)
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _WRITERS[kind](path, first, samples)
        except OSError as error:
            msg = f"expected to write {path}, found: {error.strerror or error}"
            raise RecordingError(msg, hint="check the path and the free space") from error
        done.files.append(path)
        done.samples += samples.shape[1]
        on_file(path)
    return done


def _ns(moment: datetime | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(aware.timestamp() * 1e6) * 1000


def _blocks(
    readings: Path, machines: Collection[str] | None, points: Collection[str] | None, span_ns: tuple[int, int]
) -> Iterator[Block]:
    """The blocks of the chosen streams, one stream after the other, cut to the span."""
    parts = find_readings(readings)
    if not parts:
        msg = f"expected stored readings, found none in {readings}"
        raise RecordingError(msg, hint="`thrumcast record` stores them; see also archive.readings in config.toml")
    for path in sorted(parts, key=lambda path: path.name):  # machine~point~time
        place = place_of(path.name)
        machine, point = place[0] if place else (path.name, "")
        if (machines and machine not in machines) or (points and point not in points):
            continue
        for block in read_readings(path):
            first, last = (_samples_before(block, at_ns) for at_ns in span_ns)
            if first < last:
                yield _cut(block, first, last)


def _samples_before(block: Block, at_ns: int) -> int:
    """How many samples of a block lie before a time."""
    return min(max(0, math.ceil((at_ns - block.t0_ns) * block.rate_hz / 1e9)), block.samples.shape[1])


def _cut(block: Block, first: int, last: int) -> Block:
    return replace(
        block,
        index=block.index + first,
        t0_ns=block.t0_ns + round(first * 1e9 / block.rate_hz),
        samples=np.ascontiguousarray(block.samples[:, first:last]),
    )


def _stretches(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    held: list[Block] = []
    size = 0
    for block in blocks:
        if held and (held[-1].key != block.key or not continues(held[-1], block) or size > MOST_SAMPLES):
            yield held
            held, size = [], 0
        held.append(block)
        size += block.samples.size
    if held:
        yield held


# -- formats -----------------------------------------------------------------------------------------------------------


def _csv(path: Path, first: Block, samples: Float32) -> None:
    start = datetime.fromtimestamp(first.t0_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    head = f"# sample rate: {first.rate_hz:.12g} Hz\n# start: {start}.{first.t0_ns % 10**9:09d}\n"
    head += ",".join(["time [s]", *(f"{name} [{first.unit}]" for name in first.channels)]) + "\n"
    columns = {"time": np.arange(samples.shape[1]) / first.rate_hz}
    columns |= {f"c{i}": row for i, row in enumerate(samples)}
    with path.open("wb") as file:
        file.write(head.encode())
        pa_csv.write_csv(pa.table(columns), file, pa_csv.WriteOptions(include_header=False))


def _parquet(path: Path, first: Block, samples: Float32) -> None:
    known: dict[str, Any] = {
        "sample_rate_hz": first.rate_hz,
        "units": first.unit,
        "recording": first.key.machine,
        "start_time_ns": first.t0_ns,
        "rpm": first.speed_rpm,
        "rpm_source": first.speed_source,
        "fault_class": first.truth,
        "fault_orders_of_shaft": None if first.orders is None else asdict(first.orders),
    }
    write_recording(path, samples, first.channels, {key: value for key, value in known.items() if value is not None})


def _uff(path: Path, first: Block, samples: Float32) -> None:
    import pyuff

    if not np.isfinite(samples).all():  # pyuff writes zeros in their place
        msg = f"expected finite samples for UFF58, found missing ones of {first.key}"
        raise RecordingError(msg, hint="take parquet, csv or wav")
    sets = []
    for number, (name, row) in enumerate(zip(first.channels, samples, strict=True), 1):
        given = pyuff.prepare_58(
            binary=1, func_type=1, rsp_node=number, rsp_dir=1, id1=name, id2=str(first.key),
            id3=datetime.fromtimestamp(first.t0_ns // 10**9, UTC).strftime("%d-%b-%y %H:%M:%S"),
            ordinate_spec_data_type=12, ordinate_axis_units_lab=first.unit, abscissa_axis_units_lab="s",
            abscissa_spec_data_type=17, abscissa_inc=1 / first.rate_hz, abscissa_min=0.0, ord_data_type=2,
            num_pts=len(row), abscissa_spacing=1, data=row.astype(np.float64), x=np.arange(len(row)) / first.rate_hz,
            return_full_dict=True,
        )  # fmt: skip
        missing = {key: "NONE" if key[:2] == "id" or key.endswith(("name", "lab")) else 0 for key in given}
        sets.append({key: missing[key] if value is None else value for key, value in given.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.unlink(missing_ok=True)  # pyuff's mode `overwrite` breaks binary sets
        pyuff.UFF(str(path)).write_sets(sets, mode="add")


def _wav(path: Path, first: Block, samples: Float32) -> None:
    from scipy.io import wavfile

    if first.rate_hz != int(first.rate_hz):
        msg = f"expected a whole number of Hz for WAV, found {first.rate_hz:.12g} Hz of {first.key}"
        raise RecordingError(msg, hint="take parquet, uff or csv")
    wavfile.write(path, int(first.rate_hz), samples.T)


_WRITERS: dict[str, Callable[[Path, Block, Float32], None]] = {
    "csv": _csv, "parquet": _parquet, "uff": _uff, "wav": _wav,
}  # fmt: skip
