"""Batches: parts that many processes write together, whole batch by whole batch, exact for every reader.

A distributed run has no journal. Its micro-batches have numbers, its tasks have partitions, and names follow from both:

    1  a task puts its rows of a batch into archive/.staging, one file per kind and date -> fsync
    2  the driver notes the batch and the parts that it will have  (archive/.batches/<batch>.json, "placed": false)
    3  rename to archive/<kind>/date=YYYY-MM-DD/part-<batch * PARTITIONS + partition>.parquet -> fsync of directories
    4  the note says that the batch is whole                       ("placed": true)

A batch whose note says so is never written again: a run that died between step 4 and its own checkpoint repeats the
batch, and its rows are dropped. A batch that died earlier is repeated under the same names; parts of it that the
repetition does not have are removed first. A reader sees whole files at any time.

Every part has the columns of all channels ever seen, as in an archive with a journal: a batch with a new channel makes
the driver write older parts again under their own names, before its own parts appear.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.edges.faults import fault_point
from pipeline.edges.store.archive import by_date
from pipeline.edges.store.database import JOURNAL_NAME, storage_error
from pipeline.edges.store.parts import (
    STAGING_NAME,
    encode_part,
    extras_of,
    list_parts,
    make_directory,
    read_part,
    sort_rows,
    stage,
    sync_directory,
)
from pipeline.edges.store.schema import (
    ARCHIVE_NAME,
    DATE_COLUMN,
    FeatureSchema,
    Rows,
    arrow_schema,
    canonical,
    conform,
    gathered,
    part_path,
)
from pipeline.errors import ArchiveError, ConfigError

BATCHES_NAME = ".batches"
PARTITIONS = 10_000  # of a batch at most: the part number has these four digits
_ABOUT = "about.json"
_COLUMNS = "columns.json"


@dataclass(frozen=True, slots=True)
class Placed:
    """A file in staging, and the part that it will be."""

    staged: str  # name below archive/.staging
    kind: str
    date: str
    rows: int
    extras: tuple[str, ...]


@dataclass(slots=True)
class Share:
    """What one task has made of one batch."""

    partition: int
    placed: list[Placed] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # rows and troubles by name


class BatchArchive:
    """The archive of a distributed run, in one data directory. Tasks call `put`, one driver calls the rest."""

    def __init__(self, data_dir: Path, schema: FeatureSchema) -> None:
        self.root = data_dir / ARCHIVE_NAME
        self.notes = self.root / BATCHES_NAME
        self._schema = schema

    # -- the run ---------------------------------------------------------------------------------------------------

    def claim(self, about: Mapping[str, Any]) -> None:
        """Takes the archive for a run, or makes sure that it is this run's.

        Raises:
            ConfigError: the archive belongs to another run, or to a service of one machine.
            ArchiveError: the directory cannot be written.
        """
        if (self.root.parent / JOURNAL_NAME).exists():
            msg = f"expected a data directory without a journal, found {self.root.parent / JOURNAL_NAME}"
            raise ConfigError(msg, hint="`run` and `backfill` keep one; give the distributed run a --data of its own")
        path = self.notes / _ABOUT
        known = _read(path)
        if known is None:
            if next(list_parts(self.root), None) is not None:
                msg = f"expected an archive of a distributed run, found parts below {self.root} and no {path}"
                raise ConfigError(msg, hint="use a --data of its own")
            make_directory(self.notes)
            _write(path, dict(about))
        for name, value in about.items():
            if known is not None and known.get(name) != value:
                msg = f"expected an archive of {name} {value}, found in {path}: {known.get(name)}"
                raise ConfigError(msg, hint="go on with the same --checkpoint and settings, or use another --data")

    def batches(self, known: Collection[int] = ()) -> list[int]:
        """Numbers of the batches that are whole, without those that are `known`; their notes are not read again."""
        new = (path for path in self.notes.glob("[0-9]*.json") if int(path.stem) not in known)
        return sorted(int(path.stem) for path in new if (_read(path) or {}).get("placed"))

    def note(self, batch: int) -> dict[str, Any] | None:
        """What is noted of a batch: its parts and counts; None for one that never began."""
        return _read(self._path(batch))

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The channels and classes that every part has columns for."""
        found = _read(self.notes / _COLUMNS) or {}
        return {kind: tuple(extras) for kind, extras in found.items()}

    # -- a task ----------------------------------------------------------------------------------------------------

    def put(self, partition: int, rows: Sequence[Rows], counts: Mapping[str, int] | None = None) -> Share:
        """Steps 1: the rows of one task, in files that no reader looks at.

        Raises:
            ArchiveError: the disk is full, read-only or broken.
            ConfigError: there are more partitions than part numbers.
        """
        if not 0 <= partition < PARTITIONS:
            msg = f"expected a partition below {PARTITIONS}, found: {partition}"
            raise ConfigError(msg, hint="use fewer --partitions")
        share, columns = Share(partition, counts=dict(counts or {})), self.columns()
        for kind in dict.fromkeys(one.kind for one in rows):
            mine = [one for one in rows if one.kind == kind]
            extras = canonical(kind, dict.fromkeys([*columns.get(kind, ()), *(e for one in mine for e in one.extras)]))
            whole = gathered([one.table for one in mine], arrow_schema(kind, extras, self._schema)).combine_chunks()
            share.counts[kind] = share.counts.get(kind, 0) + whole.num_rows
            for date, some in by_date(whole, DATE_COLUMN[kind]):
                name = f"{uuid.uuid4().hex}.parquet"
                try:
                    stage(self.root / STAGING_NAME / name, encode_part(sort_rows(some, kind)))
                except OSError as error:
                    raise storage_error(self.root, error) from error
                share.placed.append(Placed(name, kind, date, some.num_rows, extras))
        return share

    # -- the driver ------------------------------------------------------------------------------------------------

    def commit(self, batch: int, shares: Iterable[Share]) -> bool:
        """Steps 2 to 4. False: the batch was whole already, and these rows are dropped.

        Raises:
            ArchiveError: the disk is full, read-only or broken; the batch can be committed again.
        """
        shares = list(shares)
        try:
            earlier = self.note(batch)
            if earlier is not None and earlier["placed"]:
                self.drop(shares)
                return False
            parts = {
                part_path(one.kind, one.date, batch * PARTITIONS + share.partition): one
                for share in shares
                for one in share.placed
            }
            counts: dict[str, int] = {}
            for share in shares:
                for name, count in share.counts.items():
                    counts[name] = counts.get(name, 0) + count
            document = {"batch": batch, "parts": {path: asdict(one) for path, one in parts.items()}, "counts": counts}
            _write(self._path(batch), document | {"placed": False})
            fault_point("batch_noted")
            if earlier is not None:  # only a batch that was tried before can have left parts
                self._clear(batch, parts)
            self._unite(parts)
            for path, one in parts.items():
                make_directory((self.root / path).parent)
                (self.root / STAGING_NAME / one.staged).replace(self.root / path)
                fault_point("batch_renamed")
            for folder in {(self.root / path).parent for path in parts}:
                sync_directory(folder)
            fault_point("batch_before_mark")
            _write(self._path(batch), document | {"placed": True})
            fault_point("batch_marked")
        except OSError as error:
            raise storage_error(self.root, error) from error
        return True

    def drop(self, shares: Iterable[Share]) -> None:
        """Removes staged files that will never be parts."""
        for share in shares:
            for one in share.placed:
                (self.root / STAGING_NAME / one.staged).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what tasks that died have left in staging. No task may be at work."""
        for path in (self.root / STAGING_NAME).glob("*.parquet"):
            path.unlink(missing_ok=True)

    def _path(self, batch: int) -> Path:
        return self.notes / f"{batch:010d}.json"

    def _clear(self, batch: int, parts: Mapping[str, Placed]) -> None:
        """Removes parts of an earlier try of this batch that this one does not have."""
        for kind, date, number, path in list_parts(self.root):
            if number // PARTITIONS == batch and part_path(kind, date, number) not in parts:
                path.unlink()
                sync_directory(path.parent)

    def _unite(self, parts: Mapping[str, Placed]) -> None:
        """Gives older parts, and staged ones, a column for every channel and class."""
        before = self.columns()
        columns = dict(before)
        for one in parts.values():
            columns[one.kind] = canonical(one.kind, dict.fromkeys([*columns.get(one.kind, ()), *one.extras]))
        if columns != before:
            for kind, _, _, path in list_parts(self.root):
                self._widen(kind, path, columns.get(kind, ()))
            _write(self.notes / _COLUMNS, {kind: list(extras) for kind, extras in columns.items()})
        for one in parts.values():
            if one.extras != columns[one.kind]:
                self._widen(one.kind, self.root / STAGING_NAME / one.staged, columns[one.kind])

    def _widen(self, kind: str, path: Path, extras: tuple[str, ...]) -> None:
        table = read_part(path)
        if extras_of(kind, table.column_names) == extras:
            return
        wide = conform(table, arrow_schema(kind, extras, self._schema))
        staged = self.root / STAGING_NAME / f"{uuid.uuid4().hex}.parquet"
        stage(staged, encode_part(wide))
        staged.replace(path)
        sync_directory(path.parent)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"expected a note of batches as JSON in {path}, found: {error}"
        raise ArchiveError(msg, hint="restore it from a backup") from error
    return found


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Replaces a file as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    stage(partial, json.dumps(document, indent=1).encode())
    partial.replace(path)
    sync_directory(path.parent)
