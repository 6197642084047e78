"""Snapshots: the archive as it is at one moment, under a name, at the cost of some directory entries.

Parts are never changed in place, only replaced. So a snapshot is hard links to them: DIR/snapshots/<name>/ is a data
directory of its own that every reader takes (`thrumcast train --data DIR/snapshots/<name>`), and compaction or pruning
of the archive leaves it as it is. Its space is freed when both are gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.records import is_id
from pipeline.edges.store import parts as files
from pipeline.edges.store.database import JournalView, storage_error, view_journal
from pipeline.edges.store.schema import KINDS, Part
from pipeline.errors import ArchiveError

SNAPSHOTS_NAME = "snapshots"
ABOUT_NAME = "snapshot.json"
_TRIES = 5  # a part may be merged away while it is linked: look again
_BESIDE = ("machines.jsonl", "labels/labels.jsonl")  # what gives the rows their meaning


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was kept."""

    name: str
    path: Path
    files: int
    rows: dict[str, int]  # by kind
    bytes: int
    pending_rows: int  # in the journal at that moment, and not in the snapshot


def snapshot(data_dir: Path, name: str | None = None) -> Snapshot:
    """Keeps every finished part; needs no lock and disturbs no running service.

    Raises:
        ArchiveError: no journal, a name that is taken or no id, a part that is missing, or a disk that refuses.
    """
    name = name or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if not is_id(name):
        msg = f"expected a name of 1 to 64 characters A-Z a-z 0-9 _ . -, found: {name!r}"
        raise ArchiveError(msg, hint="it becomes the name of a directory")
    target = data_dir / SNAPSHOTS_NAME / name
    if target.exists():
        msg = f"expected a new snapshot, found one of that name: {target}"
        raise ArchiveError(msg, hint="choose another name, or remove that directory")
    staged = data_dir / SNAPSHOTS_NAME / f".{name}.{os.getpid()}"
    try:
        files.make_directory(staged.parent)
        made = _filled(data_dir, staged, name, target)
        staged.rename(target)
        files.sync_directory(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return made


def identity(data_dir: Path, kind: str = "features") -> dict[str, object]:
    """Which rows of a kind a data directory holds, so that a later reader can tell whether they are the same.

    `snapshot` is the name where the directory is a snapshot: only that can be had again. `sha256` is over the sums of
    the finished files in order; rows that are still in the journal are counted.
    """
    name, pending = None, 0
    about = data_dir / ABOUT_NAME
    if about.exists():
        known = json.loads(about.read_text(encoding="utf-8"))
        name = known["name"]
        parts = [(f["path"], f["rows"], f["sha256"]) for f in known["files"] if f["path"].startswith(f"{kind}/")]
    else:
        view = view_journal(data_dir, (kind,))
        parts = [] if view is None else [(p.relative, p.rows, p.sha256) for p in view.parts if p.kind == kind]
        pending = 0 if view is None else sum(int(table.num_rows) for table in view.pending[kind].tables)
    digest = hashlib.sha256("".join(sha256 for _, _, sha256 in sorted(parts)).encode()).hexdigest()
    rows = sum(count for _, count, _ in parts)
    return {"snapshot": name, "files": len(parts), "rows": rows, "pending_rows": pending, "sha256": digest}


def check_there(data_dir: Path, name: str) -> None:
    """Refuse the name of a snapshot that is not there.

    Raises:
        ArchiveError: with the names that are.
    """
    there = sorted(path.parent.name for path in (data_dir / SNAPSHOTS_NAME).glob(f"*/{ABOUT_NAME}"))
    if name not in there:
        msg = f"expected a snapshot of {data_dir}, found none called {name}"
        raise ArchiveError(
            msg, hint=f"there are {', '.join(there)}" if there else "`thrumcast archive snapshot` makes one"
        )


def compare(snapshot_dir: Path) -> list[str]:
    """What of a snapshot is missing or not as it was; nothing to say of other directories."""
    try:
        about = json.loads((snapshot_dir / ABOUT_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        return [f"{ABOUT_NAME}: {error}"]
    problems = []
    for entry in about["files"]:
        try:
            content = (snapshot_dir / files.ARCHIVE_NAME / entry["path"]).read_bytes()
        except OSError as error:
            problems.append(f"{entry['path']}: {error.strerror}")
            continue
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            problems.append(f"{entry['path']}: not the content of the snapshot")
    return problems


def _filled(data_dir: Path, staged: Path, name: str, target: Path) -> Snapshot:
    view = _linked(data_dir, staged)
    rows: Counter[str] = Counter()
    for part in view.parts:
        rows[part.kind] += part.rows
    pending = sum(int(table.num_rows) for kind in KINDS for table in view.pending[kind].tables)
    about = {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": None if view.schema is None else view.schema.name,
        "rows": dict(rows),
        "pending_rows": pending,
        "files": [{"path": p.relative, "rows": p.rows, "bytes": p.bytes, "sha256": p.sha256} for p in view.parts],
    }
    files.stage(staged / ABOUT_NAME, json.dumps(about, indent=1).encode())
    files.sync_directory(staged)
    return Snapshot(name, target, len(view.parts), dict(rows), sum(part.bytes for part in view.parts), pending)


def _linked(data_dir: Path, staged: Path) -> JournalView:
    """Links every part of one moment; says which moment."""
    left = _TRIES
    while True:
        view = view_journal(data_dir, KINDS)
        if view is None:
            msg = f"expected a data directory with a journal, found none in: {data_dir}"
            raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")
        shutil.rmtree(staged, ignore_errors=True)
        left -= 1
        try:
            _link_all(data_dir, staged, view.parts)
        except FileNotFoundError as error:
            if not left:
                msg = f"expected every listed part in place, found missing: {error.filename}"
                raise ArchiveError(msg, hint="see `thrumcast archive verify`; restore it from a backup") from error
        else:
            return view


def _link_all(data_dir: Path, staged: Path, parts: tuple[Part, ...]) -> None:
    for part in parts:
        kept = staged / files.ARCHIVE_NAME / part.relative
        kept.parent.mkdir(parents=True, exist_ok=True)
        _link(data_dir / files.ARCHIVE_NAME / part.relative, kept)
    for relative in _BESIDE:  # these grow in place: copied
        kept = staged / relative
        kept.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # there need not be any
            shutil.copy2(data_dir / relative, kept)


def _link(source: Path, kept: Path) -> None:
    try:
        os.link(source, kept)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, kept)  # a file system without hard links
