"""XLSX, by openpyxl: each sheet is written as text and read like one."""

from __future__ import annotations

import datetime
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edges.recordings import text
from pipeline.edges.recordings.arrays import Held
from pipeline.edges.recordings.contents import CHUNK_ROWS, Options, check_memory
from pipeline.errors import RecordingError


def load(path: Path, options: Options) -> list[Held]:
    """The sheets that hold numbers."""
    import openpyxl

    with zipfile.ZipFile(path) as archive:
        check_memory(path, sum(member.file_size for member in archive.infolist()))
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    held: list[Held] = []
    seen: list[str] = []
    try:
        for sheet in book.worksheets:
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "sheet.txt"
                with plain.open("w", encoding="utf-8") as file:
                    for row in sheet.iter_rows(values_only=True):
                        file.write("\t".join(map(_cell, row)).rstrip("\t") + "\n")
                seen.append(sheet.title)
                try:
                    found = text.describe(plain, replace(options, separator="tab", decimal="."))
                except RecordingError as error:
                    if "found none" in error.message and len(book.worksheets) > 1:
                        continue
                    raise RecordingError(
                        error.message.replace(str(plain), f"{path} ({sheet.title})"), hint=error.hint
                    ) from error
                for one in found:
                    pieces = list(
                        text.chunks(
                            plain, one.part, one.channels, CHUNK_ROWS, replace(options, separator="tab", decimal=".")
                        )
                    )
                    arrays = np.concatenate(pieces, axis=1) if pieces else np.zeros((len(one.channels), 0), np.float32)
                    held.append(
                        (
                            replace(one, part=f"{sheet.title}{'_' if one.part else ''}{one.part}"),
                            dict(zip(one.channels, arrays, strict=True)),
                        )
                    )
    finally:
        book.close()
    if not held:
        msg = f"expected rows of numbers in a sheet of {path}, found none in: {', '.join(seen)}"
        raise RecordingError(msg, hint="one column per channel, one row per sample")
    return held if len(held) > 1 else [(replace(held[0][0], part=""), held[0][1])]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="microseconds")
    if isinstance(value, datetime.time):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, bool):
        return str(value)
    return repr(value) if isinstance(value, float) else str(value).replace("\t", " ").replace("\n", " ")
