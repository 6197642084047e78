"""A model version as ONNX: one step with its state going in and out, scaling and missing features included.

    x (B, F) raw features, NaN = missing    h (B, M L, S)    ->    y (B, K) probabilities, or values in units    h_next

The graph is written out from the weights in plain operators (no torch, no tracing): the same arithmetic as
models/cells.py. ONNX Runtime can serve it. Its metadata holds the version and the names of inputs and outputs.
The file is kept only if 200 carried steps agree with the serving predictor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import VALUE_TASKS, Bundle
from models.cells import CELLS, DIRECT
from models.predictor import NumpyPredictor, ValuePredictor
from models.scaling import CLIP
from pipeline.errors import ModelError, ThrumcastError

OPSET = 17
IR_VERSION = 8
PARITY = 1e-5  # largest difference of an output or a state
STEPS, BATCH = 200, 5

Float32 = NDArray[np.float32]


def export(model: Bundle, path: Path) -> float:
    """Write a version to `path`; return the largest difference to the serving predictor over 200 carried steps.

    Raises:
        ThrumcastError: the packages of the extra `onnx` are not installed.
        ModelError: the file gives other results than the predictor; it is removed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        msg = f"export: expected the packages onnx and onnxruntime, found: {error}"
        raise ThrumcastError(msg, hint="pip install 'thrumcast[onnx]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        onnx.save(_graph(onnx, model), temporary)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])
        gap = parity(model, session)
        if not gap <= PARITY:
            msg = f"{path}: expected differences of at most {PARITY:g} over {STEPS} steps, found: {gap:.2g}"
            raise ModelError(msg, hint="the file was removed; serve the version with thrumcast itself")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return gap


def parity(model: Bundle, session: Any) -> float:
    """Largest difference of outputs (values: scaled) and states over 200 carried steps from zeros."""
    spec, rng = model.spec, np.random.default_rng(0)
    values = spec.task in VALUE_TASKS
    predictor = ValuePredictor(model) if values else NumpyPredictor(model)
    h = predictor.initial(BATCH)
    other, gap = h, 0.0
    for _ in range(STEPS):
        x = spec.scaler.invert(rng.normal(0, 1.5, (BATCH, len(spec.inputs))).astype(np.float32))
        x[rng.random(x.shape) < 0.1] = np.nan
        y, h = predictor.step(x, h)
        said, other = session.run(None, {"x": x, "h": other})
        if spec.target_scaler is not None:
            y, said = (side / spec.target_scaler.scale for side in (y, said))
        difference = max(float(np.abs(y - said).max()), float(np.abs(h - other).max()))
        gap = max(gap, difference if np.isfinite(difference) else np.inf)
    return gap


@dataclass(slots=True)
class _Writer:
    """Nodes and constants of a graph as they come."""

    onnx: ModuleType
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: Float32 | NDArray[np.int64]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{number}" for number in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        sizes_name = self.constant(np.array(sizes, np.int64))
        return self.several("Split", len(sizes), value, sizes_name, axis=axis)

    def affine(self, x: str, weight: Float32, bias: Float32, members: int) -> str:
        """X (., B, I) times W (M, O, I) plus b (M, O) -> (M, B, O)."""
        left = weight.reshape(members, *weight.shape[-2:]).transpose(0, 2, 1)
        product = self.add("MatMul", x, self.constant(left))
        return self.add("Add", product, self.constant(bias.reshape(members, 1, -1)))


def _graph(onnx: ModuleType, model: Bundle) -> Any:
    """Write out scaling, cells and head."""
    spec, helper, writer = model.spec, onnx.helper, _Writer(onnx)
    features, (rows, width) = len(spec.inputs), spec.state_shape
    floats = onnx.TensorProto.FLOAT

    center, scale = (
        writer.constant(value[None].astype(np.float32)) for value in (spec.scaler.center, spec.scaler.scale)
    )
    bad = writer.add("Or", writer.add("IsNaN", "x"), writer.add("IsInf", "x"))  # (B, F)
    z = writer.add("Div", writer.add("Sub", writer.add("Where", bad, center, "x"), center), scale)
    z = writer.add("Clip", z, *(writer.constant(np.array(limit, np.float32)) for limit in (-CLIP, CLIP)))
    there = writer.add("Cast", writer.add("Not", bad), to=floats)
    y = writer.add("Concat", z, there, axis=1)  # (B, 2F)
    y = masked = writer.add("Unsqueeze", y, writer.constant(np.array([0])))  # (1, B, 2F)

    apart = writer.constant(np.array([0, spec.members, spec.layers, width]))
    state = writer.add("Transpose", writer.add("Reshape", "h", apart), perm=[2, 1, 0, 3])  # (L, M, B, S)
    first = writer.constant(np.array([0]))
    after = []
    for layer, before in enumerate(writer.split(state, [1] * spec.layers, 0)):
        new = _layer(writer, model, layer, y, writer.add("Squeeze", before, first))  # (M, B, S)
        after.append(writer.add("Unsqueeze", new, first))
        y = new if width == spec.hidden else writer.split(new, [spec.hidden, spec.hidden], 2)[0]  # (M, B, H)
    joined = writer.add("Transpose", writer.add("Concat", *after, axis=0), perm=[2, 1, 0, 3])  # (B, M, L, S)
    flat = writer.constant(np.array([0, rows, width]))
    writer.nodes.append(helper.make_node("Reshape", [joined, flat], ["h_next"]))

    outputs = writer.affine(y, model.weights["head.weight"], model.weights["head.bias"], spec.members)
    if spec.direct:
        none = np.zeros((spec.members, spec.outputs), np.float32)
        outputs = writer.add("Add", outputs, writer.affine(masked, model.weights[DIRECT], none, spec.members))
    outputs = writer.add("ReduceMean", outputs, axes=[0], keepdims=0)  # (B, O)
    if spec.target_scaler is None:
        cooled = writer.add("Div", outputs, writer.constant(np.array(spec.temperature, np.float32)))
        writer.nodes.append(helper.make_node("Softmax", [cooled], ["y"], axis=1))
    else:
        target = spec.target_scaler
        wide = writer.add("Mul", outputs, writer.constant(target.scale[None].astype(np.float32)))
        writer.nodes.append(helper.make_node("Add", [wide, writer.constant(target.center[None])], ["y"]))

    def tensor(name: str, shape: Sequence[Any]) -> Any:
        return helper.make_tensor_value_info(name, floats, ["batch", *shape])

    graph = helper.make_graph(
        writer.nodes,
        f"thrumcast-{spec.version}",
        [tensor("x", [features]), tensor("h", [rows, width])],
        [tensor("y", [spec.outputs]), tensor("h_next", [rows, width])],
        writer.constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="thrumcast")
    made.ir_version = IR_VERSION
    about = {
        "version": spec.version,
        "task": spec.task,
        "inputs": json.dumps(spec.inputs),
        "outputs": json.dumps(spec.targets if spec.task in VALUE_TASKS else spec.classes),
        "feature_schema": spec.feature_schema,
    }
    helper.set_model_props(made, about)
    onnx.checker.check_model(made)
    return made


def _layer(writer: _Writer, model: Bundle, layer: int, x: str, state: str) -> str:
    """One layer of all members: x (., B, I), state (M, B, S) -> state (M, B, S); formulas in models/cells.py."""
    spec, weights = model.spec, model.weights
    units, family = spec.hidden, CELLS[spec.cell].family
    h, memory = writer.split(state, [units, units], 2) if spec.cell == "lstm" else (state, "")
    a, c = (
        writer.affine(value, weights[f"{family}.weight_{side}_l{layer}"], weights[f"{family}.bias_{side}_l{layer}"],
                      spec.members)
        for value, side in ((x, "ih"), (h, "hh"))
    )  # fmt: skip
    if spec.cell == "gru":
        (a_r, a_u, a_n), (c_r, c_u, c_n) = (writer.split(value, [units] * 3, 2) for value in (a, c))
        reset, update = (
            writer.add("Sigmoid", writer.add("Add", *pair)) for pair in ((a_r, c_r), (a_u, c_u))
        )  # fmt: skip
        new = writer.add("Tanh", writer.add("Add", a_n, writer.add("Mul", reset, c_n)))
        return writer.add("Add", new, writer.add("Mul", update, writer.add("Sub", h, new)))
    both = writer.add("Add", a, c)
    if spec.cell == "lstm":
        inward, forget, new, outward = writer.split(both, [units] * 4, 2)
        kept = writer.add("Mul", writer.add("Sigmoid", forget), memory)
        memory = writer.add("Add", kept, writer.add("Mul", writer.add("Sigmoid", inward), writer.add("Tanh", new)))
        h = writer.add("Mul", writer.add("Sigmoid", outward), writer.add("Tanh", memory))
        return writer.add("Concat", h, memory, axis=2)
    return writer.add("Tanh" if spec.cell == "rnn_tanh" else "Relu", both)
