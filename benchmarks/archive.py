"""Rows into the archive: commits to the journal and one roll into Parquet, beside writing a ready table; CPU time."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Effort, cpu_of, median
from benchmarks.report import Row, Section
from benchmarks.vibration import blocks
from pipeline.config.sources import load
from pipeline.config.specs import default_spec
from pipeline.core import stream
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.edges.store.journal import Commit
from pipeline.service.compose import opened

MACHINES = 20
ROWS_PER_COMMIT = 250
ROWS = 2500  # at the smallest effort


def run(effort: Effort) -> Section:
    """Each round fills a new data directory; the table to compare with is the part that came out."""
    rows = feature_rows(ROWS * effort.scale)
    with tempfile.TemporaryDirectory(prefix="thrumcast-bench-") as place:
        folder = Path(place)
        (folder / "config.toml").touch()  # defaults, whatever lies in the current folder
        whole_s, bare_s = [], []
        for number in range(-1, effort.rounds):  # the first one warms up
            data_dir = folder / f"data{number}"
            whole_s.append(cpu_of(partial(_fill, folder, data_dir, rows)))
            (part,) = (data_dir / "archive" / "features").rglob("*.parquet")
            table = pq.ParquetFile(part).read()
            bare_s.append(cpu_of(partial(_write, table, folder / "bare.parquet")))
        part_bytes, raw_bytes = part.stat().st_size, _raw_bytes(table)
    per_s, bare_per_s = len(rows) / median(whole_s[1:]), len(rows) / median(bare_s[1:])
    ratio = median([bare / whole for bare, whole in zip(bare_s[1:], whole_s[1:], strict=True)])
    size, raw = part_bytes / len(rows), raw_bytes / len(rows)
    title = f"archive: {len(rows)} feature rows of {table.num_columns} columns, {ROWS_PER_COMMIT} per commit"
    return Section(
        title,
        [
            Row("commit + roll", per_s, "rows/s", f"pyarrow, the finished table ({bare_per_s:,.0f} rows/s)", ratio),
            Row("size of a row", size, "bytes", f"its values in memory ({raw:.0f} bytes)", size / raw),
        ],
        {"archive": {"rows_per_s": per_s, "bytes_per_row": size, "raw_bytes_per_row": raw, "ratio_to_write": ratio}},
    )


def feature_rows(count: int) -> list[FeatureRow]:
    """Rows of many machines, with values as they come out of a slightly unsteady machine."""
    rng = np.random.default_rng(7)
    spec = default_spec()
    state = stream.initial(spec)
    found: list[FeatureRow] = []
    for block in blocks(StreamKey("bench", "de"), 60):
        state, events = stream.step(spec, state, block)
        found += [event for event in events if isinstance(event, FeatureRow)]
    first = found[0]
    span_ns = first.end_ns - first.start_ns
    rows = []
    for number in range(count):
        like, window = found[number % len(found)], number // MACHINES
        start_ns = first.start_ns + window * span_ns // 2
        rows.append(
            FeatureRow(
                key=StreamKey(f"pump-{number % MACHINES:02d}", "de"),
                session=1,
                window=window,
                start_ns=start_ns,
                end_ns=start_ns + span_ns,
                rate_hz=like.rate_hz,
                speed_rpm=like.speed_rpm,
                coverage=1.0,
                quality=0,
                truth=None,
                channels=like.channels,
                values=(like.values * (1 + 0.02 * rng.standard_normal(like.values.shape))).astype(np.float32),
                schema=like.schema,
            )
        )
    return rows


def _fill(folder: Path, data_dir: Path, rows: list[FeatureRow]) -> None:
    config = load(folder / "config.toml", {"data.dir": data_dir}).config
    with opened(config) as (journal, archive):
        for first in range(0, len(rows), ROWS_PER_COMMIT):
            journal.commit(Commit(features=rows[first : first + ROWS_PER_COMMIT]))
        archive.roll()


def _write(table: pa.Table, path: Path) -> None:
    """As the archive writes its parts: zstd 1, floats as split byte streams, a dictionary for text only."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table, path, compression="zstd", compression_level=1, use_dictionary=texts, use_byte_stream_split=floats
    )


def _raw_bytes(table: pa.Table) -> int:
    return sum(column.nbytes for column in table.columns)
