"""The witness of the journal: a small file beside the database that says which commit was the last.

A damaged, emptied or removed write-ahead log looks to SQLite like a shorter one. The tables are then intact, only older
than what was acknowledged. DIR/journal.db-commit makes that visible. Every commit has a number and a digest; the digest
covers the digest of the commit before it and the seals of all tables. After each COMMIT, and before anything is
acknowledged, number and digest are written into the witness and synced.

    COMMIT of number N is on disk  ->  the witness says N  ->  messages are acknowledged

A crash between the first two leaves a witness that says N - 1. So a good journal may be ahead of its witness, never
behind it. A journal that is ahead proves that it belongs to the witness: it keeps the digests of its last `KEPT`
commits.

The file has two records of `RECORD_BYTES`, in different blocks of the disk. Commits write them in turn, in place, so a
torn write spoils one of them at most and the other still has the commit before.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WITNESS_NAME = "journal.db-commit"
KEPT = 1024  # digests of past commits in the journal; a journal further ahead of its witness is refused
RECORD_BYTES = 256
_PLACES = (0, 4096)  # of the records
_MAGIC = "thrumcast-commit"


@dataclass(frozen=True, slots=True)
class Mark:
    """Names one commit of one journal."""

    epoch: str  # random; a new one at creation and whenever a loss is accepted
    number: int
    digest: str  # hexadecimal, see `chained`
    messages: int = 0  # received from a broker up to this commit; only for people

    def next(self, seals: Iterable[str], messages: int) -> Mark:
        """The mark of the commit after this one."""
        number = self.number + 1
        return Mark(self.epoch, number, chained(self.digest, number, seals), messages)


def first_mark(epoch: str, messages: int = 0) -> Mark:
    """Where the chain of an epoch begins."""
    return Mark(epoch, 0, chained(epoch, 0, ()), messages)


def chained(before: str, number: int, seals: Iterable[str]) -> str:
    """digest_n = BLAKE2b-128(digest_(n-1), n, seals of all tables)."""
    return hashlib.blake2b(" ".join((before, str(number), *seals)).encode(), digest_size=16).hexdigest()


class UnreadableWitness(ValueError):
    """The file holds no whole record."""


def read_witness(path: Path) -> Mark | None:
    """The newest commit that the file names; None without a file. Writes nothing.

    Raises:
        UnreadableWitness: there is a file, and no record in it is whole.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    marks = [mark for place in _PLACES if (mark := _parsed(content[place : place + RECORD_BYTES])) is not None]
    if not marks:
        msg = f"no whole record in {len(content)} bytes"
        raise UnreadableWitness(msg)
    return max(marks, key=lambda mark: mark.number)


class Witness:
    """The file, open for writing. Its owner holds the lock of the data directory."""

    def __init__(self, path: Path) -> None:
        """Opens the file of an existing witness.

        Raises:
            OSError: it is missing or cannot be written.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    @classmethod
    def create(cls, path: Path, mark: Mark) -> Witness:
        """Writes a new file with one record, in place of any other, and opens it.

        Raises:
            OSError: it cannot be written.
        """
        staged = path.with_name(f".{path.name}.new")
        staged.unlink(missing_ok=True)
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            content = bytearray(_PLACES[-1] + RECORD_BYTES)
            place = _PLACES[mark.number % len(_PLACES)]
            content[place : place + RECORD_BYTES] = _record(mark)
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        staged.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(path)

    def write(self, mark: Mark, *, sync: bool = True) -> None:
        """Names a commit. Without `sync` the record survives the end of the process, but perhaps no power cut.

        Raises:
            OSError: the disk refuses.
        """
        os.pwrite(self._fd, _record(mark), _PLACES[mark.number % len(_PLACES)])
        if sync:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _record(mark: Mark) -> bytes:
    text = f"{_MAGIC} {mark.epoch} {mark.number} {mark.digest} {mark.messages}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode().ljust(RECORD_BYTES, b"\0")


def _parsed(record: bytes) -> Mark | None:
    """The mark of a record that is whole to the last byte."""
    try:
        text, _, _ = record.split(b"\n", 1)[0].decode("ascii").rpartition(" ")
        magic, epoch, number, digest, messages = text.split(" ")
        mark = Mark(epoch, int(number), digest, int(messages))
    except ValueError:  # also UnicodeDecodeError
        return None
    return mark if magic == _MAGIC and _record(mark) == record else None
