"""Snapshots: the archive of one moment under a name, at the cost of some directory entries.

A part is never changed in place, only replaced, so a snapshot consists of hard links to parts. DIR/snapshots/<name>/ is
a data directory of its own that every reader accepts (`thrumcast train --data DIR/snapshots/<name>`). Compaction and
pruning of the archive do not change it. The space of a part is freed when neither the archive nor a snapshot has it.
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
from pipeline.edges.store.database import JournalView, storage_error, view_journal
from pipeline.edges.store.parts import make_directory, stage, sync_directory
from pipeline.edges.store.read import retried
from pipeline.edges.store.schema import ARCHIVE_NAME, SNAPSHOT_NAME, Part
from pipeline.errors import ArchiveError

SNAPSHOTS_NAME = "snapshots"
ABOUT_NAME = SNAPSHOT_NAME
BESIDE = ("machines.jsonl", "labels/labels.jsonl")  # files that say what the rows mean


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds."""

    name: str
    path: Path
    files: int
    rows: dict[str, int]  # by kind
    bytes: int
    pending_rows: int  # rows in the journal at that moment; the snapshot does not have them


def snapshot(data_dir: Path, name: str | None = None) -> Snapshot:
    """Keeps every listed part under a name, by default the time. Takes no lock and does not disturb a running service.

    Raises:
        ArchiveError: there is no journal, the name is taken or is no id, a part is missing, or the disk is full,
            read-only or broken.
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
        make_directory(staged.parent)
        made = _filled(data_dir, staged, name, target)
        staged.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return made


def identity(data_dir: Path, kind: str = "features") -> dict[str, object]:
    """Says which rows of a kind a data directory holds, so that a later reader can tell whether they are the same.

    `snapshot` is the name of the snapshot, or None if the directory is not one; only a snapshot never changes.
    `sha256` covers the checksums of the parts, sorted by path. `pending_rows` counts the rows in the journal.
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
        pending = 0 if view is None else view.pending[kind].rows
    digest = hashlib.sha256("".join(sha256 for _, _, sha256 in sorted(parts)).encode()).hexdigest()
    rows = sum(count for _, count, _ in parts)
    return {"snapshot": name, "files": len(parts), "rows": rows, "pending_rows": pending, "sha256": digest}


def check_there(data_dir: Path, name: str) -> None:
    """Checks that there is a snapshot of this name.

    Raises:
        ArchiveError: there is none; the hint has the names that exist.
    """
    there = sorted(path.parent.name for path in (data_dir / SNAPSHOTS_NAME).glob(f"*/{ABOUT_NAME}"))
    if name not in there:
        msg = f"expected a snapshot of {data_dir}, found none called {name}"
        raise ArchiveError(
            msg, hint=f"there are {', '.join(there)}" if there else "`thrumcast archive snapshot` makes one"
        )


def compare(snapshot_dir: Path) -> list[str]:
    """Problems with files of a snapshot that are missing or have changed; none for a directory that is no snapshot."""
    try:
        about = json.loads((snapshot_dir / ABOUT_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        return [f"{ABOUT_NAME}: {error}"]
    problems = []
    for entry in about["files"]:
        try:
            content = (snapshot_dir / ARCHIVE_NAME / entry["path"]).read_bytes()
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
    pending = sum(of_kind.rows for of_kind in view.pending.values())
    about = {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "schema": None if view.schema is None else view.schema.name,
        "rows": dict(rows),
        "pending_rows": pending,
        "files": [{"path": p.relative, "rows": p.rows, "bytes": p.bytes, "sha256": p.sha256} for p in view.parts],
    }
    stage(staged / ABOUT_NAME, json.dumps(about, indent=1).encode())
    sync_directory(staged)
    return Snapshot(name, target, len(view.parts), dict(rows), sum(part.bytes for part in view.parts), pending)


def _linked(data_dir: Path, staged: Path) -> JournalView:
    """Links every part of one moment; returns the journal of that moment."""

    def look() -> JournalView:
        view = view_journal(data_dir)
        if view is None:
            msg = f"expected a data directory with a journal, found none in: {data_dir}"
            raise ArchiveError(msg, hint="fill one with `thrumcast backfill` or `thrumcast run`, or check --data")
        return view

    def link(view: JournalView) -> JournalView:
        shutil.rmtree(staged, ignore_errors=True)
        _link_all(data_dir, staged, view.parts)
        return view

    return retried(look, link)


def _link_all(data_dir: Path, staged: Path, parts: tuple[Part, ...]) -> None:
    for part in parts:
        kept = staged / ARCHIVE_NAME / part.relative
        kept.parent.mkdir(parents=True, exist_ok=True)
        _link(data_dir / ARCHIVE_NAME / part.relative, kept)
    for relative in BESIDE:  # copied, not linked: these files grow in place
        kept = staged / relative
        kept.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a data directory need not have them
            shutil.copy2(data_dir / relative, kept)


def _link(source: Path, kept: Path) -> None:
    try:
        os.link(source, kept)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, kept)  # a file system without hard links
