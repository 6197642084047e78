"""Model versions and the names that point at them.

    DIR/registry/v0001/ v0002/ ...      written under a hidden name, then renamed: each version is complete
    DIR/registry/aliases.json           {"champion": "v0001", "history": [{at, alias, from, to, by, why}]}

Versions never change. The alias `champion` names the version that serves, and an atomic replace of aliases.json moves
it. Aliases are no symlinks, because copies, container images and Windows do not keep those.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models import bundle
from models.bundle import Bundle
from models.predictor import NumpyPredictor
from pipeline.errors import ModelError

CHAMPION = "champion"  # the version that serves
CHALLENGER = "challenger"  # the newest candidate

_RESTORE = "restore it from a backup, or remove it and promote a version again"
_VERSION = re.compile(r"v[0-9]{4,9}")
_MOVE = frozenset(("alias", "from", "to"))
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Registry:
    """The registry of one data directory. Reading needs no lock and creates nothing."""

    def __init__(self, data_dir: Path, key: bytes | None = None) -> None:
        """With a key, `load` takes only versions that are signed with it."""
        self.root, self._key = data_dir / "registry", key

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        try:
            if not self.root.is_dir():
                return []
            names = [path.name for path in self.root.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name)]
        except OSError as error:
            msg = f"expected to read {self.root}, found: {error.strerror}"
            raise ModelError(msg, hint="check the permissions of the registry") from error
        return sorted(names, key=lambda name: int(name[1:]))

    def aliases(self) -> dict[str, str]:
        """Alias -> version."""
        return {name: to for name, to in self._read().items() if name != "history"}

    def history(self) -> list[dict[str, Any]]:
        """Every move of an alias, oldest first: at, alias, from, to, by, why."""
        history: list[dict[str, Any]] = self._read()["history"]
        return history

    def resolve(self, name: str) -> str:
        """Return the version of this name, or the one that the alias points at.

        Raises:
            ModelError: neither a version nor an alias of this registry.
        """
        versions, aliases = self.versions(), self.aliases()
        version = aliases.get(name, name)
        if version in versions:
            return version
        known = ", ".join([*aliases, *versions]) or "none"
        msg = f"expected a model version or alias of {self.root}, found: {name} (known: {known})"
        raise ModelError(
            msg, hint="`thrumcast train --data DIR` makes one" if not versions else "see `thrumcast models ls`"
        )

    def path(self, name: str) -> Path:
        """Directory of a version or alias."""
        return self.root / self.resolve(name)

    def load(self, name: str) -> Bundle:
        """Read a version or alias, signature and checksums first."""
        version = self.resolve(name)
        self._refuse_link(self.root / version)
        model = bundle.load(self.root / version, self._key)
        if model.spec.version != version:
            msg = f"{self.root / version}: expected config.json of {version}, found: {model.spec.version}"
            raise ModelError(msg, hint="a version must keep its name, because its predictions carry it")
        return model

    def predictor(self, name: str = CHAMPION) -> NumpyPredictor:
        """Read a version or alias, ready to serve."""
        return NumpyPredictor(self.load(name))

    def add(self, model: Bundle, pictures: Mapping[str, bytes] | None = None) -> str:
        """Write a model as the next version, under a new name, and return that name."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked():
            newest = self.versions()[-1:] or ["v0000"]
            version = f"v{int(newest[0][1:]) + 1:04d}"
            staging = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=self.root))
            try:
                model.named(version).save(staging, pictures)
                umask = os.umask(0o077)  # mkdtemp makes it private
                os.umask(umask)
                staging.chmod(0o755 & ~umask)
                staging.rename(self.root / version)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            _sync_directory(self.root)
        return version

    def point(self, alias: str, version: str, *, why: str, by: str | None = None) -> str | None:
        """Move an alias in one atomic replace; return the version it pointed at before.

        `by` is who moves it; None: the user of this process.

        Raises:
            ModelError: no such version, or not a name for an alias.
        """
        if _ALIAS.fullmatch(alias) is None or alias == "history" or _VERSION.fullmatch(alias):
            msg = f"expected an alias such as champion, found: {alias}"
            raise ModelError(msg)
        to = self.resolve(version)
        with self._locked():
            document = self._read()
            before: str | None = document.get(alias)
            document[alias] = to
            at = datetime.now(UTC).isoformat(timespec="seconds")
            move = {"at": at, "alias": alias, "from": before, "to": to, "by": by or _user(), "why": why}
            document["history"] = [*document["history"], move]
            self._write(document)
        return before

    def rollback_target(self, alias: str = CHAMPION) -> str:
        """Return the version that `alias` pointed at before the present one.

        Raises:
            ModelError: there is none, or it is gone.
        """
        stack: list[str] = []  # a move back drops the later versions, so that the next rollback goes further back
        for move in self.history():
            if move["alias"] == alias:
                del stack[stack.index(move["to"]) if move["to"] in stack else len(stack) :]
                stack.append(move["to"])
        if len(stack) > 1:
            return self.resolve(stack[-2])
        found = f"none before {stack[-1]}" if stack else "none"
        msg = f"expected an earlier {alias} in the history of {self.root}, found: {found}"
        raise ModelError(msg, hint="name the version: `thrumcast rollback --to VERSION`")

    def _read(self) -> dict[str, Any]:
        path = self.root / "aliases.json"
        hint = "restore it from a copy, or remove it and promote a version again"
        try:
            document = json.loads(bundle.read_file(path))
        except FileNotFoundError:
            return {"history": []}
        except OSError as error:
            msg = f"{path}: expected a file that can be read, found: {error.strerror}"
            raise ModelError(msg, hint=hint) from error
        except (ValueError, RecursionError) as error:
            msg = f"{path}: expected JSON, found: {error}"
            raise ModelError(msg, hint=hint) from error
        if not _is_document(document):
            msg = f"{path}: expected an object of aliases with a list `history`, found: another shape"
            raise ModelError(msg, hint=hint)
        return document

    def _write(self, document: dict[str, Any]) -> None:
        ordered = {name: document[name] for name in sorted(document) if name != "history"}
        ordered["history"] = document["history"]
        temporary = self.root / f".aliases-{os.getpid()}.json"
        with temporary.open("w") as file:
            json.dump(ordered, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.root / "aliases.json")
        _sync_directory(self.root)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other writers of this registry."""
        self._refuse_link(self.root)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.root / ".lock", flags, 0o640)
        except OSError as error:
            msg = f"expected to write {self.root}, found: {error}"
            raise ModelError(msg, hint="check the permissions of the registry") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _refuse_link(self, path: Path) -> None:
        """Refuse what leads out of the data directory."""
        target = path.resolve()
        if not target.is_relative_to(self.root.parent.resolve()):
            msg = f"expected {path} within the data directory, found: a link to {target}"
            raise ModelError(msg, hint="copy the files into the registry")


def _is_document(document: object) -> bool:
    """Whether it maps aliases to versions and has a list of moves; adds an empty list where there is none."""
    if not isinstance(document, dict) or not isinstance(document.setdefault("history", []), list):
        return False
    moves = all(isinstance(move, dict) and move.keys() >= _MOVE for move in document["history"])
    return moves and all(isinstance(to, str) for name, to in document.items() if name != "history")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _user() -> str:
    """The user who moves an alias; a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
