"""Parts: Parquet files that appear whole or not at all, by staging -> fsync -> rename -> directory fsync.

The module has the durable steps on files and directories, the Parquet encoding, what a part says about itself, and the
reading of parts that a writer needs: all rows, or the keys that the archive already has.

Allocators keep memory per thread. Rolls and merges therefore read with `use_threads=False`, so that each of them finds
the memory of the one before again, and they end with `give_back`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.edges.store.database import storage_error
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

STAGING_NAME = ".staging"
# Rows per group. Below 5,000 the statistics make a file larger; above 20,000 nothing is gained and readers skip less.
ROW_GROUP_ROWS = 20_000


def stage(path: Path, content: bytes) -> None:
    """Writes a file, which is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Creates a directory and its parents so that they survive a power cut."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Puts the renames within a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_parts(root: Path) -> Iterator[tuple[str, str, int, Path]]:
    """(kind, date, number, path) of every part below `archive/`, whether or not a manifest lists it."""
    for kind in KINDS:
        for path in sorted((root / kind).glob("date=*/part-*.parquet")):
            date, number = path.parent.name.removeprefix("date="), path.stem.removeprefix("part-")
            if number.isdecimal() and path == root / part_path(kind, date, int(number)):
                yield kind, date, int(number), path


def remove_parts(root: Path, number: int) -> None:
    """Removes the parts of a number that no manifest lists. Their writer died; their rows are in the journal or a file.

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


def sort_rows(table: pa.Table, kind: str) -> pa.Table:
    """The rows sorted by machine, point and time, as readers look for them."""
    import pyarrow.compute as pc  # takes as long to load as all of Parquet, and a start does not need it

    order = [(name, "ascending") for name in ORDER[kind]]
    indices = pc.sort_indices(table, sort_keys=order)
    if np.array_equal(indices, np.arange(table.num_rows)):  # rows of a few recordings are often sorted already
        return table
    return table.take(indices)


def encode_part(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file.

    Floats are split into byte streams and only strings get a dictionary. With zstd level 1 the file has half the size
    of the library's defaults and is written four times as fast. All row groups have about the same size.
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
    """The entry of a part in the manifest; `content` is the file's bytes, `table` its rows."""
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


def file_about(schema: pa.Schema, path: Path) -> dict[str, object]:
    """What a part says about itself in its metadata.

    Raises:
        ArchiveError: thrumcast did not write it.
        SchemaError: it has another format.
    """
    text = (schema.metadata or {}).get(b"thrumcast")
    if text is None:
        msg = f"expected a part written by thrumcast, found without its metadata: {path}"
        raise ArchiveError(msg, hint="move files of other programs out of the archive")
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
    """Describes the parts of an archive whose journal is lost, so that a new journal lists them and overwrites none.

    Raises:
        ArchiveError: a file cannot be read.
        SchemaError: a file belongs to another feature table.
    """
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


def read_part(path: Path) -> pa.Table:
    """All rows of a part.

    Raises:
        ArchiveError: the part cannot be read.
    """
    with _opened(path) as file:
        return file.read(use_threads=False).replace_schema_metadata(None)


def without_known(root: Path, parts: Iterable[Part], kind: str, date: str, rows: pa.Table) -> pa.Table:
    """Drops the rows of one kind and date whose key is in a listed part or appears earlier among the rows.

    The key of a window is computed from data alone, so the same readings have the same keys, however often and in
    whatever way they were sent. Only parts that overlap in time are opened; in a live archive there is hardly any.
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
        for part in parts
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


def _read_keys(path: Path, keys: list[str], machines: pa.Array) -> pa.Table:
    """The keys of some machines in a part. A part is sorted by machine, so most row groups are skipped."""
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


def give_back() -> None:
    """Returns freed memory to the system; allocators would keep most of it.

    Call it after the last name that holds the rows is gone. It takes milliseconds and does not hold the interpreter's
    lock. Where the C library has no `malloc_trim`, only Arrow's own pool is released.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # in glibc only
    if trim is not None:
        trim(0)
