"""A model version as a directory that explains itself.

    registry/v0008/
      model.safetensors   weights, float32, named as in models/network.py; large tables of data.json as `data.*`
      config.json         classes, inputs, feature schema, window, bandwidth, scaler, sizes, temperature
      metrics.json        held-out numbers      data.json   what it was trained on      train.json   how, and with what
      README.md           model card            *.png       pictures, if matplotlib is there: for people only
      SHA256SUMS          of all the above, written last

Nothing here can run code: safetensors and JSON only. Reading checks the sums first and refuses by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from models.spec import FORMAT, Document, ModelSpec, check_weights
from pipeline.errors import ModelError, SchemaError

REQUIRED = ("model.safetensors", "config.json", "metrics.json", "data.json", "train.json", "README.md")
SUMS = "SHA256SUMS"
_TABLE = "data."  # in the names of tables that belong to data.json
_REFERENCE = "table"
_NUMBERS = re.compile(r"\[\n([^\[\]{}\"]*)\]")  # a string holds no newline of its own, so nothing in one is touched
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)")


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A model version in memory."""

    spec: ModelSpec
    weights: dict[str, NDArray[np.float32]]
    metrics: Document
    data: Document
    train: Document
    card: str  # README.md

    def check_fits(self, feature_schema: str) -> None:
        """Refuse another feature schema than the one the model was trained on.

        Raises:
            SchemaError: naming both.
        """
        if feature_schema != self.spec.feature_schema:
            ours = self.spec.feature_schema
            msg = f"model {self.spec.version}: expected feature schema {ours}, found: {feature_schema}"
            raise SchemaError(msg, hint="train a new version on this archive, or use the release that wrote the model")

    def named(self, version: str) -> Bundle:
        """Return the same model under another version name."""
        card = self.card.replace("{version}", version)
        return replace(self, spec=replace(self.spec, version=version), card=card)

    def save(self, directory: Path, pictures: Mapping[str, bytes] | None = None) -> None:
        """Write all files into `directory` (made if need be), flushed to disk, the sums last."""
        check_weights(self.spec, self.weights)
        directory.mkdir(parents=True, exist_ok=True)
        data, tables = _without_tables(self.data, _TABLE)
        contents = {
            "model.safetensors": save_tensors(
                {name: np.ascontiguousarray(w) for name, w in (self.weights | tables).items()}
            ),
            "config.json": _json_bytes(self.spec.document()),
            "metrics.json": _json_bytes(self.metrics),
            "data.json": _json_bytes(data),
            "train.json": _json_bytes(self.train),
            "README.md": self.card.encode(),
            **(pictures or {}),
        }
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
        for name, content in (*contents.items(), (SUMS, sums.encode())):
            with (directory / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def load(directory: Path) -> Bundle:
    """Read a model version; nothing is used before its checksum is right.

    Raises:
        ModelError: a file is missing or damaged, the format is unknown, or weights and sizes do not fit.
    """
    contents = _verified(directory)
    documents = {name: _document(directory, name, contents[name]) for name in REQUIRED if name.endswith(".json")}
    config = documents["config.json"]
    if config.get("format") != FORMAT:
        msg = f"{directory / 'config.json'}: expected model format {FORMAT}, found: {config.get('format')}"
        raise ModelError(msg, hint="this version was written by another release of thrumcast")
    try:
        spec = ModelSpec.from_document(config)
    except (KeyError, TypeError, ValueError) as error:
        msg = (
            f"{directory / 'config.json'}: expected a complete model description, found: {type(error).__name__} {error}"
        )
        raise ModelError(msg) from error
    try:
        weights = load_tensors(contents["model.safetensors"])
    except SafetensorError as error:
        msg = f"{directory / 'model.safetensors'}: expected safetensors, found: {error}"
        raise ModelError(msg) from error
    tables = {name: weights.pop(name) for name in list(weights) if name.startswith(_TABLE)}
    check_weights(spec, weights)
    return Bundle(
        spec,
        weights,
        documents["metrics.json"],
        _with_tables(directory, documents["data.json"], tables),
        documents["train.json"],
        contents["README.md"].decode(),
    )


def _verified(directory: Path) -> dict[str, bytes]:
    """Read every file that SHA256SUMS lists and check it."""
    if not directory.is_dir():
        msg = f"expected a model version in {directory}, found: no such directory"
        raise ModelError(msg, hint="`thrumcast models ls` lists the versions there are")
    try:
        lines = (directory / SUMS).read_text().splitlines()
        listed = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
        contents = {name: (directory / name).read_bytes() for name in listed}
    except (OSError, UnicodeDecodeError) as error:
        name = Path(error.filename).name if isinstance(error, OSError) and error.filename else SUMS
        msg = f"{directory}: expected {name}, found: {getattr(error, 'strerror', None) or error}"
        raise ModelError(msg, hint="the version is not whole: train again, or restore it from a copy") from error
    for name in REQUIRED:
        if name not in listed:
            msg = f"{directory / SUMS}: expected a line for {name}, found: none"
            raise ModelError(msg, hint="the version is not whole: train again, or restore it from a copy")
    for name, expected in listed.items():
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != expected:
            msg = f"{directory / name}: expected sha256 {expected[:12]}, found: {found[:12]}"
            raise ModelError(msg, hint="the file was changed after training: restore it, or use another version")
    return contents


def _document(directory: Path, name: str, content: bytes) -> Document:
    try:
        document = json.loads(content)
    except ValueError as error:
        msg = f"{directory / name}: expected JSON, found: {error}"
        raise ModelError(msg) from error
    if not isinstance(document, dict):
        msg = f"{directory / name}: expected a JSON object, found: {type(document).__name__}"
        raise ModelError(msg)
    return document


def _without_tables(document: Document, place: str) -> tuple[Document, dict[str, NDArray[np.float32]]]:
    """The document with a reference in place of every table of numbers that nobody would read, and these tables."""
    kept: Document = {}
    tables: dict[str, NDArray[np.float32]] = {}
    for key, value in document.items():
        name = f"{place}{key}"
        if isinstance(value, dict):
            kept[key], inner = _without_tables(value, f"{name}.")
            tables |= inner
        elif _is_table(value):
            tables[name] = np.array(value, np.float32)
            kept[key] = {_REFERENCE: name}
        else:
            kept[key] = value
    return kept, tables


def _is_table(value: object) -> bool:
    """Rows of one length, of numbers with a point: anything else is for people, or would not come back as it was."""
    if not (isinstance(value, list) and value and all(isinstance(row, list) for row in value)):
        return False
    return len({len(row) for row in value}) == 1 and all(isinstance(number, float) for row in value for number in row)


def _with_tables(directory: Path, document: Document, tables: Mapping[str, NDArray[np.float32]]) -> Document:
    """The document as it was saved.

    Raises:
        ModelError: a table that it refers to is not there.
    """
    if set(document) == {_REFERENCE}:
        if document[_REFERENCE] not in tables:
            msg = f"{directory / 'model.safetensors'}: expected the table {document[_REFERENCE]}, found: none"
            raise ModelError(msg, hint="the version is not whole: train again, or restore it from a copy")
        return tables[document[_REFERENCE]].tolist()
    return {k: _with_tables(directory, v, tables) if isinstance(v, dict) else v for k, v in document.items()}


def _json_bytes(document: Document) -> bytes:
    """JSON to be read by people: a list of numbers stands on one line."""
    text = json.dumps(document, indent=1, sort_keys=False, allow_nan=False)
    return (_NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n").encode()
