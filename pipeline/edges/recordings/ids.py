"""Ids of machines for recordings that do not name their machine: from file and folder, readable and apart.

A name outside the letters of an id is transliterated and gets a part of its hash, so two names never become one. Files
of the same name in different folders differ by the folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyascii import anyascii

from pipeline.edges.recordings.formats import stem

MACHINE_FROM = ("recording", "file", "folder")
_NOT_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_MOST = 64


@dataclass(frozen=True, slots=True)
class Place:
    """What file and folder say about a recording that does not name its machine."""

    machine: str  # the id
    name: str  # as the file system spells it
    specimen: str  # the folder, unless a person said that each file is a machine
    folder: str


def readable_id(text: str) -> str:
    """An id for any text: itself where that is an id, else transliterated with a hash."""
    plain = anyascii(text)
    clean = _NOT_ID.sub("_", plain).strip("_") or "_"
    if clean == text and clean.strip(".") and len(clean) <= _MOST:
        return clean
    clean = clean if clean.strip(".") else f"_{clean}"
    return f"{clean[: _MOST - 9]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def place(path: Path, root: Path | None = None, machine_from: str = "recording", apart: int = 0) -> Place:
    """What file and folder say.

    Args:
        path: of the recording.
        root: the folder in which it was found, None for a file that was given by its path.
        machine_from: `file` and `folder` name the machine by these alone.
        apart: how many more folders belong to the name.
    """
    folder = path.absolute().parent
    specimen = "/".join(part for part in folder.parts[-2:] if part != folder.anchor) or "/"
    if machine_from == "folder":
        below = folder.relative_to(root.absolute()).parts if root is not None and folder != root.absolute() else ()
        name = "/".join(below or (folder.name,))
        return Place(_joined(name), name, specimen, str(folder.parent))
    if machine_from == "file":
        name = stem(path)
        return Place(readable_id(name), name, readable_id(name), "")
    inner = folder.relative_to(root.absolute()).parts if root is not None else ()
    more = (
        folder.parts[max(1, len(folder.parts) - len(inner) - apart) : len(folder.parts) - len(inner)] if apart else ()
    )
    name = "/".join((*more, *inner, stem(path)))
    return Place(_joined(name), name, specimen, str(folder))


def _joined(name: str) -> str:
    """`a/b/1` -> `a-b-1`."""
    parts = name.split("/")
    if all(readable_id(part) == part for part in parts) and len(name) <= _MOST:
        return "-".join(parts)
    clean = "-".join(_NOT_ID.sub("_", anyascii(part)).strip("_") or "_" for part in parts)
    return f"{clean[: _MOST - 9]}-{_digest(name)}"


def places(
    found: Sequence[tuple[Path, Path | None]], machine_from: str = "recording", taken: Mapping[str, str] | None = None
) -> dict[Path, Place]:
    """The places of several recordings, whose ids differ.

    Args:
        found: path and the folder in which it was found, None for a file that was given by its path.
        machine_from: as in `place`.
        taken: machine ids of earlier runs, and the folders of their files.
    """
    result = {path: place(path, root, machine_from) for path, root in found}
    if machine_from != "recording":
        return result
    roots = dict(found)
    for apart in range(1, 4):
        alike = _alike(result)
        if not alike:
            break
        for path in alike:
            result[path] = place(path, roots[path], machine_from, apart)
    clash = _alike(result)
    for path, one in result.items():
        earlier = (taken or {}).get(one.machine)
        if path in clash or (earlier is not None and earlier != one.folder):
            result[path] = Place(
                f"{one.machine[: _MOST - 9]}-{_digest(str(path.absolute()))}", one.name, one.specimen, one.folder
            )
    return result


def _alike(found: Mapping[Path, Place]) -> list[Path]:
    count: dict[str, list[Path]] = {}
    for path, one in found.items():
        count.setdefault(one.machine, []).append(path)
    return [path for paths in count.values() if len(paths) > 1 for path in paths]
