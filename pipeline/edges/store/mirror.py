"""A second copy of the archive on another disk or in an object store, through fsspec (file:, s3:, gs:, sftp: ...).

A mirror is made of a snapshot, so the service goes on and no lock is taken. The copy has the form of a snapshot: a data
directory that every reader accepts. What is copied in this order may be cut off anywhere and is taken up again:

    1  each part that the mirror lacks is written under a name of its own, read back, compared by its SHA-256, renamed
    2  labels and facts of the machines
    3  snapshot.json, which lists the parts of the mirror with their checksums
    4  parts that are no longer in the archive are removed

A part whose content is not what was written is never copied over a good one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.edges.store.schema import ARCHIVE_NAME
from pipeline.edges.store.snapshot import ABOUT_NAME, BESIDE, snapshot
from pipeline.errors import ArchiveError

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a run has done."""

    url: str
    files: int  # of the mirror now
    copied: int
    copied_bytes: int
    removed: int
    pending_rows: int  # in the journal at that moment; the mirror does not have them


def mirror(
    data_dir: Path, url: str, *, check: bool = False, progress: Callable[[int, int], object] = lambda done, of: None
) -> Mirrored:
    """Brings the mirror at `url` to the present archive.

    Args:
        data_dir: The data directory. A running service is not disturbed.
        url: A directory, or a URL that fsspec knows.
        check: Whether to read every part of the mirror and compare its checksum, not only those that are new.
        progress: Called with the parts that are done and their number.

    Raises:
        ArchiveError: the place cannot be used, a part of the archive is damaged, or a copy is not what was written.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        made = snapshot(data_dir, f"mirror-{secrets.token_hex(6)}")
        try:
            return _copied(made.path, files, root, url, check, progress)
        finally:
            shutil.rmtree(made.path, ignore_errors=True)
    except (OSError, ImportError, ValueError) as error:
        msg = f"expected to mirror the archive to {url}, found: {error}"
        raise ArchiveError(msg, hint="run it again: it goes on where it stopped") from error


def _copied(
    source: Path, files: Any, root: str, url: str, check: bool, progress: Callable[[int, int], object]
) -> Mirrored:
    about = json.loads((source / ABOUT_NAME).read_text(encoding="utf-8"))
    known = _listed(files, root)
    copied = copied_bytes = 0
    for number, entry in enumerate(about["files"], 1):
        place, sha256 = f"{root}/{ARCHIVE_NAME}/{entry['path']}", entry["sha256"]
        is_whole = files.exists(place)
        if is_whole and known.get(entry["path"]) == sha256 and not check:
            is_whole = files.size(place) == entry["bytes"]
        elif is_whole:
            is_whole = _sum(files, place) == sha256
        if not is_whole:
            content = (source / ARCHIVE_NAME / entry["path"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                msg = f"expected the content that was written (sha256 {sha256[:12]}), found another: {entry['path']}"
                raise ArchiveError(msg, hint="the mirror keeps what it has; see `thrumcast archive verify`")
            _put(files, place, content)
            copied, copied_bytes = copied + 1, copied_bytes + len(content)
        progress(number, len(about["files"]))
    for relative in BESIDE:
        with contextlib.suppress(FileNotFoundError):
            _put(files, f"{root}/{relative}", (source / relative).read_bytes())
    _put(files, f"{root}/{ABOUT_NAME}", json.dumps(about, indent=1).encode())
    listed = {f"{ARCHIVE_NAME}/{entry['path']}" for entry in about["files"]}
    gone = [path for path in files.find(f"{root}/{ARCHIVE_NAME}") if path.removeprefix(f"{root}/") not in listed]
    for path in gone:
        files.rm_file(path)
    return Mirrored(url, len(listed), copied, copied_bytes, len(gone), about["pending_rows"])


def _listed(files: Any, root: str) -> dict[str, str]:
    """The parts of a mirror with their checksums, by its own account; none where there is no account."""
    try:
        about = json.loads(files.cat_file(f"{root}/{ABOUT_NAME}"))
        return {entry["path"]: entry["sha256"] for entry in about["files"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _put(files: Any, place: str, content: bytes) -> None:
    """Writes a file, reads it back, and gives it its name."""
    staged = f"{place}.new"
    files.makedirs(place.rpartition("/")[0], exist_ok=True)
    with files.open(staged, "wb") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(AttributeError, OSError):  # a file in an object store has no descriptor
            os.fsync(file.fileno())
    if _sum(files, staged) != hashlib.sha256(content).hexdigest():
        msg = f"expected to read back what was written, found other content: {staged}"
        raise ArchiveError(msg, hint="the disk or store of the mirror is damaged")
    files.mv(staged, place)


def _sum(files: Any, place: str) -> str:
    digest = hashlib.sha256()
    with files.open(place, "rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
