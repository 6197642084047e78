"""The table of formats, and the doors through which every file is read.

A format is recognised by its first bytes, else by its suffix. gz, zst and zip are unpacked first. Reading never runs
code from a file: no pickle, no MATLAB objects.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.records import Float32
from pipeline.edges.recordings import lvm, parquet, text, wav
from pipeline.edges.recordings.contents import CHUNK_ROWS, MOST_BYTES, Contents, Options, guarded, stacked
from pipeline.errors import RecordingError

_PACKED = {".gz": "gzip", ".zst": "zstd", ".zip": "zip", ".xz": "xz"}
_Describe = Callable[[Path, Options], list[Contents]]
_Chunks = Callable[[Path, str, Sequence[str], int, Options], Iterator[Float32]]


@dataclass(frozen=True, slots=True)
class Format:
    """One file format and its reader."""

    name: str
    suffixes: tuple[str, ...]
    describe: _Describe
    chunks: _Chunks
    library: str = ""  # of the extra [formats], if the reader needs one


def _held(module: str) -> tuple[_Describe, _Chunks]:
    """The two functions of a reader that holds its arrays in memory: a module with `load`."""

    def load(path: Path, options: Options) -> Any:
        return importlib.import_module(f"pipeline.edges.recordings.{module}").load(path, options)

    def describe(path: Path, options: Options) -> list[Contents]:
        return [contents for contents, _ in load(path, options)]

    def chunks(path: Path, part: str, channels: Sequence[str], rows: int, options: Options) -> Iterator[Float32]:
        arrays = next(arrays for contents, arrays in load(path, options) if contents.part == part)
        for row in range(0, len(arrays[channels[0]]), rows):
            yield stacked([arrays[name][row : row + rows] for name in channels])

    return describe, chunks


TABLE = (
    Format("parquet", (".parquet", ".pq"), parquet.describe, parquet.chunks),
    Format("text", (".csv", ".txt", ".tsv", ".asc", ".dat", ".tab", ".prn"), text.describe, text.chunks),
    Format("wav", (".wav",), wav.describe, wav.chunks),
    Format("mat", (".mat",), *_held("mat")),
    Format("hdf5", (".h5", ".hdf5", ".hdf", ".he5"), *_held("hdf5"), library="h5py"),
    Format("tdms", (".tdms",), *_held("tdms"), library="npTDMS"),
    Format("uff", (".uff", ".unv", ".uf", ".bunv"), *_held("uff"), library="pyuff"),
    Format("lvm", (".lvm",), *_held("lvm")),
    Format("xlsx", (".xlsx", ".xlsm"), *_held("xlsx"), library="openpyxl"),
    Format("npy", (".npy", ".npz"), *_held("numpy_files")),
)
_BY_NAME = {one.name: one for one in TABLE}
_BY_SUFFIX = {suffix: one for one in TABLE for suffix in one.suffixes}
FORMATS = frozenset(_BY_SUFFIX)
_MAGIC = (
    (b"PAR1", "parquet"), (b"RIFF", "wav"), (b"RIFX", "wav"), (b"RF64", "wav"), (b"MATLAB 5.0 MAT", "mat"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"MATLAB 7.3", "hdf5"), (b"TDSm", "tdms"), (b"\x93NUMPY", "npy"),
    (lvm.MAGIC.encode(), "lvm"), (b"    -1\n", "uff"), (b"    -1\r\n", "uff"), (b"    -1  ", "uff"),
)  # fmt: skip
_PACKED_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ\x00", "xz"))
# Suffixes of files that are surely none, so that a folder need not open them.
_NEVER = {
    ".py", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".xml", ".html", ".pdf", ".png", ".jpg",
    ".jpeg", ".gif", ".svg", ".doc", ".docx", ".ppt", ".pptx", ".xls", ".m", ".ipynb", ".pkl", ".pickle",
    ".sh", ".exe", ".dll", ".so",
    ".safetensors", ".db", ".sqlite", ".mp4", ".avi", ".tex", ".log", ".lock", ".rar", ".7z", ".tar", ".tgz",
}  # fmt: skip


_INSTEAD = {
    ".ide": "`ideexport FILE` of the package idelib writes CSV",
    ".xls": "save it as .xlsx or CSV",
    ".rar": "unpack it",
    ".7z": "unpack it",
    ".tar": "unpack it",
    ".tgz": "unpack it",
}


def stem(path: Path) -> str:
    """The name of a file without the suffix of its format: `2004.02.12.10.32.39` has none, `a.csv.gz` has two."""
    name = path.name
    for suffixes in (_PACKED, _BY_SUFFIX):
        base, dot, suffix = name.rpartition(".")
        if base and f"{dot}{suffix}".lower() in suffixes:
            name = base
    return name


def _sniffed(path: Path) -> tuple[str | None, str | None]:
    """Format and packing by the first bytes."""
    with path.open("rb") as file:
        head = file.read(1024)
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name, None
    if head[512:520] == b"\x89HDF\r\n\x1a\n":
        return "hdf5", None
    packing = next((name for magic, name in _PACKED_MAGIC if head.startswith(magic)), None)
    if packing == "zip":
        suffix = path.suffix.lower()
        if suffix in (".xlsx", ".xlsm", ".npz"):
            return _BY_SUFFIX[suffix].name, None
        names = zipfile.ZipFile(path).namelist()
        if "xl/workbook.xml" in names:
            return "xlsx", None
        if names and all(name.endswith(".npy") for name in names):
            return "npy", None
    return None, packing


def format_of(path: Path) -> Format:
    """The format of a file that is not packed.

    Raises:
        RecordingError: it is none that can be read.
    """
    name, _ = _sniffed(path)
    if name is not None:
        return _BY_NAME[name]
    known = _BY_SUFFIX.get(path.suffix.lower())
    if known is not None and known.name == "lvm":  # without the header of LabVIEW it is any text
        return _BY_NAME["text"]
    if known is not None:
        return known
    with path.open("rb") as file:
        head = file.read(4096)
    if path.suffix.lower() not in _NEVER and _is_text(head):
        return _BY_NAME["text"]
    msg = f"expected a recording ({', '.join(one.name for one in TABLE)}), found: {path}"
    raise RecordingError(
        msg, hint=_INSTEAD.get(path.suffix.lower(), "convert it to Parquet with one column per channel")
    )


def _is_text(head: bytes) -> bool:
    if text.encoding_of(head).startswith("utf-16"):
        return True
    odd = sum(byte < 32 and byte not in b"\t\r\n\f\x1a\x1b" for byte in head)
    return bool(head) and b"\0" not in head and odd == 0


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or what is in it for gz, zst, xz and zip.

    Raises:
        RecordingError: a zip with several files, or one that is too large when unpacked.
    """
    _, packing = _sniffed(path)
    if packing is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="thrumcast-") as folder:
        suffix = path.suffix.lower()
        name = path.name[: -len(suffix)] if suffix in _PACKED and len(path.name) > len(suffix) else path.name
        with _stream(path, packing) as (source, inner):
            plain = Path(folder) / (Path(inner or name).name or "recording")
            with plain.open("wb") as target:
                _copy(path, source, target)
        try:
            yield plain
        except RecordingError as error:
            raise RecordingError(error.message.replace(str(plain), str(path)), hint=error.hint) from error


@contextlib.contextmanager
def _stream(path: Path, packing: str) -> Iterator[tuple[Any, str | None]]:
    if packing == "gzip":
        with gzip.open(path) as file:
            yield file, None
    elif packing == "xz":
        with lzma.open(path) as file:
            yield file, None
    elif packing == "zstd":
        with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, "zstd") as file:
            yield file, None
    else:
        with zipfile.ZipFile(path) as archive:
            members = [
                one for one in archive.infolist()
                if not one.is_dir() and not any(part.startswith((".", "__")) for part in Path(one.filename).parts)
            ]  # fmt: skip
            if len(members) != 1:
                msg = f"expected one file in {path}, found {len(members)}: "
                msg += ", ".join(one.filename for one in members[:5])
                raise RecordingError(msg, hint="unpack it and give the folder")
            with archive.open(members[0]) as file:
                yield file, members[0].filename


def _copy(path: Path, source: Any, target: BinaryIO) -> None:
    left = min(MOST_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    while piece := source.read(1 << 20):
        left -= len(piece)
        if left < 0:
            msg = f"expected at most {MOST_BYTES >> 30} GiB, and room for it, found more in {path}"
            raise RecordingError(msg, hint="unpack it yourself and give the file")
        target.write(piece)


def describe(path: Path, options: Options | None = None) -> tuple[str, list[Contents]]:
    """The format of a file, and what it contains.

    Raises:
        RecordingError: the file is unreadable or has an unknown format.
    """
    how = options or Options()

    def read() -> tuple[str, list[Contents]]:
        with unpacked(path) as plain:
            found = format_of(plain)
            name = found.name if plain is path else f"{found.name} in {path.suffix.lstrip('.') or 'zip'}"
            return name, found.describe(plain, how)

    result: tuple[str, list[Contents]] = guarded(path, read)
    return result


def read_chunks(
    path: Path, channels: Sequence[str], rows: int = CHUNK_ROWS, part: str = "", options: Options | None = None
) -> Iterator[Float32]:
    """Samples of some channels as (C, n) arrays, in order; n is about `rows`, if the format allows it."""

    def read() -> Generator[Float32, None, None]:
        with unpacked(path) as plain:
            yield from format_of(plain).chunks(plain, part, channels, rows, options or Options())

    chunks: Generator[Float32, None, None] = read()
    try:
        while (chunk := guarded(path, lambda: next(chunks, None))) is not None:
            yield chunk
    finally:
        chunks.close()


def why_passed_over(path: Path) -> str | None:
    """Why a file in a folder is no recording; None if it is to be read, or is damaged and to be reported."""
    suffix = path.suffix.lower()
    if suffix in _NEVER:
        return f"no format of recordings ({suffix})"

    def look() -> str | None:
        with unpacked(path) as plain:
            try:
                found = format_of(plain)
            except RecordingError:
                return f"no format of recordings ({suffix or 'no suffix'})"
            if found.name == "text" and (suffix != ".csv" or plain.stat().st_size):
                return text.is_table_of_text(plain)
            if found.name == "parquet" and b"thrumcast" in (pq.read_schema(plain).metadata or {}):
                return "a part of an archive of thrumcast"
        return None

    try:
        reason: str | None = guarded(path, look)
    except (RecordingError, pa.ArrowException):
        return None
    return reason
