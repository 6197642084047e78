"""What the archive has already: parts are read back, so that no key stands in it twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.edges.store.database import JournalView
from pipeline.edges.store.schema import DATE_COLUMN, KEYS
from pipeline.errors import ArchiveError


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
