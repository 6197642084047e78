"""Finds recordings in folders, identifies them by their content, and writes new ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from pipeline.core.records import Float32
from pipeline.edges.recordings.formats import FORMATS, guarded
from pipeline.errors import RecordingError

_GROUP_ROWS = 262_144  # rows per Parquet row group: a few seconds of a fast channel


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """The given files, and the recordings in the given folders, sorted within a folder; each file once.

    In a folder, hidden files, parts of the archive and tables of text (a manifest.csv) are ignored. A file that is
    given by its path is always used.

    Raises:
        RecordingError: a path does not exist, or a folder contains no recording.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [each for each in sorted(path.rglob("*")) if _looks_recorded(each, path)]
            if not inside:
                msg = f"expected recordings ({', '.join(sorted(FORMATS))}) in the folder, found none: {path}"
                raise RecordingError(msg, hint="check the path")
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            msg = f"expected a recording or a folder of recordings, found nothing: {path}"
            raise RecordingError(msg, hint="check the path")
    by_place = {path.resolve(): path for path in reversed(found)}
    return [path for path in found if by_place[path.resolve()] == path]


def _looks_recorded(path: Path, folder: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in FORMATS or not path.is_file():
        return False
    if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
        return False
    try:
        if suffix == ".csv":
            return _is_numeric_table(path)
        if suffix == ".parquet":
            return b"thrumcast" not in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return True  # do not ignore a damaged recording: it is reported when it is opened
    return True


def _is_numeric_table(path: Path) -> bool:
    """Whether the second line of a text file is mostly numbers."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        _, second = file.readline(), file.readline()
    separator = max(";\t,", key=second.count)
    fields = [field.strip().strip('"') for field in second.split(separator)]
    texts = sum(1 for field in fields if field and not _is_number(field))
    return 2 * texts < len(fields) or not second.strip()


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


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
