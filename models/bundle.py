"""A model version as a directory that explains itself.

    registry/v0008/
      model.safetensors   weights, float32, named as in models/network.py; large tables of data.json as `data.*`
      config.json         classes, inputs, feature schema, window, bandwidth, scaler, sizes, temperature
      metrics.json        held-out numbers      data.json   what it was trained on      train.json   how, and with what
      README.md           model card            *.png       pictures, if matplotlib is there: for people only
      SHA256SUMS          of all the above, written last
      SIGNATURE           of SHA256SUMS, where versions are signed

The files are safetensors and JSON, so nothing in them can run code. Reading checks the sums first, and an error names
the file at fault. `ModelSpec` is config.json: what goes in and out, and the sizes that every weight must have.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from models.cells import CELLS, DIRECT
from models.scaling import KINDS, Scaler
from pipeline.errors import ModelError, SchemaError

FORMAT = 1  # of a version's directory; another number is refused
LARGEST = 65_536  # of every size in config.json: hidden units, layers, members, decoder units, horizon
MOST_LAYERS = 4096  # in all members together
FARTHEST = 32  # horizon of versions that were written before config.json had one

REQUIRED = ("model.safetensors", "config.json", "metrics.json", "data.json", "train.json", "README.md")
SUMS = "SHA256SUMS"
SIGNATURE = "SIGNATURE"  # of the sums, see models/signature.py; only where versions are signed
_TABLE = "data."  # in the names of tables that belong to data.json
_REFERENCE = "table"
_NUMBERS = re.compile(r"\[\n([^\[\]{}\"]*)\]")  # a JSON string holds no raw newline, so no string matches
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)")

Document = dict[str, Any]

# window: one mode per window; sequence: one mode per sequence, given at its last window; next: values of chosen
# features at the next window; life: seconds until the end of the machine's life.
CLASS_TASKS = ("window", "sequence")
VALUE_TASKS = ("next", "life")
TASKS = (*CLASS_TASKS, *VALUE_TASKS)


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """What goes in and out of a model version, and its sizes: config.json."""

    version: str  # vNNNN, stamped on every prediction
    classes: tuple[str, ...]  # K failure modes
    inputs: tuple[str, ...]  # F column names, ordered
    feature_schema: str
    window_length_s: float
    window_hop_s: float
    bandwidth_hz: float  # common upper frequency of all features; 0 = each stream keeps its own
    scaler: Scaler
    hidden: int  # H
    layers: int  # L
    temperature: float  # divisor of the logits, fitted on held-out machines
    cell: str  # of models/cells.py
    members: int  # M networks whose outputs are averaged; each has its own state
    task: str  # of TASKS
    # A model of failure modes has no targets, and a model without a decoder makes no forecast.
    targets: tuple[str, ...] = ()  # D names of the values of a value task, with their units; classes is empty then
    target_scaler: Scaler | None = None
    direct: bool = False  # whether bearing lines act on their modes directly, see models/places.py
    decoder: int = 0  # units of the decoder that forecasts modes; 0 = no forecast
    horizon: int = FARTHEST  # how many modes ahead the training data reached; no forecast goes farther
    trust: float = 1.0  # weight of the decoder in a forecast; the rest is `usual`
    usual: tuple[float, ...] = ()  # (K + 1,) how often each mode, and the end, came next in the training data

    @property
    def outputs(self) -> int:
        """O, the width of the head: K classes or D values."""
        return len(self.targets) if self.task in VALUE_TASKS else len(self.classes)

    @property
    def state_shape(self) -> tuple[int, int]:
        """(M L, S) of one stream's state."""
        return self.members * self.layers, self.hidden * CELLS[self.cell].states

    def document(self) -> Document:
        """Return the content of config.json."""
        return {
            "format": FORMAT,
            "version": self.version,
            "classes": list(self.classes),
            "inputs": list(self.inputs),
            "feature_schema": self.feature_schema,
            "window": {"length_s": self.window_length_s, "hop_s": self.window_hop_s},
            "bandwidth_hz": self.bandwidth_hz,
            "scaler": _scaler_document(self.scaler),
            "network": {
                "cell": self.cell,
                "hidden": self.hidden,
                "layers": self.layers,
                "members": self.members,
                "decoder": self.decoder,
                "direct": self.direct,
                "horizon": self.horizon,
                "trust": self.trust,
                "usual": list(self.usual),
            },
            "task": self.task,
            "targets": list(self.targets),
            "target_scaler": None if self.target_scaler is None else _scaler_document(self.target_scaler),
            "temperature": self.temperature,
        }

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """Read the content of config.json; a KeyError, TypeError or ValueError means that it is not one."""
        network, target_scaler = document["network"], document.get("target_scaler")
        return cls(
            version=str(document["version"]),
            classes=tuple(map(str, document["classes"])),
            inputs=tuple(map(str, document["inputs"])),
            feature_schema=str(document["feature_schema"]),
            window_length_s=float(document["window"]["length_s"]),
            window_hop_s=float(document["window"]["hop_s"]),
            bandwidth_hz=float(document["bandwidth_hz"]),
            scaler=_scaler(document["scaler"]),
            hidden=int(network["hidden"]),
            layers=int(network["layers"]),
            temperature=float(document["temperature"]),
            cell=str(network["cell"]),
            # Versions of the first release have one network and one task, and none of these keys.
            members=int(network.get("members", 1)),
            decoder=int(network.get("decoder", 0)),
            direct=bool(network.get("direct", False)),
            horizon=int(network.get("horizon", FARTHEST)),
            trust=float(network.get("trust", 1.0)),
            usual=tuple(map(float, network.get("usual", ()))),
            task=str(document.get("task", "window")),
            targets=tuple(map(str, document.get("targets", ()))),
            target_scaler=None if target_scaler is None else _scaler(target_scaler),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight that belongs to these sizes."""
        cell, many = CELLS[self.cell], (self.members,) if self.members > 1 else ()
        rows, shapes = cell.gates * self.hidden, dict[str, tuple[int, ...]]()
        for layer in range(self.layers):
            width = 2 * len(self.inputs) if layer == 0 else self.hidden
            shapes[f"{cell.family}.weight_ih_l{layer}"] = (*many, rows, width)
            shapes[f"{cell.family}.weight_hh_l{layer}"] = (*many, rows, self.hidden)
            shapes[f"{cell.family}.bias_ih_l{layer}"] = (*many, rows)
            shapes[f"{cell.family}.bias_hh_l{layer}"] = (*many, rows)
        shapes["head.weight"] = (*many, self.outputs, self.hidden)
        shapes["head.bias"] = (*many, self.outputs)
        if self.direct:
            shapes[DIRECT] = (*many, self.outputs, 2 * len(self.inputs))
        if self.decoder:
            shapes |= decoder_shapes(self.state_shape, len(self.classes), self.decoder)
        return shapes


def decoder_shapes(state_shape: tuple[int, int], classes: int, units: int) -> dict[str, tuple[int, ...]]:
    """Weights of the forecast's decoder, see models/forecast.py; tokens are the modes, end and start."""
    return {
        "decoder.embed.weight": (classes + 2, units),
        "decoder.bridge.weight": (units, state_shape[0] * state_shape[1]),
        "decoder.bridge.bias": (units,),
        "decoder.gru.weight_ih_l0": (3 * units, units),
        "decoder.gru.weight_hh_l0": (3 * units, units),
        "decoder.gru.bias_ih_l0": (3 * units,),
        "decoder.gru.bias_hh_l0": (3 * units,),
        "decoder.out.weight": (classes + 1, units),
        "decoder.out.bias": (classes + 1,),
    }


def check_weights(spec: ModelSpec, weights: dict[str, NDArray[np.float32]]) -> None:
    """Refuse weights of other sizes, or that are not finite."""
    problems = _problems(spec, weights)
    if problems:
        msg = f"model {spec.version}: expected {problems[0][0]}, found: {problems[0][1]}"
        raise ModelError(msg, hint="weights and config.json do not belong together")


def _problems(spec: ModelSpec, weights: dict[str, NDArray[np.float32]]) -> list[tuple[str, str]]:
    """Return what was expected and what was found, one pair per problem."""
    features, scaler = len(spec.inputs), spec.scaler
    values = spec.task in VALUE_TASKS
    checks = [
        (spec.task in TASKS, f"a task of {', '.join(TASKS)}", spec.task),
        (spec.cell in CELLS, f"a cell of {', '.join(CELLS)}", spec.cell),
        (spec.members >= 1 and spec.decoder >= 0, "one member or more, no negative decoder", str(spec.members)),
        (not values or (len(spec.targets) >= 1 and not spec.classes), "targets, no classes", " ".join(spec.targets)),
        (values == (spec.target_scaler is not None), "a target scaler for values only", spec.task),
        (values or len(spec.classes) >= 2, "two or more classes", str(len(spec.classes))),
        (0 <= spec.trust <= 1, "a trust in the decoder of 0 to 1", str(spec.trust)),
        (
            len(spec.usual) == len(spec.classes) + 1 or (spec.trust == 1 and not spec.usual),
            "how often each class, and the end, is ahead, unless the decoder is trusted alone",
            f"{len(spec.usual)} numbers",
        ),
        (len(set(spec.classes)) == len(spec.classes), "different classes", " ".join(spec.classes)),
        (features >= 1 and len(set(spec.inputs)) == features, "different inputs, at least one", str(features)),
        (spec.hidden >= 1 and spec.layers >= 1, "hidden and layers of at least 1", f"{spec.hidden}, {spec.layers}"),
        (_is_small(spec), f"sizes of at most {LARGEST}, {MOST_LAYERS} layers in all members", "larger ones"),
        (scaler.kind in KINDS, f"a scaler of kind {', '.join(KINDS)}", scaler.kind),
        (math.isfinite(spec.temperature) and spec.temperature > 0, "a temperature above 0", str(spec.temperature)),
        (scaler.center.shape == (features,), f"scaler centers of {features} inputs", str(scaler.center.shape)),
        (scaler.scale.shape == (features,), f"scaler scales of {features} inputs", str(scaler.scale.shape)),
        (
            bool(np.isfinite(scaler.center).all() and np.isfinite(scaler.scale).all() and (scaler.scale > 0).all()),
            "finite centers, scales above 0",
            "others",
        ),
    ]
    if spec.target_scaler is not None:
        shape = spec.target_scaler.center.shape
        checks.append((shape == (len(spec.targets),), f"target centers of {len(spec.targets)} targets", str(shape)))
    shapes = spec.shapes() if spec.layers >= 1 and spec.cell in CELLS and _is_small(spec) else {}
    checks.append((set(weights) == set(shapes), f"weights {' '.join(sorted(shapes))}", " ".join(sorted(weights))))
    for name in sorted(set(shapes) & set(weights)):
        weight = weights[name]
        checks.append((weight.shape == shapes[name], f"{name} of shape {shapes[name]}", str(weight.shape)))
        checks.append((weight.dtype == np.float32, f"{name} in float32", str(weight.dtype)))
        checks.append((bool(np.isfinite(weight).all()), f"finite numbers in {name}", "NaN or infinity"))
    return [(expected, found) for fine, expected, found in checks if not fine]


def _is_small(spec: ModelSpec) -> bool:
    sizes = (spec.hidden, spec.layers, spec.members, spec.decoder, spec.horizon)
    return max(sizes) <= LARGEST and spec.layers * spec.members <= MOST_LAYERS


def _scaler_document(scaler: Scaler) -> Document:
    return {
        "kind": scaler.kind,
        "center": [float(value) for value in scaler.center],
        "scale": [float(value) for value in scaler.scale],
    }


def _scaler(document: Document) -> Scaler:
    center, scale = (np.array(document[key], np.float32) for key in ("center", "scale"))
    return Scaler(str(document["kind"]), center, scale)


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


def load(directory: Path, key: bytes | None = None) -> Bundle:
    """Read a model version; nothing is used before its checksum is right, and with a key its signature.

    Raises:
        ModelError: a file is missing or damaged, the signature is not of this key, the format is unknown, or weights
            and sizes do not fit.
    """
    with refused_by_name(str(directory)):
        return _load(directory, key)


@contextlib.contextmanager
def refused_by_name(version: str) -> Iterator[None]:
    """Turn any failure within the block into a ModelError that names the version.

    Sums do not protect from somebody who writes the files and their sums. Whatever the files hold, it is a problem of
    this version and no reason for a running service to end.
    """
    try:
        yield
    except (ModelError, SchemaError):
        raise
    except Exception as error:
        found = f"{type(error).__name__} {error}"[:200]
        msg = f"{version}: expected a model version that can be used, found: {found}"
        raise ModelError(msg, hint="restore the version from a copy, or use another one") from error


def _load(directory: Path, key: bytes | None) -> Bundle:
    contents = _verified(directory, key)
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
        contents["README.md"].decode(errors="replace"),  # for people only
    )


def _verified(directory: Path, key: bytes | None) -> dict[str, bytes]:
    """Read every file that SHA256SUMS lists and check it."""
    if not directory.is_dir():
        msg = f"expected a model version in {directory}, found: no such directory"
        raise ModelError(msg, hint="`thrumcast models ls` lists the versions there are")
    try:
        sums = read_file(directory / SUMS)
        if key is not None:
            from models.signature import check

            check(directory, sums, key)
        lines = sums.decode().splitlines()
        listed = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
        contents = {name: read_file(directory / name) for name in listed}
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


def read_file(path: Path) -> bytes:
    """Read a regular file. Anything else could block for ever: a named pipe waits for a writer.

    Raises:
        OSError: it is missing, is no regular file, or cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return file.read()


def _document(directory: Path, name: str, content: bytes) -> Document:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"{directory / name}: expected JSON, found: {error}"
        raise ModelError(msg) from error
    if not isinstance(document, dict):
        msg = f"{directory / name}: expected a JSON object, found: {type(document).__name__}"
        raise ModelError(msg)
    return document


def _without_tables(document: Document, place: str) -> tuple[Document, dict[str, NDArray[np.float32]]]:
    """Return the document with a reference in place of every large table of numbers, and the tables."""
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
    """Whether a value is a list of equally long rows of floats; anything else stays in JSON."""
    if not (isinstance(value, list) and value and all(isinstance(row, list) for row in value)):
        return False
    return len({len(row) for row in value}) == 1 and all(isinstance(number, float) for row in value for number in row)


def _with_tables(directory: Path, document: Document, tables: Mapping[str, NDArray[np.float32]]) -> Document:
    """Return the document with its tables back in place.

    Raises:
        ModelError: a table is missing.
    """
    if set(document) == {_REFERENCE}:
        if document[_REFERENCE] not in tables:
            msg = f"{directory / 'model.safetensors'}: expected the table {document[_REFERENCE]}, found: none"
            raise ModelError(msg, hint="the version is not whole: train again, or restore it from a copy")
        return tables[document[_REFERENCE]].tolist()
    return {k: _with_tables(directory, v, tables) if isinstance(v, dict) else v for k, v in document.items()}


def _json_bytes(document: Document) -> bytes:
    """Return JSON for people: each list of numbers is on one line."""
    text = json.dumps(document, indent=1, sort_keys=False, allow_nan=False)
    return (_NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n").encode()
