"""Parquet files that appear whole or not at all: staging -> fsync -> rename -> directory fsync."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.edges.store.database import JournalView, storage_error
from pipeline.edges.store.schema import (
    DATE_COLUMN,
    FORMAT_VERSION,
    KEYS,
    KINDS,
    ORDER,
    UNREADABLE,
    FeatureSchema,
    Part,
    extra_columns,
    part_path,
    schema_error,
)
from pipeline.errors import ArchiveError, SchemaError

ARCHIVE_NAME = "archive"
STAGING_NAME = ".staging"
# Rows per group: below 5,000 a file grows by its statistics, above 20,000 nothing is gained and pruning gets coarse.
ROW_GROUP_ROWS = 20_000


def sort_rows(table: pa.Table, kind: str) -> pa.Table:
    """Rows in the order in which readers look for them: machine, point, time."""
    import pyarrow.compute as pc  # takes as long to load as all of Parquet, and a start has no use for it

    order = [(name, "ascending") for name in ORDER[kind]]
    indices = pc.sort_indices(table, sort_keys=order)
    if np.array_equal(indices, np.arange(table.num_rows)):  # as the rows of a few recordings often come
        return table
    return table.take(indices)


def encode_part(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file.

    Floats are split into byte streams and only strings get a dictionary: with zstd level 1 that is half the size of
    the library's defaults and four times as fast. Groups are cut evenly, so that none is a small rest.
    """
    groups = max(1, -(-table.num_rows // ROW_GROUP_ROWS))
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, -(-table.num_rows // groups)),
        compression="zstd",
        compression_level=1,
        use_dictionary=strings,
        use_byte_stream_split=floats,
    )
    return sink.getvalue().to_pybytes()


def describe_part(kind: str, date: str, number: int, table: pa.Table, extras: tuple[str, ...], content: bytes) -> Part:
    """What the manifest says of a file."""
    import pyarrow.compute as pc

    span = pc.min_max(table[DATE_COLUMN[kind]].cast(pa.int64()))
    return Part(
        kind=kind,
        date=date,
        number=number,
        rows=table.num_rows,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        extras=extras,
        first_us=span["min"].as_py(),
        last_us=span["max"].as_py(),
    )


def stage(path: Path, content: bytes) -> None:
    """Writes a file that is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Creates a directory, and its parents, that are still there after a power cut."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Puts renames within a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_parts(root: Path) -> Iterator[tuple[str, str, int, Path]]:
    """(kind, date, number, path) of every part that stands below `archive/`, listed in a manifest or not."""
    for kind in KINDS:
        for path in sorted((root / kind).glob("date=*/part-*.parquet")):
            date, number = path.parent.name.removeprefix("date="), path.stem.removeprefix("part-")
            if number.isdecimal() and path == root / part_path(kind, date, int(number)):
                yield kind, date, int(number), path


def remove_parts(root: Path, number: int) -> None:
    """Removes the parts of a number that no manifest lists: whoever placed them died, and their rows are elsewhere.

    Raises:
        ArchiveError: the disk is read-only or broken.
    """
    try:
        for _, _, found, path in list_parts(root):
            if found == number:
                path.unlink()
                sync_directory(path.parent)
    except OSError as error:
        raise storage_error(root, error) from error


def file_about(schema: pa.Schema, path: Path) -> dict[str, object]:
    """What a part says of itself; ArchiveError if it is not one of ours, or of a newer format."""
    text = (schema.metadata or {}).get(b"thrumcast")
    if text is None:
        msg = f"expected a part written by thrumcast, found without its metadata: {path}"
        raise ArchiveError(msg, hint="move files of other origin out of the archive")
    about: dict[str, object] = json.loads(text)
    if about.get("format") != FORMAT_VERSION:
        msg = f"expected archive format {FORMAT_VERSION}, found in {path}: {about.get('format')}"
        raise SchemaError(msg, hint="use the version of thrumcast that wrote it")
    return about


def extras_of(kind: str, column_names: list[str]) -> tuple[str, ...]:
    """The channels or classes that a file has columns for, in the order of the file."""
    if kind == "features":
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in column_names if "." in name))
    if kind == "predictions":
        return tuple(name.removeprefix("p_") for name in column_names if name.startswith("p_"))
    return ()


def adopt(root: Path, schema: FeatureSchema) -> list[Part]:
    """Describes the files of an archive whose journal is gone, so that a new one lists them and overwrites none."""
    parts = []
    for kind, date, number, path in list_parts(root):
        content = path.read_bytes()
        try:
            table = pq.read_table(pa.BufferReader(content), partitioning=None)
            about = file_about(table.schema, path)
            extras = extras_of(kind, table.column_names)
            part = describe_part(kind, date, number, table, extras, content) if table.num_rows else None
        except UNREADABLE as error:
            msg = f"expected a readable Parquet file, found {path}: {error}"
            raise ArchiveError(msg, hint="restore it from a backup, or move it out of the archive") from error
        if kind == "features":
            if about.get("schema") != schema.name:
                raise schema_error(schema.name, str(about.get("schema")), str(path))
            unknown = set(extra_columns(kind, extras, schema)) ^ {n for n in table.column_names if "." in n}
            if unknown:
                raise schema_error(schema.name, f"other columns ({min(unknown)})", str(path))
        if part is not None:
            parts.append(part)
    return parts


# What the archive has already: parts are read back, so that no key stands in it twice.


def without_known(root: Path, view: JournalView, kind: str, date: str, rows: pa.Table) -> pa.Table:
    """Rows whose key is in no listed part and comes only once; the first one stays.

    A window's key follows from data alone, so the same readings sent twice, in whatever way, meet here. Only parts
    that overlap in time are looked into: in a live archive that is next to none.
    """
    import pyarrow.compute as pc

    keys = list(KEYS[kind])
    if not keys:
        return rows
    span = pc.min_max(rows[DATE_COLUMN[kind]].cast(pa.int64()))
    first, last = span["min"].as_py(), span["max"].as_py()
    machines = pc.unique(rows["machine"])
    known = [
        _read_keys(root / part.relative, keys, machines)
        for part in view.parts
        if (part.kind, part.date) == (kind, date) and part.first_us <= last and part.last_us >= first
        if (root / part.relative).exists()
    ]
    before = sum(table.num_rows for table in known)
    together = pa.concat_tables([*known, rows.select(keys).replace_schema_metadata(None)])
    together = together.append_column("place", pa.array(np.arange(together.num_rows)))
    groups = together.group_by(keys, use_threads=False).aggregate([("place", "min")])
    if groups.num_rows == together.num_rows:
        return rows
    firsts = np.sort(groups["place_min"].to_numpy())
    return rows.take(pa.array(firsts[firsts >= before] - before))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowException as error:
        msg = f"expected a readable Parquet file, found {path}: {error}"
        raise ArchiveError(
            msg, hint="restore it from a backup; `thrumcast archive verify` names every such file"
        ) from error


def read_part(path: Path) -> pa.Table:
    """All rows of a part.

    Raises:
        ArchiveError: it cannot be read.
    """
    with _opened(path) as file:
        return file.read(use_threads=False).replace_schema_metadata(None)


def _read_keys(path: Path, keys: list[str], machines: pa.Array) -> pa.Table:
    """The keys of some machines in a part; a part is sorted by machine, so most groups of rows are passed over."""
    import pyarrow.compute as pc

    span = pc.min_max(machines)
    first, last = span["min"].as_py(), span["max"].as_py()
    with _opened(path) as file:
        about, groups = file.metadata, []
        for group in range(about.num_row_groups):
            column = about.row_group(group).column(0)
            found = column.statistics if column.path_in_schema == "machine" else None
            if found is None or not found.has_min_max or (found.min <= last and found.max >= first):
                groups.append(group)
        table = file.read_row_groups(groups, columns=keys, use_threads=False).replace_schema_metadata(None)
    return table.filter(pc.is_in(table["machine"], machines))
