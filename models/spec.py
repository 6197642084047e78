"""What a model version is, in numbers and names: config.json, and the weights that belong to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.cells import CELLS, DIRECT
from models.scaling import KINDS, Scaler
from pipeline.errors import ModelError

FORMAT = 1  # of a version's directory; another number is refused

Document = dict[str, Any]

# window: one mode per window; sequence: one per sequence, said by its last window; next: the next window's value of
# chosen features; life: seconds until the end of the machine's life.
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
    temperature: float = 1.0
    cell: str = "gru"  # of models/cells.py
    members: int = 1  # M networks whose outputs are averaged; each has a state of its own
    task: str = "window"  # of TASKS
    targets: tuple[str, ...] = ()  # D names of what a value task says, with unit; classes is empty then
    target_scaler: Scaler | None = None
    decoder: int = 0  # units of the mode forecast's decoder; 0 = the model makes no forecast
    direct: bool = False  # bearing lines speak for themselves, see models/places.py
    horizon: int = 32  # modes ahead that its training data knew of; beyond, a decoder would be inventing
    trust: float = 1.0  # share of a forecast that is the decoder's, the rest is `usual`
    usual: tuple[float, ...] = ()  # K + 1: how often each mode, and the end, was ahead in the training data

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
        """Read the content of config.json; KeyError, TypeError or ValueError say that it is none."""
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
            # Versions of the first release know one network and one task.
            members=int(network.get("members", 1)),
            decoder=int(network.get("decoder", 0)),
            direct=bool(network.get("direct", False)),
            horizon=int(network.get("horizon", 32)),
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
    """Refuse weights that do not belong to the sizes, or would only yield NaN."""
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
    shapes = spec.shapes() if spec.layers >= 1 and spec.cell in CELLS else {}
    checks.append((set(weights) == set(shapes), f"weights {' '.join(sorted(shapes))}", " ".join(sorted(weights))))
    for name in sorted(set(shapes) & set(weights)):
        weight = weights[name]
        checks.append((weight.shape == shapes[name], f"{name} of shape {shapes[name]}", str(weight.shape)))
        checks.append((weight.dtype == np.float32, f"{name} in float32", str(weight.dtype)))
        checks.append((bool(np.isfinite(weight).all()), f"finite numbers in {name}", "NaN or infinity"))
    return [(expected, found) for fine, expected, found in checks if not fine]


def _scaler_document(scaler: Scaler) -> Document:
    return {
        "kind": scaler.kind,
        "center": [float(value) for value in scaler.center],
        "scale": [float(value) for value in scaler.scale],
    }


def _scaler(document: Document) -> Scaler:
    center, scale = (np.array(document[key], np.float32) for key in ("center", "scale"))
    return Scaler(str(document["kind"]), center, scale)
