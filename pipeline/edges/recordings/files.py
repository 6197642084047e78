"""Finds recordings in folders, identifies them by their content, and writes new ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from pipeline.core.records import Float32
from pipeline.edges.recordings.contents import guarded
from pipeline.edges.recordings.formats import FORMATS, why_passed_over
from pipeline.errors import RecordingError

_GROUP_ROWS = 262_144  # rows per Parquet row group: a few seconds of a fast channel


@dataclass(frozen=True, slots=True)
class Found:
    """The recordings among files and folders, and what was passed over."""

    recordings: tuple[tuple[Path, Path | None], ...]  # path, and the folder in which it was found
    passed_over: dict[str, str] = field(default_factory=dict)  # path -> why

    @property
    def paths(self) -> list[Path]:
        """The recordings without their folders."""
        return [path for path, _ in self.recordings]


def search(paths: Iterable[Path], preset: str | None = None) -> Found:
    """The given files, and the recordings in the given folders, sorted within a folder; each file once.

    In a folder, hidden files, parts of the archive, tables of text (a manifest.csv) and files of no format are passed
    over, each with its reason. A file that is given by its path is always used.

    Raises:
        RecordingError: a path does not exist, or a folder contains no recording.
    """
    found: dict[Path, Path | None] = {}
    passed: dict[str, str] = {}
    for path in paths:
        if path.is_dir():
            inside = []
            for each in sorted(path.rglob("*"), key=_natural):
                reason = _why_not(each, path, preset)
                if reason is None:
                    inside.append(each)
                elif reason:
                    passed[str(each)] = reason
            if not inside:
                msg = f"expected recordings ({', '.join(sorted(FORMATS))}) in the folder, found none: {path}"
                if passed:
                    first, why = next(iter(passed.items()))
                    msg += f" ({len(passed)} files passed over, the first one {first}: {why})"
                raise RecordingError(msg, hint="check the path; a file that is named itself is always tried")
            for each in inside:
                found.setdefault(each, path)
        elif path.exists():
            found.setdefault(path, None)
        else:
            msg = f"expected a recording or a folder of recordings, found nothing: {path}"
            raise RecordingError(msg, hint="check the path")
    by_place = {path.resolve(): path for path in reversed(found)}
    return Found(
        tuple((path, root) for path, root in found.items() if by_place[path.resolve()] == path),
        {path: why for path, why in passed.items() if Path(path).resolve() not in by_place},
    )


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """The paths of `search`.

    Raises:
        RecordingError: a path does not exist, or a folder contains no recording.
    """
    return search(paths).paths


def _natural(path: Path) -> tuple[list[str], str]:
    """Order of file names: 2.csv before 10.csv."""
    return [re.sub(r"\d+", lambda digits: digits[0].zfill(20), part) for part in path.parts], path.name


def _why_not(path: Path, folder: Path, preset: str | None) -> str | None:
    """Why an entry of a folder is passed over; None if it is a recording, empty if it is a folder."""
    if path.is_dir():
        return ""
    if not path.is_file():
        return "no regular file"
    if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
        return "hidden: the name of the file or of a folder begins with . or _"
    if preset is not None:
        from pipeline.edges.recordings.presets import unfit

        return unfit(path, preset)
    return why_passed_over(path)


def input_id(path: Path, *context: object) -> str:
    """Identity of an input: a hash of its content and of its context (channels, schema, ...).

    The content is hashed because size and time can stay the same in a changed file, and a Parquet footer has no
    checksum of the data.
    """
    return input_ids(path, context)[0]


def input_ids(path: Path, *contexts: Sequence[object]) -> list[str]:
    """The `input_id` of a file in several contexts; the file is read once."""

    def digest() -> list[str]:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        return [_continued(content, context) for context in contexts]

    found: list[str] = guarded(path, digest)
    return found


def _continued(content: hashlib._Hash, context: Sequence[object]) -> str:
    whole = content.copy()
    for part in context:
        whole.update(b"\0" + str(part).encode())
    return whole.hexdigest()


class RecordingWriter:
    """Writes a recording piece by piece. The file appears when it is complete.

    Use it as a context manager: after an error inside, no file is left.
    """

    def __init__(self, path: Path, channels: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Starts a file.

        Args:
            path: of the file.
            channels: names of the C columns.
            metadata: at least `sample_rate_hz`; the documentation of recordings lists further keys.

        Raises:
            RecordingError: no rate, no channel, or the path is not writable.
        """
        if not channels or len(set(channels)) != len(channels):
            msg = f"expected one or more channels of different names, found: {list(channels)}"
            raise RecordingError(msg)
        rate = metadata.get("sample_rate_hz")
        if not isinstance(rate, int | float) or not np.isfinite(rate) or rate <= 0:
            msg = f"expected the metadata key sample_rate_hz above 0, found: {rate}"
            raise RecordingError(msg)
        text = json.dumps(dict(metadata), allow_nan=False)
        fields = [pa.field(name, pa.float32()) for name in channels]
        self.path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._schema = pa.schema(fields, metadata={"recording_metadata": text})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                self._partial,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                use_byte_stream_split=True,
            )
        except OSError as error:
            raise self._failed(error) from error

    def append(self, samples: ArrayLike) -> None:
        """Appends samples (C, n)."""
        array: Float32 = np.asarray(samples, np.float32)
        if array.ndim != 2 or array.shape[0] != len(self._schema):
            msg = f"expected samples of shape ({len(self._schema)}, n), found: {array.shape}"
            raise RecordingError(msg)
        columns = [pa.array(np.ascontiguousarray(row)) for row in array]
        try:
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=_GROUP_ROWS)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Completes the file and moves it to its path."""
        try:
            self._writer.close()
            with self._partial.open("rb+") as file:
                os.fsync(file.fileno())
            self._partial.replace(self.path)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RecordingError:
        msg = f"expected to write {self.path}, found: {error}"
        return RecordingError(msg, hint="check the path and the free space")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.close()
            self._partial.unlink(missing_ok=True)


def write_recording(path: Path, samples: ArrayLike, channels: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Writes samples (C, n) and their metadata as one Parquet recording."""
    with RecordingWriter(path, channels, metadata) as writer:
        writer.append(samples)
