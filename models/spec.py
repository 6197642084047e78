"""What a model version is, in numbers and names: config.json, and the weights that belong to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.scaling import KINDS, Scaler
from pipeline.errors import ModelError

FORMAT = 1  # of a version's directory; another number is refused

Document = dict[str, Any]


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
            "scaler": {
                "kind": self.scaler.kind,
                "center": [float(value) for value in self.scaler.center],
                "scale": [float(value) for value in self.scaler.scale],
            },
            "network": {"cell": "gru", "hidden": self.hidden, "layers": self.layers},
            "temperature": self.temperature,
        }

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """Read the content of config.json; KeyError, TypeError or ValueError say that it is none."""
        scaler = document["scaler"]
        return cls(
            version=str(document["version"]),
            classes=tuple(map(str, document["classes"])),
            inputs=tuple(map(str, document["inputs"])),
            feature_schema=str(document["feature_schema"]),
            window_length_s=float(document["window"]["length_s"]),
            window_hop_s=float(document["window"]["hop_s"]),
            bandwidth_hz=float(document["bandwidth_hz"]),
            scaler=Scaler(
                str(scaler["kind"]), np.array(scaler["center"], np.float32), np.array(scaler["scale"], np.float32)
            ),
            hidden=int(document["network"]["hidden"]),
            layers=int(document["network"]["layers"]),
            temperature=float(document["temperature"]),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every weight that belongs to these sizes."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            width = 2 * len(self.inputs) if layer == 0 else self.hidden
            shapes[f"gru.weight_ih_l{layer}"] = (3 * self.hidden, width)
            shapes[f"gru.weight_hh_l{layer}"] = (3 * self.hidden, self.hidden)
            shapes[f"gru.bias_ih_l{layer}"] = (3 * self.hidden,)
            shapes[f"gru.bias_hh_l{layer}"] = (3 * self.hidden,)
        shapes["head.weight"] = (len(self.classes), self.hidden)
        shapes["head.bias"] = (len(self.classes),)
        return shapes


def check_weights(spec: ModelSpec, weights: dict[str, NDArray[np.float32]]) -> None:
    """Refuse weights that do not belong to the sizes, or would only yield NaN."""
    problems = _problems(spec, weights)
    if problems:
        msg = f"model {spec.version}: expected {problems[0][0]}, found: {problems[0][1]}"
        raise ModelError(msg, hint="weights and config.json do not belong together")


def _problems(spec: ModelSpec, weights: dict[str, NDArray[np.float32]]) -> list[tuple[str, str]]:
    """Return what was expected and what was found, one pair per problem."""
    features, scaler = len(spec.inputs), spec.scaler
    checks = [
        (len(spec.classes) >= 2, "two or more classes", str(len(spec.classes))),
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
    shapes = spec.shapes() if spec.layers >= 1 else {}
    checks.append((set(weights) == set(shapes), f"weights {' '.join(sorted(shapes))}", " ".join(sorted(weights))))
    for name in sorted(set(shapes) & set(weights)):
        weight = weights[name]
        checks.append((weight.shape == shapes[name], f"{name} of shape {shapes[name]}", str(weight.shape)))
        checks.append((weight.dtype == np.float32, f"{name} in float32", str(weight.dtype)))
        checks.append((bool(np.isfinite(weight).all()), f"finite numbers in {name}", "NaN or infinity"))
    return [(expected, found) for fine, expected, found in checks if not fine]
