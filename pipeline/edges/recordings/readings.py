"""Readings stored as recordings: archive/readings/date=YYYY-MM-DD/*.parquet, or another folder.

A part is an ordinary recording: one row per sample, one float32 column per channel, `recording_metadata` in the file.
Further columns are machine, point, session, index (of the sample in its session) and speed_rpm. With them
`read_readings` returns the same blocks, which give the same windows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.records import BearingOrders, Block, StreamKey
from pipeline.edges.recordings.contents import guarded
from pipeline.errors import RecordingError

READINGS_NAME = "archive/readings"
PART_SAMPLES = 262_144  # per channel: 22 s at 12 kHz, some megabytes
BESIDE = ("machine", "point", "session", "index", "speed_rpm")  # columns that are not channels
_VERSION = 1
_NAME = re.compile(r"~?([^~/]+)~([^~/]+)~(-?\d+)~(\d+)~(-?\d+)\.parquet")


@dataclass(slots=True)
class ReadingsWriter:
    """Writes blocks, which must be in order per stream. A part appears when it is full and at `close`."""

    folder: Path
    parts: int = 0
    samples: int = 0  # per channel
    _held: dict[StreamKey, list[Block]] = field(default_factory=dict)

    def append(self, block: Block) -> None:
        """Adds a block. Writes a part when it is full or when the block does not continue the last one."""
        held = self._held.setdefault(block.key, [])
        if held and not continues(held[-1], block):
            self._write(block.key)
            held = self._held.setdefault(block.key, [])
        held.append(block)
        if sum(one.samples.shape[1] for one in held) >= PART_SAMPLES:
            self._write(block.key)

    def close(self) -> None:
        """Writes the remaining blocks."""
        for key in list(self._held):
            self._write(key)

    def _write(self, key: StreamKey) -> None:
        blocks = self._held.pop(key)
        first = blocks[0]
        table = _table(blocks)
        date = datetime.fromtimestamp(first.t0_ns // 10**9, UTC).date()
        # The name follows from the data, so storing readings twice gives one file. Names sort by time.
        name = part_name(first)
        path = self.folder / f"date={date.isoformat()}" / name
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                table,
                partial,
                compression="zstd",
                compression_level=1,
                use_dictionary=["machine", "point", "session", "speed_rpm"],
                use_byte_stream_split=list(first.channels),
            )
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            msg = f"expected to write {path}, found: {error}"
            raise RecordingError(msg, hint="check the path and the free space") from error
        self.parts += 1
        self.samples += table.num_rows


def continues(last: Block, block: Block) -> bool:
    """Whether a block goes on where the last one ended, in the same form."""
    same = (last.session, last.rate_hz, last.channels, last.unit, last.orders, last.truth, last.speed_source)
    return block.index == last.end and same == (
        block.session, block.rate_hz, block.channels, block.unit, block.orders, block.truth,
        block.speed_source,
    )  # fmt: skip


def _table(blocks: Sequence[Block]) -> pa.Table:
    first = blocks[0]
    n = sum(block.samples.shape[1] for block in blocks)
    samples = np.concatenate([block.samples for block in blocks], axis=1)
    lengths = [block.samples.shape[1] for block in blocks]
    speeds = np.array([np.nan if b.speed_rpm is None else b.speed_rpm for b in blocks], np.float64)
    columns: dict[str, Any] = {
        "machine": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [first.key.machine]),
        "point": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [first.key.point]),
        "session": pa.array(np.full(n, first.session, np.uint64)),
        "index": pa.array(np.arange(first.index, first.index + n, dtype=np.int64)),
        "speed_rpm": pa.array(np.repeat(speeds, lengths), from_pandas=True),
        **{name: pa.array(row) for name, row in zip(first.channels, samples, strict=True)},
    }
    known = {
        "readings_version": _VERSION,
        "sample_rate_hz": first.rate_hz,
        "units": first.unit,
        "recording": first.key.machine,
        "machine": first.key.machine,
        "point": first.key.point,
        "session": first.session,
        "index": first.index,
        "start_time_ns": first.t0_ns,
        # The start of each block: its time drifts against the sample count, and the time of a window follows it.
        "block_index": [block.index for block in blocks],
        "block_t0_ns": [block.t0_ns for block in blocks],
        "rpm": None if np.isnan(speeds).all() else round(float(np.nanmean(speeds)), 3),
        "rpm_source": first.speed_source,
        "fault_class": first.truth,
        "fault_orders_of_shaft": None if first.orders is None else asdict(first.orders),
    }
    metadata = {"recording_metadata": json.dumps({key: value for key, value in known.items() if value is not None})}
    return pa.table(columns).replace_schema_metadata(metadata)


def part_name(first: Block) -> str:
    """The name of the part that begins with a block. Names of a stream sort by time where sessions do.

    A name that began with "_" or "." would be hidden from the readers of many programs.
    """
    machine, point = first.key
    shield = "~" if machine.startswith(("_", ".")) else ""
    return f"{shield}{machine}~{point}~{first.t0_ns}~{first.session}~{first.index}.parquet"


def place_of(name: str) -> tuple[StreamKey, int, int, int] | None:
    """Stream, time, session and index of the first block of a part, by its name; None for the name of no part."""
    match = _NAME.fullmatch(name)
    return None if match is None else (StreamKey(match[1], match[2]), int(match[3]), int(match[4]), int(match[5]))


def find_readings(folder: Path) -> list[Path]:
    """Parts below a folder; the parts of a stream are in order of time."""
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def read_readings(path: Path) -> Iterator[Block]:
    """The blocks of a part, as they were stored.

    Raises:
        RecordingError: the file is not a part of readings, or is unreadable.
    """
    return blocks_of(guarded(path, lambda: pq.read_table(path, partitioning=None)), path)


def blocks_of(table: pa.Table, path: Path | str) -> Iterator[Block]:
    """The blocks of a part that has been read; `path` is for errors.

    Raises:
        RecordingError: it is not a part of readings.
    """
    known = json.loads((table.schema.metadata or {}).get(b"recording_metadata", b"{}"))
    if known.get("readings_version") != _VERSION:
        msg = f"expected readings of version {_VERSION}, found in {path}: {known.get('readings_version')}"
        raise RecordingError(
            msg, hint="`thrumcast record` writes readings; use `thrumcast backfill` for other recordings"
        )
    channels = tuple(name for name in table.column_names if name not in BESIDE)
    samples = np.stack([table[name].to_numpy() for name in channels]).astype(np.float32, copy=False)
    speeds = table["speed_rpm"].to_numpy()
    orders = known.get("fault_orders_of_shaft")
    bounds = [index - known["index"] for index in known["block_index"]] + [table.num_rows]
    for (first, last), t0_ns in zip(pairwise(bounds), known["block_t0_ns"], strict=True):
        yield Block(
            key=StreamKey(known["machine"], known["point"]),
            session=known["session"],
            index=known["index"] + first,
            t0_ns=t0_ns,
            rate_hz=known["sample_rate_hz"],
            channels=channels,
            unit=known["units"],
            samples=np.ascontiguousarray(samples[:, first:last]),
            speed_rpm=None if np.isnan(speeds[first]) else float(speeds[first]),
            orders=None if orders is None else BearingOrders(**orders),
            truth=known.get("fault_class"),
            speed_source=known.get("rpm_source"),
        )
